//! This machine's own place in the cluster: what it is called, whether it is a member still, under
//! which root.
//!
//! R16: a node that is removed installs nothing more (the agent finds itself in no group), dials
//! nobody, and says so. It hears of it from its peers, or from the first that refuses it: the
//! refusal carries the proof ([`p2pinst_trust::Proof`]). It remembers, since the proof is stored
//! like any other record.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use dht_store::Views;
use p2pinst_api::DataDir;
use p2pinst_files::{Context as _, FileError};
use p2pinst_types::Name;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock;
use crate::control::Control;
use crate::identity::Identity;
use crate::net::Net;
use crate::store::{Own, StoreHandle};

/// The task: watches the roster, and tells what becomes of this machine.
#[derive(Debug)]
pub struct Membership {
    dir: DataDir,
    own: Arc<Own>,
    store: StoreHandle,
    control: Control,
    net: Net,
    name: Name,
    removed: bool,
    /// How many roots there are.
    roots: usize,
}

impl Membership {
    /// For the machine that was called `name` when it started.
    #[must_use]
    pub fn new(
        dir: DataDir,
        own: Arc<Own>,
        name: Name,
        (store, control, net): (StoreHandle, Control, Net),
    ) -> Self {
        let roots = store.views().roots.signed().len();
        Self { dir, own, store, control, net, name, removed: false, roots }
    }

    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.store.watch();
        loop {
            let views = self.store.views();
            self.follow_name(&views).await;
            self.tell_removal(&views);
            self.pass_on_roots(&views);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                changed = changes.changed() => if changed.is_err() { break },
            }
        }
    }

    /// The file says what the roster says: it is what commands read while no daemon runs.
    async fn follow_name(&mut self, views: &Views) {
        let Some(machine) = views.machine_of(&self.own.node.0) else { return };
        if machine.name == self.name {
            return;
        }
        info!(from = %self.name, to = %machine.name, "this machine has another name now");
        self.name.clone_from(&machine.name);
        let (dir, name) = (self.dir.clone(), self.name.clone());
        let saved = tokio::task::spawn_blocking(move || {
            let identity = Identity::load(&dir)?;
            Identity { name, ..identity }.save(&dir)
        });
        if let Ok(Err(error)) = saved.await {
            warn!(%error, "cannot write down this machine's new name");
        }
    }

    /// Roots are no cells, and gossip does not carry them: a sync shows every peer that there is a
    /// new one.
    fn pass_on_roots(&mut self, views: &Views) {
        let roots = views.roots.signed().len();
        if roots > self.roots {
            self.roots = roots;
            info!(version = roots, in_force = views.root_in_force, "the cluster has a new root");
            self.net.peers().connected().into_iter().for_each(|peer| self.control.wish(peer));
        }
    }

    fn tell_removal(&mut self, views: &Views) {
        let removal = views.removal(&self.own.node.0);
        if let Some(removal) = removal.filter(|_| !self.removed) {
            let author = removal.cell.id.author;
            let by = match views.key_name(&author) {
                Some(name) => name.to_string(),
                None if author == self.own.node.0 => "itself".to_owned(),
                None => author.short(),
            };
            warn!(
                %by, at = %removal.at.millis(), reason = %removal.reason,
                "this machine was removed from the cluster: it installs nothing any more; `p2pinst leave` puts its data aside, so that it can join anew"
            );
        }
        self.removed = removal.is_some();
    }
}

/// Moves what makes a data directory a member's into a directory of its own below it: identity,
/// key, store and journal. Blobs and administrators' keys stay. Returns where to.
///
/// # Errors
/// When something cannot be moved.
pub fn put_aside(dir: &DataDir) -> Result<PathBuf, FileError> {
    let aside = dir.path().join(format!("left-{}", clock::local().0));
    p2pinst_files::make_private_dir(&aside)?;
    // the identity first: without it the directory belongs to no cluster
    for path in [dir.identity(), dir.node_key(), dir.store(), dir.journal()] {
        let Some(name) = path.file_name() else { continue };
        match fs::rename(&path, aside.join(name)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            moved => moved.context("move aside", &path)?,
        }
    }
    p2pinst_files::sync_dir(dir.path())?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_aside_frees_the_directory_and_keeps_the_rest() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temp.path());
        for path in [dir.identity(), dir.node_key(), dir.store(), dir.config()] {
            fs::write(path, "x").unwrap();
        }
        fs::create_dir(dir.keys()).unwrap();
        let aside = put_aside(&dir).unwrap();
        for gone in [dir.identity(), dir.node_key(), dir.store()] {
            assert!(!gone.exists() && aside.join(gone.file_name().unwrap()).exists());
        }
        assert!(dir.config().exists() && dir.keys().exists());
        // also when there is nothing left to move
        fs::remove_dir_all(&aside).unwrap();
        put_aside(&dir).unwrap();
    }
}
