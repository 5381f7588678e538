//! Who may write what: the rules above the signatures. Each is a pure function.

use std::collections::BTreeSet;

use p2pinst_types::record::{Grant, Invite, NodeCert, Role, SignedCert};
use p2pinst_types::{Cell, Hash, Hlc, Kind, MachineId, Millis, PublicKey, codec};
use thiserror::Error;

use crate::key::{Domain, SecretKey, verify_in};
use crate::root::RootChain;

/// A chain that does not hold, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChainError {
    /// The grant is not signed by enough root keys.
    #[error("the grant is not signed by the cluster's root")]
    Grant,
    /// The invite's author has no power to invite (any more, at its time).
    #[error("the invite is not signed by an operator or enroller of the cluster")]
    Invite,
    /// The certificate is not what the invite allows, or not signed by it.
    #[error("the certificate is not signed by its invite, or asks for more than it gives")]
    Cert,
}

/// The roles that may write cells of a kind, where a role is what decides.
#[must_use]
pub fn roles_for(kind: Kind) -> &'static [Role] {
    match kind {
        Kind::INVITE => &[Role::Operator, Role::Enroller],
        Kind::GROUP
        | Kind::GROUP_EDIT
        | Kind::GROUP_POLICY
        | Kind::LABEL
        | Kind::MACHINE_NAME
        | Kind::RETIREMENT
        | Kind::ADOPTION
        | Kind::SETUP
        | Kind::ASSIGNMENT
        | Kind::CONTROLLER
        | Kind::POWER_ORDER
        | Kind::DEPLOYMENT => &[Role::Operator],
        Kind::DISARMAMENT => &[Role::Operator, Role::Boot],
        Kind::SIGHTING => &[Role::Boot],
        Kind::RESEALED => &[Role::Power],
        Kind::RELEASE | Kind::IMAGE => &[Role::Publisher],
        Kind::IMAGE_REMOVAL => &[Role::Publisher, Role::Operator],
        _ => &[],
    }
}

/// The roles that may give an invite: one of the boot role is for the machine of an assignment, and
/// whether there is such a one is for the views to say.
#[must_use]
pub fn roles_for_invite(invite: &Invite) -> &'static [Role] {
    match invite.boot {
        Some(_) => &[Role::Boot],
        None => roles_for(Kind::INVITE),
    }
}

/// Whether a grant gives one of these roles at a time.
#[must_use]
pub fn allows(grant: &Grant, roles: &[Role], at: Hlc) -> bool {
    let alive = grant.not_after.is_none_or(|end| at.millis() <= end);
    alive && roles.iter().any(|r| grant.roles.contains(r))
}

/// Checks that a grant cell carries the signatures of a threshold of root keys: its author's, and
/// the co-signatures. Any version of the root will do: whether a grant of a former root still
/// counts is for the views to say, which know what the newer root takes over.
///
/// # Errors
/// When no version of the root has enough of the keys.
pub fn check_grant(roots: &RootChain, cell: &Cell, grant: &Grant) -> Result<(), ChainError> {
    check_grant_from(roots, 1, cell, grant)
}

/// The same, by a version of the root from `first` on.
///
/// # Errors
/// When no such version has enough of the keys.
pub fn check_grant_from(
    roots: &RootChain,
    first: u64,
    cell: &Cell,
    grant: &Grant,
) -> Result<(), ChainError> {
    if cell.id.subject != grant.key.as_bytes()
        || grant.cosigned.len() > p2pinst_types::limits::ROOT_KEYS
    {
        return Err(ChainError::Grant);
    }
    let body = cosigned_body(grant).ok_or(ChainError::Grant)?;
    let mut signers: BTreeSet<PublicKey> = grant
        .cosigned
        .iter()
        .filter(|(k, s)| verify_in(Domain::Grant, Some(roots.cluster()), k, &body, s))
        .map(|(k, _)| *k)
        .collect();
    signers.insert(cell.id.author);
    let enough = |d: &p2pinst_types::record::RootDoc| {
        d.keys.contains(&cell.id.author)
            && d.keys.intersection(&signers).count() >= usize::from(d.threshold)
    };
    if roots.docs().iter().filter(|d| d.version >= first).any(enough) {
        Ok(())
    } else {
        Err(ChainError::Grant)
    }
}

/// What further root keys sign: the grant without co-signatures.
fn cosigned_body(grant: &Grant) -> Option<Vec<u8>> {
    codec::encode(&Grant { cosigned: Vec::new(), ..grant.clone() }).ok()
}

/// Adds a root key's co-signature to a grant.
#[must_use]
pub fn cosign(roots: &RootChain, mut grant: Grant, key: &SecretKey) -> Grant {
    if let Some(body) = cosigned_body(&grant) {
        let signature = key.sign_in(Domain::Grant, Some(roots.cluster()), &body);
        grant.cosigned.push((key.public(), signature));
    }
    grant
}

/// Makes a node's certificate with the private key of an invite.
///
/// # Errors
/// When the certificate cannot be encoded.
pub fn sign_cert(
    roots: &RootChain,
    invite: &SecretKey,
    cert: &NodeCert,
) -> Result<SignedCert, codec::CodecError> {
    let cert = codec::encode(cert)?;
    let signature = invite.sign_in(Domain::NodeCert, Some(roots.cluster()), &cert);
    Ok(SignedCert { cert, signature })
}

/// Whether a certificate is signed by the invite that it names, whatever that allows.
#[must_use]
pub fn signed_by_invite(roots: &RootChain, cert: &NodeCert, signed: &SignedCert) -> bool {
    let cluster = Some(roots.cluster());
    verify_in(Domain::NodeCert, cluster, &cert.invite, &signed.cert, &signed.signature)
}

/// Checks a certificate against the invite that should have signed it.
///
/// # Errors
/// When the signature is not the invite's, or site or labels differ from the invite's.
pub fn check_cert(
    roots: &RootChain,
    invite: &Invite,
    signed: &SignedCert,
) -> Result<NodeCert, ChainError> {
    let cert: NodeCert = codec::decode(&signed.cert).map_err(|_| ChainError::Cert)?;
    let good = as_invited(invite, &cert) && signed_by_invite(roots, &cert, signed);
    if good { Ok(cert) } else { Err(ChainError::Cert) }
}

/// Whether a certificate asks for what its invite gives, and no more. Its signature was verified
/// before.
#[must_use]
pub fn as_invited(invite: &Invite, cert: &NodeCert) -> bool {
    let bounded = cert.addrs.len() <= p2pinst_types::limits::ADDRS
        && cert.addrs.iter().all(|a| a.len() <= 256);
    let asked = cert.site == invite.site
        && cert.labels == invite.labels
        && cert.replaces == invite.replaces;
    cert.invite == invite.key && asked && bounded
}

/// The machine that a certificate founds, or takes the place of.
#[must_use]
pub fn machine_id(cert: &SignedCert) -> MachineId {
    let replaced = codec::decode::<NodeCert>(&cert.cert).ok().and_then(|c| c.replaces);
    if let Some(machine) = replaced {
        return machine;
    }
    let hash = Hash::of_parts("p2pinst/machine/1", &[&cert.cert]);
    let mut id = [0; MachineId::LEN];
    for (to, from) in id.iter_mut().zip(hash.0) {
        *to = from;
    }
    MachineId(id)
}

/// Whether an invite may still be used at a time.
#[must_use]
pub fn invite_open(invite: &Invite, at: Millis) -> bool {
    at <= invite.not_after
}
