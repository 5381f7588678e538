//! The real dpkg on roots of its own: installing, and what speaks against it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use p2pinst_install::check::Problem;
use p2pinst_install::status::State;
use p2pinst_install::{Cleanup, Dpkg, Exit, Failure, InstallError, InstallOptions, inspect};
use p2pinst_types::record::install::Action;

use crate::common::{Deb, Root, is_root, patient};

#[test]
fn install_upgrade_reinstall() {
    let root = Root::skeleton();
    assert_eq!(root.installed("hello"), None);
    let report = root.install(&Deb::new("hello", "1.0"), &patient()).unwrap();
    assert_eq!((report.action, report.old_version, report.exit_code), (Action::Install, None, 0));
    assert!(report.log_tail.contains("Setting up hello (1.0)"), "{}", report.log_tail);
    assert_eq!(root.installed("hello").as_deref(), Some("1.0"));
    assert_eq!(root.query("hello"), "install ok installed 1.0");

    let report = root.install(&Deb::new("hello", "1.10"), &patient()).unwrap();
    assert_eq!((report.action, report.old_version.as_deref()), (Action::Upgrade, Some("1.0")));
    let report = root.install(&Deb::new("hello", "1.10"), &patient()).unwrap();
    assert_eq!((report.action, report.old_version.as_deref()), (Action::Reinstall, Some("1.10")));
    assert_eq!(root.content("hello").as_deref(), Some("1.10"));
    let log = fs::read_to_string(root.dir.path().join("dpkg.log")).unwrap();
    assert!(log.contains("upgrade hello:all 1.0 1.10"), "{log}");
    assert_eq!(root.dpkg.audit().unwrap(), []);
}

#[test]
fn an_older_version_needs_leave() {
    let root = Root::skeleton();
    root.install(&Deb::new("hello", "1.10"), &patient()).unwrap();
    let error = root.install(&Deb::new("hello", "1.9"), &patient()).unwrap_err();
    assert!(matches!(error, InstallError::Downgrade { .. }), "{error}");
    assert!(error.to_string().contains("hello 1.9 all is older than 1.10"), "{error}");
    assert!(error.to_string().contains("--allow-downgrade"), "{error}");
    assert_eq!(root.content("hello").as_deref(), Some("1.10"));
    let allowed = InstallOptions { allow_downgrade: true, ..patient() };
    let report = root.install(&Deb::new("hello", "1.9"), &allowed).unwrap();
    assert_eq!((report.action, report.old_version.as_deref()), (Action::Downgrade, Some("1.10")));
    assert_eq!(root.query("hello"), "install ok installed 1.9");
}

/// What speaks against it; and nothing was touched.
fn unfit(root: &Root, deb: &Deb) -> (Vec<Problem>, String) {
    let status = fs::read(root.path("var/lib/dpkg/status")).unwrap();
    let error = root.install(deb, &patient()).unwrap_err();
    assert_eq!(fs::read(root.path("var/lib/dpkg/status")).unwrap(), status);
    let text = error.to_string();
    assert!(text.contains(&root.dpkg.root().display().to_string()), "{text}");
    match error {
        InstallError::Unfit { problems, .. } => (problems, text),
        error => panic!("{error}"),
    }
}

#[test]
fn a_missing_dependency_is_told_before_anything_is_unpacked() {
    let root = Root::skeleton();
    let tool = Deb::new("tool", "1").field("Depends: lib (>= 2), other").field("Pre-Depends: base");
    let (problems, text) = unfit(&root, &tool);
    assert_eq!(problems.len(), 3);
    assert!(text.contains("tool 1 all cannot be installed in"), "{text}");
    assert!(text.contains("needs lib (>= 2), which is not installed; it needs other"), "{text}");
    assert_eq!(root.content("tool"), None);

    root.install(&Deb::new("lib", "1"), &patient()).unwrap();
    root.install(&Deb::new("base", "1"), &patient()).unwrap();
    let provider = Deb::new("real", "1").field("Provides: other");
    root.install(&provider, &patient()).unwrap();
    let (_, text) = unfit(&root, &tool);
    assert!(text.ends_with("it needs lib (>= 2), but lib 1 is installed"), "{text}");
    root.install(&Deb::new("lib", "2"), &patient()).unwrap();
    root.install(&tool, &patient()).unwrap();
    assert_eq!(root.query("tool"), "install ok installed 1");
}

#[test]
fn conflicts_and_dependents_are_told() {
    let root = Root::skeleton();
    root.install(&Deb::new("old", "1").field("Breaks: new (<< 2)"), &patient()).unwrap();
    let (_, text) = unfit(&root, &Deb::new("new", "1").field("Conflicts: old"));
    assert!(text.contains("conflicts with old, but old 1 is installed"), "{text}");
    assert!(
        text.contains("cannot be together with old 1, which conflicts with new (<< 2)"),
        "{text}"
    );
    root.install(&Deb::new("new", "2"), &patient()).unwrap();
    root.install(&Deb::new("user", "1").field("Depends: new (= 2)"), &patient()).unwrap();
    let (problems, text) = unfit(&root, &Deb::new("new", "3"));
    assert!(matches!(problems.as_slice(), [Problem::BreaksDependent { .. }]), "{problems:?}");
    assert!(text.contains("would break user 1, which needs new (= 2)"), "{text}");
}

#[test]
fn a_wrong_architecture_is_told() {
    let root = Root::skeleton();
    let other = if root.dpkg.native() == "s390x" { "riscv64" } else { "s390x" };
    let (problems, text) = unfit(&root, &Deb::new("hello", "1").architecture(other));
    assert!(matches!(problems.as_slice(), [Problem::WrongArchitecture { .. }]), "{problems:?}");
    assert!(text.contains(&format!("is for {other}, but only {}", root.dpkg.native())), "{text}");
}

#[test]
fn a_file_that_was_replaced_is_not_installed() {
    let root = Root::skeleton();
    let (path, info) = root.built(&Deb::new("hello", "1"));
    fs::rename(Deb::new("other", "1").build(root.dir.path()), &path).unwrap();
    let error = root.dpkg.install(&path, &info, &patient()).unwrap_err().to_string();
    assert!(error.contains("is other 1 all, but hello 1 all was to be installed"), "{error}");
    fs::write(&path, "").unwrap();
    let error = root.dpkg.install(&path, &info, &patient()).unwrap_err();
    assert!(matches!(error, InstallError::Inspect(_)), "{error}");
    assert_eq!(root.query("other"), "");
}

fn failure(error: InstallError) -> Failure {
    match error {
        InstallError::Failed(failure) => *failure,
        error => panic!("{error}"),
    }
}

#[test]
fn a_failed_first_installation_is_removed_again() {
    if !is_root("a_failed_first_installation_is_removed_again") {
        return;
    }
    let root = Root::with_shell();
    for (script, architecture) in
        [("preinst", "all"), ("postinst", "all"), ("postinst", root.dpkg.native())]
    {
        let bad = Deb::new("bad", "1")
            .architecture(architecture)
            .script(script, "echo these are the last words; exit 7");
        let failure = failure(root.install(&bad, &patient()).unwrap_err());
        assert_eq!((failure.exit, failure.action), (Exit::Code(1), Action::Install));
        assert!(failure.log_tail.contains("these are the last words"), "{failure}");
        assert!(failure.to_string().contains("error exit status 7"), "{failure}");
        assert_eq!((failure.left.as_ref(), failure.no_shell), (None, false));
        let expected = if script == "postinst" { Cleanup::Removed } else { Cleanup::None };
        assert_eq!(failure.cleanup, expected, "{failure}");
        assert_eq!(root.content("bad"), None);
        assert_eq!(root.dpkg.audit().unwrap(), []);
    }
    // and the root is as good as before
    root.install(&Deb::new("bad", "2"), &patient()).unwrap();
}

#[test]
fn a_failed_upgrade_tells_what_is_there() {
    if !is_root("a_failed_upgrade_tells_what_is_there") {
        return;
    }
    let root = Root::with_shell();
    root.install(&Deb::new("bad", "1"), &patient()).unwrap();
    // before unpacking: dpkg puts the old version back
    let before = Deb::new("bad", "2").script("preinst", "exit 1");
    let told = failure(root.install(&before, &patient()).unwrap_err());
    assert_eq!(told.old_version.as_deref(), Some("1"));
    assert_eq!(
        told.left.as_ref().map(|l| (l.version.as_str(), l.state)),
        Some(("1", State::Installed))
    );
    assert!(told.to_string().contains("bad 1 is installed"), "{told}");
    assert_eq!(root.installed("bad").as_deref(), Some("1"));
    // after unpacking: the new version stays, unconfigured, and nobody calls it installed
    let after = Deb::new("bad", "3").script("postinst", "exit 1");
    let told = failure(root.install(&after, &patient()).unwrap_err());
    assert_eq!((told.cleanup.clone(), told.action), (Cleanup::None, Action::Upgrade));
    assert!(told.to_string().contains("bad 3 is half-configured"), "{told}");
    assert_eq!(root.installed("bad"), None);
    assert_eq!(root.dpkg.audit().unwrap().len(), 1);
    // repairing runs the script again, and reports that it still fails
    let repair = root.dpkg.repair(&patient().patience).unwrap();
    assert_eq!((repair.before.len(), repair.remaining.len()), (1, 1));
    assert_eq!(repair.remaining[0].to_string(), "bad 3 is half-configured");
    // a better package helps
    let report = root.install(&Deb::new("bad", "4"), &patient()).unwrap();
    assert_eq!(report.action, Action::Upgrade);
    assert_eq!(root.dpkg.audit().unwrap(), []);
}

#[test]
fn a_package_that_cannot_be_removed_again_is_told() {
    if !is_root("a_package_that_cannot_be_removed_again_is_told") {
        return;
    }
    let root = Root::with_shell();
    let bad =
        Deb::new("bad", "1").script("postinst", "exit 1").script("prerm", "echo stuck; exit 1");
    let told = failure(root.install(&bad, &patient()).unwrap_err());
    assert!(matches!(&told.cleanup, Cleanup::Failed(why) if why.contains("stuck")), "{told}");
    assert!(told.to_string().contains("bad 1 is half-configured"), "{told}");
    assert_eq!(root.dpkg.audit().unwrap().len(), 1);
}

#[test]
fn a_script_in_a_root_without_shell_is_told() {
    if !is_root("a_script_in_a_root_without_shell_is_told") {
        return;
    }
    let root = Root::skeleton();
    let told = failure(
        root.install(&Deb::new("scripted", "1").script("postinst", "exit 0"), &patient())
            .unwrap_err(),
    );
    assert!(told.no_shell);
    assert!(told.to_string().contains("p2pinst root prepare --minbase DIR"), "{told}");
    assert_eq!(told.cleanup, Cleanup::Removed);
}

#[test]
fn a_directory_without_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let refused = |path: &Path| Dpkg::open(path, &log).unwrap_err().to_string();
    let error = refused(dir.path());
    let hint = format!("p2pinst root prepare {}", dir.path().display());
    assert!(error.contains("no dpkg database") && error.contains(&hint), "{error}");
    assert!(refused(&dir.path().join("no")).contains("p2pinst root prepare"));
}

#[test]
fn scripts_get_a_clean_environment() {
    if !is_root("scripts_get_a_clean_environment") {
        return;
    }
    let root = Root::with_shell();
    let curious =
        Deb::new("curious", "1").script("postinst", "export -p >/env; read x || echo eof >>/env");
    root.install(&curious, &patient()).unwrap();
    let env = fs::read_to_string(root.path("env")).unwrap();
    for wanted in
        ["DEBIAN_FRONTEND='noninteractive'", "NEEDRESTART_MODE='l'", "LC_ALL='C'", "/sbin", "eof"]
    {
        assert!(env.contains(wanted), "{wanted} is not in {env}");
    }
    assert!(!env.contains("CARGO"), "{env}");
}

/// A root of one's own takes packages without scripts from anybody: the demo runs so.
#[test]
fn without_rights_packages_without_scripts_can_be_installed() {
    if !is_root("without_rights_packages_without_scripts_can_be_installed") {
        return;
    }
    if std::env::var_os("P2PINST_TEST_UNPRIVILEGED").is_some() {
        return;
    }
    const NOBODY: u32 = 65534;
    let dir = tempfile::tempdir().unwrap();
    let deb = Deb::new("hello", "1").build(dir.path());
    let copy = dir.path().join("test-binary");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let ran = Command::new(&copy)
        .args(["--exact", "helper_unprivileged", "--nocapture"])
        .env("P2PINST_TEST_UNPRIVILEGED", &deb)
        .current_dir(dir.path())
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(fs::read_to_string(dir.path().join("root/opt/hello")).unwrap(), "1");
}

/// Not a test of its own: what the test above runs as another user.
#[test]
fn helper_unprivileged() {
    let Some(deb) = std::env::var_os("P2PINST_TEST_UNPRIVILEGED") else { return };
    let deb = Path::new(&deb);
    let dir = deb.parent().unwrap();
    let root = dir.join("root");
    p2pinst_install::root::prepare_skeleton(&root).unwrap();
    let dpkg = Dpkg::open(&root, &dir.join("log")).unwrap();
    let report = dpkg.install(deb, &inspect(deb).unwrap(), &patient()).unwrap();
    assert_eq!(report.action, Action::Install);
}
