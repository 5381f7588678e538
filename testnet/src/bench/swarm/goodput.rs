//! What TCP gets of the links when all hosts send and receive at once.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::super::now_ms;
use super::bound::{Links, SiteLinks};
use crate::bins;
use crate::exec::{Exec, Running};
use crate::lab::Lab;
use crate::net::Host;

/// The subcommand of `testnet` that is one end of the measurement.
pub const COMMAND: &str = "goodput";

const PORT: u16 = 5001;
/// How long flows run before they are measured, and how long they are: on one site...
const LAN: (Duration, Duration) = (Duration::from_millis(2500), Duration::from_secs(5));
/// ... and between sites, where it takes them longer to find their rate.
const WAN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(8));
/// One flow does not fill a link with a long delay.
const WAN_FLOWS: usize = 4;
/// What TCP should get of a link: 1448 bytes of content in 1514.
pub const IDEAL: f64 = 0.9564;

/// What one host does.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whom it sends to.
    pub to: SocketAddr,
    /// By how many connections.
    pub flows: usize,
    /// When the measurement begins, in milliseconds since 1970.
    pub from: u64,
    /// When it ends.
    pub until: u64,
}

/// What one host saw.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Seen {
    /// Bytes that came in during the measurement.
    pub received: u64,
}

/// Sends and takes in as much as goes through, and counts.
///
/// # Errors
/// When it cannot listen.
pub fn play(task: Task) -> Result<Seen> {
    let listener = TcpListener::bind(task.listen)
        .with_context(|| format!("cannot listen on {}", task.listen))?;
    let received = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&received);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let count = Arc::clone(&count);
            thread::spawn(move || take_in(stream, &count));
        }
    });
    for _ in 0..task.flows {
        thread::spawn(move || send_out(task.to));
    }
    sleep_until(task.from)?;
    let before = received.load(Ordering::Relaxed);
    sleep_until(task.until)?;
    Ok(Seen { received: received.load(Ordering::Relaxed).saturating_sub(before) })
}

fn take_in(mut stream: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        count.fetch_add(length as u64, Ordering::Relaxed);
    }
}

fn send_out(to: SocketAddr) {
    let buffer = vec![0; 1 << 16];
    loop {
        // The other host may not listen yet.
        let Ok(mut stream) = TcpStream::connect(to) else {
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        while stream.write_all(&buffer).is_ok() {}
    }
}

fn sleep_until(moment: u64) -> Result<()> {
    thread::sleep(Duration::from_millis(moment.saturating_sub(now_ms()?)));
    Ok(())
}

/// Measures the links of a lab: on each site all hosts send to their neighbour at once; then one
/// host of each site sends to the next site. The mean of the hosts, and of the sites.
///
/// # Errors
/// When a host cannot take part.
pub fn measure(lab: &Lab) -> Result<Links> {
    let hosts = lab.network().hosts();
    let sites: Vec<&[Host]> = hosts.chunk_by(|a, b| a.site == b.site).collect();
    let rings: Vec<(&Host, &Host)> = sites.iter().flat_map(|site| ring(site)).collect();
    let lan = mean(&between(&rings, 1, LAN)?);
    let first: Vec<Host> = sites.iter().filter_map(|s| s.first().cloned()).collect();
    let wan = match ring(&first).as_slice() {
        [] => 0.0,
        pairs => mean(&between(pairs, WAN_FLOWS, WAN)?),
    };
    let many = sites.len() > 1;
    let links = |(number, site): (usize, &&[Host])| SiteLinks {
        receivers: site.len() - usize::from(number == 0),
        wan_in: wan,
        wan_out: wan,
    };
    let sites = sites.iter().enumerate().filter(|_| many).map(links).collect();
    Ok(Links { up: lan, down: lan, sites })
}

/// Each host and the next one, the last one and the first; nothing for a host alone.
fn ring(hosts: &[Host]) -> Vec<(&Host, &Host)> {
    let next = hosts.iter().cycle().skip(1);
    if hosts.len() < 2 { Vec::new() } else { hosts.iter().zip(next).collect() }
}

/// Bytes per second that arrive at each target.
fn between(
    pairs: &[(&Host, &Host)],
    flows: usize,
    (warm, time): (Duration, Duration),
) -> Result<Vec<f64>> {
    // Starting a process per host takes a while.
    let warm = warm + Duration::from_millis(20) * u32::try_from(pairs.len())?;
    let from = now_ms()? + u64::try_from(warm.as_millis())?;
    let until = from + u64::try_from(time.as_millis())?;
    let address = |ip: Ipv4Addr| SocketAddrV4::new(ip, PORT).to_string();
    let program = bins::testnet()?;
    let start = |(host, to): &(&Host, &Host)| -> Result<Running> {
        let exec: Exec = host.exec(&program).arg(COMMAND);
        let exec = exec.args([&address(host.ip), &address(to.ip)]);
        exec.args([flows as u64, from, until].map(|n| n.to_string())).start()
    };
    let running: Vec<Running> = pairs.iter().map(start).collect::<Result<_>>()?;
    let finish = |r: Running| -> Result<f64> {
        let seen: Seen = r.finish()?.ok()?.json()?;
        Ok(seen.received as f64 / time.as_secs_f64())
    };
    running.into_iter().map(finish).collect()
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ends_see_each_others_bytes() {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let free = || TcpListener::bind(at(0)).unwrap().local_addr().unwrap().port();
        let (a, b) = (free(), free());
        let from = now_ms().unwrap() + 500;
        let task = |listen, to| Task {
            listen: at(listen),
            to: at(to),
            flows: 2,
            from,
            until: from + 2000,
        };
        let (left, right) = (task(a, b), task(b, a));
        let other = thread::spawn(move || play(left).unwrap());
        assert!(play(right).unwrap().received > 0);
        assert!(other.join().unwrap().received > 0);
    }
}
