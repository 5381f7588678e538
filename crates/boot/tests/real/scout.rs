//! Scouts of Debian's own packages, started by QEMU: by kernel and initrd, and by OVMF from a disk and by UEFI HTTP Boot.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use p2pinst_boot::scout::{
    self, BootArgs, BuildError, Built, Extra, Lease, Level, Options, PackageError, Profile,
    TreeError,
};
use p2pinst_types::Hash;

/// What stands in for the daemon: dies once, then uses what a real one uses, and waits to be switched off.
const STAND_IN: &str = include_str!("scout_daemon.sh");
const EPOCH: u32 = 1_700_000_000;

fn cache() -> PathBuf {
    let dir = std::env::var_os("P2PINST_CACHE").map(PathBuf::from);
    dir.unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()))
            .join(".cache/p2pinst")
    })
}

/// The stand-ins for the scout's two programs.
fn programs() -> &'static (PathBuf, PathBuf, tempfile::TempDir) {
    static PROGRAMS: OnceLock<(PathBuf, PathBuf, tempfile::TempDir)> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let daemon = dir.path().join("p2pinstd");
        fs::write(&daemon, STAND_IN).unwrap();
        let source = "#include <math.h>\n#include <stdio.h>\nint main(int n, char **v) { printf(\"%.0f\\n\", sqrt(n * 16.0)); return v == 0; }\n";
        let cli = compile(dir.path(), "p2pinst", source, &["-lm"]);
        (daemon, cli, dir)
    })
}

fn compile(dir: &Path, name: &str, source: &str, options: &[&str]) -> PathBuf {
    let (text, program) = (dir.join(format!("{name}.c")), dir.join(name));
    fs::write(&text, source).unwrap();
    let mut command = p2pinst_command::clean("cc");
    command.arg(&text).arg("-o").arg(&program).args(options);
    let said = p2pinst_command::ask(command, 10_000).expect("cc");
    assert!(said.success, "{}", said.stderr);
    program
}

fn options() -> Options {
    let (daemon, cli, _) = programs();
    Options {
        profile: Profile::Cloud,
        daemon: daemon.clone(),
        cli: Some(cli.clone()),
        extras: vec![Extra::new("/etc/p2pinst/cluster.cbor", b"public data".to_vec())],
        lvm: true,
        ipmitool: false,
        epoch: EPOCH,
        level: Level::QUICK,
        cache: cache(),
    }
}

/// Makes a scout, or says why that cannot be tried here.
fn made(options: &Options, out: &Path) -> Option<Built> {
    match scout::build(options, out) {
        Ok(built) => Some(built),
        Err(BuildError::Package(
            error @ (PackageError::Tool { .. } | PackageError::Refused { .. }),
        )) => {
            eprintln!("SKIPPED: no packages from apt: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// One scout for all tests here.
fn built() -> Option<&'static Built> {
    static BUILT: OnceLock<(Option<Built>, tempfile::TempDir)> = OnceLock::new();
    let (built, _) = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let begun = Instant::now();
        let built = made(&options(), &dir.path().join("scout"));
        eprintln!("a build took {:.1} s", begun.elapsed().as_secs_f32());
        (built, dir)
    });
    built.as_ref()
}

fn root() -> bool {
    let is = rustix::process::geteuid().is_root();
    if !is {
        eprintln!("SKIPPED: needs root");
    }
    is
}

#[test]
fn the_same_packages_give_the_same_bytes() {
    let Some(built) = built() else { return };
    let again = tempfile::tempdir().unwrap();
    let other = scout::build(&options(), again.path()).unwrap();
    assert_eq!(built.manifest, other.manifest);
    let mut names: Vec<_> = built.manifest.files.keys().map(String::as_str).collect();
    let want = ["initrd", "ipxe.efi", "scout.efi", "snponly.efi", "undionly.kpxe", "vmlinuz"];
    assert_eq!(names, want);
    names.push("manifest.json");
    for name in names {
        let (one, two) = (built.dir.join(name), other.dir.join(name));
        assert!(fs::read(&one).unwrap() == fs::read(two).unwrap(), "{name} differs");
        if let Some(file) = built.manifest.files.get(name) {
            let bytes = fs::read(&one).unwrap();
            assert_eq!((file.size, file.blake3), (bytes.len() as u64, Hash::of(&bytes)));
            eprintln!("{name}: {} bytes", file.size);
        }
    }
    for name in ["busybox-static", "ipxe", "libc6", "sfdisk", "systemd-boot-efi", "xfsprogs"] {
        assert_eq!(built.manifest.packages.contains_key(name), name != "sfdisk", "{name}");
    }
    assert!(!built.manifest.packages.keys().any(|name| name.contains("perl")));
}

#[test]
fn a_program_that_could_not_run_is_refused() {
    if built().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let library = ["-shared", "-fPIC", "-Wl,-soname,libnowhere.so.9"];
    compile(dir.path(), "libnowhere.so.9", "int nowhere(void) { return 1; }\n", &library);
    let here = format!("{}/libnowhere.so.9", dir.path().display());
    let source = "int nowhere(void);\nint main(void) { return nowhere(); }\n";
    let daemon = compile(dir.path(), "lacking", source, &[&here]);
    let error = scout::build(&Options { daemon, ..options() }, &out).unwrap_err();
    assert!(matches!(&error, BuildError::Tree(TreeError::Library { .. })), "{error}");
    assert!(error.to_string().contains("libnowhere.so.9"), "{error}");

    // as if linked with a libc of the future
    let mut bytes = fs::read(&programs().1).unwrap();
    let at = bytes.windows(8).position(|w| w == b"GLIBC_2.").unwrap() + 8;
    let end = at + bytes[at..].iter().position(|b| *b == 0).unwrap();
    bytes[at..end].fill(b'9');
    let daemon = dir.path().join("newer");
    fs::write(&daemon, bytes).unwrap();
    let error = scout::build(&Options { daemon, ..options() }, &out).unwrap_err();
    assert!(matches!(&error, BuildError::Tree(TreeError::Version { .. })), "{error}");
    assert!(!out.exists(), "nothing half made");

    let extras = vec![Extra::new("../etc/shadow", vec![])];
    let error = scout::build(&Options { extras, ..options() }, &out).unwrap_err();
    assert!(matches!(error, BuildError::Archive(_)), "{error}");
}

/// A program that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// A machine: its console's log, and its monitor.
struct Machine {
    qemu: Running,
    begun: Instant,
    dir: PathBuf,
}

impl Machine {
    fn start(dir: &Path, mut command: Command, arguments: &[&str]) -> Self {
        let serial = format!("file:{}/serial", dir.display());
        let monitor = format!("unix:{}/monitor,server=on,wait=off", dir.display());
        command
            .args(["-machine", "q35,accel=tcg", "-cpu", "qemu64,+rdrand", "-m", "768"])
            .args(["-display", "none", "-vga", "none", "-no-reboot", "-nodefaults"])
            .args(["-serial", &serial, "-monitor", &monitor, "-device", "virtio-rng-pci"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(dir.join("qemu")).unwrap())
            .stderr(File::create(dir.join("qemu.err")).unwrap());
        let qemu = Running(command.spawn().expect("qemu-system-x86_64"));
        Self { qemu, begun: Instant::now(), dir: dir.to_owned() }
    }

    fn log(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(self.dir.join("serial")) {
            file.read_to_end(&mut bytes).unwrap();
        }
        p2pinst_command::text(&bytes)
    }

    /// Waits until the console has said this.
    fn hear(&mut self, text: &str, limit: Duration) {
        while !self.log().contains(text) {
            let ended = self.qemu.0.try_wait().unwrap();
            let late = self.begun.elapsed() > limit;
            if ended.is_some() || late {
                let log = self.log();
                if log.contains(text) {
                    break;
                }
                let errors = fs::read_to_string(self.dir.join("qemu.err")).unwrap();
                panic!("never heard {text:?} (qemu {ended:?}: {errors}); the console:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("{:.1} s: {text}", self.begun.elapsed().as_secs_f32());
    }

    /// Waits until the machine is off.
    fn is_off(&mut self, limit: Duration) {
        while self.qemu.0.try_wait().unwrap().is_none() {
            assert!(self.begun.elapsed() < limit, "still on; the console:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("{:.1} s: off", self.begun.elapsed().as_secs_f32());
    }

    fn press_power_button(&self) {
        let mut monitor = UnixStream::connect(self.dir.join("monitor")).unwrap();
        monitor.write_all(b"system_powerdown\n").unwrap();
        monitor.set_read_timeout(Some(LIMIT)).unwrap();
        // it reads nothing more once this side is closed: its prompt comes before the line and after it
        let (mut said, mut part) = (Vec::new(), [0; 512]);
        while said.windows(6).filter(|w| *w == b"(qemu)").count() < 2 {
            let len = monitor.read(&mut part).unwrap();
            assert!(len > 0, "the monitor has closed");
            said.extend_from_slice(&part[..len]);
        }
    }
}

fn qemu() -> Command {
    p2pinst_command::clean("qemu-system-x86_64")
}

/// The lease that the stand-in printed.
fn lease(log: &str) -> Lease {
    let lines: Vec<_> = log.lines().filter_map(|l| l.strip_prefix("STAND-IN lease ")).collect();
    Lease::parse(&lines.join("\n"))
}

/// A disk of its own, with this name as its serial number.
fn disk(dir: &Path, name: &str, mib: u64) -> [String; 4] {
    let path = dir.join(name);
    File::create(&path).unwrap().set_len(mib << 20).unwrap();
    let drive = format!("if=none,id={name},format=raw,file={}", path.display());
    let device = format!("virtio-blk-pci,drive={name},serial={name}");
    ["-drive".to_owned(), drive, "-device".to_owned(), device]
}

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn kernel_and_initrd_boot_with_all_tools() {
    let Some(built) = built() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| built.dir.join(name).display().to_string();
    let (one, two) = (disk(dir.path(), "one", 1024), disk(dir.path(), "two", 256));
    let line =
        format!("{} p2pinst.peer=10.0.2.2:8080 p2pinst.test=tools", built.manifest.command_line);
    let (kernel, initrd) = (file("vmlinuz"), file("initrd"));
    let mut machine = vec!["-kernel", &kernel, "-initrd", &initrd, "-append", &line];
    machine.extend(one.iter().chain(&two).map(String::as_str));
    machine.extend(["-nic", "user,model=virtio-net-pci,mac=52:54:00:77:00:01"]);
    let mut machine = Machine::start(dir.path(), qemu(), &machine);
    machine.hear("STAND-IN first life", LIMIT);
    machine.hear("p2pinstd ended with status 7; again in 1 s", LIMIT);
    machine.hear("STAND-IN waits", LIMIT);
    let log = machine.log();
    for tool in [
        "sfdisk", "ext4", "xfs", "vfat", "btrfs", "swap", "lvm", "wipefs", "blkid", "tar", "zstd",
        "losetup", "cli", "extra", "modules",
    ] {
        assert!(log.contains(&format!("STAND-IN {tool} ok")), "{tool} failed; the console:\n{log}");
    }
    assert!(log.contains("STAND-IN disks vda vdb"), "{log}");
    let lease = lease(&log);
    assert_eq!(lease.ip.unwrap().to_string(), "10.0.2.15");
    assert_eq!(lease.next_server.unwrap().to_string(), "10.0.2.2");
    let line = log.lines().find_map(|l| l.strip_prefix("STAND-IN cmdline ")).unwrap();
    let args = BootArgs::parse(line);
    let hints = scout::gather(&args, None, &[lease]);
    assert_eq!(hints[0].peer.to_string(), "10.0.2.2:8080");
    assert!(!log.contains("/ #"), "no shell was asked for: {log}");
    machine.press_power_button();
    machine.is_off(LIMIT);
    let log = machine.log();
    assert!(log.contains("the power button was pressed"), "{log}");
    assert!(log.contains("STAND-IN was told to end"), "{log}");
}

/// A namespace with a tap, removed with the test.
struct Segment(String);

impl Segment {
    fn make(name: &str) -> Self {
        let segment = Self(format!("{name}{}", std::process::id()));
        let ns = segment.0.as_str();
        ip(&["netns", "add", ns]);
        ip(&["-n", ns, "link", "set", "lo", "up"]);
        ip(&["-n", ns, "tuntap", "add", "tap0", "mode", "tap"]);
        ip(&["-n", ns, "addr", "add", "10.77.0.1/24", "dev", "tap0"]);
        ip(&["-n", ns, "link", "set", "tap0", "up"]);
        segment
    }

    fn within(&self, program: &str) -> Command {
        let mut command = p2pinst_command::clean("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let mut command = p2pinst_command::clean("ip");
        command.args(["netns", "del", &self.0]);
        let _gone = p2pinst_command::ask(command, 1000);
    }
}

fn ip(arguments: &[&str]) {
    let mut command = p2pinst_command::clean("ip");
    command.args(arguments);
    let said = p2pinst_command::ask(command, 10_000).unwrap();
    assert!(said.success, "ip {arguments:?}: {}", said.stderr);
}

/// OVMF, with settings of its own for this machine.
fn firmware(dir: &Path) -> Option<[String; 2]> {
    let (code, vars) = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd");
    if !Path::new(code).exists() {
        eprintln!("SKIPPED: needs ovmf");
        return None;
    }
    let own = dir.join("vars");
    fs::copy(vars, &own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
    let drive = |path: &str, options: &str| format!("if=pflash,format=raw,file={path}{options}");
    Some([drive(code, ",readonly=on"), drive(&own.display().to_string(), "")])
}

#[test]
fn ovmf_boots_the_image_from_a_disk() {
    let Some(built) = built() else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some([code, vars]) = firmware(dir.path()) else { return };
    let boot = dir.path().join("esp/EFI/BOOT");
    fs::create_dir_all(&boot).unwrap();
    fs::copy(built.dir.join("scout.efi"), boot.join("BOOTX64.EFI")).unwrap();
    let esp = format!("if=virtio,format=raw,file=fat:rw:{}", dir.path().join("esp").display());
    let machine = ["-drive", &code, "-drive", &vars, "-drive", &esp];
    let mut machine = Machine::start(dir.path(), qemu(), &machine);
    machine.hear("STAND-IN waits", LIMIT);
    let log = machine.log();
    assert!(log.contains("started by uefi"), "{log}");
    assert!(log.contains("STAND-IN efivars ok"), "{log}");
    assert!(log.contains("STAND-IN loader none"), "{log}");
    machine.press_power_button();
    machine.is_off(LIMIT);
}

#[test]
fn ovmf_boots_the_image_by_http() {
    let Some(built) = built().filter(|_| root()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some([code, vars]) = firmware(dir.path()) else { return };
    let segment = Segment::make("scout");
    let mut dnsmasq = segment.within("dnsmasq");
    let leases = format!("--dhcp-leasefile={}/leases", dir.path().display());
    dnsmasq
        .args(["--conf-file=/dev/null", "--keep-in-foreground", "--port=0", "--user=root"])
        .args(["--interface=tap0", "--bind-interfaces", "--no-ping", "--log-facility=-"])
        .args(["--dhcp-range=10.77.0.100,10.77.0.199,255.255.255.0,1h", &leases, "--pid-file"])
        .args([
            "--dhcp-match=set:http,option:client-arch,16",
            "--dhcp-option=tag:http,60,HTTPClient",
        ])
        .args(["--dhcp-boot=tag:http,http://10.77.0.1:8080/scout.efi"])
        .stdout(Stdio::null())
        .stderr(File::create(dir.path().join("dnsmasq")).unwrap());
    let _dnsmasq = Running(dnsmasq.spawn().unwrap());
    let mut httpd = segment.within("busybox");
    httpd.args(["httpd", "-f", "-p", "10.77.0.1:8080", "-h"]).arg(&built.dir);
    let _httpd = Running(httpd.spawn().unwrap());
    let mut machine = vec!["-drive", &code, "-drive", &vars];
    machine.extend(["-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no"]);
    machine.extend(["-device", "virtio-net-pci,netdev=n0,mac=52:54:00:77:00:02,romfile="]);
    let off = ["IPv4PXESupport", "IPv6PXESupport", "IPv6Support"]
        .map(|what| format!("name=opt/org.tianocore/{what},string=n"));
    for setting in &off {
        machine.extend(["-fw_cfg", setting]);
    }
    let mut machine = Machine::start(dir.path(), segment.within("qemu-system-x86_64"), &machine);
    machine.hear("STAND-IN waits", LIMIT);
    let log = machine.log();
    // the stub of Debian 12 keeps no URL: the next server of the lease it is
    assert!(log.contains("STAND-IN loader none"), "{log}");
    let hints = scout::gather(&BootArgs::default(), None, &[lease(&log)]);
    let peers: Vec<_> = hints.iter().map(|hint| hint.peer.to_string()).collect();
    assert_eq!(peers, ["10.77.0.1:4080"], "{log}");
    machine.press_power_button();
    machine.is_off(LIMIT);
}

#[test]
#[ignore = "packs the kernel for real machines as small as can be: more than a minute"]
fn the_full_profile_boots_with_a_real_machines_devices() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        Options { profile: Profile::Full, ipmitool: true, level: Level::BEST, ..options() };
    let begun = Instant::now();
    let Some(built) = made(&options, &dir.path().join("scout")) else { return };
    eprintln!("a full build took {:.1} s", begun.elapsed().as_secs_f32());
    eprintln!(
        "{:?}, {} modules, without {:?}",
        built.manifest.files, built.manifest.modules, built.manifest.absent
    );
    let file = |name: &str| built.dir.join(name).display().to_string();
    let line = format!("{} p2pinst.test=tools", built.manifest.command_line);
    let (kernel, initrd) = (file("vmlinuz"), file("initrd"));
    let [_, one, ..] = disk(dir.path(), "one", 1024);
    let mut machine = vec!["-kernel", &kernel, "-initrd", &initrd, "-append", &line];
    machine.extend(["-drive", &one, "-device", "ide-hd,drive=one,bus=ide.0"]);
    machine.extend(["-nic", "user,model=e1000e,mac=52:54:00:77:00:03", "-device", "qemu-xhci"]);
    machine.extend(["-device", "usb-kbd"]);
    let mut machine = Machine::start(dir.path(), qemu(), &machine);
    machine.hear("STAND-IN waits", LIMIT);
    let log = machine.log();
    assert!(log.contains("STAND-IN disks sda"), "{log}");
    assert_eq!(lease(&log).ip.unwrap().to_string(), "10.0.2.15");
    machine.press_power_button();
    machine.is_off(LIMIT);
}
