//! Who is a member and who has power, with a node that answers from a script.

use std::fs;
use std::path::Path;

use p2pinst_api::view::RemovalView;
use p2pinst_trust::keytext;
use p2pinst_types::Kind;
use p2pinst_types::record::{Grant, Revocation, Role};

use crate::fake::{Fake, NOW, name};
use crate::run::{run, temp};

/// A cluster with one operator, alice, whose key is on this machine.
fn cluster(dir: &Path) -> (Fake, String) {
    let fake = Fake::start(dir);
    let key = run(dir, &["key", "new", "alice"]).ok().trim().to_owned();
    fake.grant(&key, "alice", &[Role::Operator, Role::Publisher]);
    (fake, key)
}

fn remove_key(dir: &Path, key: &str) {
    fs::remove_file(dir.join("data/keys").join(format!("{key}.key"))).unwrap();
}

#[test]
fn machines_are_labelled_and_renamed() {
    let dir = temp();
    let (fake, _) = cluster(dir.path());
    let label = run(dir.path(), &["node", "label", "n2", "gpu=true", "rack=7", "--json"]).json();
    assert_eq!((&label["name"], &label["labels"]["gpu"]), (&"n2".into(), &"true".into()));
    let gone = run(dir.path(), &["node", "label", "n2", "gpu-"]);
    assert!(gone.ok().is_empty() && gone.stderr.contains("n2 has now: rack=7"), "{}", gone.stderr);
    assert_eq!(fake.cells(Kind::LABEL).len(), 3);
    let twice = ["node", "label", "n2", "a=1", "a-"];
    assert!(run(dir.path(), &twice).failed(2).contains("given twice"));
    let many: Vec<String> = (0..32).map(|n| format!("k{n}=x")).collect();
    let many: Vec<&str> =
        ["node", "label", "n2"].into_iter().chain(many.iter().map(String::as_str)).collect();
    assert!(run(dir.path(), &many).failed(1).contains("more than 32"));

    assert!(run(dir.path(), &["node", "rename", "n2", "n1"]).failed(1).contains("is called n1"));
    assert!(run(dir.path(), &["node", "rename", "n2", "n2"]).failed(1).contains("already"));
    assert!(run(dir.path(), &["node", "rename", "n9", "n3"]).failed(1).contains("node ls"));
    let renamed = run(dir.path(), &["node", "rename", "n2", "gpu-02"]);
    assert!(renamed.ok().is_empty() && renamed.stderr.contains("is called gpu-02 now"));
    assert!(run(dir.path(), &["node", "show", "gpu-02"]).ok().contains("rack=7"));
}

#[test]
fn machines_are_removed() {
    let dir = temp();
    let (fake, _) = cluster(dir.path());
    assert!(run(dir.path(), &["node", "rm", "n1"]).failed(1).contains("leave"));
    let rm = run(dir.path(), &["node", "rm", "n2", "--reason", "stolen"]);
    assert!(
        rm.ok().is_empty() && rm.stderr.contains("n2 was removed; 2 peers told"),
        "{}",
        rm.stderr
    );
    let record: Revocation = fake.cells(Kind::REVOCATION)[0].record().unwrap();
    assert_eq!((record.key.0, record.reason.as_str()), ([2; 32], "stolen"));
}

#[test]
fn a_machine_that_was_removed_says_so_and_leaves() {
    let dir = temp();
    let (fake, _) = cluster(dir.path());
    assert!(!run(dir.path(), &["node", "ls"]).stderr.contains("removed"));
    let removed =
        RemovalView { at: NOW, by: Some(name("alice")), reason: "disk stolen".to_owned() };
    fake.with(|s| s.removed = Some(removed));
    let ls = run(dir.path(), &["node", "ls"]);
    for part in ["was removed from the cluster by alice", "disk stolen", "p2pinst leave"] {
        assert!(ls.stderr.contains(part) || ls.stderr.contains("leave"), "{}", ls.stderr);
    }
    assert_eq!(run(dir.path(), &["node", "ls", "--json"]).json()["removed"]["by"], "alice");
    assert!(run(dir.path(), &["leave"]).failed(2).contains("--yes"));
    let left = run(dir.path(), &["leave", "--yes"]);
    assert!(left.ok().is_empty() && left.stderr.contains("2 members told"), "{}", left.stderr);
    assert!(left.stderr.contains("join TOKEN") && left.stderr.contains("keep their power"));
}

#[test]
fn invites_are_listed_and_revoked() {
    let dir = temp();
    let (fake, _) = cluster(dir.path());
    let invite = |uses| {
        run(dir.path(), &["invite", "--uses", uses, "--json"]).json()["invite"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (open, closed) = (invite("2"), invite("9"));
    let ls = run(dir.path(), &["invite", "ls"]);
    assert!(ls.ok().contains(&open[..8]) && !ls.ok().contains(&closed[..8]), "{}", ls.ok());
    let all = run(dir.path(), &["invite", "ls", "--all", "--json"]).json();
    assert_eq!(all["invites"].as_array().unwrap().len(), 2);
    let revoked = run(dir.path(), &["revoke", &open[..8], "--json"]).json();
    assert_eq!((revoked["what"].as_str(), revoked["key"].as_str()), (Some("invite"), Some(&*open)));
    let cell = &fake.cells(Kind::REVOCATION)[0];
    assert_eq!(cell.id.slot, cell.hlc.0.to_be_bytes());
    assert!(run(dir.path(), &["revoke", "nobody"]).failed(1).contains("invite ls"));
}

#[test]
fn only_the_root_key_revokes_an_administrator() {
    let dir = temp();
    let (fake, alice) = cluster(dir.path());
    let revoked = run(dir.path(), &["revoke", "alice", "--reason", "gone"]);
    assert!(revoked.ok().is_empty() && revoked.stderr.contains("alice has no power any more"));
    let cell = &fake.cells(Kind::REVOCATION)[0];
    assert_eq!(cell.id.author, fake.with(|s| s.root.public()));
    assert_eq!(cell.record::<Revocation>().unwrap().key.to_string(), alice);
    remove_key(dir.path(), "root");
    assert!(run(dir.path(), &["revoke", "alice"]).failed(1).contains("key import FILE"));
}

#[test]
fn without_the_root_key_nothing_is_granted() {
    let dir = temp();
    let (_fake, _) = cluster(dir.path());
    remove_key(dir.path(), "root");
    let key = "11".repeat(32);
    let ended = run(dir.path(), &["grant", &key, "--role", "operator"]);
    assert!(ended.failed(1).contains("key import FILE"));
    assert!(run(dir.path(), &["root", "rotate"]).failed(1).contains("key import FILE"));
}

/// A list of grants from a node that may not know of all of them would end power by mistake.
#[test]
fn a_root_is_replaced_only_where_others_can_be_asked() {
    let dir = temp();
    let (fake, _) = cluster(dir.path());
    run(dir.path(), &["revoke", "alice"]).ok();
    fake.with(|s| s.isolated = true);
    assert!(run(dir.path(), &["root", "rotate"]).failed(1).contains("--alone"));
    // the fake makes sure that the list names what the root has revoked
    run(dir.path(), &["root", "rotate", "--alone"]).ok();
}

#[test]
fn a_root_is_replaced_by_a_fresh_key() {
    let dir = temp();
    let (fake, _) = cluster(dir.path());
    let json = run(dir.path(), &["root", "rotate", "--json"]).json();
    assert_eq!((json["version"].as_u64(), json["threshold"].as_u64()), (Some(2), Some(1)));
    assert_eq!((&json["here"][0], &json["standing"][0]), (&"root-2".into(), &"alice".into()));
    let show = run(dir.path(), &["root", "show"]);
    assert!(show.ok().contains("1 of 1") && show.ok().contains("(root-2, on this machine)"));
    // the new key grants, the old one no more, whether or not it lies around
    let key = "ab".repeat(32);
    run(dir.path(), &["grant", &key, "--role", "operator"]).ok();
    let new = fake.cells(Kind::GRANT)[0].id.author;
    assert_eq!(json["keys"][0].as_str().unwrap(), new.to_string());
    let listed = run(dir.path(), &["key", "ls", "--json"]).json();
    let roles = |at: usize| listed["keys"][at]["roles"].as_array().unwrap().len();
    assert_eq!((roles(1), roles(2)), (0, 1), "root, root-2: {listed}");
    let again = run(dir.path(), &["root", "rotate"]);
    assert!(again.ok().is_empty() && again.stderr.contains("root v3"), "{}", again.stderr);
    assert!(again.stderr.contains("No power gives or takes any more: root-2"), "{}", again.stderr);
    remove_key(dir.path(), "root-3");
    assert!(run(dir.path(), &["grant", &key, "--role", "boot"]).failed(1).contains("root key"));
}

/// Two of three, with all keys here; then with too few.
#[test]
fn a_root_of_two_of_three_keys_grants_and_is_replaced() {
    let dir = temp();
    let (fake, _) = cluster(dir.path());
    for key in ["r1", "r2", "r3"] {
        run(dir.path(), &["key", "new", key]).ok();
    }
    let three = ["root", "rotate", "--new-key", "r1", "--new-key", "r2", "--new-key", "r3"];
    let twice = ["root", "rotate", "--new-key", "r1", "--new-key", "r1"];
    assert!(run(dir.path(), &twice).failed(2).contains("given twice"));
    let many = run(dir.path(), &[&three[..], &["--threshold", "4"]].concat());
    assert!(many.failed(2).contains("has 3 keys"), "{}", many.stderr);
    let far = "cd".repeat(32);
    let absent = ["root", "rotate", "--new-key", "r1", "--new-key", &far, "--threshold", "2"];
    assert!(run(dir.path(), &absent).failed(1).contains("1 are here"));
    run(dir.path(), &[&three[..], &["--threshold", "2"]].concat()).ok();
    let doc = fake.with(|s| s.roots.current().cloned().unwrap());
    assert_eq!((doc.version, doc.keys.len(), doc.threshold), (2, 3, 2));

    let grant = ["grant", &far, "--name", "dora", "--role", "operator"];
    run(dir.path(), &grant).ok(); // the fake checks its signatures
    assert_eq!(fake.cells(Kind::GRANT)[0].record::<Grant>().unwrap().cosigned.len(), 1);
    remove_key(dir.path(), "r1");
    run(dir.path(), &grant).ok();
    let path = dir.path().join("data/keys/r2.key");
    let kept = fs::read(&path).unwrap();
    assert!(keytext::read(&kept).is_ok());
    remove_key(dir.path(), "r2");
    for args in [&grant[..], &["root", "rotate", "--new-key", "r3", "--threshold", "1"]] {
        let ended = run(dir.path(), args);
        let said = ended.failed(1);
        assert!(said.contains("2 of the cluster's 3 root keys") && said.contains("r3"), "{said}");
    }
    p2pinst_files::write(&path, &kept, p2pinst_files::Access::Private).unwrap();
    run(dir.path(), &["root", "rotate", "--new-key", "r3", "--threshold", "1"]).ok();
    let doc = fake.with(|s| s.roots.current().cloned().unwrap());
    assert_eq!((doc.version, doc.keys.len(), doc.threshold), (3, 1, 1));
}
