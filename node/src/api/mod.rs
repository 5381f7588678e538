//! The control socket: requests of the command line, answered one at a time per connection.
//!
//! Only the user that runs the node can open it (mode 0600 in a 0700 directory). What comes over
//! it is still checked like anything else: it can submit signed cells, never unsigned ones.

mod boot;
mod debug;
mod doctor;
mod groups;
mod limits;
mod members;
mod newer;
mod power;
mod publish;
mod show;
mod status;
mod store;
mod swarm;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use dht_store::record::Record;
use dht_store::{Outcome, Store};
use p2pinst_api::request::{
    ApiError, CellBytes, CountHolders, ErrorKind, Head, InviteMaterial, PrepareInvite, Request,
    Submit, Submitted,
};
use p2pinst_api::{DataDir, frame};
use p2pinst_files::{Context as _, FileError};
use p2pinst_trust::policy;
use p2pinst_types::{Cell, Millis, codec};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::boot::Log;
use crate::clones::Clones;
use crate::control::{Control, SubmitLock, is_submittable};
use crate::exchange::Exchange;
use crate::identity::Identity;
use crate::liveness::Wanted;
use crate::net::Net;
use crate::power::Conductor;
use crate::replicate::Replicas;
use crate::storage::Storage;
use crate::store::{Own, StoreFailure, StoreHandle};
use crate::watch::Watch;

/// Connections at once.
const CONNECTIONS: usize = 64;
/// Cells in one submission.
const CELLS: usize = 64;
/// Peers that are asked before a writer is told its newest version.
const READ_BACK: usize = 3;

/// What the handlers need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    /// Who this node is.
    pub own: Arc<Own>,
    /// What it shows.
    pub identity: Arc<Identity>,
    /// Where it is reached.
    pub addrs: Vec<String>,
    /// Where packages go.
    pub root: String,
    /// What it knows.
    pub store: StoreHandle,
    /// Whom it is connected with.
    pub net: Net,
    /// The control plane.
    pub control: Control,
    /// The data plane.
    pub replicas: Replicas,
    /// Who is told of changes.
    pub watch: Watch,
    /// Its blobs.
    pub exchange: Exchange,
    /// What is kept of them.
    pub storage: Storage,
    /// Its data directory.
    pub dir: DataDir,
    /// When it was started.
    pub started: Millis,
    /// How often it syncs.
    pub sync: Duration,
    /// Whom it keeps connected.
    pub wanted: watch::Receiver<Wanted>,
    /// Machines that use one key.
    pub clones: Arc<Clones>,
    /// Keeps two submissions from interleaving.
    pub submitting: Arc<SubmitLock>,
    /// What happened on its segments.
    pub boot_log: Arc<Log>,
    /// Cancelled when this machine has left the cluster.
    pub left: CancellationToken,
    /// The power of machines.
    pub power: Conductor,
}

/// Binds the control socket. A path longer than a socket address can hold is reached through the
/// open directory.
///
/// # Errors
/// When the socket cannot be made.
pub fn bind(dir: &DataDir) -> Result<UnixListener, FileError> {
    use std::os::fd::AsRawFd;
    let path = dir.socket();
    p2pinst_files::remove(&path)?; // of a node that was killed: the lock says that none runs
    let parent = fs::File::open(dir.path()).context("open", dir.path())?;
    let name = path.file_name().unwrap_or_default();
    let short =
        std::path::Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
    let listener = UnixListener::bind(short).context("make the control socket", &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("protect", &path)?;
    Ok(listener)
}

impl From<StoreFailure> for ApiFailure {
    fn from(e: StoreFailure) -> Self {
        Self(ApiError::new(ErrorKind::Internal, e.to_string()))
    }
}

/// An error on its way to the client.
pub(crate) struct ApiFailure(pub(crate) ApiError);

impl From<ApiError> for ApiFailure {
    fn from(e: ApiError) -> Self {
        Self(e)
    }
}

type Reply<T> = Result<T, ApiFailure>;

fn encode<T: serde::Serialize>(reply: Reply<T>) -> Vec<u8> {
    let reply: Result<T, ApiError> = reply.map_err(|f| f.0);
    let encoded = codec::encode(&reply);
    let too_long = encoded.as_ref().is_ok_and(|b| b.len() > p2pinst_types::limits::FRAME);
    match encoded {
        Ok(bytes) if !too_long => bytes,
        _ => {
            let error = ApiError::new(ErrorKind::Internal, "the answer is too long")
                .hint("ask for less: name one deployment or machine");
            codec::encode(&Err::<(), _>(error)).unwrap_or_default()
        }
    }
}

impl Api {
    /// Accepts connections until shutdown.
    pub async fn run(self, listener: UnixListener, shutdown: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept(), if connections.len() < CONNECTIONS => {
                    match accepted {
                        Ok((stream, _)) => {
                            connections.spawn(self.clone().converse(stream));
                        }
                        Err(error) => {
                            warn!(%error, "cannot accept on the control socket");
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                }
            }
        }
        connections.shutdown().await;
    }

    async fn converse(self, stream: UnixStream) {
        if let Err(error) = self.answer_all(stream).await {
            debug!(%error, "a client's connection broke");
        }
    }

    async fn answer_all(&self, stream: UnixStream) -> io::Result<()> {
        let mut stream = BufReader::with_capacity(256 * 1024, stream);
        while let Some(body) = frame::read(&mut stream).await? {
            let answer = match codec::decode::<Request>(&body) {
                Ok(Request::PutBlob(put)) => {
                    let (stored, whole) = self.put_blob(&mut stream, put.len).await;
                    frame::write(&mut stream, &encode(stored)).await?;
                    if !whole {
                        // what is left of the blob cannot be told from the next request
                        return stream.shutdown().await;
                    }
                    continue;
                }
                Ok(Request::Leave(leave)) => {
                    let left = self.leave(leave).await;
                    let (done, answer) = (left.is_ok(), encode(left));
                    let told = frame::write(&mut stream, &answer).await;
                    if done {
                        self.left.cancel(); // what was asked has been answered
                    }
                    told?;
                    continue;
                }
                Ok(request) => self.answer(request).await,
                Err(e) => {
                    let reason = format!("the request cannot be read: {e}");
                    encode::<()>(Err(ApiError::new(ErrorKind::Invalid, reason).into()))
                }
            };
            frame::write(&mut stream, &answer).await?;
        }
        Ok(())
    }

    async fn answer(&self, request: Request) -> Vec<u8> {
        match request {
            Request::Info(_) => encode(Ok(self.info())),
            Request::Nodes(r) => encode(self.nodes(r).await),
            Request::Groups(r) => encode(Ok(self.groups(r.after.as_ref()))),
            Request::OneGroup(r) => encode(Ok(self.one_group(&r.name))),
            Request::Grants(_) => encode(Ok(self.grants())),
            Request::ReadHead(r) => encode(self.read_head(r.author).await),
            Request::Submit(r) => encode(self.submit(r).await),
            Request::PrepareInvite(r) => encode(self.prepare_invite(&r)),
            Request::PreparePublish(r) => encode(self.prepare_publish(&r)),
            Request::CountHolders(CountHolders { blob }) => {
                encode(Ok(self.count_holders(blob).await))
            }
            Request::Status(r) => encode(self.status(&r).await),
            Request::Watch(r) => encode(self.watch_status(&r).await),
            Request::ListStore(r) => encode(self.list_store(r.after).await),
            Request::CleanStore(r) => encode(self.clean_store(&r).await),
            Request::CheckBlob(r) => encode(self.check_blob(r).await),
            Request::PinBlob(r) => encode(self.pin_blob(r).await),
            Request::SeedBlob(r) => encode(self.seed_blob(r.root).await),
            Request::FindRelease(r) => encode(self.find_release(&r.what)),
            Request::FetchBlob(r) => encode(self.fetch_blob(&r).await),
            Request::Swarm(r) => encode(self.swarm(r.what.as_deref()).await),
            Request::Doctor(_) => encode(Ok(self.doctor().await)),
            Request::DebugCells(r) => encode(self.debug_cells(r).await),
            Request::DebugPeers(_) => encode(Ok(self.debug_peers())),
            Request::DebugKeys(r) => encode(self.debug_keys(r.limit).await),
            Request::Limits(r) => encode(self.limits(r).await),
            Request::History(r) => encode(self.history(r.machine).await),
            Request::Machines(r) => encode(self.machines(&r).await),
            Request::Sightings(r) => encode(Ok(self.sightings(r.after))),
            Request::Images(r) => encode(Ok(self.images(r.after))),
            Request::OneSetup(r) => encode(Ok(self.one_setup(r.id))),
            Request::AskingGroup(r) => encode(Ok(self.asking_group(&r))),
            Request::PrepareDeploy(r) => encode(Ok(self.prepare_deploy(r.author))),
            Request::Deploys(r) => encode(self.deploys(&r).await),
            Request::BootLog(r) => encode(Ok(self.boot_log(&r))),
            Request::PreparePower(r) => encode(Ok(self.prepare_power(&r))),
            Request::Power(r) => encode(self.machine_power(&r).await),
            Request::Invites(r) => encode(Ok(self.invites(r.after.as_ref()))),
            Request::ReadRoots(_) => encode(Ok(self.roots())),
            Request::SubmitRoots(r) => encode(self.submit_roots(r).await),
            // answered where the stream is
            Request::PutBlob(_) | Request::Leave(_) => Vec::new(),
        }
    }

    /// The newest version of an author's log, after asking some peers.
    async fn read_head(&self, author: p2pinst_types::PublicKey) -> Reply<Head> {
        let fresh = self.control.freshen(READ_BACK).await;
        let now = self.store.clock().now();
        let head = self.store.run(move |s: &mut Store| Head {
            version: s.head(&author),
            hlc: s.next_hlc(now),
            now,
            fresh,
        });
        Ok(head.await?)
    }

    /// Stores cells durably, then announces them.
    async fn submit(&self, submit: Submit) -> Reply<Submitted> {
        let invalid = |m: String| ApiFailure(ApiError::new(ErrorKind::Invalid, m));
        if submit.cells.len() > CELLS {
            return Err(invalid(format!("more than {CELLS} records in one submission")));
        }
        let cells: Result<Vec<Cell>, _> =
            submit.cells.into_iter().map(|CellBytes(bytes)| Cell::parse(bytes)).collect();
        let cells = cells.map_err(|e| invalid(format!("a record cannot be read: {e}")))?;
        if let Some(cell) = cells.iter().find(|c| !is_submittable(c.id.kind)) {
            return Err(invalid(format!("a {} is not submitted by hand", cell.id.kind)));
        }
        let _turn = self.submitting.lock().await;
        self.ensure_power(&cells)?;
        let outcomes = self.store.apply(cells.clone(), Vec::new()).await?;
        for (cell, outcome) in cells.iter().zip(&outcomes) {
            if !outcome.is_here() {
                let (Outcome::Held(why) | Outcome::Rejected(why)) = outcome else { continue };
                let reason = format!("the {} is refused: {why}", cell.id.kind);
                let hint = "has the key that signs been granted the role? see: p2pinst key ls";
                return Err(ApiError::new(ErrorKind::Refused, reason).hint(hint).into());
            }
        }
        Ok(Submitted { peers: self.control.announce(&cells).await })
    }

    /// A cell whose author lacks the power would be stored without any effect: its writer is told.
    fn ensure_power(&self, cells: &[Cell]) -> Reply<()> {
        let views = self.store.views();
        for cell in cells {
            if let Some(Record::Revocation(revocation)) = Record::of(cell)
                && !views.may_revoke(cell, &revocation.key)
            {
                let (key, other) = (cell.id.author.short(), revocation.key.short());
                let reason =
                    format!("the revocation of {other} is refused: {key} may not revoke it");
                return Err(ApiError::new(ErrorKind::Refused, reason)
                    .hint("operators revoke invites and machines; only a root key revokes keys that were granted power")
                    .into());
            }
            let roles = policy::roles_for(cell.id.kind);
            if !roles.is_empty() && !views.authorised(cell, roles) {
                let (kind, key) = (cell.id.kind, cell.id.author.short());
                let names: Vec<&str> = roles.iter().map(|r| r.as_str()).collect();
                let reason = format!(
                    "the {kind} is refused: the key {key} has no power as {}",
                    names.join(" or ")
                );
                return Err(ApiError::new(ErrorKind::Refused, reason)
                    .hint("see what the keys may do: p2pinst key ls")
                    .into());
            }
        }
        Ok(())
    }

    fn prepare_invite(&self, request: &PrepareInvite) -> Reply<InviteMaterial> {
        let views = self.store.views();
        let Some(info) = views.grants.get(&request.operator) else {
            let reason = format!("the key {} has no grant here", request.operator.short());
            return Err(ApiError::new(ErrorKind::Refused, reason)
                .hint("a root key grants it: p2pinst grant KEY --role operator --role publisher")
                .into());
        };
        let mut bootstrap = self.addrs.clone();
        bootstrap.truncate(2);
        for peer in self.net.peers().connected() {
            if bootstrap.len() >= 5 {
                break;
            }
            bootstrap.extend(self.net.peers().get(&peer).addrs.into_iter().take(1));
        }
        Ok(InviteMaterial {
            roots: views.roots.signed().to_vec(),
            grant: CellBytes(info.cell.bytes().to_vec()),
            bootstrap,
        })
    }
}

/// A fresh lock for submissions.
#[must_use]
pub fn submit_lock() -> Arc<SubmitLock> {
    Arc::new(Mutex::new(()))
}
