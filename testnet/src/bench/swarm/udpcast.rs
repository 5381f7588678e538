//! Multicast: a sender on the first host, a receiver on every other.

use anyhow::Result;

use super::race::{Finish, Race};
use crate::net::Host;

pub(super) fn start(race: &mut Race<'_>) -> Result<Vec<Finish>> {
    let receivers = race.receivers().to_vec();
    let client = |host: &Host| {
        let exec = host.exec("udp-receiver").args(["--nokbd", "--nosync", "--interface", "eth0"]);
        let exec = exec.arg("--file").arg(race.copy(host));
        Ok(Finish::End(race.crew.start(&format!("receiver{}", host.index), &exec)?))
    };
    let clients = receivers.iter().map(client).collect::<Result<Vec<_>>>()?;
    let count = receivers.len().to_string();
    let publisher = race.publisher()?.clone();
    let exec = publisher.exec("udp-sender").args(["--nokbd", "--interface", "eth0"]);
    let exec = exec.args(["--full-duplex", "--min-receivers", &count, "--file"]).arg(race.source);
    race.crew.start("sender", &exec)?;
    Ok(clients)
}
