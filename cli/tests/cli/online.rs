//! With a node that answers from a script.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use p2pinst_trust::Token;
use p2pinst_types::record::{Deployment, Grant, Manager, Mode, PackageId, Release, Role};
use p2pinst_types::{BlobRef, Hash, Kind, Version, codec};

use crate::fake::{Fake, NOW, machine, name};
use crate::run::{Ended, p2pinst, run, temp};

pub(crate) const BOTH: &[Role] = &[Role::Operator, Role::Publisher];

/// A cluster with one administrator, alice, whose key is on this machine.
pub(crate) fn cluster(dir: &Path) -> Fake {
    let fake = Fake::start(dir);
    let key = run(dir, &["key", "new", "alice"]).ok().to_owned();
    fake.grant(&key, "alice", BOTH);
    fake
}

/// A real package.
pub(crate) fn deb(dir: &Path) {
    let tree = dir.join("hello");
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    let control = "Package: hello\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: greets\n";
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    fs::write(tree.join("greeting"), "hello").unwrap();
    let built = Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .arg(&tree)
        .arg(dir.join("hello.deb"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
}

#[test]
fn an_invite_prints_a_token_and_nothing_else() {
    let dir = temp();
    let fake = cluster(dir.path());
    let invited = run(dir.path(), &["invite", "--label", "gpu=true", "--ttl", "30m"]);
    assert_eq!(invited.ok().lines().count(), 1);
    assert_eq!(invited.stderr, "");
    let token = Token::decode(invited.ok()).unwrap();
    assert_eq!(token.bootstrap, ["/ip4/10.77.0.1/tcp/4001"]);
    assert_eq!((token.invite.uses, token.invite.not_after.0), (1, NOW.0 + 1_800_000));
    assert_eq!(token.invite.labels.len(), 1);
    let cell = &fake.cells(Kind::INVITE)[0];
    assert_eq!(cell.version, Version { incarnation: NOW.0, seq: 1 });
    assert_eq!(cell.id.subject, token.key.public().as_bytes());

    let other =
        ["invite", "--bootstrap", "/dns/a/tcp/1", "--site", "pisa", "--uses", "9", "--json"];
    let json = run(dir.path(), &other).json();
    let token = Token::decode(json["token"].as_str().unwrap()).unwrap();
    assert_eq!(token.bootstrap, ["/dns/a/tcp/1"]);
    assert_eq!((json["site"].as_str(), json["uses"].as_u64()), (Some("pisa"), Some(9)));
    assert_eq!(fake.cells(Kind::INVITE)[1].version.seq, 2, "the log goes on");
}

#[test]
fn a_grant_is_signed_by_the_root() {
    let dir = temp();
    let fake = cluster(dir.path());
    let key = "ab".repeat(32);
    let grant = ["grant", &key, "--role", "operator", "--role", "publisher"];
    assert_eq!(run(dir.path(), &grant).ok(), "");
    let cell = fake.cells(Kind::GRANT).remove(0);
    let record: Grant = cell.record().unwrap();
    assert_eq!(cell.id.author, fake.with(|s| s.root.public()));
    assert_eq!((record.name.as_str(), record.roles.len()), ("op-ababab", 2));
    let other = ["grant", &"cd".repeat(32), "--name", "alice", "--role", "operator"];
    assert!(run(dir.path(), &other).failed(1).contains("is called alice already"));
    let json = run(dir.path(), &["grant", &key, "--role", "boot", "--ttl", "1h", "--json"]).json();
    assert_eq!(
        (json["name"].as_str(), json["not_after"].as_u64()),
        (Some("op-ababab"), Some(NOW.0 + 3_600_000))
    );
}

#[test]
fn nodes_and_history_are_shown() {
    let dir = temp();
    let _fake = cluster(dir.path());
    let listed = run(dir.path(), &["node", "ls"]);
    assert!(listed.ok().contains("never seen") && listed.ok().contains("up "), "{}", listed.ok());
    assert_eq!(run(dir.path(), &["node", "ls", "--json"]).json()["nodes"][1]["up"], false);
    assert!(run(dir.path(), &["node", "show", "n2"]).ok().contains("/ip4/10.77.0.2/tcp/4001"));
    assert!(run(dir.path(), &["node", "show", "n9"]).failed(1).contains("node ls"));
    let history = run(dir.path(), &["history", "n2"]);
    assert!(history.ok().is_empty() && history.stderr.contains("may be incomplete"));
    assert_eq!(run(dir.path(), &["history", "--json"]).json()["machine"], "n1");
    assert!(run(dir.path(), &["key", "ls"]).ok().contains("operator,publisher"));
    assert!(run(dir.path(), &["status"]).stderr.contains("Nothing has been published"));
}

#[test]
fn limits_are_shown_and_set() {
    let dir = tempfile::tempdir().unwrap();
    let _fake = cluster(dir.path());
    assert!(run(dir.path(), &["limits", "show"]).ok().contains("wan_down  none"));
    let set = run(dir.path(), &["limits", "set", "up=20Mbit/s", "wan_up=none", "--for", "2h"]);
    assert!(set.ok().contains("up        2500kB/s"), "{}", set.ok());
    let json = run(dir.path(), &["limits", "show", "--json"]).json();
    assert_eq!(
        (&json["now"]["up"], &json["now"]["wan_up"]),
        (&2_500_000.into(), &serde_json::Value::Null)
    );
    assert_eq!(json["set"][0]["rates"]["wan_up"], "none");
    for (wrong, words) in [
        (&["limits", "set"][..], "LIMIT=RATE"),
        (&["limits", "set", "up=5"], "20Mbit/s"),
        (&["limits", "set", "sideways=1MB/s"], "wan_down"),
        (&["limits", "set", "up=1MB/s", "up=2MB/s"], "twice"),
        (&["limits", "set", "up=1MB/s", "--keep", "--for", "1h"], "--keep"),
    ] {
        assert!(run(dir.path(), wrong).failed(2).contains(words), "{wrong:?}");
    }
    assert!(run(dir.path(), &["limits", "reset"]).ok().contains("up        none"));
}

#[test]
fn a_package_is_published() {
    let dir = temp();
    let fake = cluster(dir.path());
    deb(dir.path());
    fake.with(|s| s.holders = vec![vec![name("n2")]]);
    let published = run(dir.path(), &["publish", "hello.deb", "--group", "all", "--urgent"]);
    let (order, manifest) =
        (fake.cells(Kind::DEPLOYMENT).remove(0), fake.cells(Kind::RELEASE).remove(0));
    let id = hex(&order.id.subject);
    assert_eq!(published.ok(), format!("alice-42 {}\n", &id[..8]));
    assert!(published.stderr.contains("1 other node holds all of it"), "{}", published.stderr);

    let bytes = fs::read(dir.path().join("hello.deb")).unwrap();
    let release: Release = manifest.record().unwrap();
    assert_eq!(release.blob, BlobRef::new(Hash::of(&bytes), bytes.len() as u64).unwrap());
    assert_eq!(release.package.to_string(), "hello 1.0 all");
    assert_eq!(release.file, "hello.deb");
    let deployment: Deployment = order.record().unwrap();
    assert_eq!(deployment.mode, Mode::Urgent);
    assert_eq!(deployment.release, Release::id(manifest.payload()));
    assert_eq!(manifest.id.subject, deployment.release.0.as_bytes());
    assert_eq!(order.id.subject, Deployment::id(&order.id.author, order.payload()).as_bytes());
    assert_eq!(order.version.seq, manifest.version.seq + 1, "one log");
    assert!(order.hlc > manifest.hlc);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn a_publisher_that_waits_says_how_it_went() {
    let dir = temp();
    let fake = cluster(dir.path());
    deb(dir.path());
    let wait = ["publish", "hello.deb", "--group", "all", "--wait"];
    let script = |last: &str| {
        vec![
            vec![machine("n1", "installed"), machine("n2", "fetching"), machine("n3", "pending")],
            vec![machine("n1", "installed"), machine("n2", "skipped"), machine("n3", last)],
        ]
    };
    fake.with(|s| (s.progress, s.slow) = (script("installed"), 3));
    let ended = run(dir.path(), &wait);
    assert!(ended.ok().starts_with("alice-42 "));
    assert!(ended.stderr.contains("1/3 installed, 1 fetching, 1 pending"), "{}", ended.stderr);
    assert!(ended.stderr.contains("2/3 installed, 1 skipped"), "{}", ended.stderr);

    fake.with(|s| s.progress = script("failed"));
    let ended = run(dir.path(), &wait);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stdout.starts_with("alice-42 "), "the order stands");
    for part in
        ["n3  failed  n3 is failed", "error: alice-42 failed on 1 machine of 3: n3", "history n3"]
    {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }

    fake.with(|s| s.progress = script("failed"));
    let ended = run(dir.path(), &[&wait[..], &["--json"]].concat());
    assert_eq!(ended.code, Some(1));
    let json: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&json["finished"], &json["failed"][0]), (&true.into(), &"n3".into()));
    assert_eq!(json["machines"][1]["state"], "skipped");
    let error: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!(error["kind"], "failed");
}

#[test]
fn machines_that_are_down_do_not_hold_up_a_publisher() {
    let dir = temp();
    let fake = cluster(dir.path());
    deb(dir.path());
    let mut down = machine("n3", "unknown");
    (down.up, down.since_ms) = (false, 60_000);
    fake.with(|s| s.progress = vec![vec![machine("n1", "installed"), down]]);
    let begun = std::time::Instant::now();
    let ended = run(dir.path(), &["publish", "hello.deb", "--group", "all", "--wait"]);
    ended.ok();
    assert!(begun.elapsed().as_secs() >= 10, "it may come back");
    assert!(ended.stderr.contains("n3  not reachable  down 1m"), "{}", ended.stderr);
}

#[test]
fn a_limit_is_signed_in_the_order() {
    let dir = tempfile::tempdir().unwrap();
    let fake = cluster(dir.path());
    deb(dir.path());
    let args = ["publish", "hello.deb", "--group", "all", "--limit", "20Mbit/s", "--json"];
    assert_eq!(run(dir.path(), &args).json()["limit"], 2_500_000);
    let order: Deployment = codec::decode(fake.cells(Kind::DEPLOYMENT)[0].payload()).unwrap();
    assert_eq!(order.limit.map(p2pinst_types::Rate::bytes), Some(2_500_000));
    let wrong = ["publish", "hello.deb", "--group", "all", "--limit", "20"];
    assert!(run(dir.path(), &wrong).failed(2).contains("20Mbit/s"));
}

#[test]
fn a_durable_publish_stays_until_others_hold_it() {
    let dir = temp();
    let fake = cluster(dir.path());
    deb(dir.path());
    let n = |names: &[&str]| names.iter().map(|n| name(n)).collect::<Vec<_>>();
    fake.with(|s| s.holders = vec![n(&[]), n(&["n2"]), n(&["n2", "n3"])]);
    let publish = |n| {
        let args = ["publish", "hello.deb", "--group", "all", "--durable", n, "--json"];
        run(dir.path(), &args)
    };
    let json = publish("2").json();
    assert_eq!((&json["holders"][0], &json["holders"][1]), (&"n2".into(), &"n3".into()));
    assert_eq!(json["finished"], false);
    let error = publish("3").json_error(1);
    assert!(error["hint"].as_str().unwrap().contains("--durable 2"), "{error}");
    assert_eq!(fake.cells(Kind::DEPLOYMENT).len(), 1);
}

#[test]
fn what_must_not_be_published_is_refused() {
    let dir = temp();
    let fake = cluster(dir.path());
    deb(dir.path());
    let publish = |more: &[&str]| run(dir.path(), &[&["publish", "hello.deb"], more].concat());
    assert!(
        publish(&["--group", "gpu"]).failed(1).contains("there is no group gpu\n\nhint: make it")
    );
    fake.with(|s| {
        let mut empty = s.groups[0].clone();
        (empty.name, empty.members) = (name("none"), vec![]);
        s.groups.push(empty);
    });
    assert!(publish(&["--group", "none"]).failed(1).contains("has no members"));

    let package = PackageId {
        manager: Manager::Dpkg,
        name: "hello".into(),
        version: "2.0".into(),
        architecture: "all".into(),
    };
    let blob = BlobRef::new(Hash([0; 32]), 1).unwrap();
    let newer = Release { package, file: "x".into(), blob };
    fake.with(|s| s.newer = Some(("bob-7".into(), newer)));
    let refused = publish(&["--group", "all"]);
    let said = refused.failed(1);
    assert!(said.contains("older than 2.0, which bob-7") && said.contains("--allow-downgrade"));
    publish(&["--group", "all", "--allow-downgrade"]).ok();
    fake.with(|s| s.newer = None);

    fake.with(|s| s.lies_about_blobs = true);
    let ended = publish(&["--group", "all"]);
    assert!(ended.failed(255).contains("was handed over"));
    fake.with(|s| (s.lies_about_blobs, s.refuses_cells) = (false, true));
    assert!(publish(&["--group", "all"]).failed(1).contains("disk is full\n\nhint: make room"));
    assert_eq!(fake.cells(Kind::DEPLOYMENT).len(), 1);
}

#[test]
fn only_keys_with_power_sign() {
    let dir = temp();
    let fake = Fake::start(dir.path());
    deb(dir.path());
    let publish = |more: &[&str]| {
        run(dir.path(), &[&["publish", "hello.deb", "--group", "all"], more].concat())
    };
    let said = publish(&[]);
    assert!(said.failed(1).contains("key new NAME"), "{}", said.stderr);
    let alice = run(dir.path(), &["key", "new", "alice"]).ok().trim().to_owned();
    let said = publish(&[]);
    let hint = format!("p2pinst grant {alice} --name alice --role operator --role publisher");
    assert!(said.failed(1).contains(&hint), "{}", said.stderr);
    fake.grant(&alice, "al", BOTH);
    assert!(publish(&[]).ok().starts_with("al-42 "), "after the name that the cluster knows");

    let bob = run(dir.path(), &["key", "new", "bob"]).ok().to_owned();
    fake.grant(&bob, "bob", BOTH);
    assert!(publish(&[]).failed(1).contains("alice, bob\n\nhint: name one with --key"));
    assert!(publish(&["--key", "bob"]).ok().starts_with("bob-42 "));
    assert!(publish(&["--key", "root"]).failed(1).contains("the key root has no power"));
    assert!(publish(&["--key", "eve"]).failed(1).contains("alice, bob, root"));
}

#[test]
fn a_restored_snapshot_begins_a_new_incarnation() {
    let dir = temp();
    let fake = cluster(dir.path());
    let head = dir.path().join("data/keys/alice.head");
    run(dir.path(), &["invite"]).ok();
    let old = fs::read(&head).unwrap();
    run(dir.path(), &["invite"]).ok();
    fs::write(&head, old).unwrap();
    run(dir.path(), &["invite"]).ok();
    let versions: Vec<_> = fake.cells(Kind::INVITE).iter().map(|c| c.version).collect();
    let life = |incarnation, seq| Version { incarnation, seq };
    assert_eq!(versions, [life(NOW.0, 1), life(NOW.0, 2), life(NOW.0 + 1, 1)]);
}

#[test]
fn a_status_is_watched_until_done() {
    let dir = temp();
    let fake = cluster(dir.path());
    deb(dir.path());
    run(dir.path(), &["publish", "hello.deb", "--group", "all"]).ok();
    let script = vec![
        vec![machine("n1", "fetching")],
        vec![machine("n1", "fetching")],
        vec![machine("n1", "installed")],
    ];
    fake.with(|s| s.progress = script.clone());
    let watched = run(dir.path(), &["status", "--watch", "--until-done"]);
    let want = "\
alice-42: hello 1.0 all: 0/1 installed, 1 fetching
alice-42: hello 1.0 all: 1/1 installed
";
    assert_eq!(watched.ok(), want);
    fake.with(|s| s.progress = script);
    let json = run(dir.path(), &["status", "--watch", "--until-done", "--json"]);
    let lines: Vec<serde_json::Value> =
        json.ok().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["deployments"][0]["machines"][0]["state"], "installed");
    let status = run(dir.path(), &["status", "alice-42"]);
    assert!(status.ok().contains("n1  installed  up  n1 is installed"), "{}", status.ok());
    assert_eq!(run(dir.path(), &["status", "--json"]).json()["deployments"][0]["name"], "alice-42");
}

#[test]
fn who_stops_waiting_does_not_stop_the_deployment() {
    let dir = temp();
    let fake = cluster(dir.path());
    deb(dir.path());
    fake.with(|s| s.progress = vec![vec![machine("n1", "waiting")]]);
    let child = p2pinst(dir.path())
        .args(["publish", "hello.deb", "--group", "all", "--wait", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !fake.with(|s| s.asked_for_status) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = Ended::of(&child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let error: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap();
    assert!(error["hint"].as_str().unwrap().contains("alice-42 is ordered and goes on"), "{error}");
    let json: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&json["name"], &json["finished"]), (&"alice-42".into(), &false.into()));
}

#[test]
fn a_key_has_one_log_whoever_writes_at_once() {
    let dir = temp();
    let fake = cluster(dir.path());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| run(dir.path(), &["invite"]).ok().to_owned());
        }
    });
    let mut versions: Vec<_> = fake.cells(Kind::INVITE).iter().map(|c| c.version.seq).collect();
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3, 4]);
}
