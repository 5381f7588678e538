//! Sites: a bridge for each, and a WAN link from it to a core bridge that joins them all.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::line;
use super::switch::{Switch, ip, shape};

/// The WAN link of each site.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wan {
    /// Its rate both ways, as `tc` writes it; as fast as this machine otherwise.
    pub rate: Option<String>,
    /// How long a frame is on its way from a site to the core, and as long from there to a site:
    /// between two sites the round trip takes four times that.
    pub delay: Duration,
}

/// How the hosts of a lab are divided: the first `hosts / count` of them are site 1, and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sites {
    /// How many.
    pub count: usize,
    /// What is between them.
    pub wan: Wan,
}

/// The bridge in the middle.
const CORE: &str = "br0";

/// The name by which the cluster knows a site.
#[must_use]
pub fn site_name(site: usize) -> String {
    format!("s{site}")
}

/// The site of a host, both from 1; none if there are no sites.
pub(super) fn site_of(host: usize, hosts: usize, sites: usize) -> Option<usize> {
    let size = hosts.div_ceil(sites.max(1)).max(1);
    (sites > 0).then(|| host.saturating_sub(1) / size + 1)
}

/// The end of a site's WAN link that is in the site: what it sends leaves the site.
#[must_use]
pub fn wan_out(site: usize) -> String {
    format!("w{site}")
}

/// The end of a site's WAN link that is in the core: what it sends enters the site.
#[must_use]
pub fn wan_in(site: usize) -> String {
    format!("c{site}")
}

impl Switch {
    /// Cuts the WAN link of a site: inside of it all go on seeing each other.
    ///
    /// # Errors
    /// When there is no such site, or the command fails.
    pub fn cut_site(&self, site: usize) -> Result<()> {
        self.wan(site, "down")
    }

    /// Mends the WAN link of a site.
    ///
    /// # Errors
    /// When there is no such site, or the command fails.
    pub fn restore_site(&self, site: usize) -> Result<()> {
        self.wan(site, "up")
    }

    /// Limits the WAN link of a site both ways, in place of the limit that it had.
    ///
    /// # Errors
    /// When there is no such site, or `tc` does not know the rate.
    pub fn limit_site(&self, site: usize, rate: &str) -> Result<()> {
        self.check_site(site)?;
        shape(self.namespace(), &wan_out(site), rate)?;
        shape(self.namespace(), &wan_in(site), rate)
    }

    /// Makes the bridges and the WAN links.
    pub(super) fn make_sites(&self, wan: &Wan) -> Result<()> {
        (1..=self.sites()).try_for_each(|site| {
            let (ns, bridge) = (self.namespace(), site_name(site));
            let (out, into) = (wan_out(site), wan_in(site));
            self.bridge(&bridge)?;
            if wan.delay.is_zero() {
                ip(ns, &format!("link add {out} type veth peer name {into}"))?;
            } else {
                // Ends with the namespace: whoever removes that kills what runs in it.
                drop(line::start(ns, &out, &into, wan.delay)?);
            }
            ip(ns, &format!("link set {out} master {bridge} up"))?;
            ip(ns, &format!("link set {into} master {CORE} up"))?;
            wan.rate.as_deref().map_or(Ok(()), |rate| self.limit_site(site, rate))
        })
    }

    fn wan(&self, site: usize, state: &str) -> Result<()> {
        self.check_site(site)?;
        // Either end would do for a cable, but a delay line has two.
        ip(self.namespace(), &format!("link set {} {state}", wan_out(site)))?;
        ip(self.namespace(), &format!("link set {} {state}", wan_in(site)))
    }

    fn check_site(&self, site: usize) -> Result<()> {
        let sites = self.sites();
        ensure!((1..=sites).contains(&site), "this lab has {sites} sites: there is no site {site}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_divided_evenly() {
        let sites = |hosts, count| -> Vec<_> {
            (1..=hosts).filter_map(|h| site_of(h, hosts, count)).collect()
        };
        assert_eq!(sites(6, 3), [1, 1, 2, 2, 3, 3]);
        assert_eq!(sites(5, 2), [1, 1, 1, 2, 2]);
        assert_eq!(sites(3, 0), Vec::<usize>::new());
    }
}
