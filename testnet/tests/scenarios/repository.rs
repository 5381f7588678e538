//! Repositories of packages: published once, handed out by every node that boots machines, whoever is away.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::exec::{Done, Exec, run};
use p2pinst_testnet::wait::eventually;
use p2pinst_testnet::{Deb, Invite, Lab, Node};

use crate::harness::{LATER, lacks, scenario};

/// Lets a node boot machines.
pub(crate) fn arm(node: &Node) -> Result<()> {
    node.stop()?;
    let config = node.data().join("config.toml");
    let text = fs::read_to_string(&config).context("no configuration")?;
    ensure!(text.contains("mode = \"off\""), "{text}");
    fs::write(&config, text.replace("mode = \"off\"", "mode = \"armed\""))
        .context("cannot write the configuration")?;
    node.start()
}

/// A repository of these packages, as apt reads it.
fn make(dir: &Path, packages: &[(&str, &str)]) -> Result<()> {
    fs::create_dir_all(dir.join("pool")).context("cannot make a directory")?;
    for (name, version) in packages {
        Deb::new(name, version).payload(300_000).build(&dir.join("pool"))?;
    }
    let index = Exec::new("sh").arg("-c");
    let index = index.arg("cd \"$0\" && dpkg-scanpackages -m pool > Packages").arg(dir);
    index.run()?.ok()?;
    Ok(())
}

/// A machine's apt, with a system of its own below `dir` and one source of packages.
struct Apt<'a> {
    host: &'a Node,
    dir: std::path::PathBuf,
}

impl<'a> Apt<'a> {
    fn new(lab: &Lab, host: &'a Node, name: &str, from: &Node) -> Result<Self> {
        let dir = lab.dir().join(name);
        for sub in ["etc/apt/apt.conf.d", "etc/apt/preferences.d", "lists/partial", "var/lib/dpkg"]
        {
            fs::create_dir_all(dir.join(sub)).context("cannot make a directory")?;
        }
        for sub in ["cache/archives/partial", "var/lib/dpkg/updates", "var/lib/dpkg/info", "log"] {
            fs::create_dir_all(dir.join(sub)).context("cannot make a directory")?;
        }
        fs::write(dir.join("var/lib/dpkg/status"), "").context("cannot write")?;
        let url = format!("http://{}:4080/boot/mirror/debs", from.host().ip);
        fs::write(dir.join("etc/apt/sources.list"), format!("deb [trusted=yes] {url} ./\n"))
            .context("cannot write")?;
        Ok(Self { host, dir })
    }

    fn run(&self, args: &[&str]) -> Result<Done> {
        let dir = self.dir.display();
        let options = [
            format!("Dir::Etc={dir}/etc/apt"),
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::State::status={dir}/var/lib/dpkg/status"),
            format!("Dir::Cache={dir}/cache"),
            format!("Dir::Log={dir}/log"),
            format!("DPkg::Options::=--root={dir}"),
            "DPkg::Options::=--force-not-root".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::http::Proxy=DIRECT".to_owned(),
        ];
        let apt = self.host.exec("apt-get").env("APT_CONFIG", "/dev/null").arg("-y");
        let options = options.iter().flat_map(|o| ["-o".to_owned(), o.clone()]);
        apt.args(options).args(args).limit(LATER).run()
    }

    /// Updates until a version of a package is offered, and installs it.
    fn installs(&self, package: &str, version: &str) -> Result<()> {
        eventually(LATER, "the repository offers it", || {
            self.run(&["update"])?.ok()?;
            let wanted = format!("{package}={version}");
            self.run(&["install", "--simulate", &wanted])?.ok()?;
            Ok(())
        })?;
        self.run(&["install", &format!("{package}={version}")])?.ok()?;
        let status = fs::read_to_string(self.dir.join("var/lib/dpkg/status"));
        let status = status.context("no status of packages")?;
        ensure!(status.contains(&format!("Package: {package}\n")), "{status}");
        ensure!(status.contains(&format!("Version: {version}\n")), "{status}");
        Ok(())
    }
}

#[test]
fn machines_install_packages_from_any_peer_that_boots_them() {
    if lacks("apt-get", "apt") || lacks("dpkg-scanpackages", "dpkg-dev") {
        return;
    }
    scenario(4, |lab| {
        lab.form(3, &Invite::default())?;
        let (n1, n2, n3) = (lab.node(1)?, lab.node(2)?, lab.node(3)?);
        arm(n2)?;
        arm(n3)?;
        let dir = lab.dir().join("debs");
        // a name that apt writes in another way into URLs
        make(&dir, &[("tool", "1.0+b~1"), ("libtool++", "2")])?;
        let publish = |n: &Node| {
            let publish = n.cli(["repository", "publish"]).arg(&dir).args(["--name", "debs"]);
            publish.limit(LATER).run()?.ok()
        };
        publish(n1)?;
        ensure!(n3.ok(["repository", "ls"])?.contains("3 files"), "{}", n3.ok(["image", "ls"])?);
        // from one that did not publish it, on a machine that is no member
        let host = lab.node(4)?;
        Apt::new(lab, host, "first", n2)?.installs("tool", "1.0+b~1")?;
        // the next version, with what is equal; the one before goes
        make(&dir, &[("tool", "1.1")])?;
        publish(n1)?;
        let first = Apt::new(lab, host, "again", n2)?;
        first.installs("tool", "1.1")?;
        first.installs("libtool++", "2")?;
        eventually(LATER, "the version before is gone", || {
            let left = fs::read_dir(n2.data().join("boot/mirror")).context("no repositories")?;
            ensure!(left.count() == 1);
            Ok(())
        })?;
        // whoever is left hands it out, also after a restart
        Apt::new(lab, host, "second", n3)?.installs("libtool++", "2")?;
        n1.kill()?;
        n2.kill()?;
        n3.kill()?;
        n3.start()?;
        Apt::new(lab, host, "third", n3)?.installs("tool", "1.1")?;
        let kept = n3.ok(["store", "ls"])?;
        ensure!(kept.contains("network boot"), "{kept}");
        let removed = run("ls", [n3.data().join("boot/mirror")])?;
        ensure!(removed.lines().count() == 1, "{removed}");
        Ok(())
    });
}
