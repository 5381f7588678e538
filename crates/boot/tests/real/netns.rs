//! Two network namespaces on one segment: a node, and a machine beside it.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// The node's address.
pub(crate) const NODE: &str = "10.77.0.1";
/// The machine's address.
pub(crate) const MACHINE: &str = "10.77.0.2";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A node and a machine; gone when dropped, with all that runs in them.
#[derive(Debug)]
pub(crate) struct Segment {
    /// The node's namespace; its interface is `eth0`.
    pub(crate) node: String,
    /// The machine's namespace; its interface is the bridge `br0`.
    pub(crate) machine: String,
}

impl Segment {
    /// Makes one; none where this is not root.
    pub(crate) fn new() -> Option<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let segment = Self { node: format!("bootn{id}"), machine: format!("bootm{id}") };
        let (node, machine) = (&segment.node, &segment.machine);
        for ns in [node, machine] {
            ip(&["netns", "add", ns]);
            ip(&["-n", ns, "link", "set", "lo", "up"]);
        }
        ip(&[
            "-n", node, "link", "add", "eth0", "type", "veth", "peer", "name", "p0", "netns",
            machine,
        ]);
        ip(&[
            "-n",
            machine,
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "forward_delay",
            "0",
            "stp_state",
            "0",
        ]);
        ip(&["-n", machine, "link", "set", "p0", "master", "br0"]);
        for link in ["p0", "br0"] {
            ip(&["-n", machine, "link", "set", link, "up"]);
        }
        ip(&["-n", machine, "addr", "add", &format!("{MACHINE}/24"), "dev", "br0"]);
        ip(&["-n", node, "addr", "add", &format!("{NODE}/24"), "brd", "+", "dev", "eth0"]);
        ip(&["-n", node, "link", "set", "eth0", "up"]);
        Some(segment)
    }

    /// A program in the machine's namespace.
    pub(crate) fn on_machine(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.machine, program]);
        command
    }

    /// What a program in the machine's namespace says.
    pub(crate) fn ask(&self, program: &str, args: &[&str]) -> Output {
        self.on_machine(program).args(args).output().unwrap()
    }

    /// The processes in the node's namespace.
    pub(crate) fn node_pids(&self) -> Vec<i32> {
        pids(&self.node)
    }
}

fn pids(ns: &str) -> Vec<i32> {
    let out = Command::new("ip").args(["netns", "pids", ns]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().filter_map(|l| l.trim().parse().ok()).collect()
}

/// Runs `ip`, which has to succeed.
pub(crate) fn ip(args: &[&str]) {
    let out = Command::new("ip").args(args).output().unwrap();
    assert!(out.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

impl Drop for Segment {
    fn drop(&mut self) {
        for ns in [&self.node, &self.machine] {
            for pid in pids(ns) {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            let _deleted = Command::new("ip").args(["netns", "del", ns]).output();
        }
    }
}
