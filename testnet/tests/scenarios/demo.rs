//! The demo, as root and as anybody.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use p2pinst_testnet::bins::{BIN_DIR, Bins};
use p2pinst_testnet::exec::{Done, Exec};
use p2pinst_testnet::ready::{is_root, why_no_namespaces};

use crate::harness::{Turn, skipped};

const LIMIT: Duration = Duration::from_secs(180);

fn shows_all(done: &Done) -> Result<()> {
    for words in ["n7 came late", "n7: dpkg -s hello-peers: install ok installed 1.1", "all gone"] {
        ensure!(done.stdout.contains(words), "`{words}` is not in it: {done}");
    }
    Ok(())
}

#[test]
fn the_demo_works() -> Result<()> {
    if let Some(why) = why_no_namespaces() {
        skipped(&why);
        return Ok(());
    }
    let turn = Turn::take()?;
    let demo = Bins::find()?.dir.join("testnet");
    shows_all(&Exec::new(demo).arg("demo").limit(LIMIT).run()?.ok()?)?;
    drop(turn);
    Ok(())
}

#[test]
fn the_demo_works_without_root_on_loopback_addresses() -> Result<()> {
    let turn = Turn::take()?;
    let demo = Bins::find()?.dir.join("testnet");
    let exec = if is_root() {
        // In a place where nobody in particular can get at them.
        let temp = tempfile::tempdir()?;
        let bins = temp.path().join("bin");
        fs::create_dir(&bins)?;
        for name in ["testnet", "p2pinst", "p2pinstd"] {
            fs::copy(demo.with_file_name(name), bins.join(name))?;
        }
        for dir in [temp.path(), &bins] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        }
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
        let exec = Exec::new("setpriv").args(nobody).arg(bins.join("testnet")).arg("demo");
        let done = exec.env("USER", "nobody").env(BIN_DIR, &bins).limit(LIMIT).run()?.ok()?;
        ensure!(done.stdout.contains("loopback addresses (not root"), "it does not say so: {done}");
        done
    } else {
        Exec::new(demo).arg("demo").limit(LIMIT).run()?.ok()?
    };
    shows_all(&exec)?;
    drop(turn);
    Ok(())
}
