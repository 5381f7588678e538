//! Looking at a node: its health, its inside, its statuses by what they say.

use p2pinst_api::inspect::Check;
use p2pinst_types::Kind;

use crate::fake::{Fake, machine};
use crate::online::{cluster, deb};
use crate::run::{run, temp};

#[test]
fn the_doctor_fails_only_where_something_does_not_work() {
    let dir = temp();
    let fake = Fake::start(dir.path());
    fake.with(|s| {
        s.checks = vec![Check::ok("daemon", "it runs"), Check::warn("clock", "late", "set it")]
    });
    let well = run(dir.path(), &["doctor"]);
    assert!(well.ok().contains("WARN  clock   late\n      hint: set it"), "{}", well.ok());
    let json = run(dir.path(), &["doctor", "--json"]).json();
    assert_eq!((&json["healthy"], &json["checks"][1]["level"]), (&true.into(), &"warn".into()));
    fake.with(|s| s.checks.push(Check::fail("peers", "none", "look for them")));
    let ill = run(dir.path(), &["doctor", "--json"]);
    assert_eq!(ill.code, Some(1));
    let document: serde_json::Value = serde_json::from_str(&ill.stdout).unwrap();
    assert_eq!(document["healthy"], false);
    let error: serde_json::Value = serde_json::from_str(&ill.stderr).unwrap();
    assert_eq!(error["error"], "1 of 3 checks failed: peers");
    assert_eq!(error["hint"], "look for them");
}

#[test]
fn without_a_node_the_doctor_says_what_can_be_said() {
    let dir = temp();
    let ended = run(dir.path(), &["doctor", "--json"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let level = |name: &str| {
        let checks = document["checks"].as_array().unwrap();
        checks.iter().find(|c| c["name"] == name).map(|c| c["level"].as_str().unwrap().to_owned())
    };
    assert_eq!(level("daemon").as_deref(), Some("fail"));
    assert_eq!(level("identity").as_deref(), Some("fail"));
    assert_eq!(level("journal").as_deref(), Some("ok"));
}

#[test]
fn cells_are_shown_decoded() {
    let dir = temp();
    let fake = cluster(dir.path());
    run(dir.path(), &["group", "create", "gpu", "--select", "gpu=true"]).ok();
    let cells = run(dir.path(), &["debug", "cells", "--json"]).json();
    let group = cells["cells"].as_array().unwrap().iter().find(|c| c["kind"] == "group").unwrap();
    assert_eq!(group["payload"]["select"], "gpu=true");
    assert_eq!(group["size"], fake.cells(Kind::GROUP)[0].bytes().len());
    assert_eq!(cells["next"], "8003");
    let shown = run(dir.path(), &["debug", "cells", "--limit", "1"]);
    assert!(shown.ok().lines().count() == 2 && shown.stderr.contains("--from 8003"));
    assert_eq!(run(dir.path(), &["debug", "keys", "--json"]).json()["more"], 3);
    assert!(run(dir.path(), &["debug", "keys"]).stderr.contains("And 3 more"));
    assert!(run(dir.path(), &["debug", "peers"]).ok().starts_with("NAME"));
    assert_eq!(run(dir.path(), &["debug", "cells", "--from", "x"]).code, Some(2));
}

#[test]
fn machines_are_listed_by_what_they_do() {
    let dir = temp();
    let fake = cluster(dir.path());
    deb(dir.path());
    run(dir.path(), &["publish", "hello.deb", "--group", "all"]).ok();
    let machines = [("n1", "installed"), ("n2", "failed"), ("n3", "unknown"), ("n4", "fetching")];
    fake.with(|s| s.progress = vec![machines.map(|(n, state)| machine(n, state)).to_vec()]);
    let listed = |args: &[&str]| {
        let args = [&["status", "alice-42", "--json"][..], args].concat();
        let json = run(dir.path(), &args).json();
        let machines = json["deployments"][0]["machines"].as_array().unwrap().clone();
        machines.iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&["--failed"]), ["n2"]);
    assert_eq!(listed(&["--pending"]), ["n4"]);
    assert_eq!(listed(&["--missing"]), ["n3"]);
    assert_eq!(listed(&["--failed", "--missing"]), ["n2", "n3"]);
    assert_eq!(listed(&["--all"]), ["n1", "n2", "n3", "n4"]);
    assert_eq!(listed(&[]), ["n1", "n2", "n3", "n4"]);
}
