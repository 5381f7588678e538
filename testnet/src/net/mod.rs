//! The network of a lab: namespaces on a bridge, or loopback addresses where those are not allowed.

mod loopback;
mod switch;

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};

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
    /// When a command fails, or a rate is asked for where there are no namespaces.
    pub fn create(lab: &str, hosts: usize, rate: Option<&str>) -> Result<Self> {
        match why_no_namespaces() {
            None => Ok(Self::Switch(Switch::create(lab, hosts, rate)?)),
            Some(why) if rate.is_some() => bail!("links with a rate need namespaces; {why}"),
            Some(_) => Ok(Self::Loopback(loopback::hosts(hosts)?)),
        }
    }

    /// The network of a lab that exists.
    ///
    /// # Errors
    /// When an address of it cannot be read.
    pub fn attach(lab: &str, addrs: &[String], namespaces: bool) -> Result<Self> {
        if namespaces {
            return Ok(Self::Switch(Switch::attach(lab, addrs.len())?));
        }
        let host = |(i, a): (usize, &String)| {
            let ip = a.parse().with_context(|| format!("`{a}` is no address"))?;
            Ok(Host { index: i + 1, ip, namespace: None })
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
