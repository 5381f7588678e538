//! Namespaces with a bridge, and other people's programs in them.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};
use p2pinst_command::{ask, clean};

use super::{MACHINE, OWN, SITE};

/// Whether the test can run.
pub(super) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let mut command = clean(words.next().unwrap());
    command.args(words);
    let said = ask(command, 100_000).unwrap();
    assert!(said.success, "{line}: {}", said.stderr);
}

/// A program in a namespace; ended when it is dropped.
pub(super) struct Running(Child);

impl Running {
    fn new(namespace: &str, line: &[&str]) -> Self {
        let mut command = within(namespace, line);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _status = self.0.wait();
    }
}

/// `ip netns exec` becomes the program, so that ending it ends that.
pub(super) fn within(namespace: &str, line: &[&str]) -> Command {
    let mut command = clean("ip");
    command.args(["netns", "exec", namespace]).args(line);
    command
}

/// A bridge with a tap for a machine, and namespaces on it for this node, the site's DHCP server and a load.
pub(super) struct Net {
    id: String,
    dir: tempfile::TempDir,
}

impl Net {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("p2pdhcp{}x{count}", std::process::id());
        let net = Self { id, dir: tempfile::tempdir().unwrap() };
        let bridge = net.name("br");
        run(&format!("ip netns add {bridge}"));
        run(&format!("ip -n {bridge} link add br0 type bridge forward_delay 0 stp_state 0"));
        run(&format!("ip -n {bridge} link set br0 up"));
        run(&format!("ip -n {bridge} tuntap add tap0 mode tap"));
        run(&format!("ip -n {bridge} link set tap0 master br0 up"));
        for (name, address) in [("us", OWN), ("site", SITE), ("load", [10, 79, 0, 4].into())] {
            let inside = net.name(name);
            run(&format!("ip netns add {inside}"));
            let veth = format!("ip link add eth0 netns {inside} type veth peer name {name} netns");
            run(&format!("{veth} {bridge}"));
            run(&format!("ip -n {bridge} link set {name} master br0 up"));
            run(&format!("ip -n {inside} addr add {address}/24 dev eth0"));
            run(&format!("ip -n {inside} link set eth0 up"));
            run(&format!("ip -n {inside} link set lo up"));
        }
        net
    }

    pub(super) fn name(&self, part: &str) -> String {
        format!("{}{part}", self.id)
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Does something on a thread that is in the namespace of this node.
    pub(super) fn inside<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(Path::new("/run/netns").join(self.name("us"))).unwrap();
        let thread = thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            what()
        });
        thread.join().unwrap()
    }

    /// The site's DHCP server, which knows nothing of booting. Its router advertisements spare iPXE a wait of 16 s.
    pub(super) fn site_dhcp(&self) -> Running {
        let (leases, pid) = (self.path("leases"), self.path("site.pid"));
        Running::new(
            &self.name("site"),
            &[
                "dnsmasq",
                "-k",
                "--conf-file=/dev/null",
                "--port=0",
                "--user=root",
                "--interface=eth0",
                "--bind-interfaces",
                "--no-ping",
                "--enable-ra",
                "--dhcp-range=10.79.0.100,10.79.0.199,255.255.255.0,1h",
                "--dhcp-range=fd79::,ra-stateless",
                &format!("--dhcp-leasefile={leases}"),
                &format!("--pid-file={pid}"),
            ],
        )
    }

    /// A TFTP server beside the responder.
    pub(super) fn tftp(&self) -> Running {
        std::fs::create_dir(self.path("tftp")).unwrap();
        let (root, pid) = (self.path("tftp"), self.path("tftp.pid"));
        Running::new(
            &self.name("us"),
            &[
                "dnsmasq",
                "-k",
                "--conf-file=/dev/null",
                "--port=0",
                "--user=root",
                "--enable-tftp",
                &format!("--tftp-root={root}"),
                &format!("--pid-file={pid}"),
            ],
        )
    }

    /// The machine, without KVM.
    pub(super) fn machine(&self, firmware: &[&str]) -> Running {
        let mac = MACHINE.to_string();
        let device = format!("virtio-net-pci,netdev=n0,mac={mac},bootindex=1");
        let device = if firmware.is_empty() { device } else { format!("{device},romfile=") };
        let mut line = vec![
            "qemu-system-x86_64",
            "-machine",
            "q35,accel=tcg",
            "-cpu",
            "qemu64,+rdrand",
            "-m",
            "256",
            "-display",
            "none",
            "-serial",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
            "-netdev",
            "tap,id=n0,ifname=tap0,script=no,downscript=no",
            "-device",
            &device,
        ];
        line.extend(firmware);
        Running::new(&self.name("br"), &line)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for part in ["br", "us", "site", "load"] {
            let mut command = clean("ip");
            command.args(["netns", "del", &self.name(part)]);
            let _gone_already = ask(command, 1000);
        }
    }
}
