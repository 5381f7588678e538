//! One installation of all machines: publish, order, start the scouts, wait, and look at every disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::rack::Rack;
use super::report::Machine;
use crate::bench::log;
use crate::bench::swarm::crew::Crew;
use crate::bench::swarm::outcome::Busy;
use crate::bench::swarm::wire::{TCP, Wire};
use crate::bins::Bins;
use crate::cluster::Invite;
use crate::lab::Lab;
use crate::node::Node;
use crate::stats::cpu_seconds;

/// The name of the image, and of the setup.
const IMAGE: &str = "bench";
/// What the machines are to become: the image as it is.
const SETUP: &str =
    "name = \"bench\"\n\n[[disk]]\nmatch = {}\nwipe = \"once\"\nimage = \"bench\"\n";
/// What is changed of the node's configuration. It boots machines; and the scouts are no other programs to it, before which it
/// would hold back what is not urgent: they share its processors here alone.
const CONFIG: [(&str, &str); 2] =
    [("mode = \"off\"", "mode = \"armed\""), ("[limits]\n", "[limits]\nbusy_up = \"none\"\n")];
/// A large image on a busy machine.
const PUBLISH: Duration = Duration::from_secs(600);
/// An installation that takes that many T* has failed...
const PATIENCE: f64 = 10.0;
/// ... but not before this time.
const LEAST: Duration = Duration::from_secs(180);
/// How often is looked who is done. The times are the scouts' own: this one only says until when processor time counts.
const LOOK: Duration = Duration::from_millis(50);

/// What a scout says when it is certified, ...
const CERTIFIED: &str = "this machine is the scout of its order now";
/// ... when it has every piece, ...
const FETCHED: &str = "the image is here";
/// ... and when all is on the disk.
const DONE: &str = "state=finishing";

/// A cluster of one node that boots machines.
pub(super) struct Site<'a> {
    lab: &'a Lab,
    daemon: PathBuf,
    cluster: PathBuf,
}

/// What an installation gave.
pub(super) struct Installed {
    /// Each machine.
    pub(super) machines: Vec<Machine>,
    /// Bytes that left the publisher, headers aside.
    pub(super) published: u64,
    /// Processor seconds of the publisher and the scouts.
    pub(super) cpu: f64,
    /// How busy all processors were: 1 is all the time.
    pub(super) busy: f64,
    /// The most resident memory that a scout had, in bytes.
    pub(super) peak: u64,
}

impl<'a> Site<'a> {
    /// Makes the cluster on the first host.
    pub(super) fn new(lab: &'a Lab) -> Result<Self> {
        lab.form(1, &Invite::default())?;
        let node = lab.node(1)?;
        node.ok(["grant", node.name(), "--role", "boot", "--role", "power"])?;
        node.stop()?;
        let config = node.data().join("config.toml");
        let mut text = fs::read_to_string(&config).context("the node has no configuration")?;
        for (from, to) in CONFIG {
            ensure!(text.contains(from), "{} has no line {from}", config.display());
            text = text.replace(from, to);
        }
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        node.start()?;
        let cluster = lab.dir().join("cluster.cbor");
        node.cli(["scout", "cluster"]).arg(&cluster).run()?.ok()?;
        Ok(Self { lab, daemon: Bins::find()?.daemon, cluster })
    }

    pub(super) fn lab(&self) -> &Lab {
        self.lab
    }

    pub(super) fn node(&self) -> Result<&Node> {
        self.lab.node(1)
    }

    /// The program that scouts are.
    pub(super) fn daemon(&self) -> &Path {
        &self.daemon
    }

    /// The file that tells scouts whose they are.
    pub(super) fn cluster(&self) -> &Path {
        &self.cluster
    }

    /// Publishes the image, and orders it for all machines.
    fn order(&self, rack: &Rack, image: &Path) -> Result<()> {
        let node = self.node()?;
        let publish = node.cli(["image", "publish"]).arg(image).args(["--name", IMAGE]);
        publish.limit(PUBLISH).run()?.ok()?;
        let setup = self.lab.dir().join("setup.toml");
        fs::write(&setup, SETUP).with_context(|| format!("cannot write {}", setup.display()))?;
        let deploy = node.cli(["deploy", "--setup"]).arg(&setup).args(["--nodes", &rack.names()]);
        deploy.args(["--power", "none", "--yes"]).run()?.ok()?;
        Ok(())
    }
}

/// Installs all machines with the image, by scouts that have their files in a new directory of that name, and looks at the disks.
/// `least` is the time, in seconds, in which nobody could.
pub(super) fn install(
    site: &Site<'_>,
    rack: &Rack,
    name: &str,
    image: &Path,
    least: f64,
) -> Result<Installed> {
    site.order(rack, image)?;
    let limit = Duration::from_secs_f64(least * PATIENCE).max(LEAST);
    let publisher = site.node()?.pid()?;
    let wire = Wire::read(site.lab)?.context("the links of the lab have no rate")?;
    let (cpu, busy, begun) = (cpu_seconds(publisher)?, Busy::now()?, Instant::now());
    let mut crew = rack.start(site, &site.lab.dir().join(name))?;
    wait(&mut crew, limit, |crew, n| crew.stderr(n).contains(DONE))?;
    let busy = busy.seconds_since()? / begun.elapsed().as_secs_f64() / processors();
    // they tell the cluster, and end
    wait(&mut crew, limit, Crew::ended)?;
    crew.numbers().try_for_each(|n| crew.succeeded(n))?;
    let wire = Wire::read(site.lab)?.unwrap_or_default().since(&wire);
    let cpu = cpu_seconds(publisher)? - cpu + crew.cpu();
    let logs: Vec<String> = crew.numbers().map(|n| crew.stderr(n)).collect();
    rack.check(image)?;
    let published = wire.up.first().map_or(0, |up| up.content(TCP));
    let came = wire.down.iter().skip(1).map(|down| down.bytes);
    let machines = machines(&logs, came)?;
    Ok(Installed { machines, published, cpu, busy, peak: crew.peak() })
}

/// What the scouts' logs say; and what came by their cables.
fn machines(logs: &[String], came: impl Iterator<Item = u64>) -> Result<Vec<Machine>> {
    let when = |log: &String, what: &str| {
        let at = log::said_at(log, what);
        at.with_context(|| format!("a scout has ended well and never said `{what}`:\n{log}"))
    };
    let times = |log| Ok([when(log, CERTIFIED)?, when(log, FETCHED)?, when(log, DONE)?]);
    let times = logs.iter().map(times).collect::<Result<Vec<[f64; 3]>>>()?;
    let clock = times.iter().map(|[certified, ..]| *certified).fold(f64::INFINITY, f64::min);
    let machine = |((log, times), wire): ((&String, &[f64; 3]), u64)| {
        let [certified, fetched, done] = times.map(|at| (at - clock) / 1000.0);
        let count = |what| {
            let number = log::number(log, FETCHED, what);
            number.with_context(|| format!("no {what} in what a scout has said:\n{log}"))
        };
        Ok(Machine {
            certified,
            fetched,
            done,
            wire,
            received: count("received")?,
            duplicate: count("duplicate")?,
            local: count("local")?,
            sources: count("sources")?,
        })
    };
    logs.iter().zip(&times).zip(came).map(machine).collect()
}

fn processors() -> f64 {
    thread::available_parallelism().map_or(1.0, |n| n.get() as f64)
}

/// Waits until something is so of every scout; ends when one has failed.
fn wait(crew: &mut Crew, limit: Duration, is_so: impl Fn(&Crew, usize) -> bool) -> Result<()> {
    let begun = Instant::now();
    while !crew.numbers().all(|n| is_so(crew, n)) {
        for number in crew.numbers().filter(|n| crew.ended(*n)) {
            crew.succeeded(number)?;
        }
        let left = crew.numbers().find(|n| !is_so(crew, *n));
        let words = || left.map(|n| crew.stderr(n)).unwrap_or_default();
        ensure!(
            begun.elapsed() < limit,
            "a machine is not installed within {limit:?}:\n{}",
            words()
        );
        crew.look();
        thread::sleep(LOOK);
    }
    Ok(())
}
