//! Power, beside other people's controllers: ipmi_sim and ipmitool, sushy-tools, QEMU, libvirt's test driver; and beside a Redfish
//! service of our own that does everything wrong.

mod ipmi;
mod local;
mod redfish;
mod server;
mod vm;

use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use p2pinst_boot::power::action::{Boot, BootDevice, Desired, Span};
use p2pinst_boot::power::controller::Controller;
use p2pinst_boot::power::credentials::Credentials;
use p2pinst_boot::power::drive::{Surroundings, drive};
use p2pinst_boot::power::driver::{Learnt, PowerDriver, Target, open};
use p2pinst_boot::power::error::PowerError;
use p2pinst_boot::power::run::{Answer, DriverStep, History, Outcome, Pace, Plan, Seen};
use p2pinst_types::record::hardware::Firmware;

const PXE: Boot = Boot { device: BootDevice::Pxe, firmware: Firmware::Uefi, span: Span::Once };

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

fn credentials(password: &str) -> Option<Credentials> {
    Some(Credentials::new("admin".to_owned(), password.to_owned()).unwrap())
}

fn driver(line: &str, password: &str) -> Box<dyn PowerDriver> {
    driver_within(line, password, Duration::from_secs(20))
}

fn driver_within(line: &str, password: &str, limit: Duration) -> Box<dyn PowerDriver> {
    let controller: Controller = line.parse().unwrap();
    let target = Target {
        name: "n1".to_owned(),
        macs: vec!["52:54:00:77:00:01".parse().unwrap()],
        uuid: Some("11111111-2222-3333-4444-555555555551".to_owned()),
    };
    open(&controller, &target, credentials(password), Learnt::default(), limit)
}

/// As in production, but impatient.
fn plan(desired: Desired) -> Plan {
    let pace = Pace {
        poll: Duration::from_millis(200),
        settle: Duration::from_secs(3),
        shutdown: Duration::from_secs(2),
        min_reboot_interval: Duration::ZERO,
        ..Pace::default()
    };
    let deadline = Duration::from_secs(120);
    Plan { desired: Some(desired), boot: None, expect: None, forced: false, deadline, pace }
}

/// Sees nothing, and notes everything.
#[derive(Default)]
struct Notes {
    steps: Vec<DriverStep>,
    errors: Vec<PowerError>,
}

impl Surroundings for Notes {
    fn seen(&mut self) -> Seen {
        Seen::default()
    }

    fn did(&mut self, step: DriverStep, result: Result<Answer, &PowerError>) {
        self.steps.push(step);
        self.errors.extend(result.err().cloned());
    }
}

fn go(driver: &mut dyn PowerDriver, plan: Plan) -> (Outcome, Notes) {
    let mut notes = Notes::default();
    let mut history = History::default();
    let outcome = drive(driver, plan, &mut history, Instant::now(), 42, &mut notes);
    (outcome, notes)
}

/// Waits until something is so.
fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < until, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Other people's controllers that are only on PyPI, installed once for all runs.
fn venv() -> &'static Result<PathBuf, String> {
    static VENV: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    VENV.get_or_init(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map_or("/var/tmp".into(), PathBuf::from);
        let venv = cache.join("p2pinst-controllers-1");
        let whole = venv.join("whole");
        if whole.exists() {
            return Ok(venv);
        }
        let run = |program: PathBuf, words: &[&str]| match Command::new("timeout")
            .arg("150")
            .arg(program)
            .args(words)
            .output()
        {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        };
        run("python3".into(), &["-m", "venv", venv.to_str().ok_or("no path")?])?;
        let packages = ["install", "-q", "sushy-tools==2.2.0", "pyghmi==1.6.19"];
        run(venv.join("bin/pip"), &packages)?;
        std::fs::write(whole, "").map_err(|error| error.to_string())?;
        Ok(venv)
    })
}
