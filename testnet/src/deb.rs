//! Real Debian packages, made by the real dpkg-deb.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::exec::{Exec, run};

/// Building a package of some GiB takes a while.
const PATIENCE: Duration = Duration::from_secs(600);

/// A package that is about to be built.
#[derive(Debug, Clone)]
pub struct Deb {
    name: String,
    version: String,
    arch: String,
    fields: Vec<(String, String)>,
    scripts: Vec<(String, String)>,
    payload: u64,
}

impl Deb {
    /// A package for all architectures with one small file.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            arch: "all".to_owned(),
            fields: Vec::new(),
            scripts: Vec::new(),
            payload: 0,
        }
    }

    /// For this architecture only.
    #[must_use]
    pub fn arch(mut self, arch: &str) -> Self {
        arch.clone_into(&mut self.arch);
        self
    }

    /// One more field of the control file, such as `Depends`.
    #[must_use]
    pub fn field(mut self, key: &str, value: &str) -> Self {
        self.fields.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A maintainer script, such as `postinst`, run by the root's own shell.
    #[must_use]
    pub fn script(mut self, name: &str, body: &str) -> Self {
        self.scripts.push((name.to_owned(), format!("#!/bin/sh\n{body}\n")));
        self
    }

    /// A file of so many bytes that no compression makes smaller.
    #[must_use]
    pub fn payload(mut self, bytes: u64) -> Self {
        self.payload = bytes;
        self
    }

    /// Builds the package into a directory, and returns the file.
    ///
    /// # Errors
    /// When a file cannot be written, or dpkg-deb fails.
    pub fn build(&self, into: &Path) -> Result<PathBuf> {
        let tree = into.join(format!("{}_{}.tree", self.name, self.version));
        self.write_tree(&tree).with_context(|| format!("cannot write {}", tree.display()))?;
        let file = into.join(format!("{}_{}_{}.deb", self.name, self.version, self.arch));
        Exec::new("dpkg-deb")
            .args(["--root-owner-group", "-Znone", "--build"])
            .args([&tree, &file])
            .limit(PATIENCE)
            .run()?
            .ok()
            .context("dpkg-deb comes with the Debian package dpkg")?;
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
        Ok(file)
    }

    fn write_tree(&self, tree: &Path) -> Result<()> {
        let control = tree.join("DEBIAN");
        let share = tree.join("usr/share").join(&self.name);
        fs::create_dir_all(&control)?;
        fs::create_dir_all(&share)?;
        fs::set_permissions(tree, fs::Permissions::from_mode(0o755))?;
        let mut text = format!(
            "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: Testnet <testnet@localhost>\n",
            self.name, self.version, self.arch
        );
        for (key, value) in &self.fields {
            text.push_str(&format!("{key}: {value}\n"));
        }
        text.push_str("Description: made by the testnet\n");
        fs::write(control.join("control"), text)?;
        for (name, body) in &self.scripts {
            let file = control.join(name);
            fs::write(&file, body)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        }
        fs::write(share.join("version"), format!("{}\n", self.version))?;
        if self.payload > 0 {
            let seed = self.version.bytes().fold(1, |h: u64, b| h.rotate_left(7) ^ u64::from(b));
            write_noise(&share.join("payload"), self.payload, seed)?;
        }
        Ok(())
    }
}

/// The architecture that dpkg says this machine has.
///
/// # Errors
/// When dpkg cannot be asked.
pub fn native_arch() -> Result<String> {
    Ok(run("dpkg", ["--print-architecture"])?.trim().to_owned())
}

/// Writes bytes that do not compress; the same seed gives the same bytes (xorshift64*).
fn write_noise(file: &Path, bytes: u64, seed: u64) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(file)?);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut left = bytes;
    while left > 0 {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let word = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
        let take = left.min(8);
        out.write_all(word.get(..usize::try_from(take)?).unwrap_or(&word))?;
        left = left.saturating_sub(take);
    }
    out.flush()?;
    Ok(())
}
