//! A store that was damaged: set aside, and rebuilt from the peers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dht_store::{Store, StoreError};
use p2pinst_api::DataDir;
use p2pinst_trust::RootChain;
use p2pinst_types::{Cell, NodeId};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::clock;
use crate::identity::{Identity, IdentityError};
use crate::net::Net;
use crate::store::StoreHandle;

/// A pause between two looks for somebody who knows this node.
const PAUSE: Duration = Duration::from_secs(3);

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store cannot be opened, and is not damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The identity is damaged.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A damaged store cannot be set aside.
    #[error("the store {} is damaged ({damage}) and cannot be set aside: {source}", path.display())]
    Aside {
        /// The store.
        path: PathBuf,
        /// What is wrong with it.
        damage: StoreError,
        /// Why it stays where it is.
        source: std::io::Error,
    },
}

/// Where a damaged store is set aside; the last one that was.
#[must_use]
pub fn aside(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".damaged");
    PathBuf::from(name)
}

/// Opens the store. One that is damaged is set aside, and a new one begun with what the node knows
/// of itself; the rest comes from the peers.
///
/// # Errors
/// When it cannot be opened for another reason.
pub fn open_store(dir: &DataDir, identity: &Identity) -> Result<Store, OpenError> {
    let (path, roots) = (dir.store(), identity.roots(dir)?);
    let mut store = match open_marked(&path, roots.clone()) {
        Err(damage) if damage.is_damage() => {
            let aside = aside(&path);
            error!(%damage, aside = %aside.display(), "the store is damaged: it is set aside and rebuilt from the peers; have the disk checked");
            if let Err(source) = std::fs::rename(&path, &aside) {
                return Err(OpenError::Aside { path, damage, source });
            }
            drop(std::fs::remove_file(suspect(&path)));
            Store::open(&path, roots)?
        }
        opened => opened?,
    };
    let own = [&identity.grant, &identity.invite, &identity.admission];
    let known = |cell: &Cell| store.control(&cell.id).is_some();
    let cells: Vec<Cell> = own
        .into_iter()
        .filter_map(|bytes| Cell::parse(bytes.clone()).ok())
        .filter(|cell| !known(cell))
        .collect();
    if !cells.is_empty() {
        store.apply(cells, &[], clock::local())?;
    }
    Ok(store)
}

/// Says that the last attempt to open a store ended in a panic.
fn suspect(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".suspect");
    PathBuf::from(name)
}

/// Opens a store. On some damage redb panics, which ends the daemon: then a mark is left, and the
/// next start takes the store for damaged.
fn open_marked(path: &Path, roots: RootChain) -> Result<Store, StoreError> {
    let mark = suspect(path);
    if mark.exists() {
        return Err(StoreError::Damaged("the database engine failed on it"));
    }
    let before = std::panic::take_hook();
    let old = Arc::new(before);
    let (told, place) = (Arc::clone(&old), mark);
    std::panic::set_hook(Box::new(move |info| {
        error!("the store cannot be opened: at the next start it is taken for damaged");
        drop(std::fs::write(&place, b""));
        told(info);
    }));
    let opened = Store::open(path, roots);
    std::panic::set_hook(Box::new(move |info| old(info)));
    opened
}

/// As long as this node does not find itself in the roster, it asks those that it joined through.
pub async fn find_home(
    own: NodeId,
    bootstrap: Vec<String>,
    net: Net,
    store: StoreHandle,
    shutdown: CancellationToken,
) {
    let mut views = store.watch();
    let is_lost = |store: &StoreHandle| {
        let views = store.views();
        views.machine_of(&own.0).is_none() && !views.revoked.contains_key(&own.0)
    };
    let mut told = false;
    while is_lost(&store) {
        if !told {
            warn!(
                "this node knows nobody of its cluster: looking for those that it joined through"
            );
            told = true;
        }
        for addr in &bootstrap {
            match net.dial(None, std::slice::from_ref(addr)).await {
                Ok(peer) => info!(%peer, %addr, "found a member"),
                Err(error) => debug!(%addr, %error, "nobody there"),
            }
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Ok(()) = views.changed() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    shutdown.cancelled().await;
}
