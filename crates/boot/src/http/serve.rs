//! Connections: taken while there is room, and ended when they are too slow.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::gate::{Gate, Refused};
use super::patience::Patient;
use super::{Caller, HEAD, Limits, Site, respond};

/// Headers of one request.
const HEADERS: usize = 64;
/// After an error of the system (no file descriptors, say) nothing is taken for this long.
const PAUSE: Duration = Duration::from_millis(100);

/// A server; clones share its counts.
#[derive(Debug)]
pub struct Server<S> {
    pub(super) site: Arc<S>,
    pub(super) limits: Limits,
    gate: Arc<Mutex<Gate>>,
    began: Instant,
}

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        let (site, gate) = (Arc::clone(&self.site), Arc::clone(&self.gate));
        Self { site, limits: self.limits, gate, began: self.began }
    }
}

impl<S: Site> Server<S> {
    /// A server of this site.
    #[must_use]
    pub fn new(site: Arc<S>, limits: Limits) -> Self {
        Self { site, limits, gate: Arc::default(), began: Instant::now() }
    }

    /// Takes connections, for ever; dropping the future ends them all.
    pub async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let (stream, from, to) = match accept(&listener).await {
                Ok(Some(connection)) => connection,
                Ok(None) => continue,
                Err(error) => {
                    tracing::debug!(%error, "no connection could be taken");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            if let Some(place) = self.place(*from.ip()) {
                connections.spawn(self.clone().connection(stream, from, to, place));
            }
        }
    }

    /// A place for a connection. Who it is that calls is only looked up where there is none for anybody.
    fn place(&self, from: Ipv4Addr) -> Option<Place> {
        let open = |from| lock(&self.gate).open(from, &self.limits).map(|()| from);
        let expected = || Some(self.site.caller(from)).filter(|caller| caller.is_expected());
        let from = match open(Caller::Other(from)) {
            Ok(from) => from,
            Err(_) => open(expected()?).ok()?,
        };
        Some(Place { gate: Arc::clone(&self.gate), from, leave: Gate::close })
    }

    /// Lets a call to `/hello` in.
    pub(super) fn call(&self, from: Ipv4Addr) -> Result<Place, Refused> {
        let from = self.site.caller(from);
        lock(&self.gate).call(self.began.elapsed(), from, &self.limits)?;
        Ok(Place { gate: Arc::clone(&self.gate), from, leave: Gate::answered })
    }

    async fn connection(
        self,
        stream: TcpStream,
        from: SocketAddrV4,
        to: SocketAddrV4,
        _place: Place,
    ) {
        let io = Patient::new(TokioIo::new(stream), self.limits.patience);
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.patience)
            .max_buf_size(HEAD)
            .max_headers(HEADERS);
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(respond::to(server, request, from, to).await) }
        });
        if let Err(error) = builder.serve_connection(io, service).await {
            // firmware resets connections when it has what it wanted
            tracing::trace!(%from, %error, "a connection has ended early");
        }
    }
}

async fn accept(
    listener: &TcpListener,
) -> std::io::Result<Option<(TcpStream, SocketAddrV4, SocketAddrV4)>> {
    let (stream, from) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(match (from, stream.local_addr()?) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => Some((stream, from, to)),
        _ => None,
    })
}

fn lock(gate: &Mutex<Gate>) -> MutexGuard<'_, Gate> {
    gate.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place that is given back when it is dropped.
pub(super) struct Place {
    gate: Arc<Mutex<Gate>>,
    from: Caller,
    leave: fn(&mut Gate, Caller),
}

impl Drop for Place {
    fn drop(&mut self) {
        (self.leave)(&mut lock(&self.gate), self.from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Answered, Found};
    use std::fs::File;
    use std::io::{Read, Write};
    use std::net::TcpStream as Client;

    use p2pinst_types::Mac;

    /// From there a machine calls that has an order.
    const EXPECTED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

    /// One large file.
    struct Zeros(tempfile::NamedTempFile);

    impl Site for Zeros {
        fn find(&self, _: &str, _: SocketAddrV4) -> Option<Found> {
            let file = File::open(self.0.path()).ok()?;
            Some(Found::File { name: "zeros".into(), file })
        }

        fn caller(&self, from: Ipv4Addr) -> Caller {
            match from == EXPECTED {
                true => Caller::Expected(Mac([2, 0, 0, 0, 0, 1])),
                false => Caller::Other(from),
            }
        }

        async fn hello(&self, _: SocketAddrV4, body: Vec<u8>) -> Option<Answered> {
            Some(Answered { status: 200, body })
        }

        fn sent(&self, _: SocketAddrV4, _: &str, _: u64) {}
    }

    fn server() -> (tokio::runtime::Runtime, SocketAddr) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(100 << 20).unwrap();
        let limits = Limits { patience: Duration::from_millis(400), ..Limits::default() };
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let at = listener.local_addr().unwrap();
        let server = Server::new(Arc::new(Zeros(file)), limits);
        let mut tasks = JoinSet::new();
        tasks.spawn_on(server.serve(listener), runtime.handle());
        tasks.detach_all();
        (runtime, at)
    }

    fn call(at: SocketAddr, head: &str) -> Client {
        let mut client = Client::connect(at).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.write_all(head.as_bytes()).unwrap();
        client
    }

    #[test]
    fn a_machine_that_is_expected_has_a_place_whoever_holds_the_others() {
        let limits = Limits { connections: 3, per_client: 2, ..Limits::default() };
        let server = Server::new(Arc::new(Zeros(tempfile::NamedTempFile::new().unwrap())), limits);
        let place = |last| server.place(Ipv4Addr::new(192, 0, 2, last));
        // somebody passes for its address, too
        let mut held: Vec<_> = [9, 9, 1].map(place).into();
        assert!(held.iter().all(Option::is_some) && place(2).is_none());
        held.extend([place(9), place(9)]);
        assert!(held.iter().all(Option::is_some));
        assert!(place(9).is_none(), "it has its share of those, too");
        held.clear();
        assert!([1, 2, 3].map(place).iter().all(Option::is_some));
    }

    #[test]
    fn who_is_slow_to_ask_is_closed() {
        let (_runtime, at) = server();
        for head in [
            "",
            "GET / HTTP/1.1\r\nHost:",
            "POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1",
        ] {
            let began = std::time::Instant::now();
            let mut client = call(at, head);
            let mut rest = Vec::new();
            // closed or reset
            let _closed = client.read_to_end(&mut rest);
            let took = began.elapsed();
            assert!((300..10_000).contains(&took.as_millis()), "{head:?}: {took:?}");
        }
    }

    #[test]
    fn who_has_had_its_answer_and_asks_no_more_is_closed() {
        let (_runtime, at) = server();
        let mut client = call(at, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert!(rest.starts_with(b"HTTP/1.1 200"));
    }

    #[test]
    fn who_does_not_read_is_closed_and_who_reads_slowly_is_not() {
        let (_runtime, at) = server();
        let ask = "GET / HTTP/1.1\r\nHost: x\r\nRange: bytes=0-29999999\r\n\r\n";
        let mut silent = call(at, ask);
        let mut slow = call(at, ask);
        let (mut got, mut chunk) = (0, vec![0; 1 << 20]);
        while got < 30_000_000 {
            // longer in all than it may stand still
            std::thread::sleep(Duration::from_millis(20));
            match slow.read(&mut chunk).unwrap() {
                0 => panic!("closed after {got}"),
                n => got += n,
            }
        }
        std::thread::sleep(Duration::from_millis(500));
        let mut rest = Vec::new();
        let _reset = silent.read_to_end(&mut rest);
        assert!(rest.len() < 25_000_000, "{}", rest.len());
    }
}
