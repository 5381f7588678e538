//! Without a node: help, usage, tokens, packages, keys.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::run::{p2pinst, run, temp};

const HELP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/help.txt");

/// Every command that has help of its own.
const COMMANDS: &[&str] = &[
    "",
    "init",
    "invite",
    "invite ls",
    "join",
    "leave",
    "key",
    "key new",
    "key ls",
    "key export",
    "key import",
    "grant",
    "revoke",
    "node",
    "node ls",
    "node show",
    "node label",
    "node rename",
    "node rm",
    "group",
    "group create",
    "group ls",
    "group show",
    "group add",
    "group remove",
    "group describe",
    "group policy",
    "group rm",
    "group import",
    "group export",
    "power",
    "power on",
    "power off",
    "power soft",
    "power cycle",
    "power reset",
    "power status",
    "power boot-next",
    "power set",
    "publish",
    "preheat",
    "machine",
    "machine ls",
    "machine show",
    "machine adopt",
    "machine import",
    "machine rm",
    "image",
    "image publish",
    "image ls",
    "image rm",
    "image inspect",
    "image capture",
    "scout",
    "scout build",
    "scout publish",
    "scout cluster",
    "template",
    "template check",
    "template publish",
    "template ls",
    "template rm",
    "render",
    "repository",
    "repository publish",
    "repository ls",
    "repository rm",
    "setup",
    "setup check",
    "setup plan",
    "deploy",
    "boot",
    "boot ls",
    "boot show",
    "boot arm",
    "boot disarm",
    "boot log",
    "seed",
    "fetch",
    "store",
    "store ls",
    "store gc",
    "store verify",
    "store pin",
    "store unpin",
    "status",
    "swarm",
    "history",
    "limits",
    "limits show",
    "limits set",
    "limits reset",
    "doctor",
    "debug",
    "debug cells",
    "debug peers",
    "debug keys",
    "root",
    "root prepare",
    "root show",
    "root rotate",
    "version",
];

/// Commands of commands.
const GROUPS: &[&str] = &[
    "",
    "key",
    "node",
    "group",
    "limits",
    "store",
    "debug",
    "root",
    "machine",
    "image",
    "scout",
    "setup",
    "boot",
    "power",
    "template",
    "repository",
];

/// `UPDATE_HELP=1 cargo test -p p2pinst-cli` writes the file anew.
#[test]
fn help_is_as_recorded() {
    let dir = temp();
    let mut text = String::new();
    for command in COMMANDS {
        let args: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let help = run(dir.path(), &args);
        text.push_str(&format!("$ p2pinst {}\n{}\n", args.join(" "), help.ok()));
    }
    if std::env::var_os("UPDATE_HELP").is_some() {
        fs::write(HELP, &text).unwrap();
    }
    let recorded = fs::read_to_string(HELP).unwrap();
    assert!(text == recorded, "the help has changed: run UPDATE_HELP=1 cargo test -p p2pinst-cli");
}

#[test]
fn every_command_has_an_example() {
    let dir = temp();
    for command in COMMANDS.iter().filter(|c| !GROUPS.contains(c)) {
        let args: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let help = run(dir.path(), &args);
        assert!(help.ok().contains(&format!("  p2pinst {command}")), "{command}");
    }
}

#[test]
fn usage_errors_end_with_2() {
    let dir = temp();
    for args in [
        &["frobnicate"][..],
        &["publish"],
        &["publish", "x.deb"],
        &["publish", "x.deb", "--group", "gpu", "--durable", "0"],
        &["publish", "x.deb", "--group", "../x"],
        &["group", "create", "gpu"],
        &["node", "label", "n2"],
        &["node", "label", "n2", "gpu"],
        &["node", "label", "n2", "site=roof"],
        &["node", "rename", "n2", "../x"],
        &["root", "rotate", "--threshold", "0"],
        &["group", "create", "gpu", "--select", "gpu=true,"],
        &["group", "create", "gpu", "--hosts", "n[9-1]"],
        &["invite", "--ttl", "soon"],
        &["invite", "--uses", "0"],
        &["invite", "--label", "gpu"],
        &["invite", "--label", "gpu=1", "--label", "gpu=2"],
        &["invite", "--label", "site=pisa"],
        &["join", "a", "--token-file", "b"],
        &["init", "--listen", "10.0.0.1:4001"],
        &["init", "--operator", "root"],
        &["grant", "00"],
        &["grant", &"00".repeat(32)],
        &["grant", &"00".repeat(32), "--role", "king"],
        &["status", "--until-done"],
        &["key", "export", "root", "-", "--remove"],
    ] {
        let ended = run(dir.path(), args);
        ended.failed(2);
        let error = run(dir.path(), &[args, &["--json"]].concat()).json_error(2);
        assert_eq!(error["kind"], "usage", "{args:?}");
        assert!(!error["error"].as_str().unwrap().starts_with("error"), "{error}");
    }
}

#[test]
fn version_needs_nothing() {
    let dir = temp();
    assert!(run(dir.path(), &["version"]).ok().starts_with("p2pinst 0."));
    let json = run(dir.path(), &["--json", "version"]).json();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert!(run(dir.path(), &["--version"]).ok().starts_with("p2pinst 0."));
}

#[test]
fn tokens_that_are_none() {
    let dir = temp();
    fs::write(dir.path().join("token"), "p2pinst1-AAAA").unwrap();
    fs::write(dir.path().join("binary"), [0xff, 0xfe]).unwrap();
    for args in [
        &["join", "hello"][..],
        &["join", "p2pinst1-"],
        &["join", "p2pinst1-AAAAAAAAAAAAAAAA"],
        &["join", "-"],
        &["join"],
        &["join", "--token-file", "token"],
        &["join", "--token-file", "binary"],
        &["join", "--token-file", "no such file"],
    ] {
        let args = [args, &["--name", "n2"]].concat();
        let ended = run(dir.path(), &args);
        let said = ended.failed(1);
        let file = args.contains(&"no such file");
        assert!(file || (said.contains("token") && said.contains("hint: ")), "{args:?}: {said}");
    }
    let error = run(dir.path(), &["join", "hello", "--name", "n2", "--json"]).json_error(1);
    assert!(error["hint"].as_str().unwrap().contains("p2pinst invite"), "{error}");
    assert!(!dir.path().join("data").exists(), "nothing is left behind");
}

#[test]
fn files_that_are_no_packages() {
    let dir = temp();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("empty.deb"), "").unwrap();
    fs::write(path("text.deb"), "this is no package\n".repeat(50)).unwrap();
    fs::write(path("cut.deb"), "!<arch>\ndebian-binary   0           0     0     100644  4")
        .unwrap();
    fs::create_dir(path("dir.deb")).unwrap();
    for name in ["empty.deb", "text.deb", "cut.deb", "dir.deb", "none.deb"] {
        let ended = run(dir.path(), &["publish", name, "--group", "gpu"]);
        assert!(ended.failed(1).contains(name), "{}", ended.stderr);
    }
}

#[test]
fn no_cluster_and_no_node() {
    let dir = temp();
    for command in ["invite", "node ls", "group ls", "status", "history", "status --watch"] {
        let args: Vec<&str> = command.split_whitespace().collect();
        let ended = run(dir.path(), &args);
        let said = ended.failed(1);
        assert!(said.contains("belongs to no cluster") && said.contains("init"), "{said}");
    }
    // a member whose node does not run
    fs::create_dir(dir.path().join("data")).unwrap();
    fs::write(dir.path().join("data/identity"), "x").unwrap();
    let ended = run(dir.path(), &["node", "ls"]);
    assert!(ended.failed(3).contains("hint: start the node: p2pinstd --data-dir "));
    let error = run(dir.path(), &["node", "ls", "--json"]).json_error(3);
    assert_eq!(error["kind"], "unreachable");
    assert!(run(dir.path(), &["init", "--node-name", "n1"]).failed(1).contains("data/identity"));
}

#[test]
fn a_cluster_is_founded_once() {
    let dir = temp();
    let init = |data: &str, more: &[&str]| {
        let args = ["init", "--data-dir", data, "--name", "lab", "--node-name", "n1"];
        run(dir.path(), &[&args[..], &["--operator", "alice"], more].concat())
    };
    let founded = init("d1", &["--listen", "/ip4/127.0.0.1/tcp/4001"]);
    assert_eq!(founded.ok(), "");
    for part in ["p2pinstd --data-dir d1\n", "key new NAME", "d1 key export root FILE", "d1 invite"]
    {
        assert!(founded.stderr.contains(part), "{part}: {}", founded.stderr);
    }
    let mode =
        |file: &str| fs::metadata(dir.path().join(file)).unwrap().permissions().mode() & 0o777;
    for key in ["root", "alice"] {
        assert_eq!(mode(&format!("d1/keys/{key}.key")), 0o600);
        assert!(dir.path().join(format!("d1/keys/{key}.head")).exists());
    }
    let again = init("d1", &[]);
    let said = again.failed(1);
    assert!(said.contains("d1 belongs to the cluster lab (") && said.contains("as n1"), "{said}");

    let json = init("d2", &["--json"]).json();
    assert_eq!((&json["name"], &json["operator"]), (&"lab".into(), &"alice".into()));
    assert_eq!(json["cluster"].as_str().unwrap().len(), 64);
    assert!(json["node"].as_str().unwrap().starts_with("12D3Koo"));

    // a failure leaves no keys, so that the next try is like the first
    assert_eq!(init("d3", &["--listen", "/ip4/127.0.0.1/tcp/x"]).code, Some(1));
    init("d3", &[]).ok();
}

#[test]
fn the_data_dir_is_taken_before_and_after_the_command() {
    let dir = temp();
    for args in [
        &["--data-dir", "d1", "key", "new", "a1"][..],
        &["key", "--data-dir", "d1", "new", "a2"],
        &["key", "new", "a3", "--data-dir=d1"],
    ] {
        assert_eq!(run(dir.path(), args).ok().trim().len(), 64);
    }
    run(dir.path(), &["key", "new", "b"]).ok();
    let names = |place: &str| {
        let mut names: Vec<_> = fs::read_dir(dir.path().join(place)).unwrap().collect();
        names.retain(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "key"));
        names.len()
    };
    assert_eq!((names("d1/keys"), names("data/keys")), (3, 1));
}

#[test]
fn a_key_without_a_name_gets_one_that_is_free() {
    let dir = temp();
    let made = |_| {
        let made = run(dir.path(), &["--json", "key", "new"]);
        let made: serde_json::Value = serde_json::from_str(made.ok()).unwrap();
        made["name"].as_str().unwrap().to_owned()
    };
    let names: Vec<String> = (0..3).map(made).collect();
    assert_eq!(names[1..], [format!("{}-2", names[0]), format!("{}-3", names[0])]);
}

#[test]
fn keys_are_made_listed_exported_and_imported() {
    let dir = temp();
    let made = run(dir.path(), &["key", "new", "alice"]);
    let public = made.ok().trim().to_owned();
    assert!(made.stderr.contains(&format!("p2pinst grant {public} --name alice --role operator")));
    run(dir.path(), &["key", "new", "alice"]).failed(1);
    assert!(run(dir.path(), &["key", "new", "root"]).failed(1).contains("root key"));
    let mode =
        |file: &str| fs::metadata(dir.path().join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("data/keys"), mode("data/keys/alice.key")), (0o700, 0o600));

    let listed = run(dir.path(), &["key", "ls", "--json"]).json();
    assert_eq!(listed["keys"][0]["key"], public);
    assert_eq!(listed["keys"][0]["roles"], serde_json::Value::Null);
    assert!(run(dir.path(), &["key", "ls"]).ok().contains(&public));

    let secret = |name: &str, text: &str, mode| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    secret("pass", "correct horse\n", 0o600);
    secret("wrong", "battery staple\n", 0o600);
    secret("open", "correct horse\n", 0o644);
    secret("none", "\n", 0o600);
    let export = |pass, more: &[&str]| {
        let args = ["key", "export", "alice", "out", "--passphrase-file", pass];
        run(dir.path(), &[&args, more].concat())
    };
    assert!(export("open", &[]).failed(1).contains("chmod 600"));
    assert!(export("none", &[]).failed(1).contains("empty"));
    export("pass", &["--remove"]).ok();
    assert!(export("pass", &[]).failed(1).contains("no key alice"));
    assert_eq!(mode("out"), 0o600);
    assert!(!dir.path().join("data/keys/alice.key").exists());

    let import = |pass, more: &[&str]| {
        let args = ["key", "import", "out", "--passphrase-file", pass];
        run(dir.path(), &[&args, more].concat())
    };
    assert!(import("wrong", &[]).failed(1).contains("passphrase is wrong"));
    assert_eq!(import("pass", &["--json"]).json()["key"], public);
    import("pass", &[]).ok();
    import("pass", &["--name", "alice2"]).ok();
    assert!(export("pass", &[]).failed(1).contains("out exists already"));
    assert_eq!(run(dir.path(), &["key", "ls"]).ok().matches(&public).count(), 2);
    let garbage = ["key", "import", "pass", "--passphrase-file", "pass"];
    assert!(run(dir.path(), &garbage).failed(1).contains("not a key exported"));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let dir = temp();
    let mut child = p2pinst(dir.path())
        .args(["version"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
    assert_eq!(ended.status.code(), Some(0));
}
