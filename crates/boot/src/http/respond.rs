//! One request and its answer.

use std::fs::Metadata;
use std::net::SocketAddrV4;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderValue, IF_RANGE, RANGE, RETRY_AFTER,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::timeout;

use super::body::{Answer, Stream};
use super::gate::Refused;
use super::range::{Wanted, wanted};
use super::serve::Server;
use super::{ANSWER, Found, HELLO, Site};

type Reply<S> = Response<Answer<S>>;

/// Answers a request.
pub(super) async fn to<S: Site>(
    server: Server<S>,
    request: Request<Incoming>,
    from: SocketAddrV4,
    own: SocketAddrV4,
) -> Reply<S> {
    let is_hello = request.uri().path() == "/hello";
    match *request.method() {
        Method::POST if is_hello => hello(server, request, from).await,
        Method::GET | Method::HEAD if !is_hello => get(&server, &request, from, own),
        Method::GET | Method::HEAD => refused(StatusCode::METHOD_NOT_ALLOWED, &[(ALLOW, "POST")]),
        // a body that nobody reads is not waited for
        _ => {
            refused(StatusCode::METHOD_NOT_ALLOWED, &[(ALLOW, "GET, HEAD"), (CONNECTION, "close")])
        }
    }
}

fn refused<S: Site>(
    status: StatusCode,
    headers: &[(hyper::header::HeaderName, &'static str)],
) -> Reply<S> {
    let words = status.canonical_reason().unwrap_or("error");
    let mut reply = text(status, format!("{words}\n").into());
    for (name, value) in headers {
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    reply
}

fn text<S: Site>(status: StatusCode, body: Bytes) -> Reply<S> {
    let mut reply = Response::new(Answer::Text(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    reply
}

fn get<S: Site>(
    server: &Server<S>,
    request: &Request<Incoming>,
    from: SocketAddrV4,
    own: SocketAddrV4,
) -> Reply<S> {
    let found = server.site.find(request.uri().path(), own);
    let head = request.method() == Method::HEAD;
    match found {
        Some(Found::Text(body)) => whole(text(StatusCode::OK, body.into()), head),
        Some(Found::File { name, file }) => match file.metadata() {
            Ok(metadata) => {
                let (mut reply, part) = describe(request, &metadata);
                if let Some(part) = part.filter(|_| !head) {
                    let site = Arc::clone(&server.site);
                    *reply.body_mut() = Answer::File(Stream::new(site, from, name, file, part));
                }
                reply
            }
            Err(error) => {
                tracing::warn!(name, %error, "a boot file cannot be read");
                refused(StatusCode::INTERNAL_SERVER_ERROR, &[])
            }
        },
        None => whole(refused(StatusCode::NOT_FOUND, &[]), head),
    }
}

/// With its length, and without its body where only the head was asked for.
fn whole<S: Site>(mut reply: Reply<S>, head: bool) -> Reply<S> {
    if let Answer::Text(body) = reply.body_mut() {
        let len = body.len();
        if head {
            *body = Bytes::new();
        }
        reply.headers_mut().insert(CONTENT_LENGTH, len.into());
    }
    reply
}

/// The head of the answer for a file, and the part of it that follows.
fn describe<S: Site>(
    request: &Request<Incoming>,
    metadata: &Metadata,
) -> (Reply<S>, Option<std::ops::Range<u64>>) {
    let len = metadata.len();
    // files are replaced as wholes: another one has another inode or time
    let mark = format!("\"{:x}-{:x}-{:x}\"", metadata.ino(), metadata.mtime(), len);
    let header = |name| request.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    // RFC 9110, 13.1.5: who has a part of another file gets the whole of this one
    let same = header(IF_RANGE).is_none_or(|condition| condition == mark);
    let range = header(RANGE).filter(|_| same);
    let mut reply = text(StatusCode::OK, Bytes::new());
    let (part, place) = match wanted(range, len) {
        Wanted::Whole => (Some(0..len), None),
        Wanted::Part(part) => {
            *reply.status_mut() = StatusCode::PARTIAL_CONTENT;
            let place = format!("bytes {}-{}/{len}", part.start, part.end.saturating_sub(1));
            (Some(part), Some(place))
        }
        Wanted::Unsatisfiable => {
            *reply.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            (None, Some(format!("bytes */{len}")))
        }
    };
    let headers = reply.headers_mut();
    let length = part.as_ref().map_or(0, |part| part.end - part.start);
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.extend(HeaderValue::try_from(mark).ok().map(|mark| (ETAG, mark)));
    let place = place.and_then(|place| HeaderValue::try_from(place).ok());
    headers.extend(place.map(|place| (CONTENT_RANGE, place)));
    (reply, part)
}

async fn hello<S: Site>(
    server: Server<S>,
    request: Request<Incoming>,
    from: SocketAddrV4,
) -> Reply<S> {
    let limits = server.limits;
    let body = Limited::new(request.into_body(), HELLO).collect();
    let body = match timeout(limits.patience, body).await {
        Ok(Ok(body)) => body.to_bytes().to_vec(),
        Ok(Err(_)) => return refused(StatusCode::PAYLOAD_TOO_LARGE, &[(CONNECTION, "close")]),
        Err(_) => return refused(StatusCode::REQUEST_TIMEOUT, &[(CONNECTION, "close")]),
    };
    // only now: who is slow in asking keeps nobody out
    let _place = match server.call(*from.ip()) {
        Ok(place) => place,
        Err(Refused::Own) => return busy(StatusCode::TOO_MANY_REQUESTS),
        Err(Refused::All) => return busy(StatusCode::SERVICE_UNAVAILABLE),
    };
    match timeout(limits.answer, server.site.hello(from, body)).await {
        Ok(Some(answer)) if answer.body.len() <= ANSWER => {
            let status = StatusCode::from_u16(answer.status);
            text(status.unwrap_or(StatusCode::BAD_GATEWAY), answer.body.into())
        }
        Ok(Some(_)) => refused(StatusCode::BAD_GATEWAY, &[]),
        Ok(None) => busy(StatusCode::SERVICE_UNAVAILABLE),
        Err(_) => busy(StatusCode::GATEWAY_TIMEOUT),
    }
}

/// Come back later; what was to be said is not waited for.
fn busy<S: Site>(status: StatusCode) -> Reply<S> {
    refused(status, &[(RETRY_AFTER, "10"), (CONNECTION, "close")])
}
