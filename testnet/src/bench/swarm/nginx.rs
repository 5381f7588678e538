//! A web server on the first host, and a curl on every other.

use std::time::Duration;

use anyhow::Result;

use super::race::{Finish, Race};

const PORT: u16 = 8080;
/// The server listens after this time.
const READY: Duration = Duration::from_millis(700);

pub(super) fn serve(race: &mut Race<'_>) -> Result<()> {
    race.offer()?;
    let publisher = race.publisher()?.clone();
    let dir = race.dir.display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};\n"))
        .concat();
    // With many clients on one link some wait for minutes between two writes.
    let settings = format!(
        "daemon off; user root; worker_processes 1; pid {dir}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; send_timeout 1h;\n{temporary}\
         server {{ listen {ip}:{PORT}; root {root}; }} }}\n",
        ip = publisher.ip,
        root = race.home(&publisher).display(),
    );
    let file = race.write("nginx.conf", &settings)?;
    let exec = publisher.exec("nginx").arg("-c").arg(file).args(["-e", "stderr", "-p"]).arg(&dir);
    race.serve("nginx", &exec, READY)
}

pub(super) fn start(race: &mut Race<'_>) -> Result<Vec<Finish>> {
    let url = format!("http://{}:{PORT}/{}", race.publisher()?.ip, race.file());
    let hosts = race.receivers().to_vec();
    let client = |host| {
        let exec = crate::net::Host::exec(host, "curl").args(["-sSf", "-o"]).arg(race.copy(host));
        Ok(Finish::End(race.crew.start(&format!("curl{}", host.index), &exec.arg(&url))?))
    };
    hosts.iter().map(client).collect()
}
