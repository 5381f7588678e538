//! One stream, over a writer that does not behave.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

use super::super::tests::{NOBODY, content, host, store};
use super::*;

/// Takes everything at once, and lets go of it only when it is flushed, which takes long.
struct Gathering {
    taken: Vec<u8>,
    gone: usize,
    ready: Pin<Box<Sleep>>,
}

impl AsyncWrite for Gathering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.taken.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.ready.as_mut().poll(cx));
        self.gone = self.taken.len();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[tokio::test]
async fn the_end_of_a_slow_piece_is_flushed() {
    let data = content(200_000);
    let (_dir, blobs) = store();
    let blob = blobs.ingest(&mut data.as_slice(), data.len() as u64).unwrap();
    let host = host().await;
    let exchange = Exchange::new(host.net.clone(), blobs);
    let ready = Box::pin(tokio::time::sleep_until(Instant::now() + SLOW + SLOW / 2));
    let mut session = Session {
        exchange: &exchange,
        id: 1,
        peer: NOBODY,
        root: blob.root,
        blob,
        flow: exchange.limits().flow(Way::Up, NOBODY, blob.root),
        told: Bitmap::full(blob.pieces()),
        parts: BTreeMap::new(),
        writer: Gathering { taken: Vec::new(), gone: 0, ready },
    };
    session.send_piece(PieceIndex(1)).await.unwrap();
    let Gathering { taken, gone, .. } = session.writer;
    assert_eq!(gone, taken.len(), "nothing stays behind");
    let len = blob.piece_len() as usize;
    assert_eq!(taken.get(taken.len() - len..).unwrap(), data.get(len..2 * len).unwrap());
}
