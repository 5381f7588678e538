//! Limits: of a node, of the way to other sites, of a deployment; busy nodes; what is urgent. What is
//! counted are the bytes on the wire.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::{Deb, Invite, Lab, Node, eventually};
use serde_json::Value;

use crate::harness::{LATER, SOON, cluster, deb, publish_to_all, scenario};
use crate::main_job::quiet_below;

/// What a node says beside the pieces, and what a limit lets through at once.
const SLACK: u64 = 600_000;
const MB: u64 = 1_000_000;

/// Bytes that a node has sent and received so far.
fn counters(node: &Node) -> Result<(u64, u64)> {
    let read = |name: &str| -> Result<u64> {
        let file = format!("/sys/class/net/eth0/statistics/{name}");
        let done = node.exec("cat").arg(&file).run()?.ok()?;
        done.stdout.trim().parse().with_context(|| format!("{file}: {done}"))
    };
    Ok((read("tx_bytes")?, read("rx_bytes")?))
}

/// Counts what a node sends and receives from now on.
struct Meter<'a> {
    node: &'a Node,
    begun: Instant,
    before: (u64, u64),
}

impl<'a> Meter<'a> {
    fn new(node: &'a Node) -> Result<Self> {
        let begun = Instant::now();
        Ok(Self { node, begun, before: counters(node)? })
    }

    fn moved(&self) -> Result<(u64, u64)> {
        let now = counters(self.node)?;
        Ok((now.0 - self.before.0, now.1 - self.before.1))
    }

    /// What may have moved until now at so many bytes per second. To be called after [`Meter::moved`].
    fn allowed(&self, rate: u64) -> u64 {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        rate * millis / 1000 + SLACK
    }

    fn sent_at_most(&self, rate: u64) -> Result<()> {
        let (sent, allowed) = (self.moved()?.0, self.allowed(rate));
        ensure!(sent <= allowed, "{} sent {sent} bytes of {allowed}", self.node.name());
        Ok(())
    }

    fn received_at_most(&self, rate: u64) -> Result<()> {
        let (received, allowed) = (self.moved()?.1, self.allowed(rate));
        ensure!(received <= allowed, "{} received {received} of {allowed}", self.node.name());
        Ok(())
    }
}

fn has(node: &Node, package: &str) -> bool {
    node.installs(package, "1.0", Duration::ZERO).is_ok()
}

fn limits(node: &Node) -> Result<Value> {
    node.json(["limits", "show"])
}

fn big(lab: &Lab, name: &str, bytes: u64) -> Result<std::path::PathBuf> {
    Deb::new(name, "1.0").payload(bytes).build(lab.dir())
}

#[test]
fn a_limited_node_sends_no_more_and_others_are_not_slowed() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        n1.share_power(n2)?;
        n1.ok(["limits", "set", "up=500kB/s", "--for", "1h"])?;
        ensure!(limits(n1)?["now"]["up"] == 500_000, "{}", limits(n1)?);
        let meter = Meter::new(n1)?;
        publish_to_all(n1, &big(lab, "slow", 40 * MB)?, &[]).run()?.ok()?;
        publish_to_all(n2, &big(lab, "free", 20 * MB)?, &[]).run()?.ok()?;
        n3.installs("free", "1.0", LATER)?;
        ensure!(!has(n2, "slow") && !has(n3, "slow"), "slow is there already");
        eventually(SOON, "some of it leaves", || {
            ensure!(meter.moved()?.0 > 2 * MB, "nothing leaves n1");
            Ok(())
        })?;
        meter.sent_at_most(MB / 2)?;
        // without a restart
        n1.ok(["limits", "reset"])?;
        n2.installs("slow", "1.0", LATER)?;
        n3.installs("slow", "1.0", LATER)?;
        n1.ok(["limits", "set", "down=7MB/s", "--keep"])?;
        let text = fs::read_to_string(n1.data().join("config.toml"))?;
        ensure!(text.contains("down = \"7MB/s\""), "{text}");
        n1.stop()?;
        n1.start()?;
        ensure!(limits(n1)?["now"]["down"] == 7 * MB, "{}", limits(n1)?);
        Ok(())
    });
}

#[test]
fn a_limit_of_the_wan_counts_what_goes_to_other_sites() {
    scenario(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        n1.init()?;
        let roster: Value = n1.json(["node", "ls"])?;
        let own = roster["nodes"][0]["site"].as_str().context("n1's site")?;
        n2.join(&n1.invite(&Invite::default().with(&["--site", own]))?)?;
        n3.join(&n1.invite(&Invite::default().with(&["--site", "elsewhere"]))?)?;
        lab.meet(3)?;
        for node in [n1, n2] {
            node.ok(["limits", "set", "wan_up=150kB/s"])?;
        }
        let meter = Meter::new(n3)?;
        publish_to_all(n1, &big(lab, "near", 24 * MB)?, &[]).run()?.ok()?;
        n2.installs("near", "1.0", LATER)?;
        ensure!(!has(n3, "near"), "n3 has it already");
        eventually(SOON, "some of it comes to n3", || {
            ensure!(meter.moved()?.1 > MB, "nothing comes");
            Ok(())
        })?;
        meter.received_at_most(300_000)?;
        n1.ok(["limits", "set", "wan_up=none"])?;
        n3.installs("near", "1.0", LATER)
    });
}

#[test]
fn a_deployment_keeps_to_its_limit_and_others_pass_it() {
    cluster(3, |lab| {
        let n1 = lab.node(1)?;
        let meters = lab.nodes().iter().map(Meter::new).collect::<Result<Vec<_>>>()?;
        let args = ["--limit", "400kB/s"];
        publish_to_all(n1, &big(lab, "slow", 40 * MB)?, &args).run()?.ok()?;
        eventually(SOON, "it comes", || {
            ensure!(
                meters
                    .iter()
                    .all(|m| m.moved().is_ok_and(|(_, r)| r > MB) || m.node.name() == "n1")
            );
            Ok(())
        })?;
        thread::sleep(Duration::from_secs(3));
        for meter in &meters {
            meter.sent_at_most(400_000)?;
            meter.received_at_most(400_000)?;
        }
        let status: Value = n1.json(["status"])?;
        ensure!(status["deployments"][0]["limit"] == 400_000, "{status}");
        ensure!(limits(n1)?["deployments"][0]["limit"] == 400_000, "{}", limits(n1)?);
        publish_to_all(n1, &big(lab, "free", 20 * MB)?, &[]).run()?.ok()?;
        for node in lab.nodes() {
            node.installs("free", "1.0", LATER)?;
        }
        ensure!(!has(lab.node(2)?, "slow"), "slow is there already");
        Ok(())
    });
}

/// Adds limits to a node's configuration, which is read at its next start.
fn configure(node: &Node, text: &str) -> Result<()> {
    let file = node.data().join("config.toml");
    let old = fs::read_to_string(&file)?;
    let new = old.replace("[limits]\n", &format!("[limits]\n{text}\n"));
    ensure!(new != old, "there is no [limits] in it:\n{old}");
    Ok(fs::write(&file, new)?)
}

#[test]
fn a_busy_node_leaves_it_to_others_unless_it_is_urgent() {
    cluster(4, |lab| {
        let [n1, n2, n3, n4] = [lab.node(1)?, lab.node(2)?, lab.node(3)?, lab.node(4)?];
        n1.share_power(n2)?;
        configure(n2, "busy_up = \"100kB/s\"")?;
        // other tests may keep the processors busy: only n2 calls that busy
        quiet_below(n2, "0.0")?;
        [n1, n3, n4].into_iter().try_for_each(|n| quiet_below(n, "101.0"))?;
        lab.meet(4)?;
        n1.ok(["group", "create", "early", "--hosts", "n[1-3]"])?;
        let file = big(lab, "common", 24 * MB)?;
        let early = n1.publish(&file, &["--group", "early", "--urgent", "--wait"])?;
        n1.ok(["retire", early.name.as_str(), "--reason", "not urgent any more"])?;
        eventually(SOON, "n2 finds itself busy", || {
            ensure!(limits(n2)?["busy"] == true, "{}", limits(n2)?);
            Ok(())
        })?;
        eventually(SOON, "n2 hears that it is not urgent", || {
            ensure!(n2.status()?.deployments.is_empty(), "n2 has not heard");
            Ok(())
        })?;
        let [busy, idle] = [Meter::new(n2)?, Meter::new(n3)?];
        n1.publish(&file, &["--group", "all"])?;
        n4.installs("common", "1.0", LATER)?;
        let (busy, idle) = (busy.moved()?.0, idle.moved()?.0);
        ensure!(busy < idle / 2, "the busy one gave {busy} bytes, the idle one {idle}");
        // at 100 kB/s this would take four minutes
        let meter = Meter::new(n2)?;
        publish_to_all(n2, &big(lab, "pressing", 24 * MB)?, &[]).run()?.ok()?;
        n4.installs("pressing", "1.0", LATER)?;
        ensure!(meter.moved()?.0 > 20 * MB, "n2 did not give it");
        ensure!(limits(n2)?["busy"] == true, "{}", limits(n2)?);
        Ok(())
    });
}

#[test]
fn what_is_urgent_overtakes_a_big_one_that_is_under_way() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        // a window that is always open, so that the big one takes its time
        configure(n1, "windows = [{ from = \"00:00\", to = \"24:00\", up = \"1500kB/s\" }]")?;
        [n1, n2, n3].into_iter().try_for_each(|n| quiet_below(n, "101.0"))?;
        lab.meet(3)?;
        ensure!(limits(n1)?["windows"][0]["holds"] == true, "{}", limits(n1)?);
        let published = n1.publish(&big(lab, "bulky", 90 * MB)?, &["--group", "all"])?;
        for name in ["n2", "n3"] {
            n1.sees_state(&published.deployment, name, "fetching", SOON)?;
        }
        publish_to_all(n1, &big(lab, "pressing", 20 * MB)?, &[]).run()?.ok()?;
        let meter = Meter::new(n1)?;
        for node in [n2, n3] {
            node.installs("pressing", "1.0", LATER)?;
            ensure!(!has(node, "bulky"), "{} has the big one already", node.name());
        }
        // sharing the way with the big one, it would have taken as many bytes again
        let sent = meter.moved()?.0;
        ensure!(sent < 30 * MB, "{sent} bytes left until the urgent one was there");
        n1.ok(["limits", "set", "up=none"])?;
        publish_to_all(n1, &deb(lab, "after", "1.0")?, &[]).run()?.ok()?;
        for node in [n1, n2, n3] {
            node.installs("bulky", "1.0", LATER)?;
            node.installs("after", "1.0", LATER)?;
        }
        Ok(())
    });
}
