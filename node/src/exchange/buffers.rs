//! Memory for whole pieces: few are on their way at a time, so that lines have none of their own.
//!
//! What is given back is used again, and freed again when little goes on: freshly made memory costs a
//! page fault for every 4 KiB. Bounds: what is sent waits for its share of [`SENT`], apart for this site and
//! for others, which are slower; what comes is
//! bounded by what a fetch asks for, and a buffer fills as the bytes come.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lock;

/// Bytes of pieces that are in memory to be sent, of all takers at this site together, and as many of all
/// others.
const SENT: u32 = 16 << 20;
/// Bytes that are kept while pieces come and go,
const KEPT: usize = 16 << 20;
/// and when none does.
const IDLE: usize = 4 << 20;

/// The buffers of a node; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Buffers {
    pool: Arc<Mutex<Pool>>,
    near: Arc<Semaphore>,
    far: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Pool {
    free: Vec<Vec<u8>>,
    /// How many are in use.
    taken: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        let sent = || Arc::new(Semaphore::new(SENT as usize));
        Self { pool: Arc::default(), near: sent(), far: sent() }
    }
}

impl Buffers {
    /// An empty buffer, with or without room.
    pub(super) fn take(&self) -> Buffer {
        let mut pool = lock(&self.pool);
        pool.taken += 1;
        let mut bytes = pool.free.pop().unwrap_or_default();
        drop(pool);
        bytes.clear();
        Buffer { bytes, room: None, pool: Arc::clone(&self.pool) }
    }

    /// The same for so many bytes that are to be sent, to this site or to another: waits while too many are in
    /// memory.
    pub(super) async fn to_send(&self, bytes: u64, near: bool) -> Buffer {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(SENT);
        // it fails only when the semaphore is closed, which nobody does
        let room = Arc::clone(if near { &self.near } else { &self.far })
            .acquire_many_owned(bytes)
            .await
            .ok();
        let mut buffer = self.take();
        buffer.room = room;
        buffer
    }

    /// Whether none is in use.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.pool).taken == 0
    }
}

/// A buffer that goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
    pool: Arc<Mutex<Pool>>,
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut pool = lock(&self.pool);
        pool.taken = pool.taken.saturating_sub(1);
        pool.free.push(bytes);
        let most = if pool.taken == 0 { IDLE } else { KEPT };
        let mut kept = 0;
        let free = std::mem::take(&mut pool.free).into_iter().rev();
        let (mut stay, gone): (Vec<_>, Vec<_>) = free.partition(|b| {
            kept += b.capacity();
            b.capacity() > 0 && kept <= most
        });
        stay.reverse();
        pool.free = stay;
        drop(pool);
        // freeing takes a while: not under the lock
        drop(gone);
        drop(self.room.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn little_is_kept_and_what_is_sent_is_bounded() {
        let buffers = Buffers::default();
        let kept = || lock(&buffers.pool).free.iter().map(Vec::capacity).sum::<usize>();
        let mut used: Vec<Buffer> = (0..20).map(|_| buffers.take()).collect();
        used.iter_mut().for_each(|b| b.resize(4 << 20, 7));
        let last = used.pop();
        drop(used);
        assert!((IDLE..=KEPT).contains(&kept()), "{}", kept());
        drop(last);
        assert!((1..=IDLE).contains(&kept()), "{}", kept());
        assert!(buffers.take().is_empty(), "nothing of what was in it");
        let mut sending = Vec::new();
        for _ in 0..4 {
            sending.push(buffers.to_send(4 << 20, true).await);
        }
        let next = buffers.to_send(1, true);
        tokio::pin!(next);
        assert!(futures::poll!(next.as_mut()).is_pending());
        assert_eq!(buffers.to_send(1, false).await.len(), 0, "to other sites");
        sending.pop();
        assert_eq!(next.await.len(), 0);
    }
}
