//! Joining a cluster: with a token, through any one live member.
//!
//! Runs in the command line's process. It makes the machine's key, signs its certificate with the
//! token's invite, connects to the first member that answers, is admitted by it, and copies the
//! control plane. Only then does the data directory belong to the cluster.

use std::sync::Arc;
use std::time::Duration;

use dht_store::view::Machine;
use dht_store::{Store, StoreError, Views};
use p2pinst_api::{DataDir, ErrorKind};
use p2pinst_files::FileError;
use p2pinst_trust::{Refusal, SecretKey, Token, policy};
use p2pinst_types::codec::CodecError;
use p2pinst_types::record::{Admission, NodeCert};
use p2pinst_types::{ClusterId, Labels, Name, NodeId, codec};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::addrs::reachable;
use crate::clock::{self, Clock};
use crate::clones::Clones;
use crate::config::{Config, ConfigError};
use crate::control::{SyncError, sync_with};
use crate::found::ensure_free;
use crate::identity::{Identity, IdentityError, JoiningKeyError, joining_key, save_key};
use crate::keeper::Keeper;
use crate::life::Life;
use crate::net::{self, Net, NetConfig, NetError, Settings, check_addr};
use crate::peers::Peers;
use crate::store::{self, Own, StoreFailure, StoreHandle};

/// What a machine joins with.
#[derive(Debug)]
pub struct JoinOptions<'a> {
    /// Its data directory.
    pub dir: &'a DataDir,
    /// The token.
    pub token: Token,
    /// The name that it asks for.
    pub name: Name,
    /// Where it will listen.
    pub listen: Vec<String>,
}

/// What a machine has joined.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// The cluster's name.
    pub cluster_name: String,
    /// The machine's node.
    pub node: NodeId,
    /// The machine's name.
    pub name: Name,
    /// The machine's site.
    pub site: Name,
    /// The machine's labels.
    pub labels: Labels,
    /// The address of the member that admitted it.
    pub through: String,
}

/// Why a machine did not join.
#[derive(Debug, Error)]
pub enum JoinError {
    /// The directory belongs to a cluster.
    #[error("{dir} belongs to the cluster {cluster} already")]
    Member {
        /// The directory.
        dir: String,
        /// The cluster.
        cluster: String,
    },
    /// The invite is over, by this machine's clock.
    #[error("the invite of this token has expired, at {not_after}")]
    Expired {
        /// When.
        not_after: p2pinst_types::Millis,
    },
    /// A member refuses.
    #[error("cannot join as {name}: {addr} refuses: {refusal}")]
    Refused {
        /// The name asked for.
        name: Name,
        /// The member's address.
        addr: String,
        /// Its reason.
        refusal: Refusal,
    },
    /// No member answers.
    #[error("cannot join: no member answers\n{tried}")]
    Unreachable {
        /// Each address, and what happened there.
        tried: String,
    },
    /// The member admitted this machine, but the roster says otherwise.
    #[error("cannot join as {name}: {refusal}")]
    Void {
        /// The name asked for.
        name: Name,
        /// The reason.
        refusal: Refusal,
    },
    /// The control plane could not be copied.
    #[error("cannot copy the cluster's records: {0}")]
    Sync(#[from] SyncError),
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
    /// The store's thread cannot be started or has ended.
    #[error(transparent)]
    Handle(#[from] StoreFailure),
    /// A thread cannot be started.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// The machine's key cannot be made or stored.
    #[error(transparent)]
    Key(#[from] JoiningKeyError),
    /// The certificate cannot be encoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl JoinError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Member { .. } | Self::Address(_) => ErrorKind::Invalid,
            Self::Expired { .. } | Self::Refused { .. } | Self::Void { .. } => ErrorKind::Refused,
            Self::Unreachable { .. } | Self::Sync(_) => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        }
    }

    /// Whether another member may let this machine in all the same.
    fn is_of_one_member(&self) -> bool {
        matches!(self, Self::Sync(_) | Self::Void { refusal: Refusal::NotAdmitted, .. })
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let of_refusal = |refusal: &Refusal| match refusal {
            Refusal::Expired | Refusal::UsedUp | Refusal::Revoked => {
                Some("ask an operator for a new token: p2pinst invite")
            }
            Refusal::NameTaken => Some("choose another name: p2pinst join TOKEN --name NAME"),
            Refusal::WrongCluster | Refusal::NotCertified => {
                Some("the token and the node at that address belong to different clusters")
            }
            Refusal::Unavailable => Some("try again, or through another member (--bootstrap)"),
            _ => None,
        };
        match self {
            Self::Member { .. } => {
                Some("use another --data-dir; one directory is one machine of one cluster")
            }
            Self::Expired { .. } => Some(
                "ask an operator for a new token (p2pinst invite --ttl 24h); if this machine's clock is wrong, set it",
            ),
            Self::Refused { refusal, .. } | Self::Void { refusal, .. } => of_refusal(refusal),
            Self::Sync(_) => Some("try again, or through another member (--bootstrap)"),
            Self::Unreachable { .. } => Some(
                "is p2pinstd running there, and may this machine connect? `p2pinst invite --bootstrap ADDR` names other members",
            ),
            _ => None,
        }
        .map(str::to_owned)
    }
}

/// How far a clock may be off before an expired invite is refused without asking anybody.
const DOUBT: Duration = Duration::from_secs(26 * 3600);
/// Time for all of it, after a member has answered.
const PATIENCE: Duration = Duration::from_secs(60);

/// Joins.
///
/// # Errors
/// When nobody lets this machine in, or something cannot be written; the directory belongs to no
/// cluster then.
pub async fn join(options: JoinOptions<'_>) -> Result<Joined, JoinError> {
    let JoinOptions { dir, token, name, listen } = options;
    ensure_free(dir).map_err(|(dir, cluster)| JoinError::Member { dir, cluster })?;
    for addr in &listen {
        check_addr(addr)?;
    }
    let not_after = token.invite.not_after;
    if clock::local() > not_after.after(DOUBT) {
        return Err(JoinError::Expired { not_after });
    }
    p2pinst_files::make_private_dir(dir.path())?;
    // of a join that was cut off before only the key counts
    if dir.store().exists() {
        p2pinst_files::remove(&dir.store())?;
    }
    let joining = Joining::new(dir, token, name, listen)?;
    let joined = joining.run().await;
    if joined.is_err() {
        p2pinst_files::remove(&dir.store())?;
    }
    // nobody has admitted this key, and nobody will
    let refused = matches!(&joined, Err(JoinError::Refused { refusal, .. }) if is_final(*refusal));
    if joined.is_ok() || refused {
        p2pinst_files::remove(&dir.joining_key())?;
    }
    joined
}

/// Whether every member would refuse for this reason.
fn is_final(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::Expired | Refusal::Revoked | Refusal::NameTaken | Refusal::UsedUp)
}

struct Joining<'a> {
    dir: &'a DataDir,
    token: Token,
    key: SecretKey,
    identity: Identity,
    listen: Vec<String>,
    addrs: Vec<String>,
    site: Name,
    labels: Labels,
}

impl<'a> Joining<'a> {
    fn new(
        dir: &'a DataDir,
        token: Token,
        name: Name,
        listen: Vec<String>,
    ) -> Result<Self, JoinError> {
        let key = joining_key(dir, &name)?;
        let addrs = reachable(&listen, token.bootstrap.first().map(String::as_str));
        let (site, labels) = (token.invite.site.clone(), token.invite.labels.clone());
        let cert = NodeCert {
            node: key.public(),
            name: name.clone(),
            site: site.clone(),
            labels: labels.clone(),
            addrs: addrs.clone(),
            invite: token.invite.key,
            replaces: token.invite.replaces,
        };
        let signed = policy::sign_cert(&token.roots, &token.key, &cert)?;
        let identity = Identity {
            cluster: *token.roots.cluster(),
            roots: token.roots.signed().to_vec(),
            grant: token.grant.bytes().to_vec(),
            invite: token.invite_cell.bytes().to_vec(),
            machine: policy::machine_id(&signed),
            cert: signed,
            admission: Vec::new(),
            name,
            bootstrap: token.bootstrap.clone(),
        };
        Ok(Self { dir, token, key, identity, listen, addrs, site, labels })
    }

    async fn run(self) -> Result<Joined, JoinError> {
        let clock = Clock::default();
        let roots = self.token.roots.clone();
        let store = Store::open(&self.dir.store(), roots)?;
        let (store, _ended) = store::start(store, clock.clone())?;
        let own = Arc::new(Own {
            key: self.key.clone(),
            node: NodeId(self.key.public()),
            machine: self.identity.machine,
            life: Life::begin(self.dir, clock::local(), 0),
        });
        let peers = Arc::new(Peers::new(clock.clone()));
        let (announce, _nobody) = mpsc::channel(1);
        let keeper = Keeper {
            own: Arc::clone(&own),
            identity: self.identity.clone(),
            addrs: self.addrs.clone(),
            store: store.clone(),
            peers: Arc::downgrade(&peers),
            announce,
            clones: Arc::new(Clones::new(clock)),
            joining: true,
        };
        let config = NetConfig {
            key: self.key.clone(),
            listen: Vec::new(),
            keeper: Arc::new(keeper),
            peers,
            settings: Settings {
                cluster: self.identity.cluster,
                ping: Duration::from_secs(10),
                unused: Duration::from_secs(60),
            },
        };
        let shutdown = CancellationToken::new();
        let (net, _events, task) = net::start(config, shutdown.clone()).await?;
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(task);
        let done = tokio::time::timeout(PATIENCE, self.through_someone(&net, &store, &own)).await;
        shutdown.cancel();
        drop(tasks.join_all().await);
        done.unwrap_or_else(|_| {
            let tried = format!("  it took longer than {} s", PATIENCE.as_secs());
            Err(JoinError::Unreachable { tried })
        })
    }

    /// Tries the addresses of the token in turn. What one member says of the invite or the name,
    /// every member would say; any other refusal may be that of a machine which took over the
    /// address.
    async fn through_someone(
        mut self,
        net: &Net,
        store: &StoreHandle,
        own: &Own,
    ) -> Result<Joined, JoinError> {
        let mut tried = String::new();
        let mut refused = None;
        for addr in self.token.bootstrap.clone() {
            match net.dial(None, std::slice::from_ref(&addr)).await {
                Ok(peer) => {
                    debug!(%peer, %addr, "connected");
                    match self.settle(net, store, own, peer).await {
                        Ok(()) => return Ok(self.joined(own, addr)),
                        // others may know better, or answer
                        Err(error) if error.is_of_one_member() => {
                            info!(%addr, %error, "trying the next member");
                            refused.get_or_insert(error);
                        }
                        Err(error) => return Err(error),
                    }
                }
                Err(NetError::Refused { refusal, .. }) => {
                    let name = self.identity.name.clone();
                    let error = JoinError::Refused { name, addr, refusal };
                    if is_final(refusal) {
                        return Err(error);
                    }
                    refused.get_or_insert(error);
                }
                Err(error) => {
                    tried.push_str(&format!("  {error}\n"));
                }
            }
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        if tried.is_empty() {
            tried.push_str("  the token names no address");
        }
        Err(JoinError::Unreachable { tried: tried.trim_end().to_owned() })
    }

    /// Copies the control plane, finds itself in the roster, and makes the directory a member's.
    async fn settle(
        &mut self,
        net: &Net,
        store: &StoreHandle,
        own: &Own,
        peer: NodeId,
    ) -> Result<(), JoinError> {
        sync_with(net, store, peer).await?;
        let views = store.views();
        let Some(machine) = views.machine_of(&own.node.0) else {
            let refusal = views.void.get(&own.node.0).copied().unwrap_or(Refusal::NotAdmitted);
            return Err(JoinError::Void { name: self.identity.name.clone(), refusal });
        };
        self.take_admission(&views, machine)?;
        save_key(self.dir, &self.identity.name, &self.key)?;
        Config { listen: self.listen.clone(), ..Config::default() }.save(self.dir)?;
        self.identity.save(self.dir)?; // last: from now on the directory belongs to the cluster
        info!(name = %self.identity.name, "joined");
        Ok(())
    }

    /// What the roster has of this machine counts: it may be from an earlier try with another token.
    fn take_admission(&mut self, views: &Views, machine: &Machine) -> Result<(), JoinError> {
        let admission: Admission = machine.cell.record()?;
        let cert: NodeCert = codec::decode(&admission.cert.cert)?;
        if let Some(invite) = views.invites.get(&cert.invite) {
            self.identity.invite = invite.cell.bytes().to_vec();
            if cert.invite != self.token.invite.key
                && let Some(grant) = views.grants.get(&invite.cell.id.author)
            {
                self.identity.grant = grant.cell.bytes().to_vec();
            }
        }
        self.identity.cert = admission.cert;
        self.identity.machine = machine.id;
        self.identity.name = machine.name.clone();
        self.identity.admission = machine.cell.bytes().to_vec();
        self.identity.roots = views.roots.signed().to_vec();
        (self.site, self.labels) = (machine.site.clone(), machine.labels.clone());
        Ok(())
    }

    fn joined(self, own: &Own, through: String) -> Joined {
        Joined {
            cluster: self.identity.cluster,
            cluster_name: self.token.roots.cluster_name(),
            node: own.node,
            name: self.identity.name,
            site: self.site,
            labels: self.labels,
            through,
        }
    }
}
