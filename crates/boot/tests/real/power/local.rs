use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use p2pinst_boot::power::action::{Desired, PowerState, Switch};
use p2pinst_boot::power::error::Class;
use p2pinst_boot::power::run::{Outcome, Plan, Reason};
use p2pinst_boot::power::wol;

use super::{PXE, driver, driver_within, go, plan};

fn script(dir: &Path, text: &str) -> String {
    let path = dir.join("pdu");
    fs::write(&path, format!("#!/bin/sh\ncd {}\n{text}", dir.display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("command:{} {{action}} {{mac}} 'outlet {{name}}' {{uuid}}", path.display())
}

#[test]
fn a_command_of_the_site_switches() {
    let dir = tempfile::tempdir().unwrap();
    let line = script(
        dir.path(),
        r#"read user; read password; echo "$#|$1|$2|$3|$4|$user|$password" >>log
case $1 in on|off) echo $1 >state;; soft-off) echo off >state;; reset) ;; boot-*) ;;
status) echo "a warning" >&2; cat state 2>/dev/null || echo OFF;; esac"#,
    );
    let mut hook = driver(&line, "p w");
    assert_eq!(hook.query().unwrap(), PowerState::Off);
    let armed = Plan { boot: Some(PXE), ..plan(Desired::On) };
    assert_eq!(go(hook.as_mut(), armed).0, Outcome::Ok { orders: 1 });
    assert_eq!(go(hook.as_mut(), plan(Desired::Off)).0, Outcome::Ok { orders: 1 });
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    let uuid = "11111111-2222-3333-4444-555555555551";
    let called = |action: &str| {
        log.contains(&format!("4|{action}|52:54:00:77:00:01|outlet n1|{uuid}|admin|p w\n"))
    };
    for action in ["status", "boot-pxe", "on", "off"] {
        assert!(called(action), "{action}: {log}");
    }
}

#[test]
fn exit_codes_of_a_command_have_meanings() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (64, Class::Config),
        (69, Class::Conn),
        (75, Class::Busy),
        (77, Class::Auth),
        (1, Class::Action),
    ];
    for (code, class) in cases {
        let line = script(dir.path(), &format!("echo 'outlet 7 is hot'; exit {code}"));
        let error = driver(&line, "p").set(Switch::On).unwrap_err();
        assert_eq!(error.class, class, "{error}");
        assert!(error.to_string().contains("outlet 7 is hot"), "{error}");
    }
    let line = script(dir.path(), "sleep 100");
    let error = driver_within(&line, "p", Duration::from_millis(300)).query().unwrap_err();
    assert_eq!(error.class, Class::Conn, "{error}");
    let error = driver("command:/no/such/pdu {action}", "p").query().unwrap_err();
    assert_eq!(error.class, Class::Tool, "{error}");
}

#[test]
fn virsh_switches_the_domain_of_libvirts_test_driver() {
    let mut virt = driver("libvirt+test:///default?domain=test", "");
    // each virsh has a new test driver, in which the domain runs: it forgets what it was told, as a lying controller
    assert_eq!(virt.query().unwrap(), PowerState::On);
    assert_eq!(virt.set(Switch::On).unwrap_err().class, Class::AlreadyThere);
    for switch in [Switch::Off, Switch::SoftOff, Switch::Reset] {
        virt.set(switch).unwrap();
    }
    virt.set_boot(PXE).unwrap();
    assert!(virt.boot().unwrap().is_some());
    assert_eq!(go(virt.as_mut(), plan(Desired::On)).0, Outcome::Ok { orders: 0 });
    let mut short = plan(Desired::Off);
    short.pace.settle = Duration::from_millis(100);
    short.deadline = Duration::from_secs(5);
    let (outcome, _) = go(virt.as_mut(), short);
    assert!(!matches!(outcome, Outcome::Ok { .. }), "{outcome:?}");
    let error = driver("libvirt+test:///default?domain=nosuch", "").query().unwrap_err();
    assert_eq!(error.class, Class::Config, "{error}");
    let none = "libvirt+qemu+unix:///system?domain=a&socket=/nonexistent/sock";
    let error = driver(none, "").query().unwrap_err();
    assert_eq!(error.class, Class::Conn, "{error}");
}

#[test]
fn a_machine_without_firmware_variables_says_so() {
    let mut inband = driver("inband:", "");
    assert_eq!(inband.query().unwrap(), PowerState::On);
    assert_eq!(inband.set(Switch::On).unwrap_err().class, Class::AlreadyThere);
    if !Path::new("/sys/firmware/efi/efivars").is_dir() {
        let error = inband.set_boot(PXE).unwrap_err();
        assert_eq!(error.class, Class::Config, "{error}");
    }
}

/// Two network namespaces and the cable between them.
struct Pair([String; 2]);

impl Pair {
    fn new() -> Self {
        let id = std::process::id();
        let pair = Self([format!("p2pw{id}a"), format!("p2pw{id}b")]);
        let [a, b] = &pair.0;
        ip(&format!("netns add {a}"));
        ip(&format!("netns add {b}"));
        ip(&format!("-n {a} link add w0 type veth peer name w1 netns {b}"));
        ip(&format!("-n {a} addr add 10.97.0.1/24 dev w0"));
        ip(&format!("-n {b} addr add 10.97.0.2/24 dev w1"));
        ip(&format!("-n {a} link set w0 up"));
        ip(&format!("-n {b} link set w1 up"));
        pair
    }

    /// Does something in a namespace, on a thread that ends there.
    fn within<T: Send>(&self, side: usize, act: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.0[side]);
        thread::scope(|scope| {
            let there = scope.spawn(move || {
                setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            there.join().unwrap()
        })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.0 {
            let _gone = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
}

#[test]
fn magic_packets_arrive_and_are_as_others_make_them() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let pair = Pair::new();
    let socket = pair.within(1, || UdpSocket::bind("0.0.0.0:9").unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let received = || {
        let mut packet = [0; 200];
        let len = socket.recv(&mut packet).unwrap();
        packet[..len].to_vec()
    };
    let ours = wol::packet("52:54:00:77:00:01".parse().unwrap());
    for line in ["wol://", "wol://10.97.0.255", "wol://?interface=w0"] {
        pair.within(0, || driver(line, "").set(Switch::On).unwrap());
        for _ in 0..3 {
            assert_eq!(received(), ours, "{line}");
        }
    }
    let status = Command::new("ip")
        .args(["netns", "exec", &pair.0[0], "wakeonlan", "-i", "10.97.0.255", "52:54:00:77:00:01"])
        .output()
        .unwrap();
    assert!(status.status.success(), "{status:?}");
    assert_eq!(received(), ours, "wakeonlan makes the same");

    let error =
        pair.within(0, || driver("wol://?interface=nosuch", "").set(Switch::On)).unwrap_err();
    assert_eq!(error.class, Class::Conn, "{error}");
    let (outcome, _) = pair.within(0, || go(driver("wol://", "").as_mut(), plan(Desired::On)));
    assert_eq!(outcome, Outcome::Unknown(Reason::Unseen));
}
