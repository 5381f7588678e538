//! Founding a cluster: its root, its first administrator, its first machine.
//!
//! Runs in the command line's process, with keys that the daemon never sees.

use dht_store::{Outcome, Store, StoreError};
use p2pinst_api::{DataDir, ErrorKind};
use p2pinst_files::FileError;
use p2pinst_trust::key::{NoRandomness, random_u64};
use p2pinst_trust::root::RootError;
use p2pinst_trust::{RootChain, SecretKey, policy};
use p2pinst_types::cell::{CellError, Draft};
use p2pinst_types::codec::CodecError;
use p2pinst_types::record::{Admission, Grant, Invite, NodeCert, Role, RootDoc};
use p2pinst_types::{Cell, CellId, ClusterId, Hlc, Kind, Labels, Name, NodeId, Version, codec};
use serde::Serialize;
use thiserror::Error;

use crate::addrs::reachable;
use crate::clock;
use crate::config::{Config, ConfigError};
use crate::identity::{Identity, IdentityError, save_key};
use crate::net::{NetError, check_addr};

/// What a cluster is founded with.
#[derive(Debug)]
pub struct InitOptions<'a> {
    /// The data directory of the first machine.
    pub dir: &'a DataDir,
    /// The cluster's name.
    pub cluster: Name,
    /// The first machine's name.
    pub node_name: Name,
    /// Its site.
    pub site: Name,
    /// Its labels.
    pub labels: Labels,
    /// Where it listens.
    pub listen: Vec<String>,
    /// The root key.
    pub root_key: &'a SecretKey,
    /// The first administrator's key.
    pub operator_key: &'a SecretKey,
    /// The first administrator's name.
    pub operator_name: Name,
}

/// What was founded.
#[derive(Debug, Clone)]
pub struct Founded {
    /// The cluster.
    pub cluster: ClusterId,
    /// The first node.
    pub node: NodeId,
    /// The newest version that the root key has written.
    pub root_head: Version,
    /// The newest version that the administrator's key has written.
    pub operator_head: Version,
}

/// Why nothing was founded.
#[derive(Debug, Error)]
pub enum FoundError {
    /// The directory belongs to a cluster.
    #[error("{dir} belongs to the cluster {cluster} already")]
    Member {
        /// The directory.
        dir: String,
        /// The cluster.
        cluster: String,
    },
    /// An address makes no sense.
    #[error(transparent)]
    Address(#[from] NetError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The identity cannot be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The configuration cannot be written.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store cannot be made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No random numbers.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// The root cannot be made.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A record cannot be encoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A record is too large.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// The founding cells do not pass their own checks.
    #[error("the founding records are refused: {0}")]
    Refused(String),
}

impl FoundError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Member { .. } | Self::Address(_) | Self::Cell(_) => ErrorKind::Invalid,
            _ => ErrorKind::Internal,
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Member { .. } => {
                Some("use another --data-dir, or leave that cluster as it is".to_owned())
            }
            _ => None,
        }
    }
}

/// Refuses a directory that belongs to a cluster.
pub(crate) fn ensure_free(dir: &DataDir) -> Result<(), (String, String)> {
    match Identity::load(dir) {
        Err(IdentityError::None { .. }) => Ok(()),
        Ok(identity) => {
            let named = identity.roots(dir).map(|r| r.cluster_name()).unwrap_or_default();
            let cluster = format!("{named} ({})", identity.cluster.0.short());
            Err((dir.path().display().to_string(), cluster))
        }
        Err(damaged) => Err((dir.path().display().to_string(), damaged.to_string())),
    }
}

/// How long the first machine's own invite is open: it is used at once.
const OWN_INVITE: std::time::Duration = std::time::Duration::from_secs(3600);

/// Writes cells of one author in one go.
struct Author<'a> {
    key: &'a SecretKey,
    cluster: ClusterId,
    version: Version,
    hlc: Hlc,
}

impl Author<'_> {
    fn write<T: Serialize>(
        &mut self,
        kind: Kind,
        subject: &[u8],
        record: &T,
    ) -> Result<Cell, FoundError> {
        self.version.seq += 1;
        self.hlc = self.hlc.next(self.hlc.millis());
        let id =
            CellId { kind, subject: subject.to_vec(), slot: Vec::new(), author: self.key.public() };
        let payload = codec::encode(record)?;
        let draft = Draft { id, version: self.version, hlc: self.hlc, payload };
        Ok(draft.sign(&self.cluster, |m| self.key.sign(m))?)
    }
}

/// Founds a cluster in a data directory. Blocking.
///
/// # Errors
/// When the directory belongs to a cluster, or something cannot be written; the directory belongs
/// to no cluster then.
pub fn init(options: InitOptions<'_>) -> Result<Founded, FoundError> {
    let InitOptions { dir, listen, root_key, operator_key, .. } = &options;
    ensure_free(dir).map_err(|(dir, cluster)| FoundError::Member { dir, cluster })?;
    for addr in listen {
        check_addr(addr)?;
    }
    p2pinst_files::make_private_dir(dir.path())?;
    let doc = RootDoc {
        version: 1,
        cluster: options.cluster.clone(),
        keys: [root_key.public()].into(),
        threshold: 1,
        nonce: random_u64()?,
        standing: None,
    };
    let roots = RootChain::found(&doc, &[root_key])?;
    let cluster = *roots.cluster();
    let now = clock::local();
    let life = Version { incarnation: now.0, seq: 0 };
    let author = |key, hlc| Author { key, cluster, version: life, hlc };

    let mut root = author(root_key, Hlc::at(now));
    let grant = Grant {
        key: operator_key.public(),
        name: options.operator_name.clone(),
        roles: [Role::Operator, Role::Publisher].into(),
        not_after: None,
        cosigned: Vec::new(),
    };
    let grant_cell = root.write(Kind::GRANT, grant.key.as_bytes(), &grant)?;

    let node_key = SecretKey::generate()?;
    let invite_key = SecretKey::generate()?;
    let mut operator = author(operator_key, root.hlc);
    let invite = Invite {
        key: invite_key.public(),
        site: options.site.clone(),
        labels: options.labels.clone(),
        uses: 1,
        not_after: now.after(OWN_INVITE),
        replaces: None,
        boot: None,
    };
    let invite_cell = operator.write(Kind::INVITE, invite.key.as_bytes(), &invite)?;
    let cert = NodeCert {
        node: node_key.public(),
        name: options.node_name.clone(),
        site: invite.site.clone(),
        labels: invite.labels.clone(),
        addrs: reachable(listen, None),
        invite: invite.key,
        replaces: None,
    };
    let signed = policy::sign_cert(&roots, &invite_key, &cert)?;
    let admission = Admission { machine: policy::machine_id(&signed), cert: signed.clone() };
    let admission_cell = operator.write(Kind::ADMISSION, cert.node.as_bytes(), &admission)?;

    let identity = Identity {
        cluster,
        roots: roots.signed().to_vec(),
        grant: grant_cell.bytes().to_vec(),
        invite: invite_cell.bytes().to_vec(),
        cert: signed,
        admission: admission_cell.bytes().to_vec(),
        name: options.node_name.clone(),
        machine: admission.machine,
        bootstrap: Vec::new(),
    };
    let mut store = Store::open(&dir.store(), roots)?;
    let cells = vec![grant_cell, invite_cell, admission_cell];
    for outcome in store.apply(cells, &[], now)? {
        if outcome != Outcome::Accepted {
            return Err(FoundError::Refused(format!("{outcome:?}")));
        }
    }
    save_key(dir, &options.node_name, &node_key)?;
    Config { listen: listen.clone(), ..Config::default() }.save(dir)?;
    identity.save(dir)?; // last: from now on the directory belongs to the cluster
    Ok(Founded {
        cluster,
        node: NodeId(node_key.public()),
        root_head: root.version,
        operator_head: operator.version,
    })
}
