//! Interruptions: a killed dpkg, a killed node, a lock that somebody else holds, a script that
//! hangs. Scripts wait on pipes, so nothing here depends on how fast the machine is.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use p2pinst_install::status::State;
use p2pinst_install::{
    Cleanup, Dpkg, Exit, Holder, InstallError, InstallOptions, LockError, Patience, inspect,
};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::common::{Deb, Root, is_root, patient};

/// Says through /up that it has begun, and waits for /go; unless /free is there.
const WAITS: &str = "[ -e /free ] && exit 0; echo up >/up; read x </go";

fn waiting(root: &Root) -> Deb {
    root.fifo("up");
    root.fifo("go");
    Deb::new("slow", "1").script("postinst", WAITS)
}

/// Blocks until the script has begun.
fn begun(root: &Root) {
    assert_eq!(fs::read_to_string(root.path("up")).unwrap(), "up\n");
}

fn go(root: &Root) {
    fs::write(root.path("go"), "go\n").unwrap();
}

/// The real dpkg as somebody else runs it, in a process group of its own.
fn someone_installs(root: &Root, deb: &Deb) -> Child {
    Command::new("dpkg")
        .arg(format!("--root={}", root.dpkg.root().display()))
        .arg("--install")
        .arg(deb.build(root.dir.path()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}

fn kill_group(leader: &Child) {
    let pid = Pid::from_raw(i32::try_from(leader.id()).unwrap()).unwrap();
    kill_process_group(pid, Signal::KILL).unwrap();
}

fn impatient() -> InstallOptions {
    let patience = Patience { locks: Duration::ZERO, ..patient().patience };
    InstallOptions { patience, ..patient() }
}

#[test]
fn a_killed_dpkg_is_brought_to_its_end() {
    if !is_root("a_killed_dpkg_is_brought_to_its_end") {
        return;
    }
    let root = Root::with_shell();
    let mut dpkg = someone_installs(&root, &waiting(&root));
    begun(&root);
    kill_group(&dpkg);
    dpkg.wait().unwrap();
    let broken = root.dpkg.audit().unwrap();
    assert_eq!((broken.len(), broken[0].state), (1, State::HalfConfigured), "{broken:?}");
    assert!(root.dpkg.database().unwrap().pending_updates > 0);
    assert_eq!(root.installed("slow"), None);

    fs::write(root.path("free"), "").unwrap();
    let report = root.dpkg.repair(&patient().patience).unwrap();
    assert_eq!((report.before, report.remaining), (broken, vec![]));
    assert_eq!(report.exit, Some(Exit::Code(0)));
    assert_eq!(root.query("slow"), "install ok installed 1");
    assert_eq!(root.dpkg.database().unwrap().pending_updates, 0);
    // nothing more to do
    assert_eq!(root.dpkg.repair(&patient().patience).unwrap().exit, None);
}

#[test]
fn a_dpkg_killed_while_unpacking_leaves_what_only_the_file_repairs() {
    if !is_root("a_dpkg_killed_while_unpacking_leaves_what_only_the_file_repairs") {
        return;
    }
    let root = Root::with_shell();
    root.fifo("up");
    root.fifo("go");
    let slow = Deb::new("slow", "1").script("preinst", WAITS);
    let mut dpkg = someone_installs(&root, &slow);
    begun(&root);
    kill_group(&dpkg);
    dpkg.wait().unwrap();
    fs::write(root.path("free"), "").unwrap();
    let report = root.dpkg.repair(&patient().patience).unwrap();
    assert_eq!(report.remaining.len(), 1, "{report:?}");
    assert!(report.remaining[0].reinstall_required, "{report:?}");
    assert!(report.remaining[0].to_string().contains("must be installed again"));
    root.install(&slow, &patient()).unwrap();
    assert_eq!(root.dpkg.audit().unwrap(), []);
}

#[test]
fn who_holds_the_lock_is_named_and_waited_for() {
    if !is_root("who_holds_the_lock_is_named_and_waited_for") {
        return;
    }
    let root = Root::with_shell();
    let mut other = someone_installs(&root, &waiting(&root));
    begun(&root);
    let (path, info) = root.built(&Deb::new("mine", "1"));
    let error = root.dpkg.install(&path, &info, &impatient()).unwrap_err();
    assert!(error.to_string().contains(&format!("process {} (dpkg)", other.id())), "{error}");
    assert!(error.to_string().contains("never delete the lock file"), "{error}");
    let holder = match error {
        InstallError::Lock(LockError::Busy { holder, .. }) => holder,
        error => panic!("{error}"),
    };
    let pid = i32::try_from(other.id()).unwrap();
    assert_eq!(holder, Holder::Process { pid, name: Some("dpkg".to_owned()) });
    assert!(root.dpkg.repair(&impatient().patience).is_err());
    assert_eq!(root.query("mine"), "");

    thread::scope(|scope| {
        let (tell, told) = sync_channel(0);
        let (dpkg, path, info) = (&root.dpkg, &path, &info);
        let waits = scope.spawn(move || {
            tell.send(()).unwrap();
            dpkg.install(path, info, &patient())
        });
        told.recv().unwrap();
        go(&root);
        waits.join().unwrap().unwrap();
    });
    assert!(other.wait().unwrap().success());
    assert_eq!(root.query("slow"), "install ok installed 1");
    assert_eq!(root.query("mine"), "install ok installed 1");
}

#[test]
fn two_installations_of_one_node_follow_each_other() {
    let root = Root::skeleton();
    let built: Vec<_> = (0..4).map(|i| root.built(&Deb::new(&format!("p{i}"), "1"))).collect();
    thread::scope(|scope| {
        let dpkg = &root.dpkg;
        let all: Vec<_> = built
            .iter()
            .map(|(path, info)| scope.spawn(move || dpkg.clone().install(path, info, &patient())))
            .collect();
        for one in all {
            one.join().unwrap().unwrap();
        }
    });
    assert_eq!(root.dpkg.database().unwrap().packages().count(), 4);
}

#[test]
fn a_script_that_hangs_is_ended() {
    if !is_root("a_script_that_hangs_is_ended") {
        return;
    }
    let root = Root::with_shell();
    root.fifo("never");
    let hangs = Deb::new("hangs", "1").script("postinst", "echo begun; read x </never");
    let patience = Patience { run: Some(Duration::from_secs(3)), ..patient().patience };
    let error = root.install(&hangs, &InstallOptions { patience, ..patient() }).unwrap_err();
    let InstallError::Failed(failure) = error else { panic!("{error}") };
    assert_eq!(failure.exit, Exit::TimedOut, "{failure}");
    assert_eq!((&failure.cleanup, &failure.left), (&Cleanup::Removed, &None), "{failure}");
    assert!(failure.to_string().contains("took too long"), "{failure}");
    assert_eq!(root.dpkg.audit().unwrap(), []);
    root.install(&Deb::new("hello", "1"), &patient()).unwrap();
}

#[test]
fn a_killed_node_does_not_interrupt_dpkg() {
    if !is_root("a_killed_node_does_not_interrupt_dpkg") {
        return;
    }
    let root = Root::with_shell();
    let noisy = waiting(&root).script("prerm", "exit 0");
    let path = noisy.build(root.dir.path());
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_node"])
        .env("P2PINST_TEST_NODE", &path)
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    begun(&root);
    // the whole group, as a terminal or a careless script would
    kill_group(&node);
    node.wait().unwrap();
    // its successor sees who is at work, waits, and finds the work done
    let info = inspect(&path).unwrap();
    let error = root.dpkg.install(&path, &info, &impatient()).unwrap_err().to_string();
    assert!(error.contains("(dpkg) has held"), "{error}");
    go(&root);
    let report = root.dpkg.repair(&patient().patience).unwrap();
    assert_eq!((report.remaining, report.exit), (vec![], None));
    assert_eq!(root.query("slow"), "install ok installed 1");
}

/// Not a test of its own: the node that the test above kills.
#[test]
fn helper_node() {
    let Some(deb) = std::env::var_os("P2PINST_TEST_NODE").map(PathBuf::from) else { return };
    let dir: &Path = deb.parent().unwrap();
    let dpkg = Dpkg::open(&dir.join("root"), &dir.join("dpkg.log")).unwrap();
    let ended = dpkg.install(&deb, &inspect(&deb).unwrap(), &patient());
    panic!("this process should have been killed: {ended:?}");
}

#[test]
fn a_broken_trigger_of_another_package_is_told() {
    if !is_root("a_broken_trigger_of_another_package_is_told") {
        return;
    }
    let root = Root::with_shell();
    let watcher = Deb::new("watcher", "1")
        .script("postinst", "[ \"$1\" != triggered ]")
        .control_file("triggers", "interest-noawait /opt\n");
    root.install(&watcher, &patient()).unwrap();
    let error = root.install(&Deb::new("hello", "1"), &patient()).unwrap_err();
    let InstallError::Failed(failure) = error else { panic!("{error}") };
    assert_eq!(failure.left.as_ref().map(|l| l.state), Some(State::Installed), "{failure}");
    assert_eq!((failure.others.len(), &failure.cleanup), (1, &Cleanup::None), "{failure}");
    assert!(failure.to_string().contains("watcher 1 is half-configured"), "{failure}");
}
