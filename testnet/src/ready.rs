//! What this machine allows: namespaces, or only loopback addresses, and why.

use std::fs;

use crate::bins::on_path;
use crate::exec::Exec;

/// Why there can be no network namespaces here; nothing if there can.
#[must_use]
pub fn why_no_namespaces() -> Option<String> {
    if !is_root() {
        return Some("not root: network namespaces need it".to_owned());
    }
    for program in ["ip", "tc"] {
        if on_path(program).is_none() {
            return Some(format!("`{program}` is missing: apt-get install iproute2"));
        }
    }
    // `unshare -n` is what a container without CAP_SYS_ADMIN refuses.
    match Exec::new("unshare").args(["-n", "true"]).run() {
        Ok(done) if done.code == Some(0) => None,
        Ok(done) => Some(format!("network namespaces are not allowed here: {done}")),
        Err(why) => Some(format!("cannot try network namespaces: {why:#}")),
    }
}

/// Why a program cannot be used; nothing if it can.
#[must_use]
pub fn why_not_installed(program: &str, package: &str) -> Option<String> {
    match on_path(program) {
        Some(_) => None,
        None => Some(format!("`{program}` is missing: apt-get install {package}")),
    }
}

/// Whether this process runs as root.
#[must_use]
pub fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|s| s.lines().find_map(|l| l.strip_prefix("Uid:").map(str::to_owned)))
        .is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"))
}
