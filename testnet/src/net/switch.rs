//! Namespaces on a bridge, or on one bridge per site. The bridges have a namespace of their own, so
//! that nothing of a lab shows on the host, and labs do not meet.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Host;
use super::sites::{Sites, site_name, site_of};
use crate::exec::{alive, run, signal};
use crate::wait::eventually;

/// The addresses of a lab: host number i has the i-th.
pub const SUBNET: &str = "10.77.0.0/16";

/// Where `ip netns exec` finds files that replace those of `/etc`.
const ETC_NETNS: &str = "/etc/netns";

/// How many neighbours all namespaces together may know: the kernel's table is shared by all of
/// them, and its default of 1024 silently breaks a full mesh of 32 hosts.
const NEIGHBOURS: [(&str, u64); 3] =
    [("gc_thresh1", 16_384), ("gc_thresh2", 32_768), ("gc_thresh3", 65_536)];

/// From this many hosts on the neighbour table is raised: several labs may run at once.
const CROWD: usize = 12;

/// Bridges, and one namespace per host with a cable to its bridge.
#[derive(Debug)]
pub struct Switch {
    namespace: String,
    hosts: Vec<Host>,
    sites: usize,
}

impl Switch {
    /// Makes the namespaces and the cables; a rate such as `100mbit` limits each cable both ways.
    ///
    /// # Errors
    /// When a command fails, or there would be sites without hosts.
    pub fn create(
        lab: &str,
        count: usize,
        rate: Option<&str>,
        sites: Option<&Sites>,
    ) -> Result<Self> {
        if count > CROWD {
            raise_neighbours()?;
        }
        let switch = Self::attach(lab, count, sites.map_or(0, |s| s.count))?;
        let namespace = &switch.namespace;
        run("ip", ["netns", "add", namespace])?;
        ip(namespace, "link set lo up")?;
        for bridge in ["br0", "br1"] {
            switch.bridge(bridge)?;
        }
        if let Some(sites) = sites {
            switch.make_sites(&sites.wan)?;
        }
        for h in &switch.hosts {
            switch.plug(h, rate)?;
        }
        Ok(switch)
    }

    /// The bridges of a lab that exists.
    ///
    /// # Errors
    /// When it would have too many hosts, or sites without hosts.
    pub fn attach(lab: &str, count: usize, sites: usize) -> Result<Self> {
        let hosts: Vec<Host> =
            (1..=count).map(|i| host(lab, i, site_of(i, count, sites))).collect::<Result<_>>()?;
        let last = hosts.last().and_then(|h| h.site).unwrap_or(0);
        ensure!(last == sites, "{count} hosts cannot be divided among {sites} sites");
        Ok(Self { namespace: format!("{lab}-sw"), hosts, sites })
    }

    /// The namespace of the bridges.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How many sites there are; none when all hosts are on one bridge.
    #[must_use]
    pub fn sites(&self) -> usize {
        self.sites
    }

    /// The hosts, first to last.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Pulls the cable of a host.
    ///
    /// # Errors
    /// When the command fails.
    pub fn cut(&self, host: usize) -> Result<()> {
        ip(&self.namespace, &format!("link set p{host} down"))
    }

    /// Plugs the cable of a host in again.
    ///
    /// # Errors
    /// When the command fails.
    pub fn restore(&self, host: usize) -> Result<()> {
        ip(&self.namespace, &format!("link set p{host} up"))
    }

    /// Moves these hosts to a bridge of their own: they see each other, and nobody else.
    ///
    /// # Errors
    /// When a command fails.
    pub fn split(&self, away: &[usize]) -> Result<()> {
        away.iter().try_for_each(|h| ip(&self.namespace, &format!("link set p{h} master br1")))
    }

    /// Moves these hosts back to the bridge of all others, or of their site.
    ///
    /// # Errors
    /// When a command fails.
    pub fn join(&self, back: &[usize]) -> Result<()> {
        back.iter().try_for_each(|h| {
            let home = home(self.host(*h)?);
            ip(&self.namespace, &format!("link set p{h} master {home}"))
        })
    }

    /// Limits the cable of a host both ways, in place of the limit that it had.
    ///
    /// # Errors
    /// When a command fails, for instance because the rate is none that `tc` knows.
    pub fn limit(&self, host: usize, rate: &str) -> Result<()> {
        let h = self.host(host)?;
        let ns = h.namespace.as_deref().context("a host without a namespace")?;
        shape(ns, "eth0", rate)?;
        shape(&self.namespace, &format!("p{host}"), rate)
    }

    fn host(&self, index: usize) -> Result<&Host> {
        self.hosts.iter().find(|h| h.index == index).context("no such host")
    }

    pub(super) fn bridge(&self, name: &str) -> Result<()> {
        let quiet = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
        ip(&self.namespace, &format!("link add {name} type bridge"))?;
        ip(&self.namespace, &format!("link set {name} {quiet}"))?;
        ip(&self.namespace, &format!("link set {name} up"))
    }

    fn plug(&self, host: &Host, rate: Option<&str>) -> Result<()> {
        let ns = host.namespace.as_deref().context("a host without a namespace")?;
        let port = format!("p{}", host.index);
        // Without this, every reverse look-up of the host's resolver would stall for 10 s.
        let etc = Path::new(ETC_NETNS).join(ns);
        // Once more, because a lab that ends may remove the directory above in between.
        fs::create_dir_all(&etc)
            .or_else(|_| fs::create_dir_all(&etc))
            .with_context(|| format!("cannot make {}", etc.display()))?;
        let resolv = etc.join("resolv.conf");
        fs::write(&resolv, "nameserver 127.0.0.1\n")
            .with_context(|| format!("cannot write {}", resolv.display()))?;
        run("ip", ["netns", "add", ns])?;
        ip(ns, "link set lo up")?;
        ip(&self.namespace, &format!("link add {port} type veth peer name eth0 netns {ns}"))?;
        ip(&self.namespace, &format!("link set {port} master {} up", home(host)))?;
        let bits = SUBNET.rsplit_once('/').map_or("16", |(_, b)| b);
        ip(ns, &format!("addr add {}/{bits} broadcast + dev eth0", host.ip))?;
        ip(ns, "link set eth0 up")?;
        ip(ns, "route add 224.0.0.0/4 dev eth0")?;
        rate.map_or(Ok(()), |rate| self.limit(host.index, rate))
    }
}

/// The bridge of a host.
fn home(host: &Host) -> String {
    host.site.map_or_else(|| "br0".to_owned(), site_name)
}

fn host(lab: &str, index: usize, site: Option<usize>) -> Result<Host> {
    let [third, last] = u16::try_from(index)
        .ok()
        .filter(|i| *i < 0xff00)
        .context("at most 65,000 hosts fit on one bridge")?
        .to_be_bytes();
    let ip = Ipv4Addr::new(10, 77, third, last);
    Ok(Host { index, ip, namespace: Some(format!("{lab}-n{index}")), site })
}

pub(super) fn ip(namespace: &str, words: &str) -> Result<()> {
    run("ip", ["-n", namespace].into_iter().chain(words.split(' '))).map(drop)
}

pub(super) fn shape(namespace: &str, device: &str, rate: &str) -> Result<()> {
    // A burst of 64 kB gives 95.6 % of the rate as TCP payload, which is what a real link gives.
    let rule = format!("qdisc replace dev {device} root tbf rate {rate} burst 64kb latency 50ms");
    run("tc", ["-n", namespace].into_iter().chain(rule.split(' ')))
        .map(drop)
        .with_context(|| format!("cannot limit a link to `{rate}`: write it as in 100mbit"))
}

fn raise_neighbours() -> Result<()> {
    for (name, wanted) in NEIGHBOURS {
        let file = Path::new("/proc/sys/net/ipv4/neigh/default").join(name);
        let now = fs::read_to_string(&file).ok().and_then(|t| t.trim().parse::<u64>().ok());
        if now.is_none_or(|n| n < wanted) {
            fs::write(&file, wanted.to_string())
                .with_context(|| format!("cannot raise {}", file.display()))?;
        }
    }
    Ok(())
}

/// Kills all that runs in the namespaces of a lab, and removes them.
///
/// # Errors
/// When one of them is still there afterwards.
pub fn remove_namespaces(lab: &str) -> Result<()> {
    let prefix = format!("{lab}-");
    let names = || -> Result<Vec<String>> {
        let all = run("ip", ["netns", "list"])?;
        Ok(all
            .lines()
            .filter_map(|l| l.split_whitespace().next())
            .filter(|n| n.starts_with(&prefix))
            .map(str::to_owned)
            .collect())
    };
    let found = names()?;
    let mut pids = Vec::new();
    for ns in &found {
        for pid in run("ip", ["netns", "pids", ns])?.lines().filter_map(|p| p.trim().parse().ok()) {
            signal(pid, "KILL")?;
            pids.push(pid);
        }
    }
    eventually(Duration::from_secs(10), "killed processes are gone", || {
        ensure!(!pids.iter().any(|p| alive(*p)), "some of {pids:?} are alive");
        Ok(())
    })?;
    for ns in &found {
        // A process that just died may hold the mount for a moment.
        if run("ip", ["netns", "del", ns]).is_err() {
            thread::sleep(Duration::from_millis(100));
            run("ip", ["netns", "del", ns])?;
        }
        remove_dir(&Path::new(ETC_NETNS).join(ns))?;
    }
    // Only when it is empty, which means that it was ours alone.
    fs::remove_dir(ETC_NETNS).ok();
    let left = names()?;
    ensure!(left.is_empty(), "these namespaces could not be removed: {}", left.join(", "));
    Ok(())
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
