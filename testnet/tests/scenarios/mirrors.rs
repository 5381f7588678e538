//! A file of the web: from several web servers at once into one node, and from there to the others.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::exec::{Running, run, signal};
use p2pinst_testnet::{Lab, Node, eventually};
use serde_json::Value;

use crate::harness::{LATER, SOON, cluster, lacks};
use crate::storage::noise;

const PORT: u16 = 8081;
const MIB: u64 = 1 << 20;

/// A web server on a node's host.
struct Nginx {
    running: Option<Running>,
    url: String,
}

impl Nginx {
    fn start(lab: &Lab, node: &Node, file: &Path) -> Result<Self> {
        let dir = lab.dir().join(format!("www-{}", node.name()));
        fs::create_dir_all(dir.join("root"))?;
        fs::copy(file, dir.join("root/disk.img"))?;
        let shown = dir.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {shown}/{kind};\n"))
            .concat();
        let ip = node.host().ip;
        let settings = format!(
            "daemon off; user root; worker_processes 1; pid {shown}/pid; error_log stderr;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; {temporary} server {{ listen {ip}:{PORT}; root {shown}/root; }} }}\n"
        );
        let conf = dir.join("nginx.conf");
        fs::write(&conf, settings)?;
        let exec = node.exec("nginx").arg("-c").arg(conf).args(["-e", "stderr", "-p"]).arg(&dir);
        let nginx = Self {
            running: Some(exec.limit(LATER * 10).start()?),
            url: format!("http://{ip}:{PORT}/disk.img"),
        };
        eventually(SOON, "the web server answers", || {
            node.exec("curl").args(["-sf", "-r", "0-0", "-o", "/dev/null", &nginx.url]).run()?.ok()
        })?;
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            signal(running.pid(), "TERM").ok();
            running.finish().ok();
        }
    }
}

fn sha256(file: &Path) -> Result<String> {
    let out = run("sha256sum", [file])?;
    Ok(out.split_whitespace().next().context("a sum")?.to_owned())
}

/// A Metalink with sums of pieces of a MiB.
fn metalink(lab: &Lab, file: &Path, urls: &[&str]) -> Result<PathBuf> {
    let sums = lab.dir().join("sums");
    let script =
        format!("split -b {MIB} --filter=sha256sum '{}' > '{}'", file.display(), sums.display());
    run("sh", ["-c", &script])?;
    let sums = fs::read_to_string(sums)?;
    let hashes = sums.lines().filter_map(|l| l.split_whitespace().next());
    let hashes: String = hashes.map(|h| format!("<hash>{h}</hash>")).collect();
    let urls: String = urls.iter().map(|u| format!("<url>{u}</url>")).collect();
    let text = format!(
        "<?xml version=\"1.0\"?><metalink xmlns=\"urn:ietf:params:xml:ns:metalink\">\
         <file name=\"disk.img\"><size>{}</size><hash type=\"sha-256\">{}</hash>\
         <pieces length=\"{MIB}\" type=\"sha-256\">{hashes}</pieces>{urls}</file></metalink>",
        fs::metadata(file)?.len(),
        sha256(file)?
    );
    let to = lab.dir().join("disk.img.meta4");
    fs::write(&to, text)?;
    Ok(to)
}

#[test]
fn a_file_of_the_web_comes_from_several_mirrors_and_goes_on_by_the_swarm() {
    if lacks("nginx", "nginx-light") || lacks("curl", "curl") {
        return;
    }
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        let file = noise(lab, "image", 24 * MIB)?;
        let mut bytes = fs::read(&file)?;
        for at in (0..bytes.len()).step_by(bytes.len() / 7) {
            bytes[at] ^= 1;
        }
        let damaged = lab.dir().join("damaged");
        fs::write(&damaged, bytes)?;
        let good = Nginx::start(lab, n2, &file)?;
        let bad = Nginx::start(lab, n3, &damaged)?;

        // two mirrors, one of which has damaged pieces, and one that nobody can reach
        let urls = [good.url.as_str(), "http://10.255.255.1:1/x", &bad.url, "ftp://a/b"];
        let metalink = metalink(lab, &file, &urls)?;
        let seeded: Value =
            n1.cli(["seed", "--json"]).arg(&metalink).limit(LATER).run()?.ok()?.json()?;
        let root = seeded["root"].as_str().context("root")?;
        let mirrors = seeded["mirrors"].as_array().context("mirrors")?;
        ensure!(mirrors.len() == 3, "{seeded}");
        ensure!(mirrors[1]["failed"].is_string() && mirrors[1]["bytes"] == 0, "{seeded}");
        ensure!(mirrors[2]["failed"].is_string(), "the damage was not noticed: {seeded}");
        let gave: u64 = mirrors.iter().filter_map(|m| m["bytes"].as_u64()).sum();
        ensure!(seeded["size"] == gave, "{seeded}");
        let to = lab.dir().join("at-n3");
        n3.cli(["fetch", root, "-o"]).arg(&to).limit(LATER).run()?.ok()?;
        ensure!(fs::read(&to)? == fs::read(&file)?, "it is another file");

        // the damaged one alone is refused, with what was wrong; nothing of it is kept
        let sum = sha256(&file)?;
        let refused =
            n2.cli(["seed", &bad.url, "--sha256", &sum]).limit(LATER).run()?.fails_with(1)?;
        ensure!(refused.stderr.contains("is not disk.img"), "{refused}");
        let listed: Value = n2.json(["store", "ls"])?;
        ensure!(listed["count"] == 0, "{listed}");
        // beside a good one it is found, though there is only one sum
        let both = ["seed", "--json", &bad.url, &good.url, "--sha256", &sum];
        let seeded: Value = n1.cli(both).limit(LATER).run()?.ok()?.json()?;
        ensure!(seeded["root"] == root, "{seeded}");
        let mirrors = seeded["mirrors"].as_array().context("mirrors")?;
        ensure!(mirrors[0]["failed"].is_string() && mirrors[0]["bytes"] == 0, "{seeded}");
        ensure!(mirrors[1]["bytes"] == seeded["size"], "{seeded}");
        // a file without a sum is taken in, and it says so
        let taken = n2.cli(["seed", &good.url]).limit(LATER).run()?.ok()?;
        ensure!(taken.stdout.trim() == root && taken.stderr.contains("Nothing vouches"), "{taken}");
        Ok(())
    });
}
