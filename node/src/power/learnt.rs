//! What earlier conversations found out about controllers, on disk: without it a controller's certificate would be trusted anew after
//! every start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use p2pinst_boot::power::controller::Fingerprint;
use p2pinst_boot::power::driver::Learnt;
use p2pinst_files::Access;
use p2pinst_types::{Hash, codec};
use serde::{Deserialize, Serialize};
use tracing::warn;

/// Controllers of which something is kept.
const KEPT: usize = 16_384;
/// The longest file: a line, a fingerprint and a number of each.
const FILE: u64 = 16 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<Hash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cipher: Option<u8>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    known: Mutex<BTreeMap<String, Kept>>,
}

impl Memory {
    /// What the file says; nothing when it cannot be read.
    pub(super) fn load(path: PathBuf) -> Self {
        let read = p2pinst_files::read(&path, FILE).ok();
        let known = read.and_then(|bytes| codec::decode(&bytes).ok()).unwrap_or_default();
        Self { path, known: Mutex::new(known) }
    }

    /// What is known of a controller.
    pub(super) fn of(&self, line: &str) -> Learnt {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = known.get(line);
        Learnt {
            fingerprint: kept.and_then(|k| k.fingerprint).map(|hash| Fingerprint(hash.0)),
            cipher: kept.and_then(|k| k.cipher),
        }
    }

    /// Something was found out. Blocks while the file is written.
    pub(super) fn note(&self, line: &str, learnt: Learnt) {
        if learnt == Learnt::default() || learnt == self.of(line) {
            return;
        }
        let fingerprint = learnt.fingerprint.map(|print| Hash(print.0));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT && !known.contains_key(line) {
            return;
        }
        known.insert(line.to_owned(), Kept { fingerprint, cipher: learnt.cipher });
        let written = codec::encode(&*known).map_err(|e| e.to_string()).and_then(|b| {
            p2pinst_files::write(&self.path, &b, Access::Private).map_err(|e| e.to_string())
        });
        if let Err(error) = written {
            warn!(%error, "what is known of controllers cannot be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_is_known_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("controllers");
        let learnt = Learnt { fingerprint: Some(Fingerprint([7; 32])), cipher: Some(3) };
        let memory = Memory::load(path.clone());
        assert_eq!(memory.of("ipmi://a"), Learnt::default());
        memory.note("ipmi://a", learnt);
        let memory = Memory::load(path.clone());
        assert_eq!((memory.of("ipmi://a"), memory.of("ipmi://b")), (learnt, Learnt::default()));
        std::fs::write(&path, b"rubbish").unwrap();
        assert_eq!(Memory::load(path).of("ipmi://a"), Learnt::default());
    }
}
