//! Answers to what other nodes ask of the store, but for `Push` and `Put`: those are
//! [`Store::apply`]'s, which takes the cells of several requests in one transaction.

use std::collections::BTreeSet;

use p2pinst_types::{Millis, Plane, PublicKey, limits};

use crate::placement::Ring;
use crate::repair::Shared;
use crate::store::{Store, StoreError};
use crate::sync::{FEW, bucket_of, buckets};
use crate::wire::{CELL_BYTES, CellBytes, Request, Response};

/// Who asks whom, and when.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// This node.
    pub own: PublicKey,
    /// The node that asks.
    pub peer: PublicKey,
    /// Who may hold what, as this node sees it.
    pub ring: &'a Ring,
    /// The local clock.
    pub clock: Millis,
}

/// Parts of one pull.
const PARTS: usize = 4096;

/// Answers a request; `None`: it is none of those that are answered here.
///
/// # Errors
/// When the file cannot be read.
pub fn answer(
    store: &Store,
    request: Request,
    asked: Asked<'_>,
) -> Result<Option<Response>, StoreError> {
    let Asked { own, peer, ring, clock } = asked;
    let views = store.views();
    let roots = views.roots.signed().len() as u64;
    Ok(Some(match request {
        Request::Heads { digest, .. } if store.digest() == digest => {
            Response::Same { roots, clock }
        }
        Request::Heads { .. } => {
            let logs = store.heads();
            if logs.len() > FEW {
                Response::Buckets { digests: buckets(&logs), roots, clock }
            } else {
                Response::Heads { logs, roots, clock }
            }
        }
        Request::Logs { buckets } => {
            let mut logs = store.heads();
            let buckets: BTreeSet<u8> = buckets.into_iter().collect();
            logs.retain(|l| buckets.contains(&bucket_of(&l.author)));
            Response::Logs { logs }
        }
        Request::Roots => Response::Roots { roots: views.roots.signed().to_vec() },
        Request::Pull { parts } if parts.len() <= PARTS => {
            let (cells, covered) = store.select(&parts, CELL_BYTES);
            Response::Cells { cells: cells.iter().map(CellBytes::of).collect(), covered }
        }
        Request::Get { kind, subject, after }
            if kind.plane() == Plane::Data && subject.len() <= limits::CELL_SUBJECT =>
        {
            let (cells, more) = store.page(kind, &subject, &after, CELL_BYTES)?;
            Response::Data { cells: cells.iter().map(CellBytes::of).collect(), more }
        }
        Request::Compare { digest } => {
            Shared::of(store.shelf(), ring, &*views, (own, peer)).compare(&digest)
        }
        Request::List { buckets } => {
            Shared::of(store.shelf(), ring, &*views, (own, peer)).list(&buckets)
        }
        Request::Pull { .. } | Request::Get { .. } => {
            Response::Refused("it asks for what there cannot be".to_owned())
        }
        _ => return Ok(None),
    }))
}
