//! A plain web server: busybox's, on a host of its own.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::segment::Segment;
use super::service::Service;
use crate::exec::Exec;
use crate::net::Host;

/// It listens within this time after its start.
const READY: Duration = Duration::from_secs(10);

/// A web server.
#[derive(Debug)]
pub struct WebServer {
    host: Host,
    service: Service,
}

impl WebServer {
    /// Hands out the files of a directory on port 80 of an address of the segment.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(segment: &Segment, name: &str, ip: Ipv4Addr, files: &Path) -> Result<Self> {
        let host = segment.guest(name, ip)?;
        let dir = segment.make_dir(name)?;
        let words = ["httpd", "-f", "-vv", "-p", &format!("{ip}:80"), "-h"].map(str::to_owned);
        let exec = host.exec("busybox").args(words).arg(files);
        let mut service = Service::start(&exec, &dir.join("log"))?;
        service.ready(READY, || {
            let listens = Exec::new("ip").args(["netns", "exec"]).args(&host.namespace);
            let done = listens.args(["ss", "-Hltn"]).run()?.ok()?;
            ensure!(done.stdout.contains(&format!("{ip}:80")), "it listens at: {}", done.stdout);
            Ok(())
        })?;
        Ok(Self { host, service })
    }

    /// The URL of a file.
    #[must_use]
    pub fn url(&self, file: &str) -> String {
        format!("http://{}/{file}", self.host.ip)
    }

    /// What it was asked for, and what it answered.
    #[must_use]
    pub fn log(&self) -> String {
        self.service.log()
    }
}
