//! Bodies of answers: a short text, or a part of a file that is read as it leaves.

use std::fs::File;
use std::io;
use std::net::SocketAddrV4;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::task::{JoinHandle, spawn_blocking};

use super::Site;

/// How much is read at a time: with [`super::Limits::connections`] of them, 16 MiB.
const CHUNK: usize = 64 << 10;

/// A body.
pub(super) enum Answer<S: Site> {
    /// In memory; nothing once it has left.
    Text(Bytes),
    /// In a file.
    File(Stream<S>),
}

/// A part of a file on its way.
pub(super) struct Stream<S: Site> {
    site: Arc<S>,
    from: SocketAddrV4,
    name: String,
    file: Arc<File>,
    left: Range<u64>,
    sent: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl<S: Site> Stream<S> {
    /// Sends `part` of the file.
    pub(super) fn new(
        site: Arc<S>,
        from: SocketAddrV4,
        name: String,
        file: File,
        part: Range<u64>,
    ) -> Self {
        Self { site, from, name, file: Arc::new(file), left: part, sent: 0, reading: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let (file, at) = (&self.file, self.left.start);
        let left = self.left.end - at;
        let reading = self.reading.get_or_insert_with(|| {
            let file = Arc::clone(file);
            let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            spawn_blocking(move || {
                let mut chunk = vec![0; len];
                file.read_exact_at(&mut chunk, at)?;
                Ok(Bytes::from(chunk))
            })
        });
        let done = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        let read = done.map_err(io::Error::other).flatten();
        Poll::Ready(Some(read.map(|chunk| {
            let len = chunk.len() as u64;
            self.left.start += len;
            self.sent += len;
            Frame::data(chunk)
        })))
    }
}

impl<S: Site> Drop for Stream<S> {
    fn drop(&mut self) {
        self.site.sent(self.from, &self.name, self.sent);
    }
}

impl<S: Site> Body for Answer<S> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Text(text) if text.is_empty() => Poll::Ready(None),
            Self::Text(text) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Self::File(stream) => stream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::File(stream) => stream.left.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Text(text) => text.len() as u64,
            Self::File(stream) => stream.left.end - stream.left.start,
        })
    }
}
