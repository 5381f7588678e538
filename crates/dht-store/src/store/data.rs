//! The data plane: reading, settling, and dropping what others hold or what is over.

use std::collections::BTreeSet;

use p2pinst_types::{Cell, CellId, Hash, Kind, Plane, PublicKey};

use super::apply::Turn;
use super::{Store, StoreError};
use crate::shelf::{Held, Subject};
use crate::summary;
use crate::tables::{Batch, cell_key, subject_prefix};

/// Where the next page of a subject begins: behind the cell of this slot and author.
pub type After = Option<(Vec<u8>, PublicKey)>;

impl Store {
    pub(super) fn data_cell(&self, key: &[u8]) -> Result<Option<Cell>, StoreError> {
        Ok(self.tables.cells(key)?.into_iter().next())
    }

    /// The data-plane cells of a subject that are held here, by slot and author.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn data(&self, kind: Kind, subject: &[u8]) -> Result<Vec<Cell>, StoreError> {
        self.tables.cells(&subject_prefix(kind, subject))
    }

    /// A page of a subject: cells behind `after`, about `budget` bytes of them, and whether there
    /// are more.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn page(
        &self,
        kind: Kind,
        subject: &[u8],
        after: &After,
        budget: usize,
    ) -> Result<(Vec<Cell>, bool), StoreError> {
        let behind = after.as_ref().map(|(slot, author)| {
            cell_key(&CellId {
                kind,
                subject: subject.to_vec(),
                slot: slot.clone(),
                author: *author,
            })
        });
        let (mut page, mut bytes) = (Vec::new(), 0);
        for cell in self.data(kind, subject)? {
            if behind.as_ref().is_some_and(|b| cell_key(&cell.id) <= *b) {
                continue;
            }
            bytes += cell.bytes().len();
            if bytes > budget && !page.is_empty() {
                return Ok((page, true));
            }
            page.push(cell);
        }
        Ok((page, false))
    }

    /// What is held of each subject of the data plane.
    pub fn shelf(&self) -> impl Iterator<Item = (&Subject, &Held)> {
        self.shelf.iter()
    }

    /// What is held of one subject; `None` when nothing is.
    #[must_use]
    pub fn held_of(&self, subject: &Subject) -> Option<&Held> {
        self.shelf.get(subject)
    }

    /// The data-plane cells of a kind that an author wrote.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn written_by(&self, kind: Kind, author: &PublicKey) -> Result<Vec<Cell>, StoreError> {
        let mut cells = self.tables.cells(&kind.0.to_be_bytes())?;
        cells.retain(|c| c.id.author == *author);
        Ok(cells)
    }

    /// The data-plane cells that an author wrote, and whether a majority of replicas has
    /// acknowledged each.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn outbox(&self, author: &PublicKey) -> Result<Vec<(Cell, bool)>, StoreError> {
        let mut out = Vec::new();
        for kind in Kind::DATA {
            for cell in self.written_by(kind, author)? {
                let settled = self.tables.settled(&cell_key(&cell.id))? == Some(cell.hash());
                out.push((cell, settled));
            }
        }
        Ok(out)
    }

    /// Those of an author's cells that no majority of replicas has acknowledged yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn unsettled(&self, author: &PublicKey) -> Result<Vec<Cell>, StoreError> {
        let outbox = self.outbox(author)?.into_iter();
        Ok(outbox.filter(|(_, settled)| !settled).map(|(cell, _)| cell).collect())
    }

    /// Remembers that a majority of the replicas has acknowledged these cells.
    ///
    /// # Errors
    /// When that cannot be stored.
    pub fn settle(&self, cells: &[Cell]) -> Result<(), StoreError> {
        let settled = cells.iter().map(|c| (cell_key(&c.id), c.hash())).collect();
        self.tables.commit(&Batch { settled, ..Batch::default() })
    }

    /// Drops what is held of a subject, but for the cells of `keep`, if it is still what `digest`
    /// says. Says whether it was.
    ///
    /// # Errors
    /// When that cannot be stored.
    pub fn drop_subject(
        &mut self,
        subject: &Subject,
        digest: &Hash,
        keep: &PublicKey,
    ) -> Result<bool, StoreError> {
        if self.shelf.get(subject).is_none_or(|held| held.digest != *digest) {
            return Ok(false);
        }
        let all = self.data(subject.kind, &subject.id)?;
        let (kept, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|c| c.id.author == *keep);
        let dropped = gone.iter().map(|c| cell_key(&c.id)).collect();
        let summaries = summary::left(subject, &kept);
        let done = self.tables.commit(&Batch { dropped, summaries, ..Batch::default() });
        self.doubtful |= done.is_err();
        done?;
        gone.iter().for_each(|c| self.shelf.take(c));
        Ok(true)
    }

    /// Statuses of retired deployments are dropped in the transaction that brings the retirement.
    pub(super) fn drop_retired(&mut self, turn: &mut Turn) -> Result<(), StoreError> {
        let of_retired =
            |subject: &Subject| subject.kind == Kind::STATUS && self.views.is_retired(&subject.id);
        let over: Vec<Subject> =
            self.shelf.iter().map(|(s, _)| s).filter(|s| of_retired(s)).cloned().collect();
        for subject in over {
            for cell in self.data(subject.kind, &subject.id)? {
                turn.batch.dropped.push(cell_key(&cell.id));
                self.shelf.take(&cell);
                turn.undo.dropped.push(cell);
            }
            turn.batch.summaries.insert(subject.id, None);
        }
        Ok(())
    }

    /// R16: what a node wrote after it was revoked, and was taken before that was heard, goes again:
    /// or replicas that were told in another order would differ for ever.
    pub(super) fn drop_void(
        &mut self,
        revoked: &BTreeSet<PublicKey>,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        if revoked.is_empty() {
            return Ok(());
        }
        let mut subjects = BTreeSet::new();
        for cell in self.all(Plane::Data)? {
            if revoked.contains(&cell.id.author) && self.views.writes_of(&cell).is_none() {
                let key = cell_key(&cell.id);
                if !turn.batch.dropped.contains(&key) {
                    subjects.insert(Subject::of(&cell));
                    turn.batch.dropped.push(key);
                    self.shelf.take(&cell);
                    turn.undo.dropped.push(cell);
                }
            }
        }
        for subject in subjects {
            let mut kept = self.data(subject.kind, &subject.id)?;
            kept.retain(|c| !turn.batch.dropped.contains(&cell_key(&c.id)));
            turn.batch.summaries.extend(summary::left(&subject, &kept));
        }
        Ok(())
    }

    /// How many cells of both planes are held, and their bytes on the data plane.
    #[must_use]
    pub fn size(&self) -> (usize, usize, u64) {
        let (cells, bytes) = self.shelf.size();
        (self.control.len(), cells, bytes)
    }

    /// All cells of a plane, for a look at them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn all(&self, plane: Plane) -> Result<Vec<Cell>, StoreError> {
        match plane {
            Plane::Control => Ok(self.control.values().map(|e| e.cell.clone()).collect()),
            Plane::Data => {
                let mut cells = self.tables.cells(&[])?;
                cells.retain(|c| c.id.kind.plane() == Plane::Data);
                Ok(cells)
            }
        }
    }
}
