//! A lab: a network, a directory, and one node per host. Dropping it removes everything.

use std::env;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;

use anyhow::{Context as _, Result};

use crate::bins::Bins;
use crate::exec::start_time;
use crate::net::{Network, Sites};
use crate::node::Node;
use crate::ready::why_no_namespaces;
use crate::registry::{self, Entry};

/// Keeps the files of a lab that failed, when set to anything.
pub const KEEP: &str = "P2PINST_TESTNET_KEEP";

/// What a lab should be like.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// How many hosts.
    pub hosts: usize,
    /// The rate of each cable, both ways, as `tc` writes it.
    pub rate: Option<String>,
    /// How the hosts are divided into sites; all are on one bridge otherwise.
    pub sites: Option<Sites>,
    /// Whether the hosts are loopback addresses even where there could be namespaces.
    pub loopback: bool,
    /// The directory for its files; the system's temporary one otherwise.
    pub below: Option<PathBuf>,
    /// The binaries; those that [`Bins::find`] finds otherwise.
    pub bins: Option<Bins>,
}

impl LabOptions {
    /// That many hosts on cables as fast as this machine.
    #[must_use]
    pub fn hosts(hosts: usize) -> Self {
        Self { hosts, rate: None, sites: None, loopback: false, below: None, bins: None }
    }

    /// The same with a rate on each cable.
    #[must_use]
    pub fn rate(mut self, rate: Option<String>) -> Self {
        self.rate = rate;
        self
    }

    /// The same on loopback addresses.
    #[must_use]
    pub fn loopback(mut self) -> Self {
        self.loopback = true;
        self
    }

    /// The same with the hosts divided into sites.
    #[must_use]
    pub fn sites(mut self, sites: Option<Sites>) -> Self {
        self.sites = sites;
        self
    }
}

/// A network with nodes on it.
#[derive(Debug)]
pub struct Lab {
    entry: Entry,
    network: Network,
    nodes: Vec<Node>,
    gone: bool,
}

impl Lab {
    /// Makes the network and the directories; no daemon runs yet.
    ///
    /// # Errors
    /// When the binaries are missing, or a part cannot be made.
    pub fn create(options: &LabOptions) -> Result<Self> {
        let bins = options.bins.clone().map_or_else(Bins::find, Ok)?;
        registry::sweep()?;
        let pid = process::id();
        let tail = RandomState::new().hash_one(pid) & 0xffff;
        let id = format!("p2t{pid}x{tail:04x}");
        let dir = options.below.clone().unwrap_or_else(env::temp_dir).join(&id);
        let mut entry = Entry {
            id: id.clone(),
            pid,
            started: start_time(pid).context("cannot read this process's start time")?,
            kept: false,
            dir: dir.clone(),
            hosts: options.hosts,
            namespaces: !options.loopback && why_no_namespaces().is_none(),
            addrs: Vec::new(),
            sites: options.sites.as_ref().map_or(0, |s| s.count),
        };
        entry.save()?;
        let network = match make(&entry, options) {
            Ok(network) => network,
            Err(why) => {
                entry.destroy()?;
                return Err(why).context("cannot make the lab");
            }
        };
        entry.addrs = network.hosts().iter().map(|h| h.ip.to_string()).collect();
        let mut lab = Self { entry, network, nodes: Vec::new(), gone: false };
        lab.entry.save()?;
        lab.nodes = nodes(&lab.network, &dir, &bins)?;
        Ok(lab)
    }

    /// A lab that exists; it stays when this is dropped.
    ///
    /// # Errors
    /// When its entry is damaged.
    pub fn attach(entry: Entry, bins: &Bins) -> Result<Self> {
        let network = Network::attach(&entry.id, &entry.addrs, entry.namespaces, entry.sites)?;
        let nodes = nodes(&network, &entry.dir, bins)?;
        Ok(Self { entry, network, nodes, gone: true })
    }

    /// The lab's name, the first part of its namespaces' names.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.entry.id
    }

    /// A place for files of the lab's user; gone with the lab.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.entry.dir
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The nodes, first to last.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by its number, from 1.
    ///
    /// # Errors
    /// When the lab has no such node.
    pub fn node(&self, number: usize) -> Result<&Node> {
        number
            .checked_sub(1)
            .and_then(|i| self.nodes.get(i))
            .with_context(|| format!("this lab has nodes 1 to {}, not {number}", self.nodes.len()))
    }

    /// Pulls the cable of a node.
    ///
    /// # Errors
    /// When there are no cables, or the command fails.
    pub fn cut(&self, number: usize) -> Result<()> {
        self.network.switch()?.cut(number)
    }

    /// Plugs the cable of a node in again.
    ///
    /// # Errors
    /// When there are no cables, or the command fails.
    pub fn restore(&self, number: usize) -> Result<()> {
        self.network.switch()?.restore(number)
    }

    /// The last lines of every node's log.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        self.nodes.iter().filter(|n| n.log().exists()).map(|n| n.log_tail(lines)).collect()
    }

    /// Lets the lab stay when this process ends.
    ///
    /// # Errors
    /// When its entry cannot be written.
    pub fn keep(mut self) -> Result<Entry> {
        self.entry.kept = true;
        self.entry.save()?;
        self.gone = true;
        Ok(self.entry.clone())
    }

    /// Kills all that runs, removes all that was made, and checks that nothing is left.
    ///
    /// # Errors
    /// When something is left.
    pub fn destroy(mut self) -> Result<()> {
        self.gone = true;
        self.remove()
    }

    fn remove(&self) -> Result<()> {
        // First all at once, so that none of them sees the others die.
        for node in &self.nodes {
            node.kill().ok();
        }
        self.entry.destroy()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        if thread::panicking() {
            eprintln!("{}", self.log_tails(40));
        }
        if env::var_os(KEEP).is_some() {
            eprintln!(
                "kept for a look: {}; `testnet down {}` removes it",
                self.dir().display(),
                self.id()
            );
            self.entry.kept = true;
            self.entry.save().ok();
            return;
        }
        if let Err(why) = self.remove() {
            eprintln!("the lab {} could not be removed whole: {why:#}", self.id());
        }
    }
}

fn make(entry: &Entry, options: &LabOptions) -> Result<Network> {
    let (hosts, rate, sites) = (options.hosts, options.rate.as_deref(), options.sites.as_ref());
    fs::create_dir_all(&entry.dir)
        .with_context(|| format!("cannot make {}", entry.dir.display()))?;
    if options.loopback {
        return Network::loopback(hosts);
    }
    Network::create(&entry.id, hosts, rate, sites)
}

fn nodes(network: &Network, dir: &Path, bins: &Bins) -> Result<Vec<Node>> {
    network.hosts().iter().map(|host| Node::new(dir, host.clone(), bins)).collect()
}
