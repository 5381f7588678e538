use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pinst_boot::power::action::{BootDevice, Desired, PowerState, Switch};
use p2pinst_boot::power::controller::Controller;
use p2pinst_boot::power::driver::{Learnt, Target, open};
use p2pinst_boot::power::error::Class;
use p2pinst_boot::power::run::{Outcome, Plan, Reason};
use p2pinst_types::record::hardware::Firmware;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::server::{Server, Service};
use super::{Ended, PXE, credentials, driver, driver_within, eventually, go, plan, venv};

fn resets(server: &Server) -> Vec<String> {
    server.log().into_iter().filter(|line| line.starts_with("reset")).collect()
}

#[test]
fn a_service_that_does_well() {
    let server = Server::start(Service::default());
    let mut redfish = driver(&format!("redfish+http://127.0.0.1:{}", server.port), "s3cret");
    assert_eq!(redfish.query().unwrap(), PowerState::Off, "the only system is found");
    let armed = Plan { boot: Some(PXE), ..plan(Desired::Cycle) };
    assert_eq!(go(redfish.as_mut(), armed).0, Outcome::Ok { orders: 1 });
    assert_eq!(go(redfish.as_mut(), armed).0, Outcome::Ok { orders: 2 });
    assert_eq!(resets(&server), ["reset On", "reset ForceOff", "reset On"]);
    assert_eq!(redfish.boot().unwrap(), Some(BootDevice::Pxe));
    redfish.clear_boot().unwrap();
    assert_eq!(redfish.boot().unwrap(), Some(BootDevice::None));
    assert_eq!(go(redfish.as_mut(), plan(Desired::Reset)).0, Outcome::Ok { orders: 1 });
    assert_eq!(go(redfish.as_mut(), plan(Desired::SoftOff)).0, Outcome::Ok { orders: 1 });
    drop(redfish);
    let log = server.log();
    assert_eq!(log.iter().filter(|line| *line == "POST /redfish/v1/Sessions").count(), 1);
    assert_eq!(log.last().unwrap(), "DELETE /s/1", "the session is closed");
}

#[test]
fn busy_services_are_asked_again() {
    for status in [409, 503] {
        let server = Server::start(Service { refuses: (2, status), ..Service::default() });
        let mut redfish = driver(&server.line(), "s3cret");
        let (outcome, notes) = go(redfish.as_mut(), plan(Desired::On));
        assert_eq!(outcome, Outcome::Ok { orders: 1 });
        let classes: Vec<Class> = notes.errors.iter().map(|error| error.class).collect();
        assert_eq!(classes, [Class::Busy, Class::Busy], "{:?}", notes.errors);
    }
}

#[test]
fn a_stale_etag_is_read_again() {
    let server = Server::start(Service { stale: 2, ..Service::default() });
    let mut redfish = driver(&server.line(), "s3cret");
    redfish.set_boot(PXE).unwrap();
    assert_eq!(server.service.lock().unwrap().target, "Pxe");
    server.service.lock().unwrap().stale = 100;
    assert_eq!(redfish.clear_boot().unwrap_err().class, Class::Busy);
}

#[test]
fn what_is_refused_because_it_is_so_already_is_no_failure() {
    let server = Server::start(Service { on: true, strict: true, ..Service::default() });
    let mut redfish = driver(&server.line(), "s3cret");
    assert_eq!(redfish.set(Switch::On).unwrap_err().class, Class::AlreadyThere);
    server.service.lock().unwrap().on = false;
    assert_eq!(redfish.set(Switch::Off).unwrap_err().class, Class::AlreadyThere);
    redfish.set(Switch::On).unwrap();
}

#[test]
fn a_service_that_lies_is_found_out() {
    let server = Server::start(Service { lies: 1, ..Service::default() });
    let mut redfish = driver(&server.line(), "s3cret");
    let mut quick = plan(Desired::On);
    quick.pace.settle = Duration::from_millis(500);
    assert_eq!(go(redfish.as_mut(), quick).0, Outcome::Ok { orders: 2 });

    server.service.lock().unwrap().on = false;
    server.service.lock().unwrap().lies = 1000;
    let (outcome, _) = go(redfish.as_mut(), Plan { deadline: Duration::from_secs(6), ..quick });
    assert!(!matches!(outcome, Outcome::Ok { .. }), "{outcome:?}");

    // it says on, but the machine is not seen
    server.service.lock().unwrap().lies = 0;
    let mut expecting = plan(Desired::On);
    expecting.expect = Some(Duration::from_millis(500));
    expecting.boot = Some(PXE);
    let (outcome, _) = go(redfish.as_mut(), expecting);
    let Outcome::Failed(Reason::NotSeen { starts: 3, .. }) = outcome else { panic!("{outcome:?}") };
    let log = server.log().join("\n");
    assert!(log.contains("Continuous"), "{log}");
    assert_eq!(server.service.lock().unwrap().enabled, "Disabled", "taken back");
}

#[test]
fn a_lost_override_is_noticed_before_the_machine_starts() {
    let server = Server::start(Service { loses: 2, ..Service::default() });
    let mut redfish = driver(&server.line(), "s3cret");
    let armed = Plan { boot: Some(PXE), ..plan(Desired::On) };
    assert_eq!(go(redfish.as_mut(), armed).0, Outcome::Ok { orders: 1 });
    assert_eq!(server.service.lock().unwrap().target, "Pxe");

    let server = Server::start(Service { loses: 100, ..Service::default() });
    let mut redfish = driver(&server.line(), "s3cret");
    let (outcome, _) = go(redfish.as_mut(), armed);
    assert!(matches!(outcome, Outcome::Failed(Reason::BootLost { tries: 3, .. })), "{outcome:?}");
    assert!(resets(&server).is_empty(), "{:?}", server.log());
}

#[test]
fn a_service_that_hangs_costs_its_time() {
    let server = Server::start(Service { hangs: true, ..Service::default() });
    let begun = Instant::now();
    let mut redfish = driver_within(&server.line(), "s3cret", Duration::from_secs(1));
    let error = redfish.query().unwrap_err();
    assert_eq!(error.class, Class::Conn, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!("redfish://{}", silent.local_addr().unwrap());
    let mut tls = driver_within(&line, "s3cret", Duration::from_secs(1));
    assert_eq!(tls.query().unwrap_err().class, Class::Conn);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn a_wrong_password_is_said_and_not_tried_again() {
    let server = Server::start(Service::default());
    let (outcome, notes) = go(driver(&server.line(), "wrong").as_mut(), plan(Desired::On));
    let Outcome::Failed(Reason::Controller { tries: 1, error }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((error.class, notes.steps.len()), (Class::Auth, 1), "{error}");
    // without sessions it is basic authentication that is refused
    let server = Server::start(Service { sessionless: true, ..Service::default() });
    let error = driver(&server.line(), "wrong").query().unwrap_err();
    assert_eq!(error.class, Class::Auth, "{error}");
    assert_eq!(driver(&server.line(), "s3cret").query().unwrap(), PowerState::Off);
}

#[test]
fn a_forgotten_session_is_opened_again() {
    let server = Server::start(Service::default());
    let mut redfish = driver(&server.line(), "s3cret");
    redfish.query().unwrap();
    server.service.lock().unwrap().forgets = true;
    redfish.query().unwrap();
    let sessions = server.log().iter().filter(|l| *l == "POST /redfish/v1/Sessions").count();
    assert_eq!(sessions, 2);
}

#[test]
fn slashes_redirects_settings_and_fussy_services() {
    let everything = Service {
        slashes: true,
        redirects: Some("/elsewhere".to_owned()),
        settings: true,
        fussy: true,
        mode: "Legacy",
        ..Service::default()
    };
    let server = Server::start(everything);
    let mut redfish = driver(&server.line(), "s3cret");
    let armed = Plan { boot: Some(PXE), ..plan(Desired::On) };
    let (outcome, notes) = go(redfish.as_mut(), armed);
    assert_eq!(outcome, Outcome::Ok { orders: 1 }, "{:?} {:?}", notes.errors, server.log());
    let boots: Vec<String> =
        server.log().into_iter().filter(|line| line.starts_with("boot")).collect();
    assert!(boots[0].contains("BootSourceOverrideMode"), "{boots:?}");
    assert!(!boots[1].contains("BootSourceOverrideMode"), "{boots:?}");
    // what needs no change of the mode is not bothered with it
    let bios = super::Boot { firmware: Firmware::Bios, ..PXE };
    redfish.set_boot(bios).unwrap();
    assert!(!server.log().iter().rev().find(|l| l.starts_with("boot")).unwrap().contains("Mode"));
}

#[test]
fn a_password_is_not_sent_elsewhere() {
    let other = Server::start(Service::default());
    let place = format!("http://127.0.0.1:{}/elsewhere", other.port);
    let server = Server::start(Service { redirects: Some(place), ..Service::default() });
    let error = driver(&server.line(), "s3cret").set(Switch::On).unwrap_err();
    assert_eq!(error.class, Class::Config, "{error}");
    assert!(error.to_string().contains("redirects to another"), "{error}");
    assert!(other.log().is_empty());
    let circle = Some(format!("{}/Actions/ComputerSystem.Reset", super::server::SYSTEM));
    let server = Server::start(Service { redirects: circle, ..Service::default() });
    let error = driver(&server.line(), "s3cret").set(Switch::On).unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");
}

/// A certificate that openssl signs with its own key, as controllers do.
fn certificate() -> Arc<ServerConfig> {
    let dir = tempfile::tempdir().unwrap();
    let (key, cert) = (dir.path().join("key"), dir.path().join("cert"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=bmc", "-days", "1"])
        .args(["-keyout".as_ref(), key.as_os_str(), "-out".as_ref(), cert.as_os_str()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let key = PrivateKeyDer::from_pem_file(&key).unwrap();
    let cert = CertificateDer::from_pem_file(&cert).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    Arc::new(config)
}

#[test]
fn a_certificate_is_kept_and_another_is_refused_before_the_password() {
    let server = Server::start_with(Service::default(), Some(certificate()));
    let line = |server: &Server| format!("redfish://127.0.0.1:{}", server.port);
    let mut first = driver(&line(&server), "s3cret");
    assert_eq!(first.learnt().fingerprint, None);
    assert_eq!(first.query().unwrap(), PowerState::Off);
    let learnt = first.learnt();
    let fingerprint = learnt.fingerprint.unwrap();

    let again = |server: &Server, learnt: Learnt| {
        let controller: Controller = line(server).parse().unwrap();
        let limit = Duration::from_secs(10);
        open(&controller, &Target::default(), credentials("s3cret"), learnt, limit).query()
    };
    assert_eq!(again(&server, learnt).unwrap(), PowerState::Off);
    let stranger = Server::start_with(Service::default(), Some(certificate()));
    let error = again(&stranger, learnt).unwrap_err();
    assert_eq!(error.class, Class::Auth, "{error}");
    assert!(error.to_string().contains(&fingerprint.to_string()), "{error}");
    assert!(stranger.log().is_empty(), "{:?}", stranger.log());
    // one in the line is stronger than what was learnt
    let pinned = format!("{}?fingerprint={fingerprint}", line(&stranger));
    assert_eq!(driver(&pinned, "s3cret").query().unwrap_err().class, Class::Auth);
}

#[test]
fn what_is_no_redfish_service_is_an_error_and_costs_no_memory() {
    // (what it says, whether it says the last of it for ever)
    let cases: [(&'static [u8], bool, &str); 5] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, "no JSON"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", false, "cannot"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true, "cannot"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", true, "cannot"),
        (b"", false, "cannot"),
    ];
    for (says, endless, why) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = format!("redfish+http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _asked = stream.read(&mut [0; 1000]);
                let _said = stream.write_all(says);
                while endless && stream.write_all(b"3e8\r\n").is_ok() {
                    let _said = stream.write_all(&[b' '; 1000]);
                    let _said = stream.write_all(b"\r\n");
                }
            }
        });
        let begun = Instant::now();
        let error = driver_within(&line, "s3cret", Duration::from_secs(3)).query().unwrap_err();
        assert!(matches!(error.class, Class::Config | Class::Conn), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{error}");
    }
}

#[test]
fn sushy_tools_which_takes_its_time() {
    let program = match venv() {
        Ok(venv) => venv.join("bin/sushy-emulator"),
        Err(error) => {
            eprintln!("SKIPPED: sushy-tools cannot be installed: {error}");
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let id = "11111111-2222-3333-4444-555555555551";
    let config = format!(
        "SUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'\nSUSHY_EMULATOR_LISTEN_PORT = {port}\nSUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_STATE_DIR = '{}'\nSUSHY_EMULATOR_FAKE_SYSTEMS = [{{'uuid': '{id}', 'name': 'n1', 'power_state': 'Off', 'nics': []}}]\n",
        dir.path().display()
    );
    fs::write(dir.path().join("conf"), config).unwrap();
    let child = Command::new(program)
        .arg("--config")
        .arg(dir.path().join("conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _child = Ended(child);
    let mut redfish = driver(&format!("redfish+http://127.0.0.1:{port}"), "s3cret");
    eventually("sushy-emulator answers", || redfish.query().is_ok());
    let mut slow = plan(Desired::Cycle);
    slow.pace.settle = Duration::from_secs(20);
    slow.boot = Some(PXE);
    let (outcome, notes) = go(redfish.as_mut(), slow);
    assert_eq!(outcome, Outcome::Ok { orders: 1 }, "{:?}", notes.errors);
    assert_eq!(redfish.query().unwrap(), PowerState::On);
    let off = Plan { desired: Some(Desired::Off), boot: None, ..slow };
    assert_eq!(go(redfish.as_mut(), off).0, Outcome::Ok { orders: 1 });
    let other = driver(&format!("redfish+http://127.0.0.1:{port}/redfish/v1/Systems/x"), "s3cret");
    let error = { other }.query().unwrap_err();
    assert_eq!(error.class, Class::Config, "{error}");
}
