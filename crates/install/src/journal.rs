//! What this machine has done about each deployment: an append-only file, synced at every record.
//!
//! One line a record: a checksum, a blank, JSON. People can read it. What a crash tears is the
//! last line: it is detected and cut when the journal is opened, and the step before it counts.
//! Opening rewrites the file with what still matters, so that it stays bounded.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use p2pinst_files::{Access, Context, FileError};
use p2pinst_types::record::install::HistoryEntry;
use p2pinst_types::{DeploymentId, Hash, Millis};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// First line of the file: its name and the version of its format.
const HEADER: &str = "p2pinst-install-journal 1";
const FILE: &str = "install.journal";
/// Hexadecimal digits of a record's checksum: 64 bits, against accidents and not attacks.
const CHECKSUM: usize = 16;
/// The whole file, when opened: far more than the bounds below let it grow to.
const FILE_MAX: u64 = 256 * 1024 * 1024;
/// Deployments whose outcome is remembered; of more, the oldest are forgotten. A cluster that
/// orders ten a day gets there in a year, and by then `retain` has dropped the retired ones.
const OUTCOMES_MAX: usize = 4096;
/// Entries of the history that are kept here; the whole history lives in the cluster.
const HISTORY_MAX: usize = 256;
/// Appended records after which the file is rewritten while it is in use.
const REWRITE_AFTER: usize = 8192;
/// A reason longer than this is cut.
const DETAIL_MAX: usize = 4096;

/// A step of an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It will be done.
    Planned,
    /// All pieces are here.
    Fetched,
    /// The file is what it should be.
    Verified,
    /// The package manager was started.
    Installing,
    /// The package manager has done it.
    Installed,
    /// The checks afterwards were passed.
    Checked,
    /// Finished well.
    Committed,
    /// Finished: what was there before is there again.
    RolledBack,
    /// Finished badly.
    Failed,
}

impl Step {
    /// Whether nothing follows in this attempt.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Committed | Self::RolledBack | Self::Failed)
    }
}

/// One record: a deployment reached a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When.
    pub at: Millis,
    /// Which deployment.
    pub deployment: DeploymentId,
    /// Which try, from 1.
    pub attempt: u32,
    /// Which step.
    pub step: Step,
    /// The reason of a failure; otherwise what is worth telling.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Whether the package manager was run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ran: bool,
    /// What goes into the machine's history with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryEntry>,
}

/// Why the journal cannot be used.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The file or its directory cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file begins as no journal does, or as one of a later version.
    #[error(
        "{} is not an installation journal that this version reads (it begins with {found:?}); \
         update p2pinst, or move the file away to begin anew", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its first line, cut.
        found: String,
    },
    /// A record cannot be written down.
    #[error("cannot encode a record for {}: {source}", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The journal of this machine's installations.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Whether the file is not what it should be, because writing has failed: then it is replaced
    /// before anything is added.
    damaged: bool,
    appended: usize,
    state: Memory,
}

/// An installation that a crash or a restart has interrupted: its last record.
pub type Unfinished = Record;

impl Journal {
    /// Opens the journal in a directory, or begins one. Gives what was interrupted, in the order
    /// of time: of those that were `Installing` the package manager must be asked how far it came.
    ///
    /// # Errors
    /// When the file cannot be read or rewritten, or is no journal.
    pub fn open(dir: &Path) -> Result<(Self, Vec<Unfinished>), JournalError> {
        let path = dir.join(FILE);
        let bytes = match p2pinst_files::read(&path, FILE_MAX) {
            Ok(bytes) => bytes,
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e.into()),
        };
        let (lines, spoilt) =
            read(&bytes).map_err(|found| JournalError::Foreign { path: path.clone(), found })?;
        if spoilt > 0 {
            tracing::warn!(
                journal = %path.display(), lines = spoilt,
                "The end of the journal was torn, as by a crash; it was cut off."
            );
        }
        let (old, whole) = (lines.len(), spoilt == 0 && !bytes.is_empty());
        let state = Memory::replay(lines);
        // a disk that is full must not keep the node from starting
        let file = if whole && old < REWRITE_AFTER {
            OpenOptions::new().append(true).open(&path).context("open", &path)?
        } else {
            rewrite(&path, &state)?
        };
        let journal = Self { path, file, damaged: false, appended: old, state };
        let unfinished = journal.state.unfinished();
        Ok((journal, unfinished))
    }

    /// What the journal in a directory says is unfinished, without touching it: for a look while
    /// the node runs, or when it does not.
    ///
    /// # Errors
    /// When the file cannot be read, or is no journal.
    pub fn unfinished(dir: &Path) -> Result<Vec<Unfinished>, JournalError> {
        let path = dir.join(FILE);
        let bytes = match p2pinst_files::read(&path, FILE_MAX) {
            Ok(bytes) => bytes,
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let (lines, _) = read(&bytes).map_err(|found| JournalError::Foreign { path, found })?;
        Ok(Memory::replay(lines).unfinished())
    }

    /// Writes a record down; when this returns, it survives a crash.
    ///
    /// # Errors
    /// When it cannot be written, because the disk is full, say: then it does not count.
    pub fn append(&mut self, mut record: Record) -> Result<(), JournalError> {
        record.detail = cut(record.detail);
        let line = encode(&Line::Step(record.clone()))
            .map_err(|source| JournalError::Encode { path: self.path.clone(), source })?;
        if self.damaged || self.appended >= REWRITE_AFTER {
            self.replace()?;
        }
        self.damaged = true;
        self.file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.sync_data())
            .context("write to", &self.path)?;
        self.damaged = false;
        self.appended += 1;
        self.state.take(record);
        Ok(())
    }

    /// How the last attempt of a deployment ended; `None` when it has not, or is not known.
    #[must_use]
    pub fn outcome(&self, deployment: &DeploymentId) -> Option<&Record> {
        self.last(deployment).filter(|r| r.step.is_final())
    }

    /// The last record of a deployment.
    #[must_use]
    pub fn last(&self, deployment: &DeploymentId) -> Option<&Record> {
        self.state.last.get(deployment)
    }

    /// The latest entries of the history, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &HistoryEntry> {
        self.state.history.iter()
    }

    /// Forgets finished deployments that need not be remembered (those that were retired).
    ///
    /// # Errors
    /// When the file cannot be replaced; the next record tries it again.
    pub fn retain(
        &mut self,
        mut wanted: impl FnMut(&DeploymentId) -> bool,
    ) -> Result<(), JournalError> {
        let before = self.state.last.len();
        self.state.last.retain(|id, record| !record.step.is_final() || wanted(id));
        if self.state.last.len() == before { Ok(()) } else { self.replace() }
    }

    /// Replaces the file by one that has only what still matters.
    fn replace(&mut self) -> Result<(), JournalError> {
        // until this has succeeded, the file that is open may be no longer the one in the directory
        self.damaged = true;
        self.file = rewrite(&self.path, &self.state)?;
        (self.damaged, self.appended) = (false, 0);
        Ok(())
    }
}

/// What the records come to.
#[derive(Debug, Default, PartialEq)]
struct Memory {
    last: BTreeMap<DeploymentId, Record>,
    history: VecDeque<HistoryEntry>,
}

impl Memory {
    fn replay(lines: Vec<Line>) -> Self {
        let mut memory = Self::default();
        for line in lines {
            match line {
                Line::Step(record) => memory.take(record),
                Line::History(entry) => memory.remember(entry),
            }
        }
        memory
    }

    /// What has not ended, in the order of time.
    fn unfinished(&self) -> Vec<Unfinished> {
        let mut open: Vec<_> = self.last.values().filter(|r| !r.step.is_final()).cloned().collect();
        open.sort_by_key(|r| (r.at, r.deployment));
        open
    }

    fn remember(&mut self, entry: HistoryEntry) {
        self.history.push_back(entry);
        while self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
    }

    fn take(&mut self, mut record: Record) {
        if let Some(entry) = record.history.take() {
            self.remember(entry);
        }
        self.last.insert(record.deployment, record);
        if self.last.len() > OUTCOMES_MAX {
            let finished = self.last.values().filter(|r| r.step.is_final());
            let oldest = finished.min_by_key(|r| (r.at, r.deployment)).map(|r| r.deployment);
            oldest.and_then(|id| self.last.remove(&id));
        }
    }

    /// The lines that give this memory again.
    fn lines(&self) -> Vec<Line> {
        let history = self.history.iter().cloned().map(Line::History);
        history.chain(self.last.values().cloned().map(Line::Step)).collect()
    }
}

/// A line of the file. Version 1 of the format: never changed, only followed by another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Step(Record),
    History(HistoryEntry),
}

fn encode(line: &Line) -> Result<String, serde_json::Error> {
    let json = serde_json::to_string(line)?;
    Ok(format!("{} {json}\n", checksum(&json)))
}

fn checksum(json: &str) -> String {
    let hash = Hash::of_parts("p2pinst/install-journal/1", &[json.as_bytes()]).to_string();
    hash.chars().take(CHECKSUM).collect()
}

/// Reads all whole records, and how many lines at the end or in between are none. A line in the
/// middle that the disk has spoilt costs that line and not those after it.
fn read(bytes: &[u8]) -> Result<(Vec<Line>, usize), String> {
    let mut lines = bytes.split_inclusive(|b| *b == b'\n');
    let first = lines.next().unwrap_or_default();
    let header = format!("{HEADER}\n");
    if first != header.as_bytes() {
        // a header that a crash has torn has no records after it
        return if header.as_bytes().starts_with(first) {
            Ok((Vec::new(), usize::from(!first.is_empty())))
        } else {
            Err(String::from_utf8_lossy(first).chars().take(80).collect())
        };
    }
    let mut records = Vec::new();
    let mut bad = 0;
    for line in lines {
        match decode(line) {
            Some(record) => records.push(record),
            None => bad += 1,
        }
    }
    Ok((records, bad))
}

fn decode(line: &[u8]) -> Option<Line> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (sum, json) = line.split_once(' ')?;
    (sum == checksum(json)).then(|| serde_json::from_str(json).ok()).flatten()
}

/// Replaces the file by one that gives the same memory, and opens it for appending.
fn rewrite(path: &Path, state: &Memory) -> Result<File, JournalError> {
    let mut text = format!("{HEADER}\n");
    for line in state.lines() {
        let line = encode(&line)
            .map_err(|source| JournalError::Encode { path: path.to_owned(), source })?;
        text.push_str(&line);
    }
    p2pinst_files::write(path, text.as_bytes(), Access::Private)?;
    Ok(OpenOptions::new().append(true).open(path).context("open", path)?)
}

fn cut(mut text: String) -> String {
    let end = (0..=DETAIL_MAX.min(text.len())).rev().find(|i| text.is_char_boundary(*i));
    text.truncate(end.unwrap_or(0));
    text
}

#[cfg(test)]
mod tests {
    use p2pinst_types::ReleaseId;
    use p2pinst_types::record::install::{Action, Manager, PackageId, State};
    use proptest::prelude::*;

    use super::*;

    fn record(id: u8, attempt: u32, step: Step) -> Record {
        Record {
            at: Millis(u64::from(attempt) * 100 + step as u64),
            deployment: DeploymentId([id; 16]),
            attempt,
            step,
            detail: String::new(),
            ran: false,
            history: None,
        }
    }

    fn entry(at: u64) -> HistoryEntry {
        HistoryEntry {
            at: Millis(at),
            deployment: DeploymentId([1; 16]),
            release: ReleaseId(Hash([2; 32])),
            package: PackageId {
                manager: Manager::Dpkg,
                name: "hello".to_owned(),
                version: "1.0".to_owned(),
                architecture: "amd64".to_owned(),
            },
            action: Action::Install,
            old_version: None,
            outcome: State::Installed,
            exit_code: Some(0),
            millis: 12,
            log: "ok\n".to_owned(),
        }
    }

    #[test]
    fn remembers_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, unfinished) = Journal::open(dir.path()).unwrap();
        assert_eq!(unfinished, []);
        for step in [Step::Planned, Step::Fetched, Step::Verified, Step::Installing] {
            journal.append(record(1, 1, step)).unwrap();
            journal.append(record(2, 1, step)).unwrap();
        }
        let done = Record { history: Some(entry(5)), ..record(2, 1, Step::Committed) };
        journal.append(done).unwrap();
        let failed = Record { detail: "é".repeat(5000), ..record(3, 7, Step::Failed) };
        journal.append(failed).unwrap();
        for _ in 0..2 {
            drop(journal);
            let (again, unfinished) = Journal::open(dir.path()).unwrap();
            journal = again;
            assert_eq!(unfinished, [record(1, 1, Step::Installing)]);
            assert_eq!(journal.outcome(&DeploymentId([1; 16])), None);
            assert_eq!(journal.outcome(&DeploymentId([2; 16])).unwrap().step, Step::Committed);
            let failed = journal.outcome(&DeploymentId([3; 16])).unwrap();
            assert_eq!((failed.attempt, failed.detail.len()), (7, 4096));
            assert_eq!(journal.history().collect::<Vec<_>>(), [&entry(5)]);
        }
        journal.retain(|id| id.0[0] != 2).unwrap();
        let (journal, _) = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.outcome(&DeploymentId([2; 16])), None);
        assert!(journal.outcome(&DeploymentId([3; 16])).is_some());
    }

    #[test]
    fn stays_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        journal.state.last = (0..OUTCOMES_MAX)
            .map(|i| {
                let mut id = [0xff; 16];
                id[..8].copy_from_slice(&(i as u64).to_be_bytes());
                let at = Millis(1000 + i as u64);
                (
                    DeploymentId(id),
                    Record { at, deployment: DeploymentId(id), ..record(0, 1, Step::Failed) },
                )
            })
            .collect();
        journal.replace().unwrap();
        let oldest = *journal.state.last.keys().next().unwrap();
        for at in 0..300 {
            let done =
                Record { at: Millis(at), history: Some(entry(at)), ..record(9, 1, Step::Planned) };
            journal.append(done).unwrap();
        }
        assert_eq!(journal.state.last.len(), OUTCOMES_MAX);
        assert_eq!(journal.outcome(&oldest), None);
        assert!(journal.last(&DeploymentId([9; 16])).is_some());
        assert_eq!(journal.history().next(), Some(&entry(300 - HISTORY_MAX as u64)));
        let len = |journal: &Journal| std::fs::metadata(&journal.path).unwrap().len();
        let grown = len(&journal);
        journal.appended = REWRITE_AFTER;
        journal.append(record(9, 1, Step::Fetched)).unwrap();
        assert_eq!(journal.appended, 1);
        assert!(len(&journal) < grown);
        let (lines, spoilt) = read(&std::fs::read(&journal.path).unwrap()).unwrap();
        assert_eq!((Memory::replay(lines), spoilt), (journal.state, 0));
    }

    /// The format on disk: if this fails, old journals are no longer read.
    #[test]
    fn golden_bytes() {
        let done = Record {
            at: Millis(1_795_167_737_000),
            detail: "ok".to_owned(),
            ran: false,
            history: Some(entry(7)),
            ..record(1, 2, Step::RolledBack)
        };
        let mut text = format!("{HEADER}\n");
        text += &encode(&Line::Step(record(1, 1, Step::Planned))).unwrap();
        text += &encode(&Line::Step(done)).unwrap();
        text += &encode(&Line::History(entry(8))).unwrap();
        assert_eq!(text, GOLDEN);
        let (lines, spoilt) = read(GOLDEN.as_bytes()).unwrap();
        assert_eq!((lines.len(), spoilt), (3, 0));
    }

    const GOLDEN: &str = include_str!("../tests/golden/install.journal");

    #[test]
    fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::fs::write(&path, "p2pinst-install-journal 2\nxyz\n").unwrap();
        let error = Journal::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("journal 2") && error.contains("update p2pinst"), "{error}");
        assert!(std::fs::read_to_string(&path).unwrap().contains("xyz"));
        assert!(Journal::open(&dir.path().join("no")).is_err());
    }

    #[test]
    fn a_failed_write_leaves_no_part_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        journal.append(record(1, 1, Step::Planned)).unwrap();
        let path = journal.path.clone();
        // a descriptor that cannot write stands for a full disk; a part of a record is there
        journal.file = File::open(&path).unwrap();
        assert!(journal.append(record(1, 1, Step::Fetched)).is_err());
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"0123 {").unwrap();
        assert_eq!(journal.last(&DeploymentId([1; 16])).unwrap().step, Step::Planned);
        journal.append(record(1, 1, Step::Verified)).unwrap();
        let (lines, spoilt) = read(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((lines.len(), spoilt), (2, 0));
    }

    #[test]
    fn a_spoilt_line_costs_itself_alone() {
        let mut text = format!("{HEADER}\n");
        for step in [Step::Planned, Step::Fetched, Step::Verified] {
            text += &encode(&Line::Step(record(1, 1, step))).unwrap();
        }
        let text = text.replace("fetched", "fetchex");
        let (lines, spoilt) = read(text.as_bytes()).unwrap();
        assert_eq!(spoilt, 1);
        let steps = [Step::Planned, Step::Verified].map(|step| Line::Step(record(1, 1, step)));
        assert_eq!(lines, steps);
    }

    fn any_records() -> impl Strategy<Value = Vec<Record>> {
        let step = prop::sample::select(vec![
            Step::Planned,
            Step::Installing,
            Step::Committed,
            Step::Failed,
        ]);
        let one = (0u8..4, 1u32..4, step, prop::option::of(0u64..9), "[a-z\n\"é]{0,5}");
        prop::collection::vec(one, 0..12).prop_map(|list| {
            let one = |(id, attempt, step, at, detail)| Record {
                detail,
                ran: false,
                history: Option::map(at, entry),
                ..record(id, attempt, step)
            };
            list.into_iter().map(one).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Cut anywhere, the journal gives exactly the records before the cut, and goes on.
        #[test]
        fn a_torn_end_loses_only_itself(records in any_records(), at in any::<prop::sample::Index>()) {
            let dir = tempfile::tempdir().unwrap();
            let (mut journal, _) = Journal::open(dir.path()).unwrap();
            let len = |journal: &Journal| journal.file.metadata().unwrap().len();
            let mut ends = vec![len(&journal)];
            for record in &records {
                journal.append(record.clone()).unwrap();
                ends.push(len(&journal));
            }
            let cut = at.index(usize::try_from(len(&journal)).unwrap() + 1) as u64;
            journal.file.set_len(cut).unwrap();
            drop(journal);
            let whole = ends.iter().skip(1).filter(|end| **end <= cut).count();
            let expected = Memory::replay(records[..whole].iter().cloned().map(Line::Step).collect());
            let (mut journal, unfinished) = Journal::open(dir.path()).unwrap();
            prop_assert_eq!(&journal.state, &expected);
            prop_assert!(unfinished.iter().all(|r| !r.step.is_final()));
            journal.append(record(9, 1, Step::Failed)).unwrap();
            drop(journal);
            let (journal, again) = Journal::open(dir.path()).unwrap();
            prop_assert!(journal.outcome(&DeploymentId([9; 16])).is_some());
            prop_assert_eq!(again, unfinished);
        }

        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..200), header: bool) {
            let mut text = if header { format!("{HEADER}\n").into_bytes() } else { vec![] };
            text.extend(bytes);
            let result = read(&text);
            prop_assert!(!header || result.is_ok_and(|(lines, _)| lines.is_empty()));
        }
    }
}
