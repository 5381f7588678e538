//! A node's public credentials, kept in one file: what it shows to others, and who it is.

use std::path::Path;

use p2pinst_api::DataDir;
use p2pinst_files::{Access, FileError};
use p2pinst_trust::key::NoRandomness;
use p2pinst_trust::{RootChain, SecretKey, keytext};
use p2pinst_types::record::{SignedCert, SignedRoot};
use p2pinst_types::{ClusterId, MachineId, Name, codec};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest identity file, in bytes.
const MAX: u64 = 1024 * 1024;

/// What the file holds. The first byte of the file is the version of its format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The chain of roots as it was when the file was written; the store may know newer ones.
    pub roots: Vec<SignedRoot>,
    /// The cell of the inviter's grant.
    #[serde(with = "serde_bytes")]
    pub grant: Vec<u8>,
    /// The cell of the invite.
    #[serde(with = "serde_bytes")]
    pub invite: Vec<u8>,
    /// The certificate.
    pub cert: SignedCert,
    /// The cell of the admission.
    #[serde(with = "serde_bytes")]
    pub admission: Vec<u8>,
    /// The machine's name.
    pub name: Name,
    /// The machine.
    pub machine: MachineId,
    /// Where to find the cluster when nobody of the roster answers.
    pub bootstrap: Vec<String>,
}

const FORMAT: u8 = 1;

/// Why there is no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory belongs to no cluster.
    #[error("{dir} belongs to no cluster yet")]
    None {
        /// The directory.
        dir: String,
    },
    /// The file is damaged.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn damaged(path: &Path, reason: impl ToString) -> IdentityError {
    IdentityError::Damaged { path: path.display().to_string(), reason: reason.to_string() }
}

impl Identity {
    /// Reads the identity of a data directory.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn load(dir: &DataDir) -> Result<Self, IdentityError> {
        let path = dir.identity();
        if !path.exists() {
            return Err(IdentityError::None { dir: dir.path().display().to_string() });
        }
        let bytes = p2pinst_files::read(&path, MAX)?;
        match bytes.split_first() {
            Some((&FORMAT, body)) => codec::decode(body).map_err(|e| damaged(&path, e)),
            Some((other, _)) => {
                Err(damaged(&path, format!("format {other} needs a newer version of p2pinst")))
            }
            None => Err(damaged(&path, "it is empty")),
        }
    }

    /// Writes the identity: from then on the directory belongs to the cluster.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, dir: &DataDir) -> Result<(), IdentityError> {
        p2pinst_files::write(&dir.identity(), &self.to_bytes()?, Access::Public)?;
        Ok(())
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn to_bytes(&self) -> Result<Vec<u8>, IdentityError> {
        let mut bytes = vec![FORMAT];
        bytes.extend(codec::encode(self).map_err(|e| damaged(Path::new("identity"), e))?);
        Ok(bytes)
    }

    /// The chain of roots, verified.
    ///
    /// # Errors
    /// When the file was changed.
    pub fn roots(&self, dir: &DataDir) -> Result<RootChain, IdentityError> {
        RootChain::verify(self.cluster, self.roots.clone()).map_err(|e| damaged(&dir.identity(), e))
    }
}

/// The key of a join that is under way: kept until the join is done or refused for good, so that one
/// that was cut off after it was admitted can be taken up again under the same name.
///
/// # Errors
/// When the key cannot be made or stored.
pub fn joining_key(dir: &DataDir, name: &Name) -> Result<SecretKey, JoiningKeyError> {
    let path = dir.joining_key();
    if let Ok(text) = p2pinst_files::read_private(&path, keytext::MAX)
        && let Ok((of, key)) = keytext::read(&text)
        && of == *name
    {
        return Ok(key);
    }
    let key = SecretKey::generate()?;
    let text = keytext::write(name, &key);
    p2pinst_files::write(&path, text.as_bytes(), Access::Private)?;
    Ok(key)
}

/// Why there is no key to join with.
#[derive(Debug, Error)]
pub enum JoiningKeyError {
    /// It cannot be stored.
    #[error(transparent)]
    File(#[from] FileError),
    /// It cannot be made.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// Reads the node's key. It must be readable by its owner alone.
///
/// # Errors
/// When it cannot be read, others can read it too, or it is damaged.
pub fn load_key(dir: &DataDir) -> Result<SecretKey, IdentityError> {
    let path = dir.node_key();
    let text = p2pinst_files::read_private(&path, keytext::MAX)?;
    let key = keytext::read(&text).map_err(|e| damaged(&path, e));
    key.map(|(_, key)| key)
}

/// Stores the node's key.
///
/// # Errors
/// When the file cannot be written.
pub fn save_key(dir: &DataDir, name: &Name, key: &SecretKey) -> Result<(), IdentityError> {
    let text = keytext::write(name, key);
    p2pinst_files::write(&dir.node_key(), text.as_bytes(), Access::Private)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use p2pinst_types::{Hash, PublicKey, Signature};

    use super::*;

    #[test]
    fn golden_file() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temp.path());
        let identity = Identity {
            cluster: ClusterId(Hash([1; 32])),
            roots: vec![SignedRoot {
                doc: vec![1],
                signatures: vec![(PublicKey([2; 32]), Signature([3; 64]))],
            }],
            grant: vec![4],
            invite: vec![5],
            cert: SignedCert { cert: vec![6], signature: Signature([7; 64]) },
            admission: vec![8],
            name: "n1".parse().unwrap(),
            machine: MachineId([9; 16]),
            bootstrap: vec!["/ip4/10.0.0.1/tcp/4001".to_owned()],
        };
        identity.save(&dir).unwrap();
        let bytes = std::fs::read(dir.identity()).unwrap();
        let digest = Hash::of(&bytes).to_string();
        assert_eq!(format!("{}:{}", bytes.len(), &digest[..16]), "356:1c444262defaa9f0");
        assert_eq!(Identity::load(&dir).unwrap(), identity);
    }
}
