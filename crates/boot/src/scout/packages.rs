//! Debian's packages for the scout: chosen and fetched by apt as any user, kept in a cache by name and version, unpacked by dpkg-deb.
//!
//! Nothing is installed. apt plans against an empty system, checks what it fetches against the signed lists, and what
//! lies in the cache is checked against them again at each use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use data_encoding::HEXLOWER;
use p2pinst_command::{ask_within, clean};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// A plan of some hundred packages has some 20 KiB.
const SAID_MAX: u64 = 4 << 20;
/// For a plan, on a slow machine with all of Debian's lists.
const PLAN: Duration = Duration::from_secs(120);
/// For fetching some 120 MB.
const FETCH: Duration = Duration::from_secs(1800);
/// For unpacking one package; a kernel has 400 MB.
const UNPACK: Duration = Duration::from_secs(300);
/// Larger than any package of a scout.
const PACKAGE_MAX: u64 = 1 << 30;

/// Why the packages cannot be had.
#[derive(Debug, Error)]
pub enum PackageError {
    /// A program that is not there, or hangs.
    #[error(
        "cannot run {tool} for the scout's packages: {source}; the scout is made on a Debian machine, of Debian's packages"
    )]
    Tool {
        /// The program.
        tool: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ran and refused.
    #[error(
        "{tool} cannot {what}: {said}; run apt-get update, and see that this machine reaches its package archive"
    )]
    Refused {
        /// The program.
        tool: &'static str,
        /// What was attempted.
        what: String,
        /// What it said.
        said: String,
    },
    /// Its answer is not of the known form.
    #[error("cannot understand what apt says of {0}")]
    Answer(String),
    /// The cache.
    #[error("cannot use the cache of packages {}: {source}", path.display())]
    Cache {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was fetched is not what the signed list names.
    #[error(
        "the package {0} is not the one that the signed list names: try again; if it stays so, the mirror is bad"
    )]
    Hash(String),
    /// The metapackage names no kernel.
    #[error("{0} depends on no linux-image package: is this machine's archive Debian's?")]
    Kernel(String),
}

/// A package that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The name of its file, as apt makes it.
    file: String,
    sha256: String,
}

/// apt, and the directory where its packages are kept.
pub(crate) struct Apt {
    cache: PathBuf,
    /// A list of installed packages, without any.
    nothing: PathBuf,
}

impl Apt {
    pub(crate) fn open(cache: &Path) -> Result<Self, PackageError> {
        let error = |source| PackageError::Cache { path: cache.to_owned(), source };
        let cache = std::path::absolute(cache).map_err(error)?;
        fs::create_dir_all(cache.join("apt")).map_err(error)?;
        let nothing = cache.join("nothing-installed");
        fs::write(&nothing, "").map_err(error)?;
        Ok(Self { cache, nothing })
    }

    /// The kernel that a metapackage stands for today.
    pub(crate) fn kernel(&self, meta: &str) -> Result<String, PackageError> {
        let said = self.ask("apt-cache", &["depends", "--important", meta], "name the kernel")?;
        let graph = dependencies(&said);
        let kernel =
            graph.get(meta).and_then(|on| on.iter().find(|n| n.starts_with("linux-image-")));
        kernel.cloned().ok_or_else(|| PackageError::Kernel(meta.to_owned()))
    }

    /// The packages named, and of all that they depend on the libraries: what else a package asks for (perl, debconf)
    /// is for installing it, and a scout only runs programs.
    pub(crate) fn with_libraries(&self, names: &[&str]) -> Result<Vec<String>, PackageError> {
        let options = ["-qq", "--yes", "--no-install-recommends", "--print-uris", "install"];
        let plan = self.ask("apt-get", &[&options[..], names].concat(), "plan the packages")?;
        let planned: BTreeMap<String, String> =
            plan.lines().filter_map(uri_line).map(|p| (p.name, p.version)).collect();
        let mut asked: Vec<&str> = vec!["depends", "--important"];
        asked.extend(planned.keys().map(String::as_str));
        let graph = dependencies(&self.ask("apt-cache", &asked, "list dependencies")?);
        let mut open: Vec<&str> = names.to_vec();
        let mut chosen = BTreeSet::new();
        while let Some(name) = open.pop() {
            let Some(version) = planned.get(name) else { continue };
            if chosen.insert(format!("{name}={version}")) {
                let on = graph.get(name).into_iter().flatten();
                open.extend(on.map(String::as_str).filter(|name| is_library(name)));
            }
        }
        Ok(chosen.into_iter().collect())
    }

    /// Sees that the packages (names, or `name=version`) are in the cache, whole.
    pub(crate) fn fetch(&self, names: &[String]) -> Result<Vec<Package>, PackageError> {
        let mut asked = vec!["-qq", "--print-uris", "download"];
        asked.extend(names.iter().map(String::as_str));
        let said = self.ask("apt-get", &asked, "find the packages")?;
        let mut packages: Vec<Package> = said.lines().filter_map(uri_line).collect();
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        if packages.len() != names.len() || packages.iter().any(|p| p.sha256.is_empty()) {
            return Err(PackageError::Answer(names.join(" ")));
        }
        let missing: Vec<&Package> = packages.iter().filter(|p| !self.is_whole(p)).collect();
        if !missing.is_empty() {
            self.download(&missing)?;
        }
        Ok(packages)
    }

    fn download(&self, packages: &[&Package]) -> Result<(), PackageError> {
        let error = |source| PackageError::Cache { path: self.cache.clone(), source };
        let dir = tempfile::tempdir_in(&self.cache).map_err(error)?;
        let mut command = self.command("apt-get", &["-qq", "download"]);
        command.args(packages.iter().map(|p| format!("{}={}", p.name, p.version)));
        command.current_dir(dir.path());
        let said = ask_within(command, &[], SAID_MAX, FETCH)
            .map_err(|source| PackageError::Tool { tool: "apt-get", source })?;
        if !said.success {
            let what = format!("fetch {} packages", packages.len());
            return Err(PackageError::Refused { tool: "apt-get", what, said: said.stderr });
        }
        for package in packages {
            let fetched = dir.path().join(&package.file);
            fs::rename(&fetched, self.cache.join(&package.file)).map_err(error)?;
            if !self.is_whole(package) {
                return Err(PackageError::Hash(package.file.clone()));
            }
        }
        Ok(())
    }

    fn is_whole(&self, package: &Package) -> bool {
        let read = p2pinst_files::read(&self.cache.join(&package.file), PACKAGE_MAX);
        read.is_ok_and(|bytes| HEXLOWER.encode(&Sha256::digest(&bytes)) == package.sha256)
    }

    /// Unpacks a package.
    pub(crate) fn unpack(&self, package: &Package, into: &Path) -> Result<(), PackageError> {
        let mut command = clean("dpkg-deb");
        command.arg("-x").arg(self.cache.join(&package.file)).arg(into);
        let said = ask_within(command, &[], SAID_MAX, UNPACK)
            .map_err(|source| PackageError::Tool { tool: "dpkg-deb", source })?;
        if said.success {
            return Ok(());
        }
        let what = format!("unpack {}", package.file);
        Err(PackageError::Refused { tool: "dpkg-deb", what, said: said.stderr })
    }

    fn ask(
        &self,
        tool: &'static str,
        arguments: &[&str],
        what: &str,
    ) -> Result<String, PackageError> {
        let said = ask_within(self.command(tool, arguments), &[], SAID_MAX, PLAN)
            .map_err(|source| PackageError::Tool { tool, source })?;
        if !said.success {
            return Err(PackageError::Refused { tool, what: what.to_owned(), said: said.stderr });
        }
        String::from_utf8(said.stdout).map_err(|_| PackageError::Answer(what.to_owned()))
    }

    /// apt with this machine's archives and keys, but with nothing installed and with caches of its own.
    fn command(&self, tool: &str, arguments: &[&str]) -> Command {
        let mut command = clean(tool);
        for (key, value) in
            [("Dir::State::status", &self.nothing), ("Dir::Cache", &self.cache.join("apt"))]
        {
            command.arg("-o").arg(format!("{key}={}", value.display()));
        }
        // it is this user's directory, and so no place for apt's own user
        command.args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]);
        for proxy in ["http_proxy", "https_proxy", "no_proxy"] {
            if let Some(value) = std::env::var_os(proxy) {
                command.env(proxy, value);
            }
        }
        command.args(arguments);
        command
    }
}

/// Whether a package has libraries, by Debian's way of naming them (Policy 8.1).
fn is_library(name: &str) -> bool {
    name.starts_with("lib") || name.starts_with("zlib")
}

/// A line of `apt-get --print-uris`: `'URI' NAME_VERSION_ARCH.deb SIZE SHA256:…`.
fn uri_line(line: &str) -> Option<Package> {
    let (_, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let mut words = rest.split(' ');
    let file = words.next()?;
    let hash = words.nth(1).unwrap_or_default();
    let mut parts = file.strip_suffix(".deb")?.splitn(3, '_');
    let (name, version) = (parts.next()?, parts.next()?.replace("%3a", ":"));
    parts.next()?;
    if file.contains('/') || name.is_empty() || name.starts_with(['.', '-']) {
        return None;
    }
    Some(Package {
        name: name.to_owned(),
        version,
        file: file.to_owned(),
        sha256: hash.strip_prefix("SHA256:").unwrap_or_default().to_owned(),
    })
}

/// What `apt-cache depends` says: by package what it depends on, alternatives and real packages of virtual ones all.
fn dependencies(said: &str) -> BTreeMap<String, Vec<String>> {
    let mut graph: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut package = String::new();
    for line in said.lines() {
        if !line.starts_with([' ', '|']) {
            line.trim().clone_into(&mut package);
            graph.entry(package.clone()).or_default();
            continue;
        }
        let on = line.rsplit(": ").next().unwrap_or_default().trim();
        let on = on.trim_matches(['<', '>']);
        graph.entry(package.clone()).or_default().push(on.to_owned());
    }
    graph
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_apt_are_read() {
        let line = "'http://deb.debian.org/debian/pool/main/b/busybox/busybox-static_1.35.0-4%2bb1_amd64.deb' busybox-static_1%3a1.35.0-4+b1_amd64.deb 928188 SHA256:3d3f";
        let package = uri_line(line).unwrap();
        assert_eq!(package.name, "busybox-static");
        assert_eq!(package.version, "1:1.35.0-4+b1");
        assert_eq!(package.file, "busybox-static_1%3a1.35.0-4+b1_amd64.deb");
        assert_eq!(package.sha256, "3d3f");
        let unhashed = "'http://x/xz_1_amd64.deb' xz_1_amd64.deb 20 ";
        assert_eq!(uri_line(unhashed).unwrap().sha256, "");
        for bad in
            ["", "W: x", "'x' ../a_1_b.deb 1 SHA256:0", "'x' a.deb 1 SHA256:0", "'x' -o_1_b.deb 1"]
        {
            assert_eq!(uri_line(bad), None, "{bad}");
        }
    }

    #[test]
    fn dependencies_are_read() {
        let said = "fdisk\n  Depends: libc6\n |Depends: debconf\n  Depends: <debconf-2.0>\n    cdebconf\n    debconf\nlibc6\n  PreDepends: libgcc-s1\n";
        let graph = dependencies(said);
        assert_eq!(graph["fdisk"], ["libc6", "debconf", "debconf-2.0", "cdebconf", "debconf"]);
        assert_eq!(graph["libc6"], ["libgcc-s1"]);
    }

    proptest! {
        #[test]
        fn no_answer_panics(said in "(.|\n)*") {
            let _any = dependencies(&said);
            let _any: Vec<_> = said.lines().filter_map(uri_line).collect();
        }
    }
}
