//! The status database of dpkg: which packages a root has, and in which state.
//!
//! Reads the files as they are, pending updates included, and needs no lock: dpkg replaces its
//! files whole. Never writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use p2pinst_files::{Context, FileError};

use crate::control::{Stanza, stanzas};
use crate::relation::Relations;

/// A database longer than this is refused: a full Debian archive has some 60 MB of stanzas.
const STATUS_MAX: u64 = 256 * 1024 * 1024;

/// So often the files are read when dpkg changes them meanwhile: it writes some ten a second.
const READS_MAX: usize = 100;

/// How far a package is (`dpkg(1)`, "Package states").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Not there.
    NotInstalled,
    /// Removed, its configuration files are left.
    ConfigFiles,
    /// Unpacking was begun and not finished.
    HalfInstalled,
    /// Unpacked, not configured.
    Unpacked,
    /// Configuring was begun and not finished.
    HalfConfigured,
    /// Waits for another package's trigger.
    TriggersAwaited,
    /// Has a trigger of its own to run.
    TriggersPending,
    /// All well.
    Installed,
}

impl State {
    const ALL: [(Self, &'static str); 8] = [
        (Self::NotInstalled, "not-installed"),
        (Self::ConfigFiles, "config-files"),
        (Self::HalfInstalled, "half-installed"),
        (Self::Unpacked, "unpacked"),
        (Self::HalfConfigured, "half-configured"),
        (Self::TriggersAwaited, "triggers-awaited"),
        (Self::TriggersPending, "triggers-pending"),
        (Self::Installed, "installed"),
    ];

    fn read(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == word).map(|(state, _)| *state)
    }

    /// Whether files of the package are there.
    #[must_use]
    pub fn is_present(self) -> bool {
        self >= Self::HalfInstalled
    }

    /// Whether other packages may rely on it.
    #[must_use]
    pub fn is_configured(self) -> bool {
        self >= Self::TriggersPending
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(state, _)| state == self).map_or("?", |(_, name)| name);
        f.pad(name)
    }
}

/// How a package lives with other architectures (`deb-control(5)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MultiArch {
    /// Serves its own architecture.
    No,
    /// Can be there for several architectures at once.
    Same,
    /// Serves every architecture.
    Foreign,
    /// Serves every architecture that asks for it as `:any`.
    Allowed,
}

impl MultiArch {
    /// Reads the field's value; an unknown one counts as `no`.
    #[must_use]
    pub fn read(word: &str) -> Self {
        match word {
            "same" => Self::Same,
            "foreign" => Self::Foreign,
            "allowed" => Self::Allowed,
            _ => Self::No,
        }
    }
}

/// A package in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version; empty when there is none.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// How it lives with other architectures.
    pub multi_arch: MultiArch,
    /// Whether an administrator holds it at its version.
    pub held: bool,
    /// Whether it is damaged and must be installed again.
    pub reinstall_required: bool,
    /// How far it is.
    pub state: State,
    /// What it asks of others; empty for packages that are not there.
    pub relations: Relations,
}

impl Package {
    /// Whether it is properly there: `install ok installed`, or with triggers yet to run.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.state.is_configured() && !self.reinstall_required
    }

    fn read(stanza: &Stanza<'_>) -> Option<Self> {
        let name = stanza.get("Package")?;
        let mut words = stanza.get("Status").unwrap_or("").split_whitespace();
        let (want, flag, state) = (words.next(), words.next(), words.next());
        let state = state.and_then(State::read).unwrap_or(State::NotInstalled);
        let architecture = stanza.get("Architecture").unwrap_or("");
        let relations = if state.is_present() {
            Relations::read(stanza, architecture).unwrap_or_else(|(field, error)| {
                // an old package that dpkg once let through must not stop all others
                tracing::debug!(package = name, field, %error, "Relations are passed over.");
                Relations::default()
            })
        } else {
            Relations::default()
        };
        Some(Self {
            name: name.to_owned(),
            version: stanza.get("Version").unwrap_or("").to_owned(),
            architecture: architecture.to_owned(),
            multi_arch: MultiArch::read(stanza.get("Multi-Arch").unwrap_or("no")),
            held: want == Some("hold"),
            reinstall_required: flag == Some("reinstreq"),
            state,
            relations,
        })
    }
}

/// The packages of a root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    /// All packages that dpkg knows of, in the order of their names.
    packages: Vec<Package>,
    /// The root's own architecture.
    pub native: String,
    /// Further architectures whose packages it takes.
    pub foreign: Vec<String>,
    /// How many changes an interrupted dpkg has left to be merged.
    pub pending_updates: usize,
}

impl Database {
    /// Reads the database from its text and the texts of its pending updates.
    #[must_use]
    pub fn parse(status: &str, updates: &[String], native: &str, foreign: Vec<String>) -> Self {
        let read = |text| stanzas(text).filter_map(|stanza| Package::read(&stanza));
        let mut packages: Vec<_> = read(status).collect();
        let order = |p: &Package, name: &str, architecture: &str| {
            p.name.as_str().cmp(name).then_with(|| p.architecture.as_str().cmp(architecture))
        };
        packages.sort_by(|a, b| order(a, &b.name, &b.architecture));
        for new in updates.iter().flat_map(|text| read(text)) {
            match packages.binary_search_by(|p| order(p, &new.name, &new.architecture)) {
                Ok(at) => packages.splice(at..=at, [new]).for_each(drop),
                Err(at) => packages.insert(at, new),
            }
        }
        let pending_updates = updates.len();
        Self { packages, native: native.to_owned(), foreign, pending_updates }
    }

    /// Reads the database of an administrative directory (`var/lib/dpkg`).
    ///
    /// # Errors
    /// When a file cannot be read, or dpkg changes them all the time.
    pub(crate) fn read(admin: &Path, native: &str) -> Result<Self, FileError> {
        let foreign = architectures(admin)?.into_iter().filter(|a| a != native).collect();
        for _ in 0..READS_MAX {
            if let Some((status, updates)) = read_unchanged(admin)? {
                return Ok(Self::parse(&status, &updates, native, foreign));
            }
        }
        let busy = io::Error::other("dpkg changes it all the time; try again when it has finished");
        Err(busy).context("read the database", admin)
    }

    /// All packages that dpkg knows of.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter()
    }

    /// The package of that name for an architecture; `all` and the root's own are one.
    #[must_use]
    pub fn get(&self, name: &str, architecture: &str) -> Option<&Package> {
        let wanted = self.effective(architecture);
        let start = self.packages.partition_point(|p| p.name.as_str() < name);
        let named = self.packages.iter().skip(start).take_while(|p| p.name == name);
        // a leftover of the other kind (config files) does not hide what is there
        named.filter(|p| self.effective(&p.architecture) == wanted).max_by_key(|p| p.state)
    }

    /// The version of a package that is properly there.
    #[must_use]
    pub fn installed_version(&self, name: &str, architecture: &str) -> Option<&str> {
        self.get(name, architecture).filter(|p| p.is_well()).map(|p| p.version.as_str())
    }

    /// The architecture that counts: `all` counts as the root's own.
    #[must_use]
    pub fn effective<'a>(&'a self, architecture: &'a str) -> &'a str {
        if matches!(architecture, "all" | "") { &self.native } else { architecture }
    }

    /// Packages that are neither properly there nor properly absent.
    #[must_use]
    pub fn broken(&self) -> Vec<Broken> {
        let broken = |p: &&Package| {
            p.reinstall_required || (p.state.is_present() && p.state != State::Installed)
        };
        self.packages.iter().filter(broken).map(Broken::of).collect()
    }
}

/// A package that was left in the middle of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// How far it is.
    pub state: State,
    /// Whether it must be installed again before anything else helps.
    pub reinstall_required: bool,
}

impl Broken {
    pub(crate) fn of(package: &Package) -> Self {
        Self {
            name: package.name.clone(),
            version: package.version.clone(),
            architecture: package.architecture.clone(),
            state: package.state,
            reinstall_required: package.reinstall_required,
        }
    }
}

impl fmt::Display for Broken {
    /// `hello 1.0 is half-configured`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} is {}", self.name, self.version, self.state)?;
        if self.reinstall_required { f.write_str(" and must be installed again") } else { Ok(()) }
    }
}

/// The architectures that a root names: its own first. Empty when it names none.
pub(crate) fn architectures(admin: &Path) -> Result<Vec<String>, FileError> {
    match read_text(&admin.join("arch")) {
        Ok(text) => {
            Ok(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect())
        }
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Changes that dpkg has written and not merged yet, in their order: files with numbers as names.
fn pending_updates(admin: &Path) -> Result<Vec<PathBuf>, FileError> {
    let dir = admin.join("updates");
    let mut paths = Vec::new();
    for entry in fs::read_dir(&dir).context("read the directory", &dir)? {
        let entry = entry.context("read the directory", &dir)?;
        if entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// The status and its pending updates, if dpkg did not merge them in between: then what was read
/// is of no one moment.
fn read_unchanged(admin: &Path) -> Result<Option<(String, Vec<String>)>, FileError> {
    let pending = pending_updates(admin)?;
    let status = read_text(&admin.join("status"))?;
    let mut updates = Vec::new();
    for path in &pending {
        match read_text(path) {
            Ok(text) => updates.push(text),
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    Ok((pending_updates(admin)? == pending).then_some((status, updates)))
}

fn read_text(path: &Path) -> Result<String, FileError> {
    let bytes = p2pinst_files::read(path, STATUS_MAX)?;
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn stanza(name: &str, status: &str, version: &str, more: &str) -> String {
        format!(
            "Package: {name}\nStatus: {status}\nArchitecture: amd64\nVersion: {version}\n{more}\n"
        )
    }

    fn parse(status: &str, updates: &[String]) -> Database {
        Database::parse(status, updates, "amd64", vec!["i386".to_owned()])
    }

    #[test]
    fn states_and_flags() {
        let text = [
            stanza("b", "hold ok installed", "1", "Depends: c (>= 1)\n"),
            stanza("a", "install reinstreq half-installed", "2", ""),
            stanza("c", "deinstall ok config-files", "3", ""),
            stanza("d", "install ok triggers-pending", "4", "Depends: ((\n"),
        ]
        .concat();
        let db = parse(&text, &[]);
        assert_eq!(db.installed_version("b", "all"), Some("1"));
        assert!(db.get("b", "amd64").unwrap().held);
        assert_eq!(db.get("b", "amd64").unwrap().relations.depends.len(), 1);
        assert_eq!(db.installed_version("a", "amd64"), None);
        assert_eq!(db.installed_version("c", "amd64"), None);
        assert_eq!(db.installed_version("d", "amd64"), Some("4"));
        assert_eq!(db.get("b", "i386"), None);
        let broken: Vec<_> = db.broken().iter().map(ToString::to_string).collect();
        assert_eq!(
            broken,
            ["a 2 is half-installed and must be installed again", "d 4 is triggers-pending"]
        );
    }

    #[test]
    fn pending_updates_count() {
        let status = stanza("a", "install ok installed", "1", "");
        let updates = [
            stanza("a", "install ok half-configured", "2", ""),
            stanza("b", "install ok unpacked", "1", ""),
            stanza("a", "install ok unpacked", "3", ""),
        ];
        let db = parse(&status, &updates);
        assert_eq!(db.pending_updates, 3);
        assert_eq!(db.get("a", "amd64").unwrap().version, "3");
        assert_eq!(db.get("b", "amd64").unwrap().state, State::Unpacked);
        assert_eq!(db.packages().count(), 2);
    }

    #[test]
    fn all_and_native_are_one_line() {
        let text = "Package: a\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
                    Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2\n\n";
        let db = parse(text, &[]);
        assert_eq!(db.installed_version("a", "all"), Some("2"));
        assert_eq!(db.installed_version("a", "amd64"), Some("2"));
    }

    #[test]
    fn three_thousand_packages_are_read_at_once() {
        let more = "Depends: libc6 (>= 2.36), a | b, c:any\nDescription: x\n y\n z\n";
        let text: String = (0..3000)
            .map(|i| stanza(&format!("pkg{i}"), "install ok installed", "1.0-1", more))
            .collect();
        let start = Instant::now();
        let db = parse(&text, &[]);
        assert_eq!(db.packages().count(), 3000);
        assert_eq!(db.installed_version("pkg2999", "amd64"), Some("1.0-1"));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}
