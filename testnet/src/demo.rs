//! The main job, end to end, in front of the user's eyes. Every step is verified.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::cluster::{Invite, at_once};
use crate::deb::Deb;
use crate::lab::{Lab, LabOptions};
use crate::net::Network;
use crate::node::Node;
use crate::ready::why_no_namespaces;
use crate::registry;
use crate::root::{dpkg_status, expect_installed};
use crate::wait::eventually;

/// A step that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Big enough for several pieces, small enough for a demo.
const PAYLOAD: u64 = 4 << 20;
/// The package that is published.
const PACKAGE: &str = "hello-peers";

/// Runs the demo, and removes all that it made.
///
/// # Errors
/// When a step does not do what it should, or something is left over.
pub fn run() -> Result<()> {
    let teller = Teller { started: Instant::now() };
    let lab = Lab::create(&LabOptions::hosts(7))?;
    match (lab.network(), why_no_namespaces()) {
        (Network::Loopback(_), Some(why)) => {
            teller.say(&format!("seven hosts on loopback addresses ({why})"));
        }
        _ => teller.say("seven hosts: network namespaces on a bridge"),
    }
    let id = lab.id().to_owned();
    if let Err(why) = play(&lab, &teller) {
        eprintln!("{}", lab.log_tails(30));
        return Err(why);
    }
    lab.destroy().context("something is left over")?;
    ensure!(registry::labs()?.iter().all(|l| l.id != id), "the lab {id} is still registered");
    teller.say("all gone: namespaces, processes, files");
    Ok(())
}

fn play(lab: &Lab, teller: &Teller) -> Result<()> {
    form(lab, teller)?;
    second_operator(lab, teller)?;
    let [n1, n2, n7] = [lab.node(1)?, lab.node(2)?, lab.node(7)?];

    teller.step(n1, "group create gpu --select gpu=true");
    n1.ok(["group", "create", "gpu", "--select", "gpu=true"])?;
    let first = publish(lab, teller, n1, "1.0")?;
    watch(teller, n1, &first, 4)?;
    let gpu = lab.nodes().get(1..5).context("four nodes are of the group")?;
    for node in gpu {
        expect_installed(&node.root(), PACKAGE, "1.0")?;
    }
    for other in [n1, lab.node(6)?] {
        let there = dpkg_status(&other.root(), PACKAGE);
        ensure!(there.is_err(), "{} is not of the group, but has the package", other.name());
    }
    teller.say("dpkg agrees: four have it, n1 and n6 do not");

    n1.kill()?;
    teller.say("n1, who made the cluster and published, is killed (SIGKILL)");

    teller.step(n2, "invite --label gpu=true");
    let token = n2.invite(&Invite::label("gpu=true").uses(1))?;
    teller.step(n7, "join TOKEN");
    n7.join(&token)?;
    n7.installs(PACKAGE, "1.0", PATIENCE)?;
    let seen = n7.sees_state(&first, "n7", "installed", PATIENCE)?;
    teller.say(&format!("n7 came late and took it from its peers: {}", seen.line()));
    let log = n7.log_text();
    let fetched = log.lines().find(|l| l.contains("fetched")).context("n7 fetched nothing")?;
    teller.show(&format!("log of n7: {fetched}"));

    let second = publish(lab, teller, n2, "1.1")?;
    watch(teller, n2, &second, 5)?;
    for node in gpu.iter().chain([n7]) {
        expect_installed(&node.root(), PACKAGE, "1.1")?;
        let status = dpkg_status(&node.root(), PACKAGE)?;
        teller.say(&format!("{}: dpkg -s {PACKAGE}: {status}", node.name()));
    }
    Ok(())
}

fn form(lab: &Lab, teller: &Teller) -> Result<()> {
    let n1 = lab.node(1)?;
    teller.step(n1, "init --name lab");
    n1.init()?;
    teller.step(n1, "invite --label gpu=true");
    let gpu = n1.invite(&Invite::label("gpu=true").uses(4))?;
    teller.step(n1, "invite");
    let plain = n1.invite(&Invite::default())?;
    let five = lab.nodes().get(1..6).context("five nodes are to join")?;
    at_once(five, |node| node.join(if node.name() == "n6" { &plain } else { &gpu }))?;
    teller.say("n2 to n6 joined by token, from the address in it");
    lab.meet(6)?;
    teller.step(n1, "node ls");
    teller.show(&n1.ok(["node", "ls"])?);
    Ok(())
}

fn second_operator(lab: &Lab, teller: &Teller) -> Result<()> {
    let [n1, n2] = [lab.node(1)?, lab.node(2)?];
    teller.step(n2, "key new");
    let key = n2.new_key()?;
    teller.step(n1, &format!("grant {key} --role operator --role publisher"));
    n1.grant(&key, n2, &["operator", "publisher"])
}

fn publish(lab: &Lab, teller: &Teller, on: &Node, version: &str) -> Result<String> {
    let deb = Deb::new(PACKAGE, version).payload(PAYLOAD).build(lab.dir())?;
    let file = deb.file_name().unwrap_or_default().to_string_lossy().into_owned();
    teller.say(&format!("dpkg-deb built {file}"));
    teller.step(on, &format!("publish {file} --group gpu --urgent"));
    let published = on.publish(&deb, &["--group", "gpu", "--urgent"])?;
    teller.say(&format!("ordered as {}", published.name));
    Ok(published.deployment)
}

/// Shows the status each time it changes, until all machines have the package.
fn watch(teller: &Teller, on: &Node, deployment: &str, machines: usize) -> Result<()> {
    let shown = Cell::new(String::new());
    eventually(PATIENCE, "every member has installed", || {
        let seen = on.deployment(deployment)?;
        let line = seen.line();
        if shown.replace(line.clone()) != line {
            teller.say(&format!("status: {line}"));
        }
        ensure!(seen.ordered == machines, "{} machines are ordered", seen.ordered);
        ensure!(seen.count("installed") == machines, "the status is: {line}");
        Ok(())
    })
}

struct Teller {
    started: Instant,
}

impl Teller {
    fn say(&self, words: &str) {
        println!("[{:5.1} s] {words}", self.started.elapsed().as_secs_f64());
    }

    fn step(&self, node: &Node, command: &str) {
        self.say(&format!("{}$ p2pinst {command}", node.name()));
    }

    fn show(&self, text: &str) {
        for line in text.lines() {
            println!("          | {line}");
        }
    }
}
