//! A Redfish service on the loopback that does, on demand, everything that real ones do wrong.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

pub(super) const SYSTEM: &str = "/redfish/v1/Systems/1";

/// What is wrong with the service, and what it has become.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) on: bool,
    /// Answers 204 to a reset and does nothing, so often.
    pub(super) lies: u32,
    /// Answers so many requests with this status.
    pub(super) refuses: (u32, u16),
    /// Answers 412 to so many changes, although the ETag is right.
    pub(super) stale: u32,
    /// Forgets so many overrides.
    pub(super) loses: u32,
    /// Never answers.
    pub(super) hangs: bool,
    /// Has no sessions.
    pub(super) sessionless: bool,
    /// Has only paths with a slash at their end.
    pub(super) slashes: bool,
    /// Redirects actions elsewhere (308), or where this says.
    pub(super) redirects: Option<String>,
    /// Keeps boot settings in an object of their own.
    pub(super) settings: bool,
    /// Refuses changes with more than the target and whether it holds (HPE Gen10).
    pub(super) fussy: bool,
    /// Says 400 to what is so already.
    pub(super) strict: bool,
    pub(super) mode: &'static str,
    pub(super) target: String,
    pub(super) enabled: String,
    pub(super) etag: u32,
    pub(super) tokens: u32,
    /// Forgets its sessions.
    pub(super) forgets: bool,
    pub(super) log: Vec<String>,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            on: false,
            lies: 0,
            refuses: (0, 0),
            stale: 0,
            loses: 0,
            hangs: false,
            sessionless: false,
            slashes: false,
            redirects: None,
            settings: false,
            fussy: false,
            strict: false,
            mode: "UEFI",
            target: "None".to_owned(),
            enabled: "Disabled".to_owned(),
            etag: 1,
            tokens: 0,
            forgets: false,
            log: Vec::new(),
        }
    }
}

/// A running service; its thread ends with the process.
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) service: Arc<Mutex<Service>>,
}

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Value,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Value,
}

impl Response {
    fn new(status: u16, body: Value) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

fn error(status: u16, id: &str) -> Response {
    let info = json!([{ "MessageId": format!("Base.1.8.{id}"), "Message": "It is not possible." }]);
    let error = json!({ "code": "Base.1.8.GeneralError", "@Message.ExtendedInfo": info });
    Response::new(status, json!({ "error": error }))
}

impl Server {
    pub(super) fn start(service: Service) -> Self {
        Self::start_with(service, None)
    }

    pub(super) fn start_with(service: Service, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = Arc::new(Mutex::new(service));
        let shared = service.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (service, tls) = (shared.clone(), tls.clone());
                thread::spawn(move || match tls {
                    None => answer(stream, &service),
                    Some(config) => {
                        let tls = ServerConnection::new(config).unwrap();
                        answer(StreamOwned::new(tls, stream), &service)
                    }
                });
            }
        });
        Self { port, service }
    }

    pub(super) fn line(&self) -> String {
        format!("redfish+http://127.0.0.1:{}{SYSTEM}", self.port)
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.service.lock().unwrap().log.clone()
    }
}

/// One request for each connection.
fn answer(stream: impl Read + Write, service: &Mutex<Service>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let request = read(&mut stream)?;
    let hangs = service.lock().unwrap().hangs;
    if hangs {
        thread::sleep(Duration::from_secs(60));
        return Ok(());
    }
    let response = service.lock().unwrap().handle(&request);
    let body = if response.body.is_null() { String::new() } else { response.body.to_string() };
    let stream = stream.get_mut();
    write!(stream, "HTTP/1.1 {} X\r\nContent-Length: {}\r\n", response.status, body.len())?;
    for (name, value) in &response.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "Connection: close\r\n\r\n{body}")?;
    stream.flush()
}

fn read(stream: &mut impl BufRead) -> io::Result<Request> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { method, path, headers, body: Value::Null };
    let len: u64 = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    stream.take(len).read_to_end(&mut body)?;
    request.body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(request)
}

impl Service {
    fn handle(&mut self, request: &Request) -> Response {
        let mut path = request.path.clone();
        self.log.push(format!("{} {path}", request.method));
        if self.slashes {
            match path.strip_suffix('/') {
                Some(bare) => path = bare.to_owned(),
                None => return error(404, "ResourceMissingAtURI"),
            }
        }
        let path = path.trim_end_matches('/');
        match (request.method.as_str(), path) {
            ("GET", "/redfish/v1") => {
                let sessions = json!({ "@odata.id": "/redfish/v1/Sessions" });
                let systems = json!({ "@odata.id": "/redfish/v1/Systems" });
                let body = json!({ "Systems": systems, "Links": { "Sessions": sessions } });
                return Response::new(200, body);
            }
            ("POST", "/redfish/v1/Sessions") => return self.open(&request.body),
            ("DELETE", _) => return Response::new(204, Value::Null),
            _ => {}
        }
        let token = format!("t{}", self.tokens);
        let session = !self.forgets && request.header("x-auth-token") == Some(token.as_str());
        self.forgets = false;
        // admin:s3cret
        let basic = request.header("authorization") == Some("Basic YWRtaW46czNjcmV0");
        if !session && !basic {
            return error(401, "NoValidSession");
        }
        if self.refuses.0 > 0 {
            self.refuses.0 -= 1;
            return error(self.refuses.1, "ActionParameterValueConflict");
        }
        self.resource(request, path)
    }

    fn open(&mut self, body: &Value) -> Response {
        if self.sessionless {
            return error(404, "ResourceMissingAtURI");
        }
        if body != &json!({ "UserName": "admin", "Password": "s3cret" }) {
            return error(401, "ResourceAtUriUnauthorized");
        }
        self.tokens += 1;
        let token = format!("t{}", self.tokens);
        Response::new(201, json!({})).with("X-Auth-Token", token).with("Location", "/s/1")
    }

    fn resource(&mut self, request: &Request, path: &str) -> Response {
        let etag = format!("W/\"{}\"", self.etag);
        let settings = format!("{SYSTEM}/Settings");
        match (request.method.as_str(), path) {
            ("GET", "/redfish/v1/Systems") => {
                Response::new(200, json!({ "Members": [{ "@odata.id": SYSTEM }] }))
            }
            ("GET", SYSTEM) => Response::new(200, self.system()).with("ETag", etag),
            ("GET", other) if other == settings && self.settings => {
                Response::new(200, json!({ "Boot": self.boot(), "@odata.etag": etag }))
            }
            ("PATCH", other) => {
                let place = if self.settings { settings.as_str() } else { SYSTEM };
                if other != place {
                    return error(405, "OperationNotAllowed");
                }
                if self.stale > 0 || request.header("if-match") != Some(etag.as_str()) {
                    self.stale = self.stale.saturating_sub(1);
                    self.etag += 1;
                    return error(412, "PreconditionFailed");
                }
                self.change(&request.body["Boot"])
            }
            ("POST", "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset") => {
                match self.redirects.clone() {
                    Some(place) => Response::new(308, Value::Null).with("Location", place),
                    None => self.reset(&request.body),
                }
            }
            ("POST", "/elsewhere") => self.reset(&request.body),
            _ => error(404, "ResourceMissingAtURI"),
        }
    }

    fn boot(&self) -> Value {
        json!({
            "BootSourceOverrideTarget": self.target,
            "BootSourceOverrideEnabled": self.enabled,
            "BootSourceOverrideMode": self.mode,
            "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Hdd", "UefiHttp"],
        })
    }

    fn system(&self) -> Value {
        let reset = json!({
            "target": "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset",
            "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "GracefulShutdown", "ForceRestart"],
        });
        let mut system = json!({
            "@odata.id": SYSTEM,
            "PowerState": if self.on { "On" } else { "Off" },
            "Boot": self.boot(),
            "Actions": { "#ComputerSystem.Reset": reset },
        });
        if self.settings {
            let place = format!("{SYSTEM}/Settings");
            system["@Redfish.Settings"] = json!({ "SettingsObject": { "@odata.id": place } });
            system["Boot"]["BootSourceOverrideTarget"] = "None".into();
        }
        system
    }

    fn change(&mut self, boot: &Value) -> Response {
        let fields = boot.as_object().unwrap();
        self.log.push(format!("boot {boot}"));
        if self.fussy && fields.len() > 2 {
            return error(400, "PropertyNotWritable");
        }
        if self.loses > 0 {
            self.loses -= 1;
        } else {
            self.target = boot["BootSourceOverrideTarget"].as_str().unwrap().to_owned();
            self.enabled = boot["BootSourceOverrideEnabled"].as_str().unwrap().to_owned();
        }
        self.etag += 1;
        Response::new(204, Value::Null)
    }

    fn reset(&mut self, body: &Value) -> Response {
        let kind = body["ResetType"].as_str().unwrap_or("").to_owned();
        self.log.push(format!("reset {kind}"));
        if self.strict && (kind == "On") == self.on {
            return error(400, "ActionNotSupported");
        }
        if self.lies > 0 {
            self.lies -= 1;
        } else {
            self.on = matches!(kind.as_str(), "On" | "ForceRestart");
        }
        Response::new(204, Value::Null)
    }
}
