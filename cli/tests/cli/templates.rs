//! Templates and repositories, with a node that answers from a script.

use std::fs;
use std::path::Path;

use p2pinst_boot::repository::Index;
use p2pinst_types::Kind;
use p2pinst_types::record::{Image, ImageKind};

use crate::online::cluster;
use crate::run::{run, temp};

const USER_DATA: &str = "[user-data]\nmain = \"hostname: {{ name }}.{{ site }}\\nfinal_message: '{{ groups | join(\\\" \\\") }} {{ mirrors | map(attribute=\\\"url\\\") | join(\\\" \\\") }}'\"\n";

/// A directory of templates with these appliances.
fn site(dir: &Path, appliances: &[&str]) {
    fs::create_dir_all(dir.join("site/nodes")).unwrap();
    let lines: String = appliances.iter().map(|a| format!("{a} = \"is {a}\"\n")).collect();
    fs::write(dir.join("site/graph.toml"), format!("[appliances]\n{lines}")).unwrap();
    for appliance in appliances {
        fs::write(dir.join(format!("site/nodes/{appliance}.toml")), USER_DATA).unwrap();
    }
}

#[test]
fn templates_are_checked_without_a_node() {
    let dir = temp();
    site(dir.path(), &["compute", "login"]);
    let check = run(dir.path(), &["template", "check", "site"]);
    assert!(check.ok().contains("login    is login"), "{}", check.ok());
    assert!(check.stderr.contains("2 fragments in 3 files") && check.stderr.contains("user-data"));
    let json = run(dir.path(), &["template", "check", "site", "--json"]).json();
    assert_eq!(json["formats"], serde_json::json!(["user-data"]));
    assert_eq!(json["appliances"]["compute"], "is compute");
    fs::write(dir.path().join("site/nodes/login.toml"), "\npackages = [\"{{ x\"]\nfoo = 1\n")
        .unwrap();
    let wrong = run(dir.path(), &["template", "check", "site"]);
    assert!(wrong.failed(1).contains("nodes/login.toml:"), "{}", wrong.stderr);
    assert!(run(dir.path(), &["template", "check", "none"]).failed(1).contains("none"));
}

#[test]
fn a_machine_s_file_is_rendered_from_published_templates_or_a_directory() {
    let dir = temp();
    let fake = cluster(dir.path());
    site(dir.path(), &["compute", "login"]);
    let render = |args: &[&str]| run(dir.path(), &[&["render", "n2", "user-data"], args].concat());
    assert!(render(&[]).failed(2).contains("which templates"));
    let published =
        run(dir.path(), &["template", "publish", "site", "--name", "site", "--json"]).json();
    assert_eq!(published["kind"], "templates");
    let image: Image = fake.cells(Kind::IMAGE)[0].record().unwrap();
    assert_eq!((image.kind, image.files.len()), (ImageKind::Templates, 1));
    assert!(run(dir.path(), &["template", "ls"]).ok().contains("site"));
    assert!(render(&[]).failed(1).contains("the graph has: compute, login"));
    fs::create_dir(dir.path().join("debs")).unwrap();
    fs::write(dir.path().join("debs/Packages"), "x").unwrap();
    run(dir.path(), &["repository", "publish", "debs", "--name", "debs"]).ok();
    let shown = render(&["--appliance", "login", "--json"]).json();
    assert_eq!((&shown["appliance"], &shown["node"]), (&"login".into(), &"n2".into()));
    let text = shown["text"].as_str().unwrap();
    assert!(text.contains("hostname: n2.default"), "{text}");
    assert!(text.contains("all http://10.0.0.1:8069/boot/mirror/debs"), "{text}");
    assert_eq!(shown["templates"], published["image"]);
    // what is tried out
    site(dir.path(), &["storage"]);
    fs::remove_file(dir.path().join("site/nodes/login.toml")).unwrap();
    assert!(render(&["--dir", "site"]).ok().contains("hostname: n2.default"));
    assert!(render(&["--dir", "site", "--appliance", "x"]).failed(1).contains("no appliance x"));
    assert!(render(&["--templates", "nope"]).failed(1).contains("template ls"));
    assert!(run(dir.path(), &["render", "n9", "user-data"]).failed(1).contains("no machine n9"));
    assert!(run(dir.path(), &["render", "n2", "readme"]).failed(2).contains("kickstart, preseed"));
    // a label says it too
    let label = ["machine", "adopt", "525400000005", "--name", "n5", "--label", "appliance=login"];
    run(dir.path(), &label).ok();
    let json = run(dir.path(), &["render", "n5", "user-data", "--json"]).json();
    assert_eq!(json["appliance"], "login");
}

#[test]
fn a_name_stays_what_it_is() {
    let dir = temp();
    let fake = cluster(dir.path());
    site(dir.path(), &["compute"]);
    run(dir.path(), &["template", "publish", "site", "--name", "site"]).ok();
    fs::create_dir(dir.path().join("debs")).unwrap();
    fs::write(dir.path().join("debs/Packages"), "x").unwrap();
    let taken = run(dir.path(), &["repository", "publish", "debs", "--name", "site"]);
    assert!(taken.failed(1).contains("(templates)"), "{}", taken.stderr);
    assert!(run(dir.path(), &["repository", "rm", "site"]).failed(1).contains("image rm site"));
    assert_eq!(fake.cells(Kind::IMAGE).len(), 1);
}

#[test]
fn repositories_are_indexes_of_their_files() {
    let dir = temp();
    let fake = cluster(dir.path());
    fs::create_dir_all(dir.path().join("debs/pool")).unwrap();
    fs::write(dir.path().join("debs/pool/a.deb"), "a").unwrap();
    fs::write(dir.path().join("debs/Packages"), "").unwrap();
    std::os::unix::fs::symlink("pool", dir.path().join("debs/again")).unwrap();
    let publish = ["repository", "publish", "debs", "--name", "debs", "--json"];
    let published = run(dir.path(), &publish).json();
    assert_eq!((&published["kind"], &published["name"]), (&"repository".into(), &"debs".into()));
    let image: Image = fake.cells(Kind::IMAGE)[0].record().unwrap();
    assert_eq!(image.about, "3 files, 2 B");
    let index = image.files["index"].root;
    let bytes = fs::read(dir.path().join(format!("data/blobs/{index}.blob"))).unwrap();
    let index = Index::decode(&bytes).unwrap();
    let files: Vec<_> =
        index.files().iter().map(|(path, b)| (path.as_str(), b.is_some())).collect();
    assert_eq!(files, [("Packages", false), ("again/a.deb", true), ("pool/a.deb", true)]);
    let missing = run(dir.path(), &["repository", "publish", "none", "--name", "x"]);
    assert!(missing.failed(1).contains("none"), "{}", missing.stderr);
    assert!(run(dir.path(), &["repository", "rm", "nope"]).failed(1).contains("no image nope"));
}
