//! The scout's daemon: `p2pinstd scout`, on a machine that has nothing on its disks yet.
//!
//! It introduces itself to whoever answers ([`meet`]), becomes a node that fetches, serves and reports, and nothing else ([`core`]), carries
//! out the assignment that its certificate names ([`mod@install`]), and starts the machine from its disk. Everything that it knows lies in
//! memory: after a loss of power the next scout begins anew, and finds on the disks what this one has done.

mod console;
mod contacts;
mod core;
mod images;
mod install;
mod meet;
mod render;
mod report;
mod serve;
mod system;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use p2pinst_api::DataDir;
use p2pinst_boot::setup::inventory::{self, Roots};
use p2pinst_trust::{ScoutCluster, SecretKey};
use p2pinst_types::record::Inventory;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::core::Core;
use self::install::{Ended, install};
use self::meet::Meeting;
use self::system::Next;
use crate::addrs::reachable;

/// With what a scout is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it keeps what it needs: in memory.
    pub dir: PathBuf,
    /// The file that says of which cluster it is.
    pub cluster: PathBuf,
    /// Where its first process has written down what it found.
    pub run_dir: PathBuf,
    /// Where it listens.
    pub listen: Vec<String>,
    /// Peers to ask first, beside those that it finds.
    pub peers: Vec<SocketAddr>,
    /// Where the kernel shows what the machine is made of.
    pub roots: Roots,
    /// The only disks that there are for it, by name; none named: all.
    pub only: Vec<String>,
    /// Where it asks for the code of its order, where one is wanted; none named: at all consoles that the kernel has.
    pub consoles: Vec<PathBuf>,
    /// What it does when the machine is installed.
    pub then: Then,
}

/// What a scout does when its machine is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Starts the machine anew.
    Reboot,
    /// Ends: whoever has started it knows what to do.
    Exit,
}

/// What a machine is made of, as far as this scout may use it.
fn look(options: &Options) -> Inventory {
    let mut inventory = inventory::read(&options.roots);
    if !options.only.is_empty() {
        inventory.disks.retain(|disk| options.only.contains(&disk.name));
    }
    inventory
}

/// Runs a scout until its machine is installed, or `shutdown`.
///
/// # Errors
/// When it cannot begin, or another scout has taken its place.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let options = Arc::new(options);
    let path = &options.cluster;
    let bytes = p2pinst_files::read(path, ScoutCluster::MAX as u64)
        .context("it is not known of which cluster this scout is")?;
    let (cluster, roots) =
        ScoutCluster::decode(&bytes).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    let looking = Arc::clone(&options);
    let inventory = spawn_blocking(move || look(&looking)).await?;
    let key = SecretKey::generate()?;
    let met = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        met = meet::meet(&options, &cluster, &roots, &key, &inventory) => met?,
    };
    let met = match met {
        Meeting::Met(met) => met,
        Meeting::Leave(reason) => {
            info!("nothing is to be done here, the machine starts its own system: {reason}");
            return match options.then {
                Then::Reboot => system::reboot(Next::Firmware),
                Then::Exit => Ok(()),
            };
        }
    };
    info!(name = %met.welcomed.cert.name, through = %met.through, "this machine is the scout of its order now");
    let addrs = reachable(&options.listen, met.welcome.bootstrap.first().map(String::as_str));
    let dir = DataDir::new(options.dir.join("node"));
    let core = Core::start(dir, key, &met, &options.listen, addrs).await?;
    let result = tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(Ended::Stopped),
        () = core.replaced() => Err(anyhow!("another scout of this machine has taken over, or its order is over")),
        () = core.over() => Err(anyhow!("its certificate ends soon: it introduces itself again")),
        failed = core.failed() => Err(failed),
        ended = install(&core, &options, inventory) => ended,
    };
    core.stop().await;
    match (result?, options.then) {
        (Ended::Installed(next), Then::Reboot) => system::reboot(next),
        (Ended::Installed(_) | Ended::Stopped, _) => Ok(()),
    }
}
