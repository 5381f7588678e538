//! The blank machines: a namespace, a loop device, and a scout on each.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::install::Site;
use crate::bench::swarm::crew::Crew;
use crate::exec::run;
use crate::image::Disk;
use crate::net::Host;

/// What a disk has room for beside the image: setups leave a stamp before its end.
const ROOM: u64 = 8 << 20;
/// Where boot services listen.
const HTTP_PORT: u16 = 4080;

/// The machines.
pub(super) struct Rack {
    machines: Vec<Machine>,
}

struct Machine {
    name: String,
    host: Host,
    disk: Disk,
}

impl Rack {
    /// Puts a machine onto every host but the first one, and makes it known to the cluster.
    pub(super) fn new(site: &Site<'_>, size: u64) -> Result<Self> {
        let hosts = site.lab().network().hosts().iter().skip(1);
        let machine = |host: &Host| {
            let name = format!("m{}", host.index - 1);
            let file = site.lab().dir().join(format!("{name}.disk"));
            let address = host.exec("cat").arg("/sys/class/net/eth0/address");
            let mac = address.run()?.ok()?.stdout;
            site.node()?.ok(["machine", "adopt", mac.trim(), "--name", &name])?;
            Ok(Machine { name, host: host.clone(), disk: Disk::blank(&file, size + ROOM)? })
        };
        Ok(Self { machines: hosts.map(machine).collect::<Result<_>>()? })
    }

    /// The machines' names, as commands take them.
    pub(super) fn names(&self) -> String {
        self.machines.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Starts the scouts of all machines. They know nothing of any that ran before.
    pub(super) fn start(&self, site: &Site<'_>, dir: &Path) -> Result<Crew> {
        let mut crew = Crew::new(dir)?;
        let peer = format!("{}:{HTTP_PORT}", site.node()?.host().ip);
        for Machine { name, host, disk } in &self.machines {
            let own = |what: &str| dir.join(format!("{name}-{what}"));
            let device = disk.path().file_name().context("a device without a name")?;
            let scout = host.exec(site.daemon()).arg("scout").arg("--stay");
            let scout = scout.arg("--dir").arg(own("dir")).arg("--run-dir").arg(own("run"));
            let scout = scout.arg("--cluster").arg(site.cluster()).args(["--peer", &peer]);
            let scout = scout.args(["--nic", "eth0"]);
            crew.start(name, &scout.arg("--disk").arg(device))?;
        }
        Ok(crew)
    }

    /// Makes sure that every disk begins with the bytes of the image: read from behind the device, not from what the kernel
    /// remembers of it.
    pub(super) fn check(&self, image: &Path) -> Result<()> {
        let len = image.metadata().context("cannot read the image's length")?.len();
        let wanted = hash(image, len)?;
        for Machine { name, disk, .. } in &self.machines {
            run("blockdev", ["--flushbufs".as_ref(), disk.path().as_os_str()])?;
            let same = hash(disk.path(), len)? == wanted;
            ensure!(same, "the disk of {name} is not what was published");
        }
        Ok(())
    }
}

fn hash(path: &Path, len: u64) -> Result<blake3::Hash> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hasher = blake3::Hasher::new();
    let read = hasher.update_reader(BufReader::new(file.take(len)));
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hasher.finalize())
}
