//! Power of machines: by any node that has the role, beside a controller of other people (ipmi_sim).

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use p2pinst_testnet::net::Host;
use p2pinst_testnet::wait::eventually;
use p2pinst_testnet::{Lab, Node};
use serde_json::Value;

use crate::harness::{LATER, SOON, cluster, lacks};

/// OpenIPMI's simulator on a host; its chassis is a few files. While `stuck` is there it takes orders and does nothing.
struct Chassis {
    dir: PathBuf,
    child: Child,
}

impl Drop for Chassis {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const HOOK: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
shift; op=$1; shift
case $op in
get) for i; do case $i in
  power) echo "power:$(cat power)";;
  boot) echo "boot:$(cat boot)";; esac; done;;
set) while [ $# -ge 1 ]; do echo "$1 $2" >>orders
  if [ ! -e stuck ]; then case $1 in power) echo $2 >power;; boot) echo $2 >boot;; esac; fi
  shift 2; done;;
esac
"#;

impl Chassis {
    fn start(dir: PathBuf, host: &Host) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        for (name, content) in [("power", "0\n"), ("boot", "none\n"), ("orders", "")] {
            fs::write(dir.join(name), content)?;
        }
        fs::write(dir.join("chassis.sh"), HOOK)?;
        fs::set_permissions(dir.join("chassis.sh"), fs::Permissions::from_mode(0o755))?;
        fs::write(dir.join("lan.conf"), lan(host.ip, &dir))?;
        fs::write(dir.join("sim.emu"), EMULATION)?;
        let exec =
            host.exec("ipmi_sim").args(["-n", "-c", "lan.conf", "-f", "sim.emu", "-s", "state"]);
        let child = exec
            .command()?
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start ipmi_sim")?;
        Ok(Self { dir, child })
    }

    fn orders(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.dir.join("orders"))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn forget_orders(&self) -> Result<()> {
        Ok(fs::write(self.dir.join("orders"), "")?)
    }

    fn stick(&self, stuck: bool) -> Result<()> {
        let file = self.dir.join("stuck");
        let done = if stuck { fs::write(file, "") } else { fs::remove_file(file) };
        done.context("cannot make the chassis stick")
    }
}

fn lan(ip: Ipv4Addr, dir: &Path) -> String {
    let levels = ["callback", "user", "operator", "admin"];
    let auths = levels.map(|l| format!("  allowed_auths_{l} none md2 md5 straight\n")).concat();
    let at = dir.display();
    format!(
        "name \"t\"\nset_working_mc 0x20\nstartlan 1\n  addr {ip} 623\n  priv_limit admin\n{auths}  \
         guid a123456789abcdefa123456789abcdef\nendlan\nchassis_control \"{at}/chassis.sh 0x20\"\n\
         user 2 true \"admin\" \"s3cret\" admin 10 none md2 md5 straight\n"
    )
}

const EMULATION: &str = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 \
    persist_sdr\nsel_enable 0x20 1000 0x0a\nmc_enable 0x20\n";

/// What a node says of the power of n3.
fn power(node: &Node) -> Result<Value> {
    let all: Vec<Value> = node.json(["power", "status", "n3"])?;
    all.into_iter().next().context("no machine")
}

fn word<'a>(view: &'a Value, field: &str) -> &'a str {
    view.get(field).and_then(Value::as_str).unwrap_or("")
}

/// The first two nodes have the power role, the third is the machine that they switch.
fn begin(lab: &Lab) -> Result<Chassis> {
    let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
    let chassis = Chassis::start(lab.dir().join("chassis"), n3.host())?;
    let roster: Value = n1.json(["node", "ls"])?;
    for node in [n1, n2] {
        let nodes = roster.get("nodes").and_then(Value::as_array).context("no nodes")?;
        let it = nodes.iter().find(|n| word(n, "name") == node.name()).context("no such node")?;
        n1.ok(["grant", word(it, "id"), "--name", node.name(), "--role", "power"])?;
    }
    let password = lab.dir().join("password");
    fs::write(&password, "s3cret\n")?;
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
    let line = format!("ipmi://{}", n3.host().ip);
    let password = password.to_str().context("a path that is no text")?;
    n1.ok(["power", "set", "n3", &line, "--user", "admin", "--password-file", password])?;
    // from a node without the role, which must not know the password
    eventually(SOON, "the controller is asked", || {
        let view = power(n3)?;
        ensure!(view.get("on") == Some(&Value::Bool(false)), "{view}");
        Ok(())
    })?;
    Ok(chassis)
}

fn order(node: &Node, words: &[&str]) -> Result<String> {
    let args = ["power"].iter().chain(words).copied();
    Ok(node.cli(args).limit(Duration::from_secs(150)).run()?.ok()?.stdout)
}

#[test]
fn one_node_acts_and_another_takes_over() {
    if lacks("ipmi_sim", "openipmi") || lacks("ipmitool", "ipmitool") {
        return;
    }
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        let chassis = begin(lab)?;
        // one of the two acts, once
        order(n1, &["on", "n3"])?;
        ensure!(chassis.orders()? == ["power 1"], "{:?}", chassis.orders()?);
        chassis.forget_orders()?;
        order(n1, &["cycle", "n3", "--boot", "pxe"])?;
        let orders = ["power 0", "boot pxe", "power 1"];
        ensure!(chassis.orders()? == orders, "{:?}", chassis.orders()?);
        // what is so already is not done again
        chassis.forget_orders()?;
        let said = order(n1, &["on", "n3"])?;
        ensure!(said.contains("it was so before") && chassis.orders()?.is_empty(), "{said}");

        // one that is stopped in the middle of it is followed by the other, and does nothing more when it goes on
        thread::sleep(Duration::from_secs(30)); // the pause between two restarts of a machine
        chassis.stick(true)?;
        order(n1, &["cycle", "n3", "--no-wait"])?;
        let acts = eventually(SOON, "a node is at it", || {
            ensure!(chassis.orders()? == ["power 0"], "{:?}", chassis.orders()?);
            let view = power(n3)?;
            match word(&view, "by") {
                "n1" => Ok(n1),
                "n2" => Ok(n2),
                _ => bail!("{view}"),
            }
        })?;
        acts.freeze()?;
        chassis.stick(false)?;
        let other = if acts.name() == "n1" { "n2" } else { "n1" };
        eventually(LATER, "the other takes over", || {
            let view = power(n3)?;
            ensure!(word(&view, "outcome") == "done" && word(&view, "by") == other, "{view}");
            Ok(())
        })?;
        let orders = ["power 0", "power 0", "power 1"];
        ensure!(chassis.orders()? == orders, "{:?}", chassis.orders()?);
        acts.thaw()?;
        thread::sleep(Duration::from_secs(25));
        ensure!(chassis.orders()? == orders, "it went on: {:?}", chassis.orders()?);
        let view = power(n3)?;
        ensure!(word(&view, "outcome") == "done" && word(&view, "by") == other, "{view}");

        // a password that is wrong is said, and nobody tries it again and again
        chassis.forget_orders()?;
        let wrong = lab.dir().join("wrong");
        fs::write(&wrong, "wrong\n")?;
        fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600))?;
        let line = format!("ipmi://{}?cipher=3", n3.host().ip);
        let wrong = wrong.to_str().context("a path that is no text")?;
        n1.ok(["power", "set", "n3", &line, "--user", "admin", "--password-file", wrong])?;
        let done = n1.cli(["power", "off", "n3"]).limit(Duration::from_secs(150)).run()?;
        ensure!(
            done.stdout.contains("failed") && done.stdout.contains("password"),
            "{}",
            done.stdout
        );
        done.fails_with(1)?;
        ensure!(chassis.orders()?.is_empty());
        Ok(())
    });
}

#[test]
fn who_gets_the_role_later_can_switch_too() {
    if lacks("ipmi_sim", "openipmi") || lacks("ipmitool", "ipmitool") {
        return;
    }
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        let chassis = begin(lab)?;
        let roster: Value = n1.json(["node", "ls"])?;
        let nodes = roster.get("nodes").and_then(Value::as_array).context("no nodes")?;
        let it = nodes.iter().find(|n| word(n, "name") == "n3").context("no such node")?;
        n1.ok(["grant", word(it, "id"), "--name", "n3", "--role", "power"])?;
        // those that had the role seal the password anew, and then go
        eventually(SOON, "the password is sealed anew", || {
            let log = [n1.log_text(), n2.log_text()].concat();
            ensure!(log.contains("sealed anew"), "not yet");
            Ok(())
        })?;
        order(n1, &["on", "n3"])?;
        n2.kill()?;
        order(n1, &["off", "n3"])?;
        let cells = n3.ok(["debug", "cells", "--kind", "resealed credentials"]);
        let cells = cells.unwrap_or_default();
        ensure!(!cells.contains("s3cret"));
        eventually(SOON, "n3 asks by itself", || {
            n1.kill().ok();
            let view = power(n3)?;
            ensure!(view.get("on") == Some(&Value::Bool(false)), "{view}");
            ensure!(view.get("error").is_none_or(Value::is_null), "{view}");
            Ok(())
        })?;
        ensure!(chassis.orders()? == ["power 1", "power 0"], "{:?}", chassis.orders()?);
        Ok(())
    });
}
