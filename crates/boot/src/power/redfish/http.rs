//! Requests to a Redfish service: authentication, redirects, slashes, bounds, and what a status means.

use std::time::Duration;

use serde_json::{Value, json};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, TcpConnector};
use ureq::{Agent, Body, http};
use zeroize::Zeroizing;

use super::tls::{Pin, PinnedTls};
use super::{Class, Credentials, Fault, link};
use crate::power::controller::{Fingerprint, Host};

/// The longest answer: systems of large machines have 50 KiB.
const ANSWER: u64 = 1 << 20;
/// The longest path or header of a service that is followed or sent back.
const TEXT: usize = 1024;
/// Redirects that are followed for one request.
const REDIRECTS: usize = 4;
/// How long the end of a session may take.
const LEAVE: Duration = Duration::from_secs(3);

/// What is asked of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Patch,
    Delete,
}

/// What a service has answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Value,
    etag: Option<String>,
    location: Option<String>,
    token: Option<Zeroizing<String>>,
}

impl Reply {
    /// The tag of this state of the resource, from where the service puts it.
    pub(super) fn etag(&self) -> Option<String> {
        let inside = self.body.get("@odata.etag").and_then(Value::as_str);
        let etag = self.etag.clone().or_else(|| inside.map(str::to_owned));
        etag.filter(|etag| etag.len() <= TEXT && etag.chars().all(|c| c.is_ascii_graphic()))
    }

    /// The answer, unless it is a refusal.
    pub(super) fn well(self) -> Result<Self, Fault> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let words = self.words();
        let has = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
        let class = match self.status {
            401 | 403 => Class::Auth,
            404 | 405 | 410 | 501 => Class::Config,
            409 | 412 | 423 | 425 | 428 | 429 | 502 | 503 | 504 => Class::Busy,
            _ if has(&["DuringSystemPOST", "InProgress", "Retry", "TemporarilyUnavailable"]) => {
                Class::Busy
            }
            _ => Class::Action,
        };
        Err(Fault::new(class, format!("HTTP {} {words}", self.status)))
    }

    /// The messages of an error, as the standard lays them out, and their names.
    fn words(&self) -> String {
        let error = self.body.get("error").unwrap_or(&Value::Null);
        let more = error.get("@Message.ExtendedInfo").and_then(Value::as_array);
        let text = |value: &Value, key: &str| {
            value.get(key).and_then(Value::as_str).unwrap_or("").to_owned()
        };
        let first = [text(error, "code"), text(error, "message")];
        let rest = more.into_iter().flatten().take(4);
        let rest = rest.flat_map(|info| [text(info, "MessageId"), text(info, "Message")]);
        let all: Vec<String> =
            first.into_iter().chain(rest).filter(|word| !word.is_empty()).collect();
        all.join(" ")
    }
}

/// Who this is to the service.
#[derive(Debug)]
enum Session {
    /// Nobody yet.
    None,
    /// A session, and where it is.
    Token(Zeroizing<String>, Option<String>),
    /// User and password with each request.
    Basic(Zeroizing<String>),
}

/// A service.
pub(super) struct Http {
    agent: Agent,
    base: String,
    pin: Pin,
    credentials: Option<Credentials>,
    session: Session,
    /// It has paths only with a slash at their end.
    slashes: bool,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Http {
    pub(super) fn new(
        tls: bool,
        host: &Host,
        pin: Option<Fingerprint>,
        credentials: Option<Credentials>,
        limit: Duration,
    ) -> Self {
        let pin = Pin::new(pin);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_global(Some(limit))
            .allow_non_standard_methods(true)
            .build();
        let connector = ().chain(TcpConnector::default()).chain(PinnedTls::new(pin.clone()));
        let agent = Agent::with_parts(config, connector, DefaultResolver::default());
        let scheme = if tls { "https" } else { "http" };
        let base = format!("{scheme}://{host}");
        Self { agent, base, pin, credentials, session: Session::None, slashes: false }
    }

    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        self.pin.expected()
    }

    pub(super) fn get(&mut self, path: &str) -> Result<Reply, Fault> {
        self.send(Method::Get, path, &Value::Null, None)
    }

    /// A request as somebody the service knows. A session that the service has forgotten is opened once more.
    pub(super) fn send(
        &mut self,
        method: Method,
        path: &str,
        body: &Value,
        etag: Option<&str>,
    ) -> Result<Reply, Fault> {
        self.enter()?;
        let reply = self.follow(method, path, body, etag)?;
        if reply.status == 401 && matches!(self.session, Session::Token(..)) {
            self.session = Session::None;
            self.enter()?;
            return self.follow(method, path, body, etag);
        }
        Ok(reply)
    }

    /// Opens a session, or takes to basic authentication where the service has none.
    fn enter(&mut self) -> Result<(), Fault> {
        let Some(both) = &self.credentials else { return Ok(()) };
        if !matches!(self.session, Session::None) {
            return Ok(());
        }
        let (user, password) = (both.user().to_owned(), Zeroizing::new(both.password().to_owned()));
        let root = self.follow(Method::Get, "/redfish/v1/", &Value::Null, None)?;
        let sessions = link(&root.body, &["Links", "Sessions"]).map(str::to_owned);
        let sessions = sessions.unwrap_or("/redfish/v1/SessionService/Sessions".to_owned());
        let body = json!({ "UserName": user, "Password": password.as_str() });
        let reply = self.follow(Method::Post, &sessions, &body, None)?;
        wipe(body);
        self.session = match (reply.status, reply.token, reply.location) {
            (200..300, Some(token), place) => Session::Token(token, place),
            (401 | 403, ..) => {
                return Err(Fault::new(
                    Class::Auth,
                    "the service refuses the user or the password",
                ));
            }
            _ => {
                let pair = Zeroizing::new(format!("{user}:{}", password.as_str()));
                let code = data_encoding::BASE64.encode(pair.as_bytes());
                Session::Basic(Zeroizing::new(code))
            }
        };
        Ok(())
    }

    /// Closes the session.
    pub(super) fn leave(&mut self) {
        if let Session::Token(_, Some(place)) = &self.session {
            let place = place.clone();
            // who cannot be told closes it after its own time
            let _closed = self.once(Method::Delete, &place, &Value::Null, None, Some(LEAVE));
        }
        self.session = Session::None;
    }

    fn follow(
        &mut self,
        method: Method,
        path: &str,
        body: &Value,
        etag: Option<&str>,
    ) -> Result<Reply, Fault> {
        let mut path = path.to_owned();
        let mut turned = false;
        // each redirect may lead to a path with the wrong end
        for _ in 0..=2 * REDIRECTS {
            if self.slashes && !turned && !path.ends_with('/') {
                path.push('/');
            }
            let reply = self.once(method, &path, body, etag, None)?;
            match (reply.status, &reply.location) {
                // the same request again, whatever the status: a service that redirects a POST wants it there
                (301 | 302 | 307 | 308, Some(place)) => {
                    path = self.own(place)?;
                    turned = false;
                }
                (404, _) if !turned => {
                    turned = true;
                    path = match path.strip_suffix('/') {
                        Some(bare) => bare.to_owned(),
                        None => format!("{path}/"),
                    };
                }
                _ => {
                    self.slashes |= turned && reply.status < 300 && path.ends_with('/');
                    return Ok(reply);
                }
            }
        }
        Err(Fault::new(Class::Config, "the service redirects in a circle"))
    }

    /// The path of a place, if it is on this service: a password goes nowhere else.
    fn own(&self, place: &str) -> Result<String, Fault> {
        let path = place.strip_prefix(self.base.as_str()).unwrap_or(place);
        if path.starts_with('/') && !path.starts_with("//") && path.len() <= TEXT {
            return Ok(path.to_owned());
        }
        let place: String = place.chars().take(80).collect();
        let why = format!("the service redirects to another: {place}");
        Err(Fault::new(Class::Config, why).advising("name that one in the controller's line"))
    }

    fn once(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        etag: Option<&str>,
        limit: Option<Duration>,
    ) -> Result<Reply, Fault> {
        let name = match method {
            Method::Get => http::Method::GET,
            Method::Post => http::Method::POST,
            Method::Patch => http::Method::PATCH,
            Method::Delete => http::Method::DELETE,
        };
        let mut request = http::Request::builder()
            .method(name)
            .uri(format!("{}{path}", self.base))
            .header("Accept", "application/json")
            .header("OData-Version", "4.0");
        match &self.session {
            Session::None => {}
            Session::Token(token, _) => request = request.header("X-Auth-Token", token.as_str()),
            Session::Basic(code) => {
                request = request.header("Authorization", format!("Basic {}", code.as_str()));
            }
        }
        if let Some(etag) = etag {
            request = request.header("If-Match", etag);
        }
        let bad = |error: http::Error| Fault::new(Class::Config, error.to_string());
        let answer = if body.is_null() {
            self.run(request.body(()).map_err(bad)?, limit)
        } else {
            let text = Zeroizing::new(body.to_string());
            let request = request.header("Content-Type", "application/json");
            self.run(request.body(text.as_bytes()).map_err(bad)?, limit)
        };
        self.read(answer.map_err(|error| self.fault(&error))?)
    }

    fn run(
        &self,
        request: http::Request<impl ureq::AsSendBody>,
        limit: Option<Duration>,
    ) -> Result<http::Response<Body>, ureq::Error> {
        match limit {
            None => self.agent.run(request),
            Some(_) => {
                let config = self.agent.configure_request(request).timeout_global(limit);
                self.agent.run(config.build())
            }
        }
    }

    fn read(&self, answer: http::Response<Body>) -> Result<Reply, Fault> {
        let header = |name: &str| {
            let value = answer.headers().get(name)?.to_str().ok()?;
            (value.len() <= TEXT).then(|| value.to_owned())
        };
        let (etag, location) = (header("ETag"), header("Location"));
        let token = header("X-Auth-Token").map(Zeroizing::new);
        let location = location.map(|place| match place.strip_prefix(self.base.as_str()) {
            Some(path) => path.to_owned(),
            None => place,
        });
        let status = answer.status().as_u16();
        let mut body = answer.into_body();
        let bytes =
            body.with_config().limit(ANSWER).read_to_vec().map_err(|error| self.fault(&error))?;
        let parsed = serde_json::from_slice(&bytes);
        let body = match parsed {
            Ok(body) => body,
            Err(_) if bytes.iter().all(u8::is_ascii_whitespace) => Value::Null,
            Err(_) if status >= 300 => Value::Null,
            Err(error) => {
                let why = format!("what it says is no JSON: {error}");
                return Err(Fault::new(Class::Config, why));
            }
        };
        Ok(Reply { status, body, etag, location, token })
    }

    fn fault(&self, error: &ureq::Error) -> Fault {
        if let (Some(shown), Some(expected)) = (self.pin.stranger(), self.pin.expected()) {
            let why = format!("its certificate is {shown}, and not {expected} as before");
            let advice = "if the certificate was renewed, set the controller anew (p2pinst machine set-power); \
                          else somebody stands between";
            return Fault::new(Class::Auth, why).advising(advice);
        }
        let class = match error {
            ureq::Error::Http(_) | ureq::Error::BadUri(_) | ureq::Error::BodyExceedsLimit(_) => {
                Class::Config
            }
            _ => Class::Conn,
        };
        Fault::new(class, error.to_string())
    }
}

/// Overwrites the texts of a value that has a password.
fn wipe(value: Value) {
    if let Value::Object(map) = value {
        for (_, inner) in map {
            if let Value::String(text) = inner {
                drop(Zeroizing::new(text));
            }
        }
    }
}
