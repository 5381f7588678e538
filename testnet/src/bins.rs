//! Where the binaries under test are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// Names a directory with `p2pinst` and `p2pinstd`, in place of the one beside this program.
pub const BIN_DIR: &str = "P2PINST_BIN_DIR";

/// The binaries under test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bins {
    /// Where they are.
    pub dir: PathBuf,
    /// The command line, `p2pinst`.
    pub cli: PathBuf,
    /// The daemon, `p2pinstd`.
    pub daemon: PathBuf,
}

impl Bins {
    /// The binaries in the directory that the environment names, or beside this program.
    ///
    /// # Errors
    /// When there are none.
    pub fn find() -> Result<Self> {
        let dir = match env::var_os(BIN_DIR) {
            Some(dir) => PathBuf::from(dir),
            None => beside_this_program()?,
        };
        let dir = dir
            .canonicalize()
            .with_context(|| format!("cannot find the binaries in {}", dir.display()))?;
        let bins = Self { cli: dir.join("p2pinst"), daemon: dir.join("p2pinstd"), dir };
        for bin in [&bins.cli, &bins.daemon] {
            ensure!(
                bin.is_file(),
                "{} does not exist: build it with `cargo build --workspace`, or name another \
                 directory in {BIN_DIR}",
                bin.display()
            );
        }
        Ok(bins)
    }
}

/// The `testnet` program: this one, or the one beside this test.
///
/// # Errors
/// When it was not built.
pub fn testnet() -> Result<PathBuf> {
    let exe = env::current_exe().context("cannot tell where this program is")?;
    if exe.file_name().is_some_and(|name| name == "testnet") {
        return Ok(exe);
    }
    let bin = beside_this_program()?.join("testnet");
    ensure!(bin.is_file(), "{} does not exist: build it with `cargo build --bins`", bin.display());
    Ok(bin)
}

/// `target/<profile>`: tests live one directory deeper, in `deps`.
fn beside_this_program() -> Result<PathBuf> {
    let exe = env::current_exe().context("cannot tell where this program is")?;
    let dir = exe.parent().context("this program has no directory")?;
    let up = if dir.ends_with("deps") { dir.parent() } else { None };
    Ok(up.unwrap_or(dir).to_path_buf())
}

/// The directory of a program on the path.
#[must_use]
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file: &PathBuf| Path::is_file(file))
}
