//! A subject goes to the replicas that are to hold it.

use std::collections::VecDeque;

use p2pinst_types::{Cell, Hash, PublicKey};

use super::{Given, Sites, Want, some};
use crate::placement::Ring;
use crate::shelf::Subject;
use crate::sync::Violation;
use crate::wire::{Request, Response};

/// The handing over of one subject; see the module above.
#[derive(Debug)]
pub struct Handover {
    subject: Subject,
    digest: Hash,
    cells: Vec<Cell>,
    /// Replicas that were not asked yet.
    left: VecDeque<PublicKey>,
    /// The replica that is asked now, and what it was not offered yet.
    to: Option<PublicKey>,
    put: VecDeque<Cell>,
    /// Whether every replica has taken every cell so far.
    whole: bool,
    /// Whether this node is the replica at the site of a writer: it passes on, and keeps.
    keep: bool,
}

impl Handover {
    /// Hands over what is held of a subject.
    #[must_use]
    pub fn new((subject, digest): (Subject, Hash), ring: &Ring, sites: &impl Sites) -> Self {
        let replicas = ring.replicas(&subject, sites.of_subject(&subject).as_ref());
        Self {
            subject,
            digest,
            cells: Vec::new(),
            left: replicas.into(),
            to: None,
            put: VecDeque::new(),
            whole: true,
            keep: false,
        }
    }

    /// Goes on with what was wanted. `own`: this node. It keeps what it holds for a writer of its
    /// own site.
    ///
    /// # Errors
    /// When the peer answers something else than was asked for.
    pub fn step(
        &mut self,
        given: Given,
        own: PublicKey,
        ring: &Ring,
        sites: &impl Sites,
    ) -> Result<Want, Violation> {
        match given {
            Given::Nothing => return Ok(Want::Read(self.subject.clone())),
            Given::Cells(mut cells) => {
                cells.retain(|c| c.id.author != own);
                let for_site = |c: &Cell| {
                    let site = sites.of_author(&c.id.author);
                    ring.replicas(&self.subject, site.as_ref()).contains(&own)
                };
                if cells.is_empty() || self.left.is_empty() {
                    return Ok(Want::Nothing);
                }
                self.keep = cells.iter().any(for_site);
                self.cells = cells;
            }
            Given::Answer(Some(Response::Outcomes(outcomes))) => {
                self.whole &= outcomes.iter().all(crate::Outcome::is_here);
            }
            Given::Answer(None) => {
                self.whole = false;
                self.put.clear();
            }
            Given::Answer(Some(_)) => return Err(Violation),
        }
        Ok(self.go_on())
    }

    fn go_on(&mut self) -> Want {
        if self.put.is_empty() {
            self.to = self.left.pop_front();
            self.put = self.cells.iter().cloned().collect();
        }
        match self.to {
            Some(peer) => Want::Ask(peer, Request::Put { cells: some(&mut self.put) }),
            None if self.whole && !self.keep => Want::Drop(self.subject.clone(), self.digest),
            None => Want::Nothing,
        }
    }
}
