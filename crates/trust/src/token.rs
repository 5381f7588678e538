//! Join tokens: everything that a machine needs to join, in one word.
//!
//! `p2pinst1-` and base64url of the CBOR of the token and four bytes of its hash. The token holds
//! the invite's *private* key: who has it may join until it expires or is used up.

use std::fmt;

use p2pinst_types::record::{Grant, Invite, SignedRoot};
use p2pinst_types::{Cell, ClusterId, Hash, Kind, Name, codec, limits};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::key::{SecretKey, verify_cell};
use crate::policy;
use crate::root::RootChain;

const PREFIX: &str = "p2pinst1-";
/// Longest token, in characters.
pub const MAX: usize = 16 * 1024;

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Does not begin as a token does.
    #[error("this is not a join token (a token begins with {PREFIX})")]
    NotAToken,
    /// Characters are missing, added or changed.
    #[error("the join token is damaged: {0}; copy the whole of it")]
    Damaged(&'static str),
    /// The parts of the token do not belong together.
    #[error("the join token is not valid: {0}")]
    Invalid(&'static str),
}

/// A join token.
pub struct Token {
    /// The cluster's roots.
    pub roots: RootChain,
    /// Where live nodes listen.
    pub bootstrap: Vec<String>,
    /// The cell that grants the inviter its power.
    pub grant: Cell,
    /// The cell of the invite.
    pub invite_cell: Cell,
    /// The invite.
    pub invite: Invite,
    /// The invite's private key.
    pub key: SecretKey,
    /// The name of the machine whose place is taken, when the invite is for that.
    pub name: Option<Name>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Token(cluster {}, invite {})",
            self.roots.cluster().0.short(),
            self.invite.key.short()
        )
    }
}

/// The wire form.
#[derive(Serialize, Deserialize)]
struct Wire {
    cluster: ClusterId,
    roots: Vec<SignedRoot>,
    bootstrap: Vec<String>,
    #[serde(with = "serde_bytes")]
    grant: Vec<u8>,
    #[serde(with = "serde_bytes")]
    invite: Vec<u8>,
    #[serde(with = "serde_bytes")]
    key: Vec<u8>,
    name: Option<Name>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Token {
    /// The token as one word.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn encode(&self) -> Result<Zeroizing<String>, codec::CodecError> {
        let wire = Wire {
            cluster: *self.roots.cluster(),
            roots: self.roots.signed().to_vec(),
            bootstrap: self.bootstrap.clone(),
            grant: self.grant.bytes().to_vec(),
            invite: self.invite_cell.bytes().to_vec(),
            key: self.key.to_seed().to_vec(),
            name: self.name.clone(),
        };
        let mut bytes = Zeroizing::new(codec::encode(&wire)?);
        let check = Hash::of(&bytes);
        bytes.extend(check.0.iter().take(4));
        let text = Zeroizing::new(data_encoding::BASE64URL_NOPAD.encode(&bytes));
        Ok(Zeroizing::new(format!("{PREFIX}{}", *text)))
    }

    /// Reads a token and verifies all that can be verified without a clock and a network.
    ///
    /// # Errors
    /// When it is no token, is damaged, or its parts do not belong together.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let body = text.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        if text.len() > MAX {
            return Err(TokenError::Damaged("it is too long"));
        }
        let bytes = data_encoding::BASE64URL_NOPAD
            .decode(body.as_bytes())
            .map_err(|_| TokenError::Damaged("a character is wrong or missing"))?;
        let bytes = Zeroizing::new(bytes);
        let at = bytes.len().checked_sub(4).ok_or(TokenError::Damaged("it is too short"))?;
        let (body, check) = bytes.split_at(at);
        if !Hash::of(body).0.starts_with(check) {
            return Err(TokenError::Damaged("its checksum does not match"));
        }
        let wire: Wire =
            codec::decode(body).map_err(|_| TokenError::Damaged("it cannot be read"))?;
        Self::check(&wire)
    }

    fn check(wire: &Wire) -> Result<Self, TokenError> {
        let invalid = TokenError::Invalid;
        let roots = RootChain::verify(wire.cluster, wire.roots.clone())
            .map_err(|_| invalid("its roots do not match its cluster"))?;
        let cell = |bytes: &[u8], kind| {
            Cell::parse(bytes.to_vec())
                .ok()
                .filter(|c| c.id.kind == kind && verify_cell(roots.cluster(), c))
        };
        let grant = cell(&wire.grant, Kind::GRANT).ok_or(invalid("its grant is not signed"))?;
        let record: Grant = grant.record().map_err(|_| invalid("its grant cannot be read"))?;
        policy::check_grant(&roots, &grant, &record)
            .map_err(|_| invalid("its grant is not the root's"))?;
        let invite_cell =
            cell(&wire.invite, Kind::INVITE).ok_or(invalid("its invite is not signed"))?;
        let invite: Invite =
            invite_cell.record().map_err(|_| invalid("its invite cannot be read"))?;
        if invite_cell.id.author != record.key {
            return Err(invalid("its invite is not by its operator"));
        }
        let seed: [u8; 32] =
            wire.key.as_slice().try_into().map_err(|_| invalid("its key has the wrong length"))?;
        let key = SecretKey::from_seed(&Zeroizing::new(seed));
        let bounded = wire.bootstrap.len() <= limits::ADDRS;
        if key.public() != invite.key || !bounded {
            return Err(invalid("its key is not that of its invite"));
        }
        if wire.name.is_some() != invite.replaces.is_some() {
            return Err(invalid("it names a machine, and its invite does not, or the reverse"));
        }
        let (bootstrap, name) = (wire.bootstrap.clone(), wire.name.clone());
        Ok(Self { roots, bootstrap, grant, invite_cell, invite, key, name })
    }
}
