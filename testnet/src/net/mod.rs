//! The network of a lab: namespaces on a bridge, or loopback addresses where those are not allowed.

pub mod line;
mod loopback;
mod sites;
mod switch;

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};

pub use sites::{Sites, Wan, site_name, wan_in, wan_out};
pub use switch::{SUBNET, Switch, remove_namespaces};

use crate::exec::Exec;
use crate::ready::why_no_namespaces;

/// One host of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its number, from 1.
    pub index: usize,
    /// Its address.
    pub ip: Ipv4Addr,
    /// The namespace that it lives in, if it has one of its own.
    pub namespace: Option<String>,
    /// The number of its site, from 1, if the lab has sites.
    pub site: Option<usize>,
}

impl Host {
    /// A program that will run on this host.
    #[must_use]
    pub fn exec(&self, program: impl Into<std::ffi::OsString>) -> Exec {
        match &self.namespace {
            Some(ns) => Exec::new("ip").args(["netns", "exec", ns]).arg(program),
            None => Exec::new(program),
        }
    }
}

/// The network of a lab.
#[derive(Debug)]
pub enum Network {
    /// A namespace per host, on a bridge.
    Switch(Switch),
    /// An address per host, on the loopback interface.
    Loopback(Vec<Host>),
}

impl Network {
    /// Makes the best network that this machine allows.
    ///
    /// # Errors
    /// When a command fails, or a rate or sites are asked for where there are no namespaces.
    pub fn create(
        lab: &str,
        hosts: usize,
        rate: Option<&str>,
        sites: Option<&Sites>,
    ) -> Result<Self> {
        match why_no_namespaces() {
            None => Ok(Self::Switch(Switch::create(lab, hosts, rate, sites)?)),
            Some(why) if rate.is_some() || sites.is_some() => {
                bail!("links with a rate, and sites, need namespaces; {why}")
            }
            Some(_) => Self::loopback(hosts),
        }
    }

    /// Hosts on loopback addresses.
    ///
    /// # Errors
    /// When there would be too many.
    pub fn loopback(hosts: usize) -> Result<Self> {
        Ok(Self::Loopback(loopback::hosts(hosts)?))
    }

    /// The network of a lab that exists.
    ///
    /// # Errors
    /// When an address of it cannot be read.
    pub fn attach(lab: &str, addrs: &[String], namespaces: bool, sites: usize) -> Result<Self> {
        if namespaces {
            return Ok(Self::Switch(Switch::attach(lab, addrs.len(), sites)?));
        }
        let host = |(i, a): (usize, &String)| {
            let ip = a.parse().with_context(|| format!("`{a}` is no address"))?;
            Ok(Host { index: i + 1, ip, namespace: None, site: None })
        };
        Ok(Self::Loopback(addrs.iter().enumerate().map(host).collect::<Result<_>>()?))
    }

    /// The hosts, first to last.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        match self {
            Self::Switch(switch) => switch.hosts(),
            Self::Loopback(hosts) => hosts,
        }
    }

    /// The bridge with its cables.
    ///
    /// # Errors
    /// When the lab has none.
    pub fn switch(&self) -> Result<&Switch> {
        match self {
            Self::Switch(switch) => Ok(switch),
            Self::Loopback(_) => {
                bail!("this lab runs on loopback addresses, which have no cables: run it as root")
            }
        }
    }
}
