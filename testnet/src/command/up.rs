//! `testnet up`: a cluster that stays until `testnet down`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use p2pinst_testnet::net::{Network, Sites, Wan};
use p2pinst_testnet::ready::why_no_namespaces;
use p2pinst_testnet::{Invite, Lab, LabOptions};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many nodes
    nodes: usize,
    /// More hosts on the network, for `testnet node N join TOKEN`
    #[arg(long, default_value_t = 0)]
    spare: usize,
    /// The rate of each link, both ways, such as 100mbit
    #[arg(long)]
    rate: Option<String>,
    /// Divide the hosts into so many sites
    #[arg(long)]
    sites: Option<usize>,
    /// The rate of each site's WAN link, both ways
    #[arg(long, requires = "sites")]
    wan_rate: Option<String>,
    /// Milliseconds from a site to the core, or back
    #[arg(long, requires = "sites", default_value_t = 0)]
    wan_ms: u64,
    /// A label for every node but the first
    #[arg(long)]
    label: Option<String>,
}

impl Args {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let wan = Wan { rate: self.wan_rate, delay: Duration::from_millis(self.wan_ms) };
        let sites = self.sites.map(|count| Sites { count, wan });
        let hosts = self.nodes.saturating_add(self.spare);
        let options = LabOptions::hosts(hosts).rate(self.rate).sites(sites);
        let lab = Lab::create(&options)?;
        if let (Network::Loopback(_), Some(why)) = (lab.network(), why_no_namespaces()) {
            eprintln!("on loopback addresses: {why}");
        }
        let invite = self.label.as_deref().map_or_else(Invite::default, Invite::label);
        lab.form(self.nodes, &invite)?;
        let entry = lab.keep()?;
        println!("{}", entry.id);
        eprintln!(
            "{n} nodes are up; logs and data are in {dir}\n\n  \
             testnet run 1 -- p2pinst node ls          a command on node 1\n  \
             testnet run 2 -- sh                       a shell on node 2\n  \
             testnet node 3 kill                       SIGKILL; see testnet node --help\n  \
             testnet down                              remove it all",
            n = self.nodes,
            dir = entry.dir.display(),
        );
        Ok(ExitCode::SUCCESS)
    }
}
