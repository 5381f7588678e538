//! The formats of installers' files, and the skeleton that each puts fragments into.

mod cloud;
mod kickstart;
mod preseed;
mod yaml;

use std::fmt;
use std::str::FromStr;

use p2pinst_types::mac::Mac;
use p2pinst_types::name::Name;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::quote;

/// A file that an installer, or cloud-init, asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Anaconda's (Fedora, RHEL and their kin).
    Kickstart,
    /// debian-installer's.
    Preseed,
    /// Subiquity's (Ubuntu), inside of a cloud-config.
    Autoinstall,
    /// cloud-init's configuration.
    UserData,
    /// cloud-init's instance data of the NoCloud source.
    MetaData,
    /// cloud-init's network configuration, version 2 (netplan).
    NetworkConfig,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Kickstart,
        Self::Preseed,
        Self::Autoinstall,
        Self::UserData,
        Self::MetaData,
        Self::NetworkConfig,
    ];

    /// Its name, which is also that of its table in a node and, of cloud-init's, of its file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kickstart => "kickstart",
            Self::Preseed => "preseed",
            Self::Autoinstall => "autoinstall",
            Self::UserData => "user-data",
            Self::MetaData => "meta-data",
            Self::NetworkConfig => "network-config",
        }
    }

    /// Whether it has packages, scripts and files, and so takes what nodes have for all formats.
    pub(crate) fn installs(self) -> bool {
        !matches!(self, Self::MetaData | Self::NetworkConfig)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no format.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no format: use kickstart, preseed, autoinstall, user-data, meta-data or network-config"
)]
pub struct NoFormat(String);

impl FromStr for Format {
    type Err = NoFormat;

    fn from_str(text: &str) -> Result<Self, NoFormat> {
        let named = Self::ALL.into_iter().find(|format| format.as_str() == text);
        named.ok_or_else(|| NoFormat(text.chars().take(40).collect()))
    }
}

/// A fragment whose text its format cannot take.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("node {node}, {section}: {reason}")]
pub struct Clash {
    /// The node.
    pub node: Name,
    /// The section.
    pub section: &'static str,
    /// Why it will not do.
    pub reason: String,
}

/// A file of the installed system, filled in.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) mode: String,
    pub(crate) owner: String,
    pub(crate) content: String,
}

/// What one node adds, filled in.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) node: Name,
    pub(crate) packages: Vec<String>,
    pub(crate) main: Option<String>,
    pub(crate) partitioning: Option<String>,
    pub(crate) pre: Vec<String>,
    pub(crate) post: Vec<String>,
    pub(crate) files: Vec<File>,
}

impl Part {
    fn clash(&self, section: &'static str, reason: impl Into<String>) -> Clash {
        Clash { node: self.node.clone(), section, reason: reason.into() }
    }
}

/// All that goes into one file.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) cluster: Name,
    pub(crate) machine: Name,
    pub(crate) appliance: Name,
    pub(crate) instance: String,
    pub(crate) macs: Vec<Mac>,
    pub(crate) parts: Vec<Part>,
}

impl Document {
    /// The whole file.
    ///
    /// # Errors
    /// When a fragment does not fit into the format, or two clash.
    pub(crate) fn write(&self, format: Format) -> Result<String, Clash> {
        match format {
            Format::Kickstart => kickstart::write(self),
            Format::Preseed => preseed::write(self),
            Format::Autoinstall => cloud::autoinstall(self),
            Format::UserData => cloud::user_data(self),
            Format::MetaData => cloud::meta_data(self),
            Format::NetworkConfig => cloud::network_config(self),
        }
    }

    /// What the file says of itself; each line begins with `#`.
    fn heading(&self, what: &str) -> String {
        let Self { machine, appliance, cluster, .. } = self;
        let nodes: Vec<_> = self.parts.iter().map(|p| p.node.as_str()).collect();
        let nodes = nodes.join(" ");
        format!("# {what} of {machine} ({appliance}) in cluster {cluster}\n# nodes: {nodes}\n")
    }

    /// The packages, each once, as they first come.
    fn packages(&self) -> Result<Vec<&str>, Clash> {
        let mut packages = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for part in &self.parts {
            for package in part.packages.iter().map(|p| p.trim()).filter(|p| !p.is_empty()) {
                if package.chars().any(char::is_control) {
                    let reason = format!("{package:?} is no package: list each by itself");
                    return Err(part.clash("packages", reason));
                }
                if seen.insert(package) {
                    packages.push(package);
                }
            }
        }
        Ok(packages)
    }

    /// The packages of formats in which a space ends a name.
    fn words(&self) -> Result<Vec<&str>, Clash> {
        let packages = self.packages()?;
        let Some(bad) = packages.iter().find(|p| p.contains(char::is_whitespace)) else {
            return Ok(packages);
        };
        let part = self.parts.iter().find(|part| part.packages.iter().any(|p| p.trim() == *bad));
        let reason = format!("{bad:?} is no package: list each by itself");
        match part {
            Some(part) => Err(part.clash("packages", reason)),
            None => Ok(packages),
        }
    }

    fn files(&self) -> impl Iterator<Item = &File> {
        self.parts.iter().flat_map(|part| &part.files)
    }
}

/// A command on one line that writes a file, as root in the system that it is for. No one else reads it before it has its mode.
fn write_command(file: &File) -> String {
    let path = quote::sh(&file.path);
    let dir = match file.path.rsplit_once('/') {
        Some((dir, _)) if !dir.is_empty() => format!("mkdir -p {} && ", quote::sh(dir)),
        _ => String::new(),
    };
    let content = quote::printf(&file.content);
    format!(
        "{dir}rm -f {path} && (umask 077 && printf %b {content} > {path}) && chown {} {path} && chmod {} {path}",
        file.owner, file.mode
    )
}

/// A text that ends its last line.
fn line_ended(text: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}")
}

#[cfg(test)]
mod tests;
