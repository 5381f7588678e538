//! What a .deb says of itself, and whether it is whole.
//!
//! Reads by `dpkg-deb` and writes nothing. Blocking: decompresses the whole archive once.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use p2pinst_types::record::install::{Manager, PackageId};
use thiserror::Error;

use crate::control::{Stanza, stanzas};
use crate::relation::Relations;
use crate::status::{MultiArch, Package, State};
use p2pinst_command::{ask, clean, text};

/// What every .deb begins with: an ar archive whose first member is `debian-binary`.
const MAGIC: &[u8; 21] = b"!<arch>\ndebian-binary";
/// A control file longer than this is refused: the longest in Debian have some 50 kB.
const CONTROL_MAX: u64 = 512 * 1024;
/// Longest package name or version: what file systems and our records bear.
const NAME_MAX: usize = 128;
/// Longest architecture name.
const ARCHITECTURE_MAX: usize = 32;

/// What a .deb says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebInfo {
    /// Name, version and architecture.
    pub package: PackageId,
    /// What it asks of other packages.
    pub relations: Relations,
    /// Whether it must never be removed.
    pub essential: bool,
    /// How it lives with other architectures.
    pub multi_arch: MultiArch,
    /// KiB that it takes when installed, as it claims.
    pub installed_size: Option<u64>,
}

impl DebInfo {
    /// The package as it will stand in the database when all goes well.
    pub(crate) fn as_installed(&self) -> Package {
        Package {
            name: self.package.name.clone(),
            version: self.package.version.clone(),
            architecture: self.package.architecture.clone(),
            multi_arch: self.multi_arch,
            held: false,
            reinstall_required: false,
            state: State::Installed,
            relations: self.relations.clone(),
        }
    }
}

/// Why a file cannot be taken as a package.
#[derive(Debug, Error)]
pub enum InspectError {
    /// It is not there, may not be read, or the disk fails.
    #[error("cannot read the package {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory, a device, a pipe.
    #[error("cannot read the package {}: it is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// No bytes at all.
    #[error("{} is empty: copy or build the package again", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Something else than a .deb.
    #[error("{} is not a Debian package (it does not begin as a .deb does)", path.display())]
    NotAPackage {
        /// The file.
        path: PathBuf,
    },
    /// It begins well, and then something is missing or wrong.
    #[error("{} is truncated or damaged: copy or build it again (dpkg-deb: {said})", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What dpkg-deb said.
        said: String,
    },
    /// The control file lacks a field, or the field has no lawful value.
    #[error("{} has a bad control file: {field} {reason}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Another file now than a moment ago.
    #[error("{} changed while it was read: try again when it is complete", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// dpkg-deb cannot be started.
    #[error("cannot start dpkg-deb to read {}: {source}; is dpkg installed?", path.display())]
    NoTool {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads what a .deb says of itself, and makes sure that the whole archive can be unpacked.
///
/// # Errors
/// When the file cannot be read, is no package, is not whole, or says something unlawful.
pub fn inspect(path: &Path) -> Result<DebInfo, InspectError> {
    let path = &absolute(path)?;
    let before = recognise(path)?;
    let info = read_control(path)?;
    read_content(path)?;
    if recognise(path)? != before {
        return Err(InspectError::Changed { path: path.clone() });
    }
    Ok(info)
}

/// Reads only what a .deb says of itself: for a file that is, or was, [inspected](inspect) besides.
///
/// # Errors
/// When the file cannot be read, is no package, or says something unlawful.
pub fn identify(path: &Path) -> Result<DebInfo, InspectError> {
    let path = &absolute(path)?;
    recognise(path)?;
    read_control(path)
}

/// An absolute path is never taken for an option.
fn absolute(path: &Path) -> Result<PathBuf, InspectError> {
    std::path::absolute(path).map_err(|source| InspectError::Read { path: path.to_owned(), source })
}

/// Tells files that cannot be packages by their first bytes. Gives what changes when a file does.
fn recognise(path: &Path) -> Result<impl PartialEq + use<>, InspectError> {
    let read_error = |source| InspectError::Read { path: path.to_owned(), source };
    // before opening: opening a pipe waits for its other end
    if !path.metadata().map_err(read_error)?.is_file() {
        return Err(InspectError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(read_error)?;
    let meta = file.metadata().map_err(read_error)?;
    let mut start = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut start).map_err(read_error)?;
    if start.is_empty() {
        return Err(InspectError::Empty { path: path.to_owned() });
    }
    if start.len() < MAGIC.len() && MAGIC.starts_with(&start) {
        let said = format!("the file ends after {} bytes", start.len());
        return Err(InspectError::Damaged { path: path.to_owned(), said });
    }
    if start != MAGIC {
        return Err(InspectError::NotAPackage { path: path.to_owned() });
    }
    Ok((meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

/// Unpacks the content into nothing: only so is a missing end noticed.
fn read_content(path: &Path) -> Result<(), InspectError> {
    let mut command = clean("dpkg-deb");
    command.arg("--fsys-tarfile").arg(path);
    let output = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|source| InspectError::NoTool { path: path.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(InspectError::Damaged { path: path.to_owned(), said: text(&output.stderr) })
}

fn read_control(path: &Path) -> Result<DebInfo, InspectError> {
    let mut command = clean("dpkg-deb");
    command.arg("--field").arg(path);
    let said = ask(command, CONTROL_MAX).map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => field_error(path, "the control file", "is too long"),
        _ => InspectError::NoTool { path: path.to_owned(), source },
    })?;
    if !said.success {
        return Err(InspectError::Damaged { path: path.to_owned(), said: said.stderr });
    }
    let text = String::from_utf8(said.stdout)
        .map_err(|_| field_error(path, "the control file", "is not UTF-8"))?;
    let stanza = stanzas(&text)
        .next()
        .ok_or_else(|| field_error(path, "the control file", "has no fields"))?;
    read_fields(path, &stanza)
}

fn field_error(path: &Path, field: &'static str, reason: impl Into<String>) -> InspectError {
    InspectError::Field { path: path.to_owned(), field, reason: reason.into() }
}

fn read_fields(path: &Path, stanza: &Stanza<'_>) -> Result<DebInfo, InspectError> {
    let required = |field: &'static str, max: usize, lawful: fn(&str) -> bool| {
        let value = stanza.get(field).filter(|v| !v.is_empty());
        let value = value.ok_or_else(|| field_error(path, field, "is missing"))?;
        if value.len() > max {
            return Err(field_error(path, field, format!("is longer than {max} characters")));
        }
        if !lawful(value) {
            return Err(field_error(path, field, format!("has the unlawful value {value:?}")));
        }
        Ok(value.to_owned())
    };
    let package = PackageId {
        manager: Manager::Dpkg,
        name: required("Package", NAME_MAX, is_lawful_name)?,
        version: required("Version", NAME_MAX, is_lawful_version)?,
        architecture: required("Architecture", ARCHITECTURE_MAX, is_lawful_architecture)?,
    };
    let relations = Relations::read(stanza, &package.architecture)
        .map_err(|(field, error)| field_error(path, field, format!("is wrong: {error}")))?;
    Ok(DebInfo {
        package,
        relations,
        essential: stanza.get("Essential") == Some("yes"),
        multi_arch: MultiArch::read(stanza.get("Multi-Arch").unwrap_or("no")),
        installed_size: stanza.get("Installed-Size").and_then(|v| v.parse().ok()),
    })
}

/// Debian Policy 5.6.7.
fn is_lawful_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() >= 2
        && name.starts_with(letter)
        && name.chars().all(|c| letter(c) || "+-.".contains(c))
}

/// Debian Policy 5.6.12: `[epoch:]upstream[-revision]`, the upstream part begins with a digit.
fn is_lawful_version(version: &str) -> bool {
    let (epoch, rest) = match version.split_once(':') {
        Some((epoch, rest)) => (Some(epoch), rest),
        None => (None, version),
    };
    let (upstream, revision) = match rest.rsplit_once('-') {
        Some((upstream, revision)) => (upstream, Some(revision)),
        None => (rest, None),
    };
    let all = |text: &str, more: &str| {
        text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    epoch.is_none_or(|e| e.parse::<i32>().is_ok_and(|n| n >= 0) && all(e, ""))
        && upstream.starts_with(|c: char| c.is_ascii_digit())
        && all(upstream, if epoch.is_some() { ".+~-:" } else { ".+~-" })
        && revision.is_none_or(|r| !r.is_empty() && all(r, ".+~"))
}

/// Debian Policy 5.6.8, of built packages: no wildcards.
fn is_lawful_architecture(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.starts_with(letter)
        && name.chars().all(|c| letter(c) || c == '-')
        && !matches!(name, "any" | "source")
        && !name.starts_with("any-")
        && !name.ends_with("-any")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(control: &str) -> Result<DebInfo, String> {
        let stanza = stanzas(control).next().unwrap();
        read_fields(Path::new("/x.deb"), &stanza).map_err(|e| e.to_string())
    }

    #[test]
    fn lawful_versions() {
        for good in ["1", "1.0-1", "1:2.3~rc1+b2-1~deb12", "0", "2:1:3-4", "1-2-3"] {
            assert!(is_lawful_version(good), "{good}");
        }
        for bad in ["", "a", "-1", "1-", ":1", "+1:2", "1 2", "1_2", "1/2", "1:", "é1", "1:2-a:b"]
        {
            assert!(!is_lawful_version(bad), "{bad}");
        }
    }

    #[test]
    fn lawful_names() {
        assert!(is_lawful_name("libstdc++6") && is_lawful_name("0ad"));
        for bad in ["a", "A1", "-ab", "a_b", "../x", "a b", ""] {
            assert!(!is_lawful_name(bad), "{bad}");
        }
        assert!(is_lawful_architecture("kfreebsd-amd64") && is_lawful_architecture("all"));
        for bad in ["any", "linux-any", "any-arm", "source", "AMD64", "a/b", ""] {
            assert!(!is_lawful_architecture(bad), "{bad}");
        }
    }

    #[test]
    fn every_bad_field_is_named() {
        let base = "Package: hi\nVersion: 1\nArchitecture: all\n";
        let info = read(&format!("{base}Multi-Arch: same\nEssential: yes\nInstalled-Size: 7\n"));
        let info = info.unwrap();
        assert_eq!(info.package.to_string(), "hi 1 all");
        assert!(info.essential && info.multi_arch == MultiArch::Same);
        assert_eq!(info.installed_size, Some(7));
        for (control, named) in [
            ("Version: 1\nArchitecture: all\n", "Package is missing"),
            ("Package: hi\nVersion: x\nArchitecture: all\n", "Version has the unlawful value"),
            ("Package: hi\nVersion: 1\nArchitecture: any\n", "Architecture has the unlawful"),
            (&format!("{base}Depends: a (1)\n"), "Depends is wrong"),
            (&format!("Package: {}\n", "a".repeat(200)), "Package is longer than 128"),
        ] {
            let error = read(control).unwrap_err();
            assert!(error.contains(named) && error.contains("/x.deb"), "{error}");
        }
    }
}
