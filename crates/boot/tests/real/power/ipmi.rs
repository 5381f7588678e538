use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use p2pinst_boot::power::action::{Desired, PowerState, Switch};
use p2pinst_boot::power::error::Class;
use p2pinst_boot::power::run::{Outcome, Plan, Reason};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Ended, PXE, driver, driver_within, eventually, go, plan, venv};

/// ipmi_sim with a chassis that is a file.
struct Sim {
    dir: TempDir,
    port: u16,
    child: Ended,
}

impl Sim {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = dir.path().display();
        let script = format!(
            r#"#!/bin/sh
cd {at}; shift; op=$1; shift; echo "$op $*" >>log
case $op in
get) for i; do case $i in
  power) echo "power:$(cat power 2>/dev/null || echo 0)";;
  boot) echo "boot:$(cat boot 2>/dev/null || echo none)";; esac; done;;
set) while [ $# -ge 1 ]; do case $1 in
  power) echo $2 >power;; boot) echo $2 >boot;; shutdown) echo 0 >power;; esac; shift 2; done;;
esac
"#
        );
        let hook = dir.path().join("chassis.sh");
        fs::write(&hook, script).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        let auth = |who: &str| format!("  allowed_auths_{who} none md2 md5 straight\n");
        let lan = format!(
            "name \"t\"\nset_working_mc 0x20\nstartlan 1\n  addr 127.0.0.1 {port}\n  priv_limit admin\n{}{}{}{}  guid a123456789abcdefa123456789abcdef\nendlan\nchassis_control \"{at}/chassis.sh 0x20\"\nuser 2 true \"admin\" \"s3cret\" admin 10 none md2 md5 straight\n",
            auth("callback"),
            auth("user"),
            auth("operator"),
            auth("admin")
        );
        fs::write(dir.path().join("lan.conf"), lan).unwrap();
        let emu = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nsel_enable 0x20 1000 0x0a\nmc_enable 0x20\n";
        fs::write(dir.path().join("sim.emu"), emu).unwrap();
        let child = Command::new("ipmi_sim")
            .args(["-n", "-c", "lan.conf", "-f", "sim.emu", "-s", "state"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let sim = Self { dir, port, child: Ended(child) };
        eventually("ipmi_sim answers", || driver(&sim.line(""), "s3cret").query().is_ok());
        fs::remove_file(sim.dir.path().join("log")).unwrap();
        sim
    }

    fn line(&self, options: &str) -> String {
        format!("ipmi://127.0.0.1:{}{options}", self.port)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

#[test]
fn power_and_boot_device_by_ipmitool() {
    let sim = Sim::start();
    let mut ipmi = driver(&sim.line(""), "s3cret");
    assert_eq!(ipmi.query().unwrap(), PowerState::Off);
    assert_eq!(ipmi.learnt().cipher, Some(3), "17 is refused, 3 is found and remembered");
    let (outcome, notes) = go(ipmi.as_mut(), plan(Desired::On));
    assert_eq!(outcome, Outcome::Ok { orders: 1 }, "{:?}", notes.errors);

    let (outcome, _) = go(ipmi.as_mut(), Plan { boot: Some(PXE), ..plan(Desired::Cycle) });
    assert_eq!(outcome, Outcome::Ok { orders: 2 });
    let set: Vec<String> =
        sim.log().lines().filter(|line| line.starts_with("set")).map(str::to_owned).collect();
    assert_eq!(set, ["set power 1", "set power 0", "set boot pxe", "set power 1"]);
    assert_eq!(ipmi.boot().unwrap(), Some(PXE.device));
    ipmi.clear_boot().unwrap();
    assert_eq!(ipmi.boot().unwrap(), Some(p2pinst_boot::power::action::BootDevice::None));

    ipmi.set(Switch::Reset).unwrap();
    assert!(sim.log().contains("set reset"), "{}", sim.log());
    assert_eq!(go(ipmi.as_mut(), plan(Desired::SoftOff)).0, Outcome::Ok { orders: 1 });
    assert!(sim.log().contains("set shutdown"), "{}", sim.log());
}

#[test]
fn a_wrong_password_is_said_and_not_tried_again() {
    let sim = Sim::start();
    let mut ipmi = driver(&sim.line("?cipher=3"), "wrong");
    let (outcome, notes) = go(ipmi.as_mut(), plan(Desired::On));
    let Outcome::Failed(Reason::Controller { tries: 1, error }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(error.class, Class::Auth, "{error}");
    assert!(!error.to_string().contains("wrong"), "{error}");
    assert_eq!(notes.steps.len(), 1);
    let long = driver(&sim.line(""), &"x".repeat(21)).query().unwrap_err();
    assert!(long.to_string().contains("at most 20 bytes"), "{long}");
    let only = driver(&sim.line("?cipher=17"), "s3cret").query().unwrap_err();
    assert_eq!(only.class, Class::Config, "{only}");
    assert!(only.to_string().contains("cipher"), "{only}");
}

#[test]
fn a_controller_that_hangs_costs_its_time_and_no_more_and_the_password_is_nowhere() {
    let sim = Sim::start();
    sim.signal(Signal::STOP);
    let line = sim.line("?cipher=3");
    let asked = std::thread::spawn(move || {
        let begun = Instant::now();
        let result = driver_within(&line, "s3cret", Duration::from_secs(3)).query();
        (result, begun.elapsed())
    });
    let port = sim.port.to_string();
    let mut found = None;
    eventually("ipmitool is at work", || {
        found = fs::read_dir("/proc").unwrap().flatten().map(|d| d.path()).find(|proc| {
            let argv = fs::read(proc.join("cmdline")).unwrap_or_default();
            let argv = String::from_utf8_lossy(&argv).into_owned();
            argv.starts_with("ipmitool") && argv.contains(&port)
        });
        found.is_some()
    });
    let proc = found.unwrap();
    for file in ["cmdline", "environ"] {
        let said = fs::read(proc.join(file)).unwrap();
        assert!(!said.is_empty() && !String::from_utf8_lossy(&said).contains("s3cret"), "{file}");
    }
    let (result, took) = asked.join().unwrap();
    let error = result.unwrap_err();
    assert_eq!(error.class, Class::Conn, "{error}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    sim.signal(Signal::CONT);
    assert_eq!(driver(&sim.line("?cipher=3"), "s3cret").query().unwrap(), PowerState::Off);
}

#[test]
fn nobody_at_a_port_is_no_connection() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let line = format!("ipmi://{}", silent.local_addr().unwrap());
    let begun = Instant::now();
    let error = driver_within(&line, "s3cret", Duration::from_secs(2)).query().unwrap_err();
    assert_eq!(error.class, Class::Conn, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let error = driver("ipmi://nobody.invalid", "s3cret").query().unwrap_err();
    assert_eq!(error.class, Class::Conn, "{error}");
}

const BMC: &str = r#"
import sys
import pyghmi.ipmi.bmc as bmc
class Machine(bmc.Bmc):
    on = False
    boot = 'default'
    def get_boot_device(self): return self.boot
    def set_boot_device(self, device): self.boot = device; self.say('boot', device)
    def get_power_state(self): return 'on' if self.on else 'off'
    def power_on(self): self.on = True; self.say('on')
    def power_off(self): self.on = False; self.say('off')
    def power_reset(self): self.say('reset')
    def power_shutdown(self): self.on = False; self.say('shutdown')
    def say(self, *words): print(*words, flush=True)
Machine({'admin': 's3cret'}, address='127.0.0.1', port=int(sys.argv[1])).listen()
"#;

#[test]
fn another_implementation_of_ipmi_is_switched_too() {
    let venv = match venv() {
        Ok(venv) => venv,
        Err(error) => {
            eprintln!("SKIPPED: pyghmi cannot be installed: {error}");
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let said = dir.path().join("said");
    let child = Command::new(venv.join("bin/python"))
        .args(["-c", BMC, &port.to_string()])
        .stdin(Stdio::null())
        .stdout(fs::File::create(&said).unwrap())
        .stderr(fs::File::create(dir.path().join("errors")).unwrap())
        .spawn()
        .unwrap();
    let _child = Ended(child);
    let line = format!("ipmi://127.0.0.1:{port}");
    let mut ipmi = driver(&line, "s3cret");
    eventually("pyghmi answers", || ipmi.query().is_ok());
    let (outcome, notes) = go(ipmi.as_mut(), Plan { boot: Some(PXE), ..plan(Desired::On) });
    assert_eq!(outcome, Outcome::Ok { orders: 1 }, "{:?}", notes.errors);
    assert_eq!(go(ipmi.as_mut(), plan(Desired::Cycle)).0, Outcome::Ok { orders: 2 });
    assert_eq!(go(ipmi.as_mut(), plan(Desired::SoftOff)).0, Outcome::Ok { orders: 1 });
    let said = fs::read_to_string(said).unwrap();
    assert_eq!(said, "boot network\non\noff\non\nshutdown\n");
    let error = driver(&line, "wrong").query().unwrap_err();
    assert_eq!(error.class, Class::Auth, "{error}");
}
