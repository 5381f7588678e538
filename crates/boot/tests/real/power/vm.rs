use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use p2pinst_boot::power::action::{BootDevice, Desired, PowerState, Switch};
use p2pinst_boot::power::error::Class;
use p2pinst_boot::power::run::{Outcome, Plan, Reason};
use tempfile::TempDir;

use super::{Ended, PXE, driver, driver_within, eventually, go, plan};

/// Halts for ever: `hlt; jmp $-1`.
const HALTS: &[u8] = &[0xf4, 0xeb, 0xfd];
/// Switches itself off by ACPI (the PM1a control port of q35): `mov dx, 604h; mov ax, 2000h; out dx, ax; hlt`.
const ENDS: &[u8] = &[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4];

/// A machine whose disk has this boot sector.
struct Vm {
    dir: TempDir,
    child: Ended,
}

impl Vm {
    fn start(code: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = vec![0; 1 << 20];
        disk[..code.len()].copy_from_slice(code);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        fs::write(dir.path().join("disk"), disk).unwrap();
        let at = dir.path().display();
        let child = Command::new("qemu-system-x86_64")
            .args(["-machine", "q35,accel=tcg", "-cpu", "qemu64", "-m", "64", "-display", "none"])
            .args(["-nodefaults", "-S", "-no-shutdown"])
            .args(["-qmp", &format!("unix:{at}/qmp,server=on,wait=off")])
            .args(["-drive", &format!("if=none,id=d,format=raw,file={at}/disk")])
            .args(["-device", "virtio-blk-pci,drive=d,id=disk0,bootindex=1"])
            .args(["-netdev", "user,id=n,restrict=on"])
            .args(["-device", "virtio-net-pci,netdev=n,id=net0,bootindex=2,romfile="])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join("errors")).unwrap())
            .spawn()
            .unwrap();
        let vm = Self { dir, child: Ended(child) };
        eventually("QEMU listens", || vm.socket().exists());
        vm
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("qmp")
    }

    fn line(&self, options: &str) -> String {
        format!("qmp://{}{options}", self.socket().display())
    }
}

#[test]
fn a_qemu_is_switched_by_its_monitor() {
    let vm = Vm::start(HALTS);
    let mut qmp = driver(&vm.line("?nic=net0&disk=disk0"), "");
    assert_eq!(qmp.query().unwrap(), PowerState::Off, "it begins switched off");
    assert_eq!(go(qmp.as_mut(), plan(Desired::On)).0, Outcome::Ok { orders: 1 });
    assert_eq!(qmp.set(Switch::On).unwrap_err().class, Class::AlreadyThere);

    assert_eq!(qmp.boot().unwrap(), Some(BootDevice::Disk));
    let (outcome, notes) = go(qmp.as_mut(), Plan { boot: Some(PXE), ..plan(Desired::Cycle) });
    assert_eq!(outcome, Outcome::Ok { orders: 2 }, "{:?}", notes.errors);
    assert_eq!(qmp.boot().unwrap(), Some(BootDevice::Pxe));
    qmp.clear_boot().unwrap();
    assert_eq!(qmp.boot().unwrap(), Some(BootDevice::Disk));

    assert_eq!(go(qmp.as_mut(), plan(Desired::Reset)).0, Outcome::Ok { orders: 1 });
    // no system is there that could shut down
    let (outcome, _) = go(qmp.as_mut(), plan(Desired::SoftOff));
    assert!(matches!(outcome, Outcome::Failed(Reason::StaysUp(_))), "{outcome:?}");
    assert_eq!(go(qmp.as_mut(), plan(Desired::Off)).0, Outcome::Ok { orders: 1 });
    assert_eq!(qmp.query().unwrap(), PowerState::Off);
    assert_eq!(go(qmp.as_mut(), plan(Desired::Cycle)).0, Outcome::Ok { orders: 1 });
}

#[test]
fn a_machine_that_switches_itself_off_is_off_and_starts_again() {
    let vm = Vm::start(ENDS);
    let mut qmp = driver(&vm.line(""), "");
    for _ in 0..2 {
        qmp.set(Switch::On).unwrap();
        eventually("the machine is off", || qmp.query().unwrap() == PowerState::Off);
    }
    assert!(qmp.set_boot(PXE).unwrap_err().to_string().contains("nic=ID"));
}

#[test]
fn off_may_mean_the_end_of_qemu() {
    let mut vm = Vm::start(HALTS);
    let mut plain = driver(&vm.line(""), "");
    plain.set(Switch::On).unwrap();
    let mut qmp = driver(&vm.line("?off=quit"), "");
    assert_eq!(go(qmp.as_mut(), plan(Desired::Off)).0, Outcome::Ok { orders: 1 });
    assert!(vm.child.0.wait().unwrap().success());
    assert_eq!(qmp.query().unwrap(), PowerState::Off);
    assert_eq!(qmp.set(Switch::On).unwrap_err().class, Class::Config);
    assert_eq!(plain.query().unwrap_err().class, Class::Conn, "else no QEMU is no answer");
}

#[test]
fn a_monitor_that_says_nothing_costs_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let _listener = UnixListener::bind(&path).unwrap();
    let begun = Instant::now();
    let line = format!("qmp://{}", path.display());
    let error = driver_within(&line, "", Duration::from_millis(500)).query().unwrap_err();
    assert_eq!(error.class, Class::Conn, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3));
}
