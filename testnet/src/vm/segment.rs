//! A bridge of a lab, and what is plugged into it besides the lab's hosts.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::exec::run;
use crate::lab::Lab;
use crate::net::{Host, SUBNET, site_name};

/// A bridge of a lab.
#[derive(Debug, Clone)]
pub struct Segment {
    lab: String,
    namespace: String,
    bridge: String,
    dir: PathBuf,
}

impl Segment {
    /// The bridge that the lab's hosts are on.
    ///
    /// # Errors
    /// When the lab has none.
    pub fn of(lab: &Lab) -> Result<Self> {
        Self::bridge(lab, "br0")
    }

    /// The bridge of a site, by its number from 1.
    ///
    /// # Errors
    /// When the lab has no such site.
    pub fn site(lab: &Lab, site: usize) -> Result<Self> {
        let sites = lab.network().switch()?.sites();
        ensure!((1..=sites).contains(&site), "this lab has {sites} sites: there is no site {site}");
        Self::bridge(lab, &site_name(site))
    }

    /// The bridge that [`Switch::split`](crate::net::Switch::split) moves hosts to: nobody is on it at first.
    ///
    /// # Errors
    /// When the lab has no bridges.
    pub fn apart(lab: &Lab) -> Result<Self> {
        Self::bridge(lab, "br1")
    }

    fn bridge(lab: &Lab, bridge: &str) -> Result<Self> {
        Ok(Self {
            lab: lab.id().to_owned(),
            namespace: lab.network().switch()?.namespace().to_owned(),
            bridge: bridge.to_owned(),
            dir: lab.dir().to_owned(),
        })
    }

    /// The namespace that the bridge is in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A host that is no node, in a namespace of its own.
    ///
    /// # Errors
    /// When the name or the address will not do, or a command fails.
    pub fn guest(&self, name: &str, ip: Ipv4Addr) -> Result<Host> {
        // the kernel's limit for the name of the cable's end, and `ip netns` for the rest
        let fits = (1..=12).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        ensure!(fits, "{name:?} cannot name a guest: use up to 12 small letters and digits");
        let namespace = format!("{}-{name}", self.lab);
        let port = format!("g-{name}");
        let bits = SUBNET.rsplit_once('/').map_or("16", |(_, bits)| bits);
        run("ip", ["netns", "add", &namespace])?;
        link(&namespace, "link set lo up")?;
        link(
            &self.namespace,
            &format!("link add {port} type veth peer name eth0 netns {namespace}"),
        )?;
        link(&self.namespace, &format!("link set {port} master {} up", self.bridge))?;
        link(&namespace, &format!("addr add {ip}/{bits} broadcast + dev eth0"))?;
        link(&namespace, "link set eth0 up")?;
        Ok(Host { index: 0, ip, namespace: Some(namespace), site: None })
    }

    /// A cable for a machine, by the name of its end at the bridge.
    pub(super) fn tap(&self, name: &str) -> Result<()> {
        link(&self.namespace, &format!("tuntap add {name} mode tap"))?;
        link(&self.namespace, &format!("link set {name} master {} up", self.bridge))
    }

    /// A directory for the files of something on the segment.
    pub(super) fn make_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(Path::new("machines")).join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }
}

fn link(namespace: &str, words: &str) -> Result<()> {
    run("ip", ["-n", namespace].into_iter().chain(words.split(' '))).map(drop)
}
