//! The boot service as a process, on a segment of its own, beside curl, tftp-hpa, atftp, and a machine of QEMU.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use p2pinst_boot::dhcp::client::Family;
use p2pinst_boot::dhcp::table::{Armed, Artefacts, Files, IsolatedPool, Mode, Style, Table, Wants};
use p2pinst_boot::repository;
use p2pinst_boot::service::{
    Config, HTTP_PORT, Message, Program, Ready, ServedFile, Service, Tables, ToService,
};
use p2pinst_types::{Hash, ImageId, Mac, NodeId, PublicKey, codec};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::netns::{NODE, Segment, ip};

/// How the service is started: this test binary, with the pipe on another descriptor than the one that the harness writes to.
const SHELL: &str =
    "exec \"$0\" --exact service::process --ignored --nocapture 3>&1 1>/dev/null 2>/dev/null";
/// Machines with this address are armed.
const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
/// UEFI's iPXE alone waits 18 s for a router of IPv6.
const PATIENCE: Duration = Duration::from_secs(90);

/// The process that the other tests start.
#[test]
#[ignore = "a process that other tests start"]
fn process() {
    let Ok(output) = OpenOptions::new().write(true).open("/proc/self/fd/3") else { return };
    let ended = p2pinst_boot::service::main(std::io::stdin(), output);
    std::process::exit(i32::from(ended.is_err()));
}

/// A service on a segment, with files to serve.
struct Lab {
    runtime: Runtime,
    service: Option<Service>,
    dir: TempDir,
    out: TempDir,
    segment: Segment,
}

fn command(segment: &Segment) -> Vec<OsString> {
    let exe = std::env::current_exe().unwrap();
    let args = ["netns", "exec", &segment.node, "sh", "-c", SHELL];
    args.iter().map(OsString::from).chain([exe.into_os_string()]).collect()
}

fn node() -> NodeId {
    NodeId(PublicKey([7; 32]))
}

fn tables(files: &[&str]) -> Tables {
    let mut table = Table::off(node());
    table.mode = Mode::Armed;
    table.http_port = HTTP_PORT;
    let armed = Armed { assignment: Hash([1; 32]), style: Style::Direct, wants: Wants::Scout };
    table.machines.insert(MAC, armed);
    let files: BTreeSet<_> = files.iter().map(|f| f.parse().unwrap()).collect();
    let linux = Program::Linux {
        kernel: "kernel".parse().unwrap(),
        initrd: "scout.cpio".parse().unwrap(),
        arguments: "p2pinst.peer={peer}".parse().unwrap(),
    };
    Tables {
        table,
        files,
        programs: BTreeMap::from([(Family::Bios, linux)]),
        mirrors: BTreeMap::new(),
    }
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

impl Lab {
    fn new() -> Option<Self> {
        let segment = Segment::new()?;
        let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("secret"), "not served").unwrap();
        fs::write(dir.path().join("small"), noise(3000)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut lab = Self { runtime, service: None, dir, out, segment };
        lab.spawn();
        Some(lab)
    }

    fn spawn(&mut self) -> Ready {
        let config = Config::new(node(), self.dir.path().to_owned());
        let _runtime = self.runtime.enter();
        let service = Service::spawn(Path::new("ip"), &command(&self.segment), config).unwrap();
        service
            .set_tables(tables(&["small", "large", "kernel", "scout.cpio", "link", "gone"]))
            .unwrap();
        self.service = Some(service);
        self.ready()
    }

    /// The first message that `take` takes; failures of the service are shown.
    fn wait<T>(&mut self, mut take: impl FnMut(Message) -> Option<T>) -> T {
        let service = self.service.as_mut().unwrap();
        self.runtime.block_on(async {
            loop {
                let message = timeout(PATIENCE, service.next()).await.expect("nothing is heard");
                let message = message.expect("the service was stopped");
                if matches!(message, Message::Failed { .. }) {
                    eprintln!("{message:?}");
                }
                if let Some(taken) = take(message) {
                    return taken;
                }
            }
        })
    }

    fn ready(&mut self) -> Ready {
        let ready = self
            .wait(|message| if let Message::Ready(ready) = message { Some(ready) } else { None });
        // the tables follow
        let deadline = Instant::now() + PATIENCE;
        while self.status(&["-I", &url("/boot/small")]) != "200" {
            assert!(Instant::now() < deadline, "nothing is served");
        }
        ready
    }

    fn served(&mut self, wanted: &str) -> ServedFile {
        self.wait(|message| match message {
            Message::ServedFile(file) if file.name == wanted => Some(file),
            _ => None,
        })
    }

    fn pid(&self) -> i32 {
        match self.segment.node_pids()[..] {
            [pid] => pid,
            ref pids => panic!("{pids:?}"),
        }
    }

    fn curl(&self, args: &[&str]) -> Vec<u8> {
        let all = [&["-s", "-S", "--max-time", "60"], args].concat();
        let out = self.segment.ask("curl", &all);
        assert!(out.status.success(), "curl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    /// The status that curl saw.
    fn status(&self, args: &[&str]) -> String {
        let all =
            [&["-s", "--max-time", "60", "-o", "/dev/null", "-w", "%{http_code}"], args].concat();
        String::from_utf8(self.segment.ask("curl", &all).stdout).unwrap()
    }

    /// Memory of the service in KiB.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        field(&status, "VmRSS:")[0].parse().unwrap()
    }
}

fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    line.split_whitespace().collect()
}

fn url(path: &str) -> String {
    format!("http://{NODE}:{HTTP_PORT}{path}")
}

#[test]
fn the_process_that_faces_the_segment_has_no_privileges() {
    let Some(mut lab) = Lab::new() else { return };
    let pid = lab.pid();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().path();
        let status = fs::read_to_string(task.join("status")).unwrap();
        assert_eq!(field(&status, "Uid:"), ["65534"; 4], "{status}");
        assert_eq!(field(&status, "Gid:"), ["65534"; 4], "{status}");
        assert!(field(&status, "Groups:").is_empty(), "{status}");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(&status, set), ["0000000000000000"], "{set}");
        }
        assert_eq!(
            fs::read_link(task.join("root")).unwrap(),
            lab.dir.path().canonicalize().unwrap()
        );
        // the harness's own first thread was there before; the daemon's command has none
        let first = task.file_name().unwrap().to_str() == Some(&pid.to_string());
        assert!(first || field(&status, "NoNewPrivs:") == ["1"], "{status}");
    }
    // asked for again, the ports are as they were
    drop(lab.service.take());
    let ready = lab.spawn();
    assert_eq!(ready.udp, [67, 68, 69, 4011, 4012]);
    assert_eq!(ready.http, Some(HTTP_PORT));
    assert_eq!(ready.interfaces, [("eth0".to_owned(), NODE.parse().unwrap())]);
}

#[test]
fn no_packet_is_read_before_the_privileges_are_gone() {
    let Some(mut lab) = Lab::new() else { return };
    if !Path::new("/usr/bin/strace").exists() {
        eprintln!("SKIPPED: needs strace");
        return;
    }
    drop(lab.service.take());
    let log = lab.out.path().join("strace");
    let mut args = command(&lab.segment);
    let calls = "trace=bind,recvfrom,recvmsg,recvmmsg,read,readv,accept,accept4,chroot,setgroups,setresgid,setresuid,prctl";
    let strace = ["strace", "-f", "-yy", "-o", log.to_str().unwrap(), "-e", calls];
    args.splice(3..3, strace.map(OsString::from));
    let config = Config::new(node(), lab.dir.path().to_owned());
    {
        let _runtime = lab.runtime.enter();
        let service = Service::spawn(Path::new("ip"), &args, config).unwrap();
        service.set_tables(tables(&["small"])).unwrap();
        lab.service = Some(service);
    }
    // packets wait from the first moment on
    let flood = format!(
        "
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end = time.time() + 4
while time.time() < end:
    for port in [67, 69, 4011, 4012]:
        try:
            s.sendto(b'early', ('{NODE}', port))
        except ConnectionRefusedError:
            pass
    time.sleep(0.001)
"
    );
    let flood = lab.segment.on_machine("python3").args(["-c", &flood]).spawn();
    lab.ready();
    assert!(flood.unwrap().wait().unwrap().success());
    let log = fs::read_to_string(&log).unwrap();
    let first = |what: &dyn Fn(&str) -> bool| log.lines().position(what).expect(&log);
    let is_net = |l: &str| l.contains("<UDP") || l.contains("<TCP");
    let bound = first(&|l| l.contains("bind(") && l.contains("htons(67)"));
    let steps =
        ["chroot(\"/", "setgroups(0", "setresgid(65534", "setresuid(65534", "PR_SET_NO_NEW_PRIVS"]
            .map(|step| first(&|l| l.contains(step)));
    let reads = ["recv", "accept", "read("];
    let read = first(&|l| is_net(l) && reads.iter().any(|r| l.contains(r)));
    assert!(bound < steps[0] && steps.is_sorted() && steps[4] < read, "{bound} {steps:?} {read}");
}

#[test]
fn curl_gets_files_and_parts_of_files_and_nothing_else() {
    let Some(mut lab) = Lab::new() else { return };
    let large = noise(20_000_000);
    fs::write(lab.dir.path().join("large"), &large).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", lab.dir.path().join("link")).unwrap();

    let head = String::from_utf8(lab.curl(&["-I", &url("/boot/large")])).unwrap().to_lowercase();
    assert!(
        head.contains("content-length: 20000000") && head.contains("accept-ranges: bytes"),
        "{head}"
    );
    let began = Instant::now();
    assert!(lab.curl(&[&url("/boot/large")]) == large);
    eprintln!("20 MB in {:?}", began.elapsed());
    assert_eq!(lab.served("large").bytes, 20_000_000);
    assert_eq!(
        lab.curl(&["-r", "1000000-1000009", &url("/boot/large")]),
        large[1_000_000..1_000_010]
    );
    assert_eq!(lab.curl(&["-r", "-5", &url("/boot/large")]), large[large.len() - 5..]);
    assert_eq!(lab.status(&["-r", "5-", &url("/boot/large")]), "206");
    assert_eq!(lab.status(&["-r", "20000000-", &url("/boot/large")]), "416");
    assert_eq!(lab.status(&["-r", "0-1,5-6", &url("/boot/large")]), "200");

    // one connection for all
    let small = url("/boot/small");
    let out = ["-o", "/dev/null", "-o", "/dev/null", "-o", "/dev/null"];
    let kept =
        lab.curl(&[&["-w", "%{num_connects} "], &out[..], &[&small, &small, &small]].concat());
    assert_eq!(String::from_utf8(kept).unwrap(), "1 0 0 ");

    for path in [
        "/boot/secret",
        "/boot/../boot/small",
        "/boot/../../../../etc/passwd",
        "/boot/%2e%2e/etc/passwd",
        "/boot//small",
        "/boot/./small",
        "/boot/link",
        "/boot/gone",
        "/boot/",
        "/boot",
        "/",
        "/etc/passwd",
        "/boot/script/",
        "/boot/script/..%2f..%2fsecret",
        "/boot/small%00",
        "/boot/script/zz-54-00-12-34-56",
    ] {
        assert_eq!(lab.status(&["--path-as-is", &url(path)]), "404", "{path}");
    }
    assert_eq!(lab.status(&["-X", "POST", "-d", "x", &url("/boot/small")]), "405");
    assert_eq!(lab.status(&["-X", "DELETE", &url("/boot/small")]), "405");
    assert_eq!(lab.status(&[&url("/hello")]), "405");
    assert_eq!(lab.status(&["-H", &format!("X: {}", "x".repeat(20_000)), &small]), "431");

    let script =
        |mac: &str| String::from_utf8(lab.curl(&[&url(&format!("/boot/script/{mac}"))])).unwrap();
    assert!(
        script("52-54-00-12-34-56")
            .contains(&format!("kernel {} initrd=scout.cpio", url("/boot/kernel")))
    );
    assert!(!script("52-54-00-12-34-57").contains("kernel"));
}

#[test]
fn repositories_are_served_as_published_and_nothing_beside_them() {
    let Some(lab) = Lab::new() else { return };
    let id = ImageId(Hash([5; 32]));
    let below = lab.dir.path().join(repository::directory(&id)).join("pool/g");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("g++_1%3a2.deb"), noise(3000)).unwrap();
    std::os::unix::fs::symlink("../../../../secret", below.join("link")).unwrap();
    let other = lab.dir.path().join(repository::directory(&ImageId(Hash([6; 32]))));
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("x"), "an older version").unwrap();
    let mut tables = tables(&["small"]);
    tables.mirrors.insert("debian".parse().unwrap(), id);
    lab.service.as_ref().unwrap().set_tables(tables).unwrap();
    // as apt asks
    let deb = url("/boot/mirror/debian/pool/g/g%2b%2b_1%253a2.deb");
    let deadline = Instant::now() + PATIENCE;
    while lab.status(&["-I", &deb]) != "200" {
        assert!(Instant::now() < deadline, "nothing is served");
    }
    assert!(lab.curl(&[&deb]) == noise(3000));
    assert!(lab.curl(&["-r", "100-199", &deb]) == noise(3000)[100..200]);
    let older = format!("/boot/mirror/{}/x", Hash([6; 32]));
    for bad in [
        "/boot/mirror/debian/pool/g/link",
        "/boot/mirror/debian/pool/g",
        "/boot/mirror/debian/pool/g/",
        "/boot/mirror/debian/",
        "/boot/mirror/debian",
        "/boot/mirror/other/pool/g/g%2b%2b_1%253a2.deb",
        "/boot/mirror/debian/%2e%2e/%2e%2e/secret",
        "/boot/mirror/debian/pool/%2e%2e/%2e%2e/%2e%2e/secret",
        "/boot/mirror/debian/..%2f..%2fsecret",
        "/boot/mirror/debian//etc/passwd",
        &older,
    ] {
        assert_eq!(lab.status(&["--path-as-is", &url(bad)]), "404", "{bad}");
    }
}

#[test]
fn connections_that_are_reset_or_silent_hold_nobody_up() {
    let Some(lab) = Lab::new() else { return };
    fs::write(lab.dir.path().join("large"), noise(5_000_000)).unwrap();
    let script = format!(
        "
import socket, struct
for i in range(40):
    s = socket.create_connection(('{NODE}', {HTTP_PORT}))
    s.sendall(b'GET /boot/large HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
    s.recv(100)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()

def held(count):
    them = []
    for i in range(count):
        s = socket.create_connection(('{NODE}', {HTTP_PORT}))
        s.sendall(b'GET /boot/small HTTP/1.1\\r\\n')
        them.append(s)
    refused = 0
    for s in them:
        s.settimeout(0.2)
        try:
            refused += s.recv(1) == b''
        except ConnectionResetError:
            refused += 1
        except TimeoutError:
            pass
    return them, refused

# those that were reset are let go of as soon as the service writes to them
for again in range(50):
    silent, refused = held(16)
    if not refused:
        break
    for s in silent:
        s.close()
more, after = held(24)
print(refused, after)
"
    );
    let out = lab.segment.ask("python3", &["-c", &script]);
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "0 24", "{out:?}");
    assert_eq!(lab.status(&[&url("/boot/small")]), "200");
}

#[test]
fn tftp_clients_get_files() {
    let Some(mut lab) = Lab::new() else { return };
    // more blocks of 512 bytes than there are numbers
    let large = noise(65_540 * 512 + 100);
    fs::write(lab.dir.path().join("large"), &large).unwrap();
    let to = lab.out.path().join("got");
    let to = to.to_str().unwrap();
    let got = |lab: &Lab, program: &str, args: &[&str]| {
        let _none = fs::remove_file(to);
        let began = Instant::now();
        let out = lab.segment.ask(program, args);
        eprintln!("{program} {args:?}: {:?}", began.elapsed());
        let said = [out.stdout, out.stderr].concat();
        fs::read(to).map_err(|_| String::from_utf8_lossy(&said).into_owned())
    };
    let hpa = |file: &'static str| ["-m", "binary", NODE, "-c", "get", file, to];
    assert!(got(&lab, "tftp", &hpa("large")).unwrap() == large);
    assert_eq!(lab.served("large").bytes, large.len() as u64);
    assert!(got(&lab, "tftp", &hpa("small")).unwrap() == noise(3000));
    let refused = got(&lab, "tftp", &hpa("../../etc/passwd"));
    assert!(
        refused.as_ref().map_or_else(|said| said.contains("no such file"), Vec::is_empty),
        "{refused:?}"
    );

    let atftp = |file: &'static str| ["-g", "-r", file, "-l", to, NODE];
    let options = |more: &[&'static str], file| {
        let more: Vec<_> = more.iter().flat_map(|o| ["--option", o]).collect();
        [more.as_slice(), &atftp(file)[..]].concat()
    };
    for more in [
        &["blksize 8"][..],
        &["blksize 1468", "tsize 0", "timeout 3"],
        &["blksize 1428", "windowsize 8"],
        &["windowsize 64"],
    ] {
        assert!(got(&lab, "atftp", &options(more, "small")).unwrap() == noise(3000), "{more:?}");
    }
    for more in [&["blksize 1428", "windowsize 16"][..], &["windowsize 32"]] {
        assert!(got(&lab, "atftp", &options(more, "large")).unwrap() == large, "{more:?}");
    }
    let tftp = format!("tftp://{NODE}/small");
    for size in ["8", "512", "1468", "8192"] {
        assert!(lab.curl(&["--tftp-blksize", size, &tftp]) == noise(3000), "{size}");
    }
    assert!(lab.curl(&["--tftp-no-options", &tftp]) == noise(3000));
    let autoexec = lab.curl(&[&format!("tftp://{NODE}/autoexec.ipxe")]);
    assert!(autoexec.starts_with(b"#!ipxe\nchain http://10.77.0.1:4080/boot/script/"));
    for file in ["secret", "/etc/passwd", "../secret", "gone", ""] {
        let all =
            ["-s", "--max-time", "20", "--path-as-is", "-o", to, &format!("tftp://{NODE}/{file}")];
        assert!(!lab.segment.ask("curl", &all).status.success(), "{file}");
    }
    let put = lab.segment.ask("curl", &["-s", "--max-time", "20", "-T", to, &tftp]);
    assert!(!put.status.success());
    assert!(fs::read(lab.dir.path().join("small")).unwrap() == noise(3000));
}

#[test]
fn hostile_datagrams_change_nothing() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.resident();
    let script = format!(
        "
import os, random, socket
random.seed(1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'br0')
heads = [b'', b'\\0\\1', b'\\0\\2', b'\\0\\4', b'\\0\\5', b'\\1\\1\\6\\0', b'p2pB\\1\\0', b'\\1\\1\\6\\0' + b'\\0' * 232 + b'\\x63\\x82\\x53\\x63\\x35\\1\\1']
for i in range(30000):
    bytes = random.choice(heads) + os.urandom(random.choice([0, 1, 30, 300, 1400]))
    to = random.choice(['{NODE}', '10.77.0.255', '255.255.255.255'])
    s.sendto(bytes, (to, random.choice([67, 68, 69, 4011, 4012])))
for i in range(2000):
    t = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    t.sendto(b'\\0\\1small\\0octet\\0windowsize\\x0032\\0', ('{NODE}', 69))
    t.close()
"
    );
    let pid = lab.pid();
    let out = lab.segment.ask("python3", &["-c", &script]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(lab.pid(), pid, "it is still the same");
    assert!(lab.curl(&[&format!("tftp://{NODE}/small")]) == noise(3000));
    assert_eq!(lab.status(&[&url("/boot/small")]), "200");
    let after = lab.resident();
    eprintln!("resident: {before} KiB, {after} KiB after the flood");
    assert!(after < before + 16_384, "{before} KiB, then {after} KiB");
}

#[test]
fn machines_introduce_themselves_and_a_flood_has_to_wait() {
    let Some(mut lab) = Lab::new() else { return };
    let hello = url("/hello");
    let body = lab.out.path().join("body");
    fs::write(&body, noise(16 << 10)).unwrap();
    let data = format!("@{}", body.display());
    let mut caller = lab.segment.on_machine("curl");
    caller.args(["-s", "-w", " %{http_code}", "--data-binary", &data, &hello]);
    let caller = caller.stdout(Stdio::piped()).spawn().unwrap();
    let (id, hello_of) = lab.wait(|message| match message {
        Message::Hello { id, hello } => Some((id, hello)),
        _ => None,
    });
    assert_eq!(hello_of.body, noise(16 << 10));
    assert_eq!(hello_of.from.ip().to_string(), crate::netns::MACHINE);
    let link = lab.segment.ask("cat", &["/sys/class/net/br0/address"]).stdout;
    assert_eq!(hello_of.mac, String::from_utf8(link).unwrap().trim().parse().ok());
    let service = lab.service.as_ref().unwrap();
    lab.runtime.block_on(service.answer(id, 202, b"wait".to_vec()));
    assert_eq!(caller.wait_with_output().unwrap().stdout, b"wait 202");

    fs::write(&body, noise((16 << 10) + 1)).unwrap();
    assert_eq!(lab.status(&["--data-binary", &data, &hello]), "413");

    // twenty addresses, fifteen calls of each, and a daemon that does not answer
    fs::write(&body, noise(10_000)).unwrap();
    for last in 100..120 {
        ip(&[
            "-n",
            &lab.segment.machine,
            "addr",
            "add",
            &format!("10.77.0.{last}/24"),
            "dev",
            "br0",
        ]);
    }
    let before = lab.resident();
    let script = format!(
        "
for i in $(seq 100 119); do for n in $(seq 15); do
  curl -s -o /dev/null -w '%{{http_code}}\\n' --max-time 40 --interface 10.77.0.$i --data-binary {data} {hello} &
done; done; wait"
    );
    let out = lab.segment.ask("sh", &["-c", &script]);
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for code in String::from_utf8(out.stdout).unwrap().lines() {
        *codes.entry(code.to_owned()).or_default() += 1;
    }
    let after = lab.resident();
    eprintln!("{codes:?}; resident: {before} KiB, then {after} KiB");
    assert_eq!(codes.values().sum::<usize>(), 300);
    assert_eq!(codes.get("504"), Some(&8), "eight waited in vain");
    assert!(codes.keys().all(|code| ["429", "503", "504"].contains(&code.as_str())), "{codes:?}");
    assert!(after < before + 32_768, "{before} KiB, then {after} KiB");
    // others are served meanwhile, and files always
    assert_eq!(lab.status(&[&url("/boot/small")]), "200");
    // a minute later: one address is answered twelve times
    std::thread::sleep(Duration::from_secs(61));
    let mut answered = || answer_one(&mut lab, &hello);
    let codes: Vec<_> = (0..14).map(|_| answered()).collect();
    assert!(codes[..12].iter().all(|c| c == "200"), "{codes:?}");
    assert_eq!(codes[12..], ["429", "429"]);
    // what was called from its address does not count against a machine that is expected
    let mut expecting = tables(&["small"]);
    let armed = expecting.table.machines[&MAC];
    expecting.table.machines.insert(hello_of.mac.unwrap(), armed);
    lab.service.as_ref().unwrap().set_tables(expecting).unwrap();
    // long before the minute of those calls is over
    let mut answered = || answer_one(&mut lab, &hello);
    assert!((0..10).any(|_| answered() == "200"));
}

/// Calls `/hello`, and answers it where it is let in. The status.
fn answer_one(lab: &mut Lab, hello: &str) -> String {
    let mut caller = lab.segment.on_machine("curl");
    caller.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-d", "x", hello]);
    let caller = caller.stdout(Stdio::piped()).spawn().unwrap();
    let service = lab.service.as_mut().unwrap();
    lab.runtime.block_on(async {
        let wait = Duration::from_millis(500);
        while let Ok(Some(message)) = timeout(wait, service.next()).await {
            if let Message::Hello { id, .. } = message {
                service.answer(id, 200, vec![]).await;
            }
        }
    });
    String::from_utf8(caller.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn a_service_whose_pipe_is_closed_ends_and_one_that_is_killed_is_started_again() {
    let Some(mut lab) = Lab::new() else { return };
    let pid = lab.pid();
    let kill = |pid| {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    kill(pid);
    let (why, after) = lab.wait(|message| match message {
        Message::Restarted { why, after } => Some((why, after)),
        _ => None,
    });
    assert!(why.contains("signal: 9"), "{why}");
    assert_eq!(after, Duration::from_millis(500));
    lab.ready();
    assert_ne!(lab.pid(), pid);
    // an address that was added: its sockets need privileges
    ip(&["-n", &lab.segment.node, "addr", "add", "10.78.0.1/24", "dev", "eth0"]);
    let why = lab.wait(|message| match message {
        Message::Restarted { why, .. } => Some(why),
        _ => None,
    });
    assert!(why.contains("new interfaces"), "{why}");
    lab.ready();
    let service = lab.service.take().unwrap();
    lab.runtime.block_on(service.stop());
    assert!(lab.segment.node_pids().is_empty());

    // by hand, to close nothing but the pipe
    let mut child = Command::new("ip");
    child.args(command(&lab.segment)).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let start = ToService::Start(Config::new(node(), lab.dir.path().to_owned()));
    let start = codec::encode(&start).unwrap();
    let mut pipe = child.stdin.take().unwrap();
    use std::io::Write;
    pipe.write_all(&u32::try_from(start.len()).unwrap().to_be_bytes()).unwrap();
    pipe.write_all(&start).unwrap();
    let mut said = [0; 4];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    drop(pipe);
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it goes on alone");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_service_that_cannot_start_says_why_and_is_tried_again() {
    let Some(mut lab) = Lab::new() else { return };
    drop(lab.service.take());
    let mut config = Config::new(node(), lab.dir.path().to_owned());
    config.user = "root".to_owned();
    {
        let _runtime = lab.runtime.enter();
        let service = Service::spawn(Path::new("ip"), &command(&lab.segment), config);
        lab.service = Some(service.unwrap());
    }
    let mut what = String::new();
    let pauses: Vec<_> = (0..2)
        .map(|_| {
            lab.wait(|message| match message {
                Message::Failed { what: failed } => {
                    what = failed;
                    None
                }
                Message::Restarted { after, .. } => Some(after),
                _ => None,
            })
        })
        .collect();
    assert!(what.contains("\"root\""), "{what}");
    assert_eq!(pauses, [Duration::from_millis(500), Duration::from_secs(1)]);
}

/// Lets a machine of QEMU boot on a segment without any other DHCP server, until it has had these files, in this order.
fn boots(lab: &mut Lab, machine: &[&str], files: &[&str]) {
    let mut tables = tables(&["kernel", "scout.cpio", "snponly.efi", "scout.efi"]);
    tables.table.mode = Mode::Isolated(IsolatedPool {
        first: [10, 77, 0, 50].into(),
        last: [10, 77, 0, 60].into(),
        netmask: [255, 255, 255, 0].into(),
        router: None,
        dns: vec![],
        lease: 600,
    });
    let uki = Program::Uki { file: "scout.efi".parse().unwrap() };
    tables.programs.insert(Family::EfiX64, uki);
    tables.table.artefacts = Artefacts(BTreeMap::from([
        (Family::Bios, Files { scout: None, ipxe: None, script: true }),
        (Family::EfiX64, Files { scout: None, ipxe: "snponly.efi".parse().ok(), script: true }),
    ]));
    lab.service.as_ref().unwrap().set_tables(tables).unwrap();
    ip(&["-n", &lab.segment.machine, "tuntap", "add", "tap0", "mode", "tap"]);
    ip(&["-n", &lab.segment.machine, "link", "set", "tap0", "master", "br0", "up"]);
    // an isolated segment is listened to before addresses are given away
    std::thread::sleep(Duration::from_secs(7));
    let log = File::create(lab.out.path().join("console")).unwrap();
    let mut qemu = lab.segment.on_machine("qemu-system-x86_64");
    qemu.args(["-machine", "q35,accel=tcg", "-cpu", "qemu64,+rdrand", "-m", "256", "-nographic"]);
    qemu.args(["-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no", "-no-reboot"]);
    qemu.args(machine);
    qemu.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut qemu = qemu.spawn().unwrap();
    let began = Instant::now();
    let mut had = Vec::new();
    let until = files.last().unwrap();
    let dir = lab.dir.path().to_owned();
    let whole =
        |file: &ServedFile| fs::metadata(dir.join(&file.name)).is_ok_and(|m| m.len() == file.bytes);
    while !had.iter().any(|name| name == until) {
        let served = lab.wait(|message| match message {
            Message::Event(event) => {
                eprintln!("{:?}: {event}", began.elapsed());
                None
            }
            Message::ServedFile(file) => Some(file),
            other => {
                eprintln!("{other:?}");
                None
            }
        });
        eprintln!("{:?}: {served:?}", began.elapsed());
        if whole(&served) {
            had.push(served.name);
        }
    }
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    had.dedup();
    assert_eq!(had, files);
}

fn nic(more: &str) -> String {
    format!("virtio-net-pci,netdev=n,mac={MAC}{more}")
}

fn boot_lab() -> Option<Lab> {
    let lab = Lab::new()?;
    for (from, to) in
        [("ipxe.lkrn", "kernel"), ("snponly.efi", "snponly.efi"), ("ipxe.efi", "scout.efi")]
    {
        if let Err(error) = fs::copy(Path::new("/usr/lib/ipxe").join(from), lab.dir.path().join(to))
        {
            eprintln!("SKIPPED: needs {from} of Debian's ipxe: {error}");
            return None;
        }
    }
    fs::write(lab.dir.path().join("scout.cpio"), noise(200_000)).unwrap();
    Some(lab)
}

#[test]
fn a_machine_with_bios_and_ipxe_gets_its_kernel() {
    let Some(mut lab) = boot_lab() else { return };
    boots(&mut lab, &["-boot", "n", "-device", &nic("")], &["kernel", "scout.cpio"]);
}

/// UEFI without the card's own ROM; IPv6 would be tried for minutes.
fn uefi(lab: &Lab) -> Option<Vec<String>> {
    let (code, vars) = ("/usr/share/OVMF/OVMF_CODE_4M.fd", lab.out.path().join("vars"));
    if let Err(error) = fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &vars) {
        eprintln!("SKIPPED: needs OVMF: {error}");
        return None;
    }
    let off = |what: &str| format!("name=opt/org.tianocore/{what},string=no");
    Some(vec![
        "-drive".into(),
        format!("if=pflash,format=raw,unit=0,readonly=on,file={code}"),
        "-drive".into(),
        format!("if=pflash,format=raw,unit=1,file={}", vars.display()),
        "-fw_cfg".into(),
        off("IPv6Support"),
        "-fw_cfg".into(),
        off("IPv6PXESupport"),
        "-device".into(),
        nic(",romfile="),
    ])
}

#[test]
fn a_machine_with_uefi_pxe_gets_its_files() {
    let Some(mut lab) = boot_lab() else { return };
    let Some(machine) = uefi(&lab) else { return };
    let machine: Vec<&str> = machine.iter().map(String::as_str).collect();
    boots(&mut lab, &machine, &["snponly.efi", "scout.efi"]);
}

#[test]
fn a_machine_with_uefi_http_boot_gets_its_files() {
    let Some(mut lab) = boot_lab() else { return };
    let Some(mut machine) = uefi(&lab) else { return };
    machine.extend(["-fw_cfg".into(), "name=opt/org.tianocore/IPv4PXESupport,string=no".into()]);
    let machine: Vec<&str> = machine.iter().map(String::as_str).collect();
    boots(&mut lab, &machine, &["snponly.efi", "scout.efi"]);
}
