//! Groups, with a node that answers from a script.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use p2pinst_api::view::GroupDefinition;
use p2pinst_types::Kind;
use p2pinst_types::record::{Group, GroupEdit};
use serde_json::Value;

use crate::fake::{NOW, name};
use crate::online::cluster;
use crate::run::{Ended, p2pinst, run, temp};

/// Figure 4 of the Clumpt paper.
const FIGURE_4: &str = "group{
    name = \"LSC\"
    description = \"Room 214 - CT/UFSM\"
    machines = {
        host01,
        host02
    }
}
group{
    name = \"PAPLE\"
    description = \"PAPLE Cluster\"
    machines = {10.0.0.1-12}
}
";

fn group(dir: &Path, args: &[&str]) -> Ended {
    run(dir, &[&["group"], args].concat())
}

fn members(dir: &Path, group_name: &str) -> String {
    let shown = group(dir, &["show", group_name, "--json"]).json();
    let names = shown["members"].as_array().unwrap().iter().map(|m| m.as_str().unwrap());
    names.collect::<Vec<_>>().join(" ")
}

/// Imports from stdin.
fn import(dir: &Path, file: &str, args: &[&str]) -> Ended {
    let mut child = p2pinst(dir)
        .args(["group", "import", "-"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(file.as_bytes()).unwrap();
    Ended::of(&child.wait_with_output().unwrap())
}

#[test]
fn groups_are_made_listed_and_shown() {
    let dir = temp();
    let fake = cluster(dir.path());
    let create = ["create", "gpu", "--select", "gpu=true"];
    let made = group(dir.path(), &create);
    assert!(made.ok().is_empty() && made.stderr.contains("n1, n2"), "{}", made.stderr);
    let cell = fake.cells(Kind::GROUP).remove(0);
    let record: Group = cell.record().unwrap();
    assert_eq!((cell.id.subject.as_slice(), record.hosts), (&b"gpu"[..], None));
    assert!(group(dir.path(), &create).failed(1).contains("group show gpu"));
    assert_eq!(group(dir.path(), &["ls", "--json"]).json()["groups"][1]["name"], "gpu");
    group(dir.path(), &["create", "odd", "--hosts", "n[1-3]", "--description", "x"]).ok();
    group(dir.path(), &["add", "odd", "n7"]).ok();
    group(dir.path(), &["remove", "odd", "n2,n3"]).ok();
    let want = "\
NAME  MEMBERS  HOSTS   SELECT    EDITS  BY     DESCRIPTION
all   3        -       -         -      -      every machine
gpu   2        -       gpu=true  -      alice
odd   1        n[1-3]  -         +1 -2  alice  x
";
    assert_eq!(group(dir.path(), &["ls"]).ok(), want, "from two pages");
    let shown = group(dir.path(), &["show", "odd"]);
    assert!(shown.ok().contains("members      1\n"), "{}", shown.ok());
    assert!(shown.ok().contains("removed      n2 by alice, "), "{}", shown.ok());
    assert!(shown.ok().contains("added        n7 by alice, "), "{}", shown.ok());
    assert!(group(dir.path(), &["show", "gpux"]).failed(1).contains("no group gpux"));
}

#[test]
fn machines_are_added_and_removed_term_by_term() {
    let dir = temp();
    let fake = cluster(dir.path());
    group(dir.path(), &["create", "gpu", "--hosts", "n1"]).ok();
    let added = group(dir.path(), &["add", "gpu", "n[2-3], 10.0.0.1-12,n[2-3]"]);
    assert_eq!(added.ok(), "");
    assert!(
        added.stderr.contains("Added: n2, n3. The group gpu has 3 members"),
        "{}",
        added.stderr
    );
    let terms: Vec<String> = fake
        .cells(Kind::GROUP_EDIT)
        .iter()
        .map(|c| c.record::<GroupEdit>().unwrap().hosts.to_string())
        .collect();
    assert_eq!(terms, ["10.0.0.1-12", "n[2-3]"], "one record of each term");
    let removed = group(dir.path(), &["remove", "gpu", "n3", "--json"]).json();
    assert_eq!(
        (&removed["edits"][0]["hosts"], &removed["edits"][0]["present"]),
        (&"n3".into(), &false.into())
    );
    assert_eq!(removed["edits"][0]["author"], "alice");
    assert_eq!(members(dir.path(), "gpu"), "n1 n2");
    let nobody = group(dir.path(), &["remove", "gpu", "n9"]);
    nobody.ok();
    assert!(nobody.stderr.contains("no machine that is in the cluster now"), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("Nothing is uninstalled"), "{}", nobody.stderr);

    let described = group(dir.path(), &["describe", "gpu", "Room 214 - CT/UFSM"]);
    assert!(described.ok().is_empty(), "{}", described.stdout);
    assert_eq!(members(dir.path(), "gpu"), "n1 n2", "edits stay");
    let shown = group(dir.path(), &["show", "gpu", "--json"]).json();
    assert_eq!(
        (&shown["description"], &shown["hosts"]),
        (&"Room 214 - CT/UFSM".into(), &"n1".into())
    );
}

#[test]
fn a_removed_group_is_gone_and_founded_anew() {
    let dir = temp();
    let fake = cluster(dir.path());
    group(dir.path(), &["create", "gpu", "--hosts", "n1"]).ok();
    group(dir.path(), &["add", "gpu", "n3"]).ok();
    let gone = group(dir.path(), &["rm", "gpu"]);
    assert!(
        gone.ok().is_empty() && gone.stderr.contains("stays where it is installed"),
        "{}",
        gone.stderr
    );
    assert!(group(dir.path(), &["show", "gpu"]).failed(1).contains("alice removed it, "));
    for args in [
        &["rm", "gpu"][..],
        &["add", "gpu", "n1"],
        &["remove", "gpu", "n1"],
        &["describe", "gpu", "x"],
    ] {
        let refused = group(dir.path(), args);
        assert!(refused.failed(1).contains("there is no group gpu: alice removed it"), "{args:?}");
    }
    group(dir.path(), &["create", "gpu", "--hosts", "n[1-2]"]).ok();
    assert_eq!(members(dir.path(), "gpu"), "n1 n2", "without the edits of old");
    let again: Group = fake.cells(Kind::GROUP).pop().unwrap().record().unwrap();
    assert!(again.floor >= again.after && again.after.millis() >= NOW);
    assert_eq!(group(dir.path(), &["rm", "gpu", "--json"]).json()["removed"], true);
}

#[test]
fn the_built_in_group_and_unknown_ones_are_refused() {
    let dir = temp();
    let fake = cluster(dir.path());
    for args in [
        &["create", "GROUP", "--hosts", "n1"][..],
        &["add", "GROUP", "n1"],
        &["remove", "GROUP", "n1"],
        &["describe", "GROUP", "x"],
        &["rm", "GROUP"],
        &["export", "GROUP"],
    ] {
        let with = |group: &str| args.iter().map(|a| a.replace("GROUP", group)).collect::<Vec<_>>();
        let args_of = |words: &[String]| {
            group(dir.path(), &words.iter().map(String::as_str).collect::<Vec<_>>())
        };
        assert!(args_of(&with("all")).failed(1).contains("built in"), "{args:?}");
        if args[0] != "create" {
            let refused = args_of(&with("nope"));
            assert!(refused.failed(1).contains("there is no group nope"), "{args:?}");
            assert!(refused.stderr.contains("group ls"), "{args:?}");
        }
    }
    assert!(fake.cells(Kind::GROUP).is_empty() && fake.cells(Kind::GROUP_EDIT).is_empty());
}

#[test]
fn what_was_written_at_the_same_time_is_shown() {
    let dir = temp();
    let fake = cluster(dir.path());
    group(dir.path(), &["create", "gpu", "--hosts", "n1"]).ok();
    fake.with(|s| {
        let other = |removed: bool| GroupDefinition {
            author: Some(name("bob")),
            at: NOW,
            removed,
            description: "bob's".to_owned(),
            hosts: Some("n[1-9]".to_owned()),
            select: None,
        };
        s.groups[1].concurrent = vec![other(false), other(true)];
    });
    let shown = group(dir.path(), &["show", "gpu"]);
    assert!(
        shown
            .ok()
            .contains("at the same time  bob: hosts n[1-9], select -, description \"bob's\"\n")
    );
    assert!(shown.ok().contains("at the same time  bob: the group is removed\n"), "{}", shown.ok());
    for said in ["by alice, whose word is the later", "and by bob.", "group describe gpu TEXT"] {
        assert!(shown.stderr.contains(said), "{}", shown.stderr);
    }
    let listed = group(dir.path(), &["ls"]);
    assert!(listed.ok().contains("alice | bob | bob"), "{}", listed.ok());
    assert!(listed.stderr.contains("group describe gpu TEXT"), "{}", listed.stderr);
    let json = group(dir.path(), &["ls", "--json"]).json();
    assert_eq!(json["groups"][1]["concurrent"][0]["description"], "bob's");
    let settled = group(dir.path(), &["describe", "gpu", "ours"]);
    settled.ok();
    assert!(settled.stderr.contains("settles 2 other definitions"), "{}", settled.stderr);
    assert!(!group(dir.path(), &["show", "gpu"]).ok().contains("at the same time"));
}

#[test]
fn bad_expressions_are_pointed_at() {
    let dir = temp();
    let fake = cluster(dir.path());
    group(dir.path(), &["create", "gpu", "--hosts", "n1"]).ok();
    for (args, line) in [
        (&["create", "x", "--hosts", "n[1-3],b!d"][..], "  n[1-3],b!d\n          ^"),
        (&["create", "x", "--hosts", "n[1,5-2]"], "  n[1,5-2]\n      ^"),
        (&["create", "x", "--hosts", "10.0.0.0/33"], "  10.0.0.0/33\n           ^"),
        (&["create", "x", "--select", "a=b && c d"], "  a=b && c d\n          ^"),
        (&["create", "x", "--select", "gpu=true,,"], "  gpu=true,,\n          ^"),
        (&["add", "gpu", "node[1-"], "  node[1-\n      ^"),
        (&["remove", "gpu", "a,,b"], "  a,,b\n    ^"),
    ] {
        let ended = group(dir.path(), args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(ended.stderr.contains(line), "{args:?}:\n{}", ended.stderr);
    }
    let long = "x".repeat(1025);
    assert_eq!(group(dir.path(), &["describe", "gpu", &long]).code, Some(2));
    assert_eq!(fake.cells(Kind::GROUP).len() + fake.cells(Kind::GROUP_EDIT).len(), 1);
}

#[test]
fn figure_4_is_imported_and_exported() {
    let dir = temp();
    let fake = cluster(dir.path());
    let file = dir.path().join("groups.conf");
    fs::write(&file, FIGURE_4).unwrap();
    let file = file.to_str().unwrap();
    let dry = group(dir.path(), &["import", file, "--dry-run"]);
    assert_eq!(dry.ok(), "made  LSC\nmade  PAPLE\n");
    assert!(dry.stderr.contains("2 would be made"), "{}", dry.stderr);
    assert!(fake.cells(Kind::GROUP).is_empty());
    assert_eq!(group(dir.path(), &["import", file]).ok(), "made  LSC\nmade  PAPLE\n");
    let again = group(dir.path(), &["import", file]);
    assert_eq!(again.ok(), "same  LSC\nsame  PAPLE\n");
    assert_eq!(fake.cells(Kind::GROUP).len(), 2, "nothing is written anew");

    let out = group(dir.path(), &["export"]);
    let want = "group {\n    name = \"LSC\"\n    description = \"Room 214 - CT/UFSM\"\n    \
                machines = {host01, host02}\n}\ngroup {\n    name = \"PAPLE\"\n    \
                description = \"PAPLE Cluster\"\n    machines = {10.0.0.1-12}\n}\n";
    assert_eq!((out.ok(), out.stderr.as_str()), (want, ""));
    assert_eq!(import(dir.path(), out.ok(), &[]).ok(), "same  LSC\nsame  PAPLE\n");
    let one = group(dir.path(), &["export", "PAPLE", "--json"]).json();
    assert_eq!(
        (&one["groups"][0]["machines"][0], &one["groups"][0]["exact"]),
        (&"10.0.0.1-12".into(), &true.into())
    );
    assert!(one["file"].as_str().unwrap().starts_with("group {"));
}

#[test]
fn an_import_makes_groups_what_the_file_says() {
    let dir = temp();
    let _fake = cluster(dir.path());
    group(dir.path(), &["create", "a", "--select", "gpu=true"]).ok();
    group(dir.path(), &["create", "b", "--hosts", "n[1-3]"]).ok();
    group(dir.path(), &["remove", "b", "n2"]).ok();
    group(dir.path(), &["create", "c", "--hosts", "n1"]).ok();
    group(dir.path(), &["add", "c", "n2"]).ok();
    group(dir.path(), &["create", "kept", "--hosts", "n3"]).ok();

    // what the format can express goes out and comes back unchanged; a removed machine cannot
    let out = group(dir.path(), &["export", "a", "b", "c"]);
    let want = "group {\n    name = \"a\"\n    description = \"\"\n    machines = {}\n    \
                select = \"gpu=true\"\n}\n# b: the names of its 2 members now. Machines were \
                removed from it, which this format cannot say.\ngroup {\n    name = \"b\"\n    \
                description = \"\"\n    machines = {n[1,3]}\n}\ngroup {\n    name = \"c\"\n    \
                description = \"\"\n    machines = {n1, n2}\n}\n";
    assert_eq!(out.ok(), want);
    assert!(out.stderr.contains("later machines will not join: b."), "{}", out.stderr);
    let changed = import(dir.path(), out.ok(), &["--json"]).json();
    let outcome = |i: usize| changed["groups"][i]["outcome"].clone();
    assert_eq!([outcome(0), outcome(1), outcome(2)], ["same", "changed", "same"].map(Value::from));
    assert_eq!(members(dir.path(), "b"), "n1 n3");
    assert_eq!(import(dir.path(), out.ok(), &[]).ok(), "same  a\nsame  b\nsame  c\n");

    let file = "group { name = b machines = { n2 } } # edits of old do not count beside it\n\
                group { name = a select = \"gpu=false\" description = \"new\" }";
    assert_eq!(import(dir.path(), file, &[]).ok(), "changed  b\nchanged  a\n");
    assert_eq!(members(dir.path(), "b"), "n2");
    let a = group(dir.path(), &["show", "a", "--json"]).json();
    assert_eq!((&a["select"], &a["description"]), (&"gpu=false".into(), &"new".into()));
    assert_eq!(members(dir.path(), "kept"), "n3");
    let plain = group(dir.path(), &["export", "a", "--members"]);
    assert!(plain.ok().contains("machines = {n[1-2]}") && !plain.ok().contains("select"));
}

#[test]
fn a_file_with_an_error_changes_nothing() {
    let dir = temp();
    let fake = cluster(dir.path());
    let good = "group { name = ok machines = { n1 } }\n";
    for (bad, line, caret) in [
        ("group {\n  nmae = x\n}", "line 3, column 3", "    nmae = x\n    ^"),
        ("group {\n  name = \"a b\"\n}", "line 3, column 12", "    name = \"a b\"\n             ^"),
        ("group { name = x machines = { n[1- } }", "line 2, column 32", "^"),
        ("group { name = all }", "line 2, column 16", "^"),
        ("group { name = ok }", "line 2, column 16", "^"),
        ("group { name = x", "line 2, column 1", "^"),
    ] {
        let ended = import(dir.path(), &format!("{good}{bad}"), &[]);
        let said = ended.failed(1);
        assert!(said.contains("cannot import -: ") && said.contains(line), "{said}");
        assert!(said.contains(caret) && said.contains("nothing was changed"), "{said}");
    }
    let json = import(dir.path(), "group", &["--json"]).json_error(1);
    assert!(json["error"].as_str().unwrap().contains("line 1, column 6"), "{json}");
    let big = " ".repeat((1 << 20) + 1);
    assert!(import(dir.path(), &big, &[]).failed(1).contains("larger than 1 MiB"));
    assert!(group(dir.path(), &["import", "nowhere.conf"]).failed(1).contains("nowhere.conf"));
    assert!(fake.cells(Kind::GROUP).is_empty());
}

#[test]
fn many_groups_are_imported_batch_by_batch() {
    let dir = temp();
    let fake = cluster(dir.path());
    let file: String = (0..150)
        .map(|i| format!("group {{ name = g{i:03} machines = {{ n{} }} }}\n", i % 3 + 1))
        .collect();
    assert_eq!(import(dir.path(), &file, &[]).ok().lines().count(), 150);
    assert_eq!(fake.cells(Kind::GROUP).len(), 150);
    let out = group(dir.path(), &["export"]);
    assert!(import(dir.path(), out.ok(), &[]).stderr.contains("0 made, 0 changed, 150 the same"));
}
