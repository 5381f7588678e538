//! Looking into the store: for displays, and for people who search for a mistake.

use p2pinst_types::{Cell, Kind, PublicKey};

use super::{Store, StoreError};
use crate::summary::{self, Summary};

/// Cells that one look passes over: what is beyond is another page.
const PASSED: usize = 20_000;

/// Which cells to show.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Of this kind only.
    pub kind: Option<Kind>,
    /// Whose subject begins with one of these; any, when empty.
    pub subjects: Vec<Vec<u8>>,
    /// Of this author only.
    pub author: Option<PublicKey>,
    /// From this place on, which an earlier page has told.
    pub from: Vec<u8>,
    /// At most so many.
    pub limit: usize,
    /// At most about so many bytes of them.
    pub bytes: usize,
}

impl Wanted {
    fn is(&self, cell: &Cell) -> bool {
        self.kind.is_none_or(|k| k == cell.id.kind)
            && self.author.is_none_or(|a| a == cell.id.author)
            && (self.subjects.is_empty()
                || self.subjects.iter().any(|s| cell.id.subject.starts_with(s)))
    }
}

/// Some of the cells that are held here.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The cells, of both planes, in the order of kind and subject.
    pub cells: Vec<Cell>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<Vec<u8>>,
}

impl Store {
    /// Cells that are held here, page by page.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn look(&self, wanted: &Wanted) -> Result<Page, StoreError> {
        let mut page = Page::default();
        let (mut bytes, mut passed) = (0, 0);
        let kind = wanted.kind.map(|k| k.0.to_be_bytes().to_vec()).unwrap_or_default();
        let from = wanted.from.clone().max(kind.clone());
        self.tables.walk(&from, |key, cell| {
            if !key.starts_with(&kind) {
                return false;
            }
            passed += 1;
            if page.cells.len() >= wanted.limit || bytes >= wanted.bytes || passed > PASSED {
                page.next = Some(key.to_vec());
                return false;
            }
            if wanted.is(&cell) {
                bytes += cell.bytes().len();
                page.cells.push(cell);
            }
            true
        })?;
        Ok(page)
    }

    /// The summary of a subject of statuses; `None`: nothing is held of it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn summary(&self, subject: &[u8]) -> Result<Option<Summary>, StoreError> {
        summary::read(&self.tables, subject)
    }

    /// Statuses that were stored since the last call: for those who watch.
    pub fn take_news(&mut self) -> Vec<Cell> {
        self.news.take()
    }
}
