//! The credentials of controllers: opened with this node's key, and sealed anew when the nodes with the power role change.
//!
//! Only who can open them can seal them anew, so each of these nodes watches for it; the one that is ranked first does it at once,
//! the others when it has not been done. A node that has lost the role may remember what it could read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dht_store::Views;
use dht_store::view::Controlled;
use p2pinst_boot::power::credentials::Credentials;
use p2pinst_trust::SecretKey;
use p2pinst_trust::sealed::{self, Place, SealedError};
use p2pinst_types::record::Resealed;
use p2pinst_types::{Hash, Hlc, MachineId, Millis, PublicKey, codec};
use thiserror::Error;
use zeroize::Zeroizing;

use super::turn::STAGGER;

/// Credentials that are sealed anew in one go.
const BATCH: usize = 64;

/// Why the credentials of a controller cannot be read.
#[derive(Debug, Error)]
pub(super) enum SecretError {
    /// They cannot be opened.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// They are none.
    #[error("the sealed credentials are no user and password")]
    NoCredentials,
}

fn place<'a>(views: &'a Views, machine: &'a MachineId, controlled: &'a Controlled) -> Place<'a> {
    let controller = &controlled.controller.line;
    Place { cluster: views.roots.cluster(), machine, controller }
}

fn opened(
    views: &Views,
    machine: &MachineId,
    controlled: &Controlled,
    key: &SecretKey,
) -> Result<Option<Zeroizing<Vec<u8>>>, SealedError> {
    let place = place(views, machine, controlled);
    let mut last = None;
    for sealed in controlled.sealings() {
        match sealed::open(&place, sealed, key) {
            Ok(secret) => return Ok(Some(secret)),
            Err(error) => last = Some(error),
        }
    }
    last.map_or(Ok(None), Err)
}

/// The user and the password of a machine's controller, where it has them.
pub(super) fn credentials(
    views: &Views,
    machine: &MachineId,
    controlled: &Controlled,
    key: &SecretKey,
) -> Result<Option<Credentials>, SecretError> {
    let Some(secret) = opened(views, machine, controlled, key)? else { return Ok(None) };
    codec::decode(&secret).map(Some).map_err(|_| SecretError::NoCredentials)
}

/// Which credentials are to be sealed anew, and since when that is known here.
#[derive(Debug, Default)]
pub(super) struct Sealer {
    since: BTreeMap<(MachineId, Hash), Millis>,
}

impl Sealer {
    /// The machines whose credentials this node seals anew now, and when it looks again if there are more.
    pub(super) fn due(
        &mut self,
        views: &Views,
        own: &PublicKey,
        is_up: impl Fn(&PublicKey) -> bool,
        now: Millis,
    ) -> (Vec<MachineId>, Option<Millis>) {
        let nodes = views.power_nodes(Hlc::at(now));
        let (mut due, mut next) = (Vec::new(), None);
        let mut waiting = BTreeMap::new();
        if nodes.contains(own) {
            for (machine, controlled) in &views.controllers {
                if !controlled.is_sealed_to_others(&nodes) {
                    continue;
                }
                let id = (*machine, controlled.cell);
                let since = self.since.get(&id).copied().unwrap_or(now);
                let Some(place) = turn(controlled, &nodes, own, machine, &is_up) else { continue };
                waiting.insert(id, since);
                let then = since.after(STAGGER.saturating_mul(place) + Duration::from_secs(1));
                if now >= then && due.len() < BATCH {
                    due.push(*machine);
                } else {
                    next = Some(next.map_or(then, |other: Millis| other.min(then)));
                }
            }
        }
        self.since = waiting;
        (due, next)
    }
}

/// How many others that can open a secret come before this node; `None`: it cannot.
fn turn(
    controlled: &Controlled,
    nodes: &BTreeSet<PublicKey>,
    own: &PublicKey,
    machine: &MachineId,
    is_up: impl Fn(&PublicKey) -> bool,
) -> Option<u32> {
    let mut can: BTreeSet<&PublicKey> = BTreeSet::new();
    for sealed in controlled.sealings() {
        can.extend(sealed.keys.keys().filter(|key| nodes.contains(key)));
    }
    let rank = |key: &PublicKey| {
        Hash::of_parts("p2pinst/sealer-rank/1", &[machine.as_bytes(), key.as_bytes()])
    };
    let before = |key: &&&PublicKey| **key != own && is_up(key) && rank(key) < rank(own);
    can.contains(own).then(|| u32::try_from(can.iter().filter(before).count()).unwrap_or(u32::MAX))
}

/// The credentials of a machine's controller for those who have the power role now. Takes a while: run it where that is no harm.
pub(super) fn reseal(
    views: &Views,
    machine: &MachineId,
    key: &SecretKey,
    now: Millis,
) -> Result<Option<Resealed>, SealedError> {
    let Some(controlled) = views.controller_of(machine) else { return Ok(None) };
    let Some(secret) = opened(views, machine, controlled, key)? else { return Ok(None) };
    let nodes = views.power_nodes(Hlc::at(now));
    let sealed = sealed::seal(&place(views, machine, controlled), &secret, &nodes)?;
    Ok(Some(Resealed { of: controlled.cell, sealed }))
}
