//! The administrators' keys on this machine, and what they have written last.
//!
//! In the data directory's `keys/`: `NAME.key` (0600, the secret key), `NAME.head` (the newest
//! version that this machine has signed with it; durable before the cell leaves), `NAME.lock`
//! (held by whoever signs). All functions block. After a crash a head may be ahead of what the
//! cluster has; never behind, but for a restored backup, which [`crate::signer`] notices.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use p2pinst_files::{Access, Context as _, FileError, Lock};
use p2pinst_trust::{SecretKey, keytext};
use p2pinst_types::{Name, PublicKey, Version};

use crate::error::CliError;

/// Name of the root key's file.
pub(crate) const ROOT: &str = "root";
const HEAD: &str = "p2pinst-head-1";
/// Longest head file, in bytes: two numbers of 20 digits and the words.
const HEAD_MAX: u64 = 128;

/// A key of this machine.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name here.
    pub(crate) name: Name,
    /// The key.
    pub(crate) secret: SecretKey,
}

impl Key {
    /// The public half.
    pub(crate) fn public(&self) -> PublicKey {
        self.secret.public()
    }
}

/// The directory of keys.
#[derive(Debug, Clone)]
pub(crate) struct Keystore {
    dir: PathBuf,
}

impl Keystore {
    /// The keys in a directory, which need not exist.
    pub(crate) fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where a key is.
    pub(crate) fn path(&self, name: &Name) -> PathBuf {
        self.file(name, "key")
    }

    fn file(&self, name: &Name, what: &str) -> PathBuf {
        self.dir.join(format!("{name}.{what}"))
    }

    /// The names of all keys, sorted.
    pub(crate) fn names(&self) -> Result<Vec<Name>, CliError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(self.explain(e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let file = entry.context("read", &self.dir)?.file_name();
            let name = file.to_str().and_then(|f| f.strip_suffix(".key"));
            names.extend(name.and_then(|n| n.parse::<Name>().ok()));
        }
        names.sort();
        Ok(names)
    }

    fn explain(&self, error: io::Error) -> CliError {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        let error = FileError { action: "read", path: self.dir.clone(), source: error };
        let hint = "run it as the user that the keys belong to (sudo?)".to_owned();
        CliError::from(error).maybe_hint(denied.then_some(hint))
    }

    /// Reads a key.
    pub(crate) fn load(&self, name: &Name) -> Result<Key, CliError> {
        let path = self.path(name);
        let text = match p2pinst_files::read_private(&path, keytext::MAX) {
            Ok(text) => zeroize::Zeroizing::new(text),
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => {
                let names = self.names()?;
                let error = CliError::failed(format!("there is no key {name} on this machine"));
                return Err(if names.is_empty() {
                    error.hint(format!("there are no keys at all in {}", self.dir.display()))
                } else {
                    error.hint(format!("the keys here are: {}", crate::format::names(&names, 20)))
                });
            }
            Err(e) => return Err(e.into()),
        };
        let (_, secret) = keytext::read(&text)
            .map_err(|e| CliError::failed(format!("cannot read {}: {e}", path.display())))?;
        Ok(Key { name: name.clone(), secret })
    }

    /// All keys, sorted by name.
    pub(crate) fn all(&self) -> Result<Vec<Key>, CliError> {
        self.names()?.iter().map(|name| self.load(name)).collect()
    }

    /// Stores a key under a name that is free.
    pub(crate) fn add(&self, name: &Name, secret: &SecretKey) -> Result<(), CliError> {
        p2pinst_files::make_private_dir(&self.dir)?;
        let _lock = self.lock(name)?;
        let path = self.path(name);
        if path.try_exists().context("look for", &path)? {
            return Err(CliError::failed(format!(
                "there is a key {name} already: {}",
                path.display()
            ))
            .hint("choose another name; no key is ever overwritten"));
        }
        let text = keytext::write(name, secret);
        Ok(p2pinst_files::write(&path, text.as_bytes(), Access::Private)?)
    }

    /// Removes a key. What it has written is remembered, in case it comes back.
    pub(crate) fn remove(&self, name: &Name) -> Result<(), CliError> {
        let path = self.path(name);
        fs::remove_file(&path).context("remove", &path)?;
        Ok(p2pinst_files::sync_dir(&self.dir)?)
    }

    /// Takes the lock of a key; waits while another command signs with it.
    pub(crate) fn lock(&self, name: &Name) -> Result<Lock, CliError> {
        Ok(Lock::exclusive(&self.file(name, "lock"))?)
    }

    /// Takes the lock of a key, unless another command signs with it.
    pub(crate) fn try_lock(&self, name: &Name) -> Result<Option<Lock>, CliError> {
        Ok(Lock::try_exclusive(&self.file(name, "lock"))?)
    }

    /// The newest version that this machine has signed with a key.
    pub(crate) fn head(&self, key: &Key) -> Result<Option<Version>, CliError> {
        let path = self.file(&key.name, "head");
        let text = match p2pinst_files::read(&path, HEAD_MAX) {
            Ok(text) => text,
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // a head of another key of that name, or one that cannot be read, is as good as none:
        // the cluster is asked in any case, and a new incarnation begun
        Ok(parse_head(&text, &key.public()))
    }

    /// Remembers the newest version signed with a key, durably.
    pub(crate) fn set_head(&self, key: &Key, head: Version) -> Result<(), CliError> {
        let public = key.public().short();
        let text = format!("{HEAD} {public} {} {}\n", head.incarnation, head.seq);
        let path = self.file(&key.name, "head");
        Ok(p2pinst_files::write(&path, text.as_bytes(), Access::Private)?)
    }

    /// Whether the directory holds a key of that name.
    pub(crate) fn has(&self, name: &Name) -> bool {
        Path::exists(&self.path(name))
    }
}

fn parse_head(text: &[u8], key: &PublicKey) -> Option<Version> {
    let text = std::str::from_utf8(text).ok()?;
    let rest = text.strip_prefix(HEAD)?.trim().strip_prefix(&key.short())?;
    let (incarnation, seq) = rest.trim().split_once(' ')?;
    Some(Version { incarnation: incarnation.parse().ok()?, seq: seq.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_kept_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Keystore::new(dir.path().join("keys"));
        let (alice, secret) = ("alice".parse().unwrap(), SecretKey::generate().unwrap());
        assert!(store.names().unwrap().is_empty());
        assert!(store.load(&alice).unwrap_err().error.contains("no key alice"));
        store.add(&alice, &secret).unwrap();
        assert!(store.add(&alice, &secret).unwrap_err().error.contains("already"));
        assert_eq!(store.load(&alice).unwrap().public(), secret.public());
        assert_eq!(store.names().unwrap(), std::slice::from_ref(&alice));

        let open = fs::Permissions::from_mode(0o644);
        fs::set_permissions(store.path(&alice), open).unwrap();
        assert!(store.load(&alice).unwrap_err().error.contains("chmod 600"));
        store.remove(&alice).unwrap();
        assert!(!store.has(&alice));
    }

    #[test]
    fn heads_belong_to_their_key() {
        let dir = tempfile::tempdir().unwrap();
        let store = Keystore::new(dir.path());
        let new = || Key { name: "a".parse().unwrap(), secret: SecretKey::generate().unwrap() };
        let (key, other) = (new(), new());
        assert_eq!(store.head(&key).unwrap(), None);
        let version = Version { incarnation: 7, seq: u64::MAX };
        store.set_head(&key, version).unwrap();
        assert_eq!(store.head(&key).unwrap(), Some(version));
        assert_eq!(store.head(&other).unwrap(), None);
        fs::write(dir.path().join("a.head"), "p2pinst-head-1 00").unwrap();
        assert_eq!(store.head(&key).unwrap(), None);
    }
}
