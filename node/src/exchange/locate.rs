//! Finding out what a bare root stands for.
//!
//! A root alone does not say how long the blob is, and sources are not believed: the length that one
//! claims is proved by the piece layer, which must merge to the root, and by the last piece, which
//! hashes to its value of the layer with its own length only. Blobs are cut as publishers cut them, so
//! that the length decides the pieces.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use p2pinst_chunks::store::{BeginError, PutError};
use p2pinst_chunks::wire::{Direction, Refusal, ToDownloader, ToSource};
use p2pinst_chunks::{LayerPages, PieceLayer};
use p2pinst_types::{BlobRef, Hash, NodeId, PieceIndex};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::{Exchange, wire};
use crate::net::Protocol;

/// How long somebody is looked for who has the blob.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long others may answer after the first who has it.
const HEARING: Duration = Duration::from_millis(500);
/// How long one source may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long one that proves what it claims may be silent before a piece, which may wait for its turn.
const TURN: Duration = Duration::from_secs(15);
/// How long one source may take to prove what it claims; the layer of the largest blob has 128 MiB.
const PROOF: Duration = Duration::from_secs(60);
/// Sources that prove what they claim at the same time.
const PROVERS: usize = 3;
/// A pause before new sources are looked for, and before a busy one is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// Sources that are asked at once.
const AT_ONCE: usize = 20;

/// Why it is not known what a root stands for.
#[derive(Debug, Error)]
pub enum LocateError {
    /// Nobody who can be reached has it, or can prove that it has.
    #[error("no node that can be reached has the whole blob {}", root.short())]
    Nobody {
        /// The blob.
        root: Hash,
    },
    /// It cannot be begun: the disk is full, say.
    #[error("cannot begin the blob: {0}")]
    Begin(#[from] BeginError),
    /// A piece cannot be stored.
    #[error("cannot store a piece: {0}")]
    Put(#[from] PutError),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping(#[from] tokio::task::JoinError),
}

/// A blob whose length is proved, and what proves it.
#[derive(Debug)]
pub struct Located {
    layer: Arc<PieceLayer>,
    /// `None`: the blob has been begun here.
    last: Option<Vec<u8>>,
}

impl Located {
    /// The blob.
    #[must_use]
    pub fn blob(&self) -> BlobRef {
        *self.layer.blob()
    }
}

fn last_piece(blob: &BlobRef) -> PieceIndex {
    PieceIndex(blob.pieces().saturating_sub(1))
}

impl Exchange {
    /// Finds out what a root stands for, from sources that are not trusted. While somebody fetches the
    /// blob here, that is waited for: sources let a member have one stream for a blob.
    ///
    /// # Errors
    /// When nobody who can be reached has it.
    pub async fn locate(
        &self,
        root: Hash,
        sources: impl Fn() -> Vec<NodeId>,
    ) -> Result<Located, LocateError> {
        let begun = Instant::now();
        let mut asked: BTreeMap<NodeId, Instant> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let mut claims: BTreeMap<BlobRef, BTreeSet<NodeId>> = BTreeMap::new();
        let mut first: Option<Instant> = None;
        let mut failed = BTreeSet::new();
        while begun.elapsed() < PATIENCE {
            if let Some(layer) = self.begun_here(root).await? {
                return Ok(Located { layer, last: None });
            }
            if self.is_fetching(&root) {
                tasks.abort_all();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            for peer in sources().into_iter().filter(|peer| !failed.contains(peer)) {
                // who did not have it may have it by now
                let again = |at: &Instant| at.elapsed() > ANSWER;
                if tasks.len() < AT_ONCE && asked.get(&peer).is_none_or(again) {
                    asked.insert(peer, Instant::now());
                    let exchange = self.clone();
                    tasks.spawn(async move { (peer, exchange.claim(peer, root).await) });
                }
            }
            tokio::select! {
                Some(answer) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Ok((peer, Some(blob))) = answer
                        && !failed.contains(&peer)
                    {
                        claims.entry(blob).or_default().insert(peer);
                        first.get_or_insert_with(Instant::now);
                    }
                }
                () = tokio::time::sleep(PAUSE) => {}
            }
            let heard = first.is_some_and(|at| at.elapsed() >= HEARING || tasks.is_empty());
            if !heard {
                continue;
            }
            first = None;
            let claims = in_turn(std::mem::take(&mut claims));
            if let Some(located) = self.first_proof(claims, &mut failed).await {
                return Ok(located);
            }
        }
        Err(LocateError::Nobody { root })
    }

    /// The layer of a blob that has been begun here.
    async fn begun_here(&self, root: Hash) -> Result<Option<Arc<PieceLayer>>, LocateError> {
        if self.blobs.status(&root).is_none() {
            return Ok(None);
        }
        let blobs = self.blobs.clone();
        let layer = tokio::task::spawn_blocking(move || blobs.layer(&root)).await?;
        // it was removed meanwhile, say
        Ok(layer.inspect_err(|error| debug!(%error, "cannot read a layer")).ok())
    }

    /// The first good proof of what sources claim. Who fails is not asked again.
    async fn first_proof(
        &self,
        claims: Vec<(NodeId, BlobRef)>,
        failed: &mut BTreeSet<NodeId>,
    ) -> Option<Located> {
        let mut claims = claims.into_iter();
        let mut proofs = JoinSet::new();
        loop {
            for (peer, blob) in claims.by_ref().take(PROVERS.saturating_sub(proofs.len())) {
                let exchange = self.clone();
                proofs.spawn(async move {
                    let proof = tokio::time::timeout(PROOF, exchange.prove(peer, blob)).await;
                    (peer, proof.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
                });
            }
            match proofs.join_next().await? {
                Ok((_, Ok(located))) => return Some(located),
                Ok((peer, Err(error))) => {
                    debug!(%peer, %error, "it does not prove what it claims");
                    failed.insert(peer);
                }
                Err(error) => debug!(%error, "a proof was broken off"),
            }
        }
    }

    /// Puts what proved the length into the store, so that it is not fetched again.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub async fn adopt(&self, located: Located) -> Result<(), LocateError> {
        let blobs = self.blobs.clone();
        let begun = tokio::task::spawn_blocking(move || {
            let blob = located.blob();
            blobs.begin(&located.layer)?;
            if let Some(last) = &located.last {
                blobs.put_piece(&blob.root, last_piece(&blob), last)?;
            }
            Ok(())
        });
        begun.await?
    }

    /// What a source says that the root stands for, if it has the last piece.
    async fn claim(&self, peer: NodeId, root: Hash) -> Option<BlobRef> {
        let asked = tokio::time::timeout(ANSWER, async {
            let (mut reader, _writer) = self.opened(peer, root).await?;
            claimed(&mut reader, root).await
        });
        asked.await.ok()?.ok()?
    }

    async fn opened(
        &self,
        peer: NodeId,
        root: Hash,
    ) -> io::Result<(impl AsyncRead + Unpin, impl AsyncWrite + Unpin)> {
        let stream = self.net.open(peer, Protocol::Exchange, &[]).await;
        let (reader, mut writer) = tokio::io::split(stream.map_err(io::Error::other)?);
        say(&mut writer, &ToSource::Open { root }).await?;
        Ok((reader, writer))
    }

    async fn prove(&self, peer: NodeId, blob: BlobRef) -> io::Result<Located> {
        let (mut reader, mut writer) = self.opened(peer, blob.root).await?;
        if claimed(&mut reader, blob.root).await? != Some(blob) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut pages = LayerPages::new(blob).map_err(io::Error::other)?;
        let mut body = Vec::new();
        while let Some(from) = pages.next_page() {
            // a blob of one piece has its root as its layer: nobody needs to be asked
            if blob.pieces() == 1 {
                pages.push(from, blob.root.as_bytes()).map_err(io::Error::other)?;
                continue;
            }
            say(&mut writer, &ToSource::GetLayer { from }).await?;
            match hear(&mut reader, &mut body, ANSWER).await? {
                ToDownloader::Layer { from, bytes } => {
                    pages.push(from, bytes).map_err(io::Error::other)?;
                }
                ToDownloader::Have { .. } => {}
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        let layer = pages.finish().map_err(io::Error::other)?;
        let piece = last_piece(&blob);
        say(&mut writer, &ToSource::Request { piece }).await?;
        loop {
            match hear(&mut reader, &mut body, TURN).await? {
                ToDownloader::Piece { piece: which, bytes } if which == piece => {
                    layer.check_piece(piece, bytes).map_err(io::Error::other)?;
                    return Ok(Located { last: Some(bytes.to_vec()), layer: Arc::new(layer) });
                }
                ToDownloader::Have { .. } => {}
                ToDownloader::Refused { reason: Refusal::Missing, .. } => {
                    return Err(io::ErrorKind::NotFound.into());
                }
                // too much to do, or it would rather give it to others: not for long
                ToDownloader::Refused { .. } => {
                    tokio::time::sleep(PAUSE).await;
                    say(&mut writer, &ToSource::Request { piece }).await?;
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

/// Reads, unless for so long nothing is heard.
async fn unless_silent<T>(
    read: impl Future<Output = io::Result<T>>,
    heard: &AtomicU64,
    silent: Duration,
) -> io::Result<T> {
    let mut read = pin!(read);
    loop {
        let before = heard.load(Ordering::Relaxed);
        match tokio::time::timeout(silent, read.as_mut()).await {
            Ok(read) => return read,
            Err(_) if heard.load(Ordering::Relaxed) != before => {}
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// One source of each claim in turn, what most say first: who answers slowly, or says the same as many
/// others, keeps nobody from proving something else.
fn in_turn(claims: BTreeMap<BlobRef, BTreeSet<NodeId>>) -> Vec<(NodeId, BlobRef)> {
    let mut claims: Vec<_> = claims.into_iter().collect();
    claims.sort_by_key(|(_, peers)| std::cmp::Reverse(peers.len()));
    let turns = claims.into_iter().map(|(blob, peers)| peers.into_iter().map(move |p| (p, blob)));
    let mut turns: Vec<_> = turns.map(|peers| peers.enumerate()).collect();
    let mut all: Vec<_> = turns.iter_mut().flatten().collect();
    all.sort_by_key(|(turn, _)| *turn);
    all.into_iter().map(|(_, claim)| claim).collect()
}

/// Reads what a source claims; `None`: it does not have the blob, or not its last piece, or cuts it as
/// nobody does.
async fn claimed<R: AsyncRead + Unpin>(reader: &mut R, root: Hash) -> io::Result<Option<BlobRef>> {
    let mut body = Vec::new();
    let ToDownloader::Opened { blob, have, .. } = hear(reader, &mut body, ANSWER).await? else {
        return Ok(None);
    };
    let usual = BlobRef::new(root, blob.len()).is_ok_and(|usual| usual == blob);
    Ok((usual && have.get(last_piece(&blob))).then_some(blob))
}

async fn say<W: AsyncWrite + Unpin>(writer: &mut W, message: &ToSource) -> io::Result<()> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    wire::write(writer, &[&bytes]).await
}

/// The next answer; what a source tells unasked, its news and its offers, does not matter here. No byte
/// of a message may take longer than `silent`.
async fn hear<'a, R: AsyncRead + Unpin>(
    reader: &mut R,
    body: &'a mut Vec<u8>,
    silent: Duration,
) -> io::Result<ToDownloader<'a>> {
    let heard = AtomicU64::new(0);
    let header = loop {
        let read = wire::read(reader, Direction::ToDownloader, body, &heard, None);
        let header = unless_silent(read, &heard, silent).await?;
        let header = header.ok_or(io::ErrorKind::UnexpectedEof)?;
        let said = ToDownloader::decode(header, wire::taken(header, body));
        let unasked = matches!(
            said.map_err(wire::invalid)?,
            ToDownloader::Have { .. } | ToDownloader::Offer { .. } | ToDownloader::Free
        );
        if !unasked {
            break header;
        }
    };
    ToDownloader::decode(header, wire::taken(header, body)).map_err(wire::invalid)
}
