//! The status of a deployment: counted from shards, told of without polling; and the node's own
//! health.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::view::{Deployment, Status};
use p2pinst_testnet::wait::throughout;
use p2pinst_testnet::{Deb, Lab, Node, eventually, exec};
use serde_json::Value;

use crate::harness::{LATER, SOON, cluster, deb, publish_to_all};

/// One deployment as `status NAME --json` with more arguments shows it.
fn status(node: &Node, name: &str, args: &[&str]) -> Result<Deployment> {
    let status: Status = node.json(["status", name].iter().chain(args))?;
    Ok(status.deployment(name)?.clone())
}

fn names(deployment: &Deployment) -> Vec<&str> {
    deployment.machines.iter().map(|m| m.name.as_str()).collect()
}

fn count(deployment: &Deployment, state: &str) -> usize {
    deployment.counts.get(state).copied().unwrap_or(0)
}

fn publish(node: &Node, file: &Path, shards: &str) -> Result<String> {
    let args = ["--group", "all", "--urgent", "--shards", shards];
    Ok(node.publish(file, &args)?.name)
}

#[test]
fn machines_are_counted_from_shards_and_listed_by_what_they_do() {
    cluster(4, |lab| {
        let n1 = lab.node(1)?;
        lab.node(4)?.stop()?;
        n1.sees_up(3, LATER)?;
        let good = publish(n1, &deb(lab, "good", "1.0")?, "8")?;
        let needy = Deb::new("needy", "1.0").field("Depends", "nowhere").build(lab.dir())?;
        let bad = publish(n1, &needy, "4")?;
        for node in [n1, lab.node(3)?] {
            eventually(SOON, "three have it", || {
                // an option makes it count from the summaries
                let seen = status(node, &good, &["--missing"])?;
                ensure!(count(&seen, "installed") == 3 && count(&seen, "unknown") == 1, "{seen:?}");
                ensure!(seen.ordered == 4 && names(&seen) == ["n4"], "{seen:?}");
                Ok(())
            })?;
            ensure!(names(&status(node, &good, &["--failed", "--pending"])?).is_empty());
            ensure!(names(&status(node, &good, &["--all"])?) == ["n1", "n2", "n3", "n4"]);
            ensure!(names(&status(node, &good, &[])?) == ["n1", "n2", "n3", "n4"]);
            eventually(SOON, "three cannot have it", || {
                let seen = status(node, &bad, &["--failed"])?;
                ensure!(names(&seen) == ["n1", "n2", "n3"], "{seen:?}");
                ensure!(count(&seen, "failed") == 3 && count(&seen, "unknown") == 1);
                Ok(())
            })?;
        }
        // whoever comes late is counted too
        lab.node(4)?.start()?;
        eventually(LATER, "all have it", || {
            let seen = status(n1, &good, &["--missing"])?;
            ensure!(count(&seen, "installed") == 4 && seen.machines.is_empty(), "{seen:?}");
            Ok(())
        })?;
        look_inside(lab.node(2)?, &good)
    });
}

/// `debug` shows the cells of the shards, where they lie, and the peers.
fn look_inside(node: &Node, name: &str) -> Result<()> {
    eventually(SOON, "a cluster of four holds all on each", || {
        let cells: Value =
            node.json(["debug", "cells", "--kind", "status", "--subject", name, "--limit", "100"])?;
        let cells = cells["cells"].as_array().context("cells")?;
        ensure!(cells.len() == 4, "{cells:?}");
        ensure!(cells.iter().all(|c| c["payload"]["state"] == "installed"), "{cells:?}");
        Ok(())
    })?;
    let own: Value = node.json(["debug", "cells", "--kind", "status", "--author", "n3"])?;
    ensure!(own["cells"].as_array().context("cells")?.len() == 2, "one of each order: {own}");
    let first: Value = node.json(["debug", "cells", "--limit", "3"])?;
    ensure!(first["cells"].as_array().context("cells")?.len() == 3 && first["next"].is_string());
    let next = first["next"].as_str().context("next")?;
    let second: Value = node.json(["debug", "cells", "--limit", "3", "--from", next])?;
    ensure!(first["cells"] != second["cells"], "the second page is another");
    let keys: Value = node.json(["debug", "keys"])?;
    let keys = keys["keys"].as_array().context("keys")?;
    ensure!(keys.iter().all(|k| k["here"] == true), "{keys:?}");
    ensure!(keys.iter().any(|k| k["kind"] == "history"), "{keys:?}");
    let peers: Value = node.json(["debug", "peers"])?;
    let peers = peers["peers"].as_array().context("peers")?;
    ensure!(peers.len() == 3 && peers.iter().all(|p| p["up"] == true), "{peers:?}");
    Ok(())
}

#[test]
fn anytime_a_replica_that_lost_its_data_spoils_no_count() {
    cluster(3, |lab| {
        let n1 = lab.node(1)?;
        let file = deb(lab, "kept", "1.0")?;
        let name = publish(n1, &file, "8")?;
        eventually(SOON, "all have it", || {
            let seen = status(n1, &name, &["--missing"])?;
            ensure!(count(&seen, "installed") == 3, "{seen:?}");
            Ok(())
        })?;
        let n2 = lab.node(2)?;
        n2.stop()?;
        fs::remove_file(n2.data().join("store.redb"))?;
        n2.start()?;
        let check = |node: &Node| {
            let seen = status(node, &name, &["--missing", "--failed"])?;
            ensure!(count(&seen, "installed") == 3 && seen.machines.is_empty(), "{seen:?}");
            Ok(())
        };
        throughout(Duration::from_secs(5), "the counts stay whole", || check(n1))?;
        eventually(LATER, "it counts them itself", || check(n2))
    });
}

/// `status --watch --json` at work on a node; each line with the time at which it was seen.
struct Watcher {
    running: exec::Running,
    file: std::path::PathBuf,
}

impl Watcher {
    fn start(lab: &Lab, node: &Node) -> Result<Self> {
        let file = lab.dir().join(format!("watch-{}", node.name()));
        let bins = p2pinst_testnet::bins::Bins::find()?;
        let line = format!(
            "{} --data-dir {} status --watch --json | while read -r l; do echo \"$(date +%s%3N) $l\"; done > {}",
            bins.cli.display(),
            node.data().display(),
            file.display()
        );
        let running = node.exec("setsid").args(["sh", "-c", &line]).limit(LATER * 4).start()?;
        Ok(Self { running, file })
    }

    /// When each status was seen, in milliseconds since 1970.
    fn seen(&self) -> Result<Vec<(u64, Status)>> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let whole = text.lines().filter(|l| l.ends_with('}'));
        whole
            .map(|line| {
                let (at, status) = line.split_once(' ').context("a time and a status")?;
                Ok((at.parse()?, serde_json::from_str(status)?))
            })
            .collect()
    }

    /// How long after a machine reported its end it was seen, in milliseconds.
    fn lag(&self, name: &str, machine: &str) -> Result<u64> {
        for (at, status) in self.seen()? {
            let Ok(deployment) = status.deployment(name) else { continue };
            if let Some(reached) = deployment.machine(machine)?.reached_at("installed") {
                return Ok(at.saturating_sub(reached));
            }
        }
        anyhow::bail!("{machine} is not seen installed in {name}")
    }

    fn stop(self) -> Result<()> {
        // setsid: the number of the process is that of its group
        exec::Exec::new("kill").args(["--", &format!("-{}", self.running.pid())]).run()?.ok()?;
        self.running.finish()?;
        Ok(())
    }
}

/// Requests of the store protocol that a node has sent.
fn asked(node: &Node) -> Result<u64> {
    let peers: Value = node.json(["debug", "peers"])?;
    let peers = peers["peers"].as_array().context("peers")?;
    Ok(peers.iter().filter_map(|p| p["asked"].as_u64()).sum())
}

#[test]
fn changes_are_pushed_and_nobody_polls() {
    cluster(11, |lab| {
        let n1 = lab.node(1)?;
        let watcher = Watcher::start(lab, n1)?;
        let mut lags = Vec::new();
        let mut last = String::new();
        for version in 1..=3 {
            let file = deb(lab, "told", &format!("{version}.0"))?;
            last = publish(n1, &file, "16")?;
            eventually(LATER, "all have it, as the watcher sees it", || {
                for node in lab.nodes() {
                    watcher.lag(&last, node.name())?;
                }
                Ok(())
            })?;
            for node in lab.nodes().iter().skip(1) {
                lags.push(watcher.lag(&last, node.name())?);
            }
        }
        lags.sort_unstable();
        let median = lags[lags.len() / 2];
        println!("a change is seen after {median} ms (median), {:?} ms", lags.last());
        ensure!(median < 500, "changes are seen late: {lags:?}");

        // nothing happens for a while: nothing is asked, but for a sync and a renewal now and then
        // (the other nodes go on comparing their replicas, as they do without a watcher)
        thread::sleep(Duration::from_secs(5));
        let seen = watcher.seen()?.len();
        let (before, begun) = (asked(n1)?, Instant::now());
        thread::sleep(Duration::from_secs(20));
        let asked = asked(n1)? - before;
        println!("{asked} requests of n1 in {:?} while nothing changed", begun.elapsed());
        ensure!(watcher.seen()?.len() == seen, "something changed");
        // one look at three orders in 16 shards each would be hundreds
        ensure!(asked < 60, "{asked} requests while nothing changed");
        let only = status(n1, &last, &["--pending", "--missing", "--failed"])?;
        ensure!(only.machines.is_empty() && count(&only, "installed") == 11, "{only:?}");
        told_by_others(lab, &watcher)?;
        watcher.stop()
    });
}

/// Three of eleven nodes are no replicas of a shard. Of such an order n1 hears by pushes alone.
fn told_by_others(lab: &Lab, watcher: &Watcher) -> Result<()> {
    let n1 = lab.node(1)?;
    n1.ok(["group", "create", "seven", "--hosts", "n7"])?;
    for version in 1..=20 {
        let file = deb(lab, "far", &format!("{version}.0"))?;
        let name = n1.publish(&file, &["--group", "seven", "--urgent"])?.name;
        eventually(LATER, "n7 has it, as the watcher sees it", || watcher.lag(&name, "n7"))?;
        let held: Value = n1.json(["debug", "cells", "--kind", "status", "--subject", &name])?;
        if held["cells"].as_array().context("cells")?.is_empty() {
            let lag = watcher.lag(&name, "n7")?;
            println!("a change that others told of is seen after {lag} ms");
            ensure!(lag < 1000, "a push took {lag} ms");
            return Ok(());
        }
    }
    anyhow::bail!("n1 was a replica of every order")
}

fn check(checks: &Value, name: &str) -> Result<(String, String)> {
    let list = checks["checks"].as_array().context("checks")?;
    let check = list.iter().find(|c| c["name"] == name);
    let check = check.with_context(|| format!("there is no check {name} in {checks}"))?;
    let text = |field: &str| check[field].as_str().unwrap_or_default().to_owned();
    Ok((text("level"), text("message")))
}

/// What `doctor --json` prints, also when it fails.
fn doctor(node: &Node, code: i32) -> Result<Value> {
    let done = node.cli(["doctor", "--json"]).run()?;
    ensure!(done.code == Some(code), "{done}");
    Ok(serde_json::from_str(&done.stdout)?)
}

#[test]
fn the_doctor_sees_what_is_wrong() {
    cluster(3, |lab| {
        let [n1, n2] = [lab.node(1)?, lab.node(2)?];
        publish_to_all(n1, &deb(lab, "pill", "1.0")?, &["--wait"]).run()?.ok()?;
        let well = eventually(SOON, "n1 has synced, and all is delivered", || {
            let well = doctor(n1, 0)?;
            ensure!(check(&well, "sync")?.1.contains("synced with"), "{well}");
            Ok(well)
        })?;
        for name in ["daemon", "peers", "clock", "member", "store", "outbox", "packages", "journal"]
        {
            ensure!(check(&well, name)?.0 == "ok", "{well}");
        }
        ensure!(well["healthy"] == true, "{well}");

        n2.stop()?;
        let stopped = doctor(n2, 1)?;
        ensure!(check(&stopped, "daemon")?.0 == "fail", "{stopped}");
        for name in ["identity", "key", "config", "store", "journal"] {
            ensure!(check(&stopped, name)?.0 == "ok", "{stopped}");
        }
        let said = n2.cli(["doctor"]).run()?.fails_with(1)?;
        ensure!(said.stdout.contains("FAIL") && said.stdout.contains("hint: start it"), "{said}");
        n2.start()?;

        lab.cut(3)?;
        let n3 = lab.node(3)?;
        eventually(LATER, "n3 is isolated", || {
            let cut = doctor(n3, 1)?;
            let (level, message) = check(&cut, "peers")?;
            ensure!(level == "fail" && message.contains("isolated"), "{cut}");
            ensure!(check(&cut, "store")?.0 == "ok", "{cut}");
            Ok(())
        })
    });
}
