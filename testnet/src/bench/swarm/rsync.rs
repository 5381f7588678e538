//! A daemon of rsync on the first host, and an rsync on every other.

use std::time::Duration;

use anyhow::Result;

use super::race::{Finish, Race};
use crate::net::Host;

const PORT: u16 = 8730;
/// The daemon listens after this time.
const READY: Duration = Duration::from_millis(700);

pub(super) fn serve(race: &mut Race<'_>) -> Result<()> {
    race.offer()?;
    let publisher = race.publisher()?.clone();
    let settings = format!(
        "use chroot = no\nuid = root\ngid = root\nreverse lookup = no\nlog file = {dir}/rsyncd.log\n\
         [files]\npath = {home}\nread only = yes\n",
        dir = race.dir.display(),
        home = race.home(&publisher).display(),
    );
    let file = race.write("rsyncd.conf", &settings)?;
    let address = format!("--address={}", publisher.ip);
    let exec = publisher.exec("rsync").args(["--daemon", "--no-detach", &address]);
    let exec = exec.arg(format!("--port={PORT}")).arg(format!("--config={}", file.display()));
    race.serve("rsyncd", &exec, READY)
}

pub(super) fn start(race: &mut Race<'_>) -> Result<Vec<Finish>> {
    let from = format!("rsync://{}:{PORT}/files/{}", race.publisher()?.ip, race.file());
    let hosts = race.receivers().to_vec();
    let client = |host: &Host| {
        // There is nothing at the target to compare with.
        let exec =
            host.exec("rsync").args(["--whole-file", "--inplace", &from]).arg(race.copy(host));
        Ok(Finish::End(race.crew.start(&format!("rsync{}", host.index), &exec)?))
    };
    hosts.iter().map(client).collect()
}
