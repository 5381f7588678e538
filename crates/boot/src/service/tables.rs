//! What the boot service serves: the daemon's whole say, swapped as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use p2pinst_types::{ImageId, Name};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::dhcp::client::Family;
use crate::dhcp::table::{FileName, Table};

/// The longest kernel command line: what every architecture takes.
const ARGUMENTS: usize = 1024;

/// What the boot service serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// Whom it answers.
    pub table: Table,
    /// The files of its directory that it gives away, by TFTP and HTTP. All others are as if they were not there.
    pub files: BTreeSet<FileName>,
    /// What scripts of iPXE start on each family of machines.
    pub programs: BTreeMap<Family, Program>,
    /// The repositories of packages that it gives away, by HTTP, and which version of each is in the directory.
    #[serde(default)]
    pub mirrors: BTreeMap<Name, ImageId>,
}

/// What a script of iPXE starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// One program that UEFI starts: a UKI, with its own command line.
    Uki {
        /// It.
        file: FileName,
    },
    /// A kernel and an initramfs.
    Linux {
        /// The kernel.
        kernel: FileName,
        /// The initramfs.
        initrd: FileName,
        /// The kernel's command line; `initrd=` is put before it.
        arguments: Arguments,
    },
}

/// A kernel's command line, or a part of one, that is safe within a script: printable ASCII, no `$`, and no word that is an
/// operator of iPXE. `{peer}` in it stands for the address and port that the kernel came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Arguments(String);

impl Arguments {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Arguments> for String {
    fn from(arguments: Arguments) -> Self {
        arguments.0
    }
}

impl fmt::Display for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A command line that a script cannot have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} cannot be a kernel's command line here: it has at most {ARGUMENTS} printable characters, no quotes, `$` or `\\`, and no word `||`, `&&` or `#`"
)]
pub struct ArgumentsError(String);

impl TryFrom<String> for Arguments {
    type Error = ArgumentsError;

    fn try_from(text: String) -> Result<Self, ArgumentsError> {
        let plain = |c: char| {
            (c.is_ascii_graphic() || c == ' ') && !matches!(c, '$' | '"' | '\'' | '\\' | '#')
        };
        let operator = |word: &str| matches!(word, "||" | "&&" | ";");
        if text.len() <= ARGUMENTS && text.chars().all(plain) && !text.split(' ').any(operator) {
            Ok(Self(text))
        } else {
            Err(ArgumentsError(text.chars().take(80).collect()))
        }
    }
}

impl std::str::FromStr for Arguments {
    type Err = ArgumentsError;

    fn from_str(text: &str) -> Result<Self, ArgumentsError> {
        text.to_owned().try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_that_scripts_can_have() {
        for good in ["", "console=ttyS0 quiet", "p2pinst.peer={peer} a=b,c;d"] {
            assert!(good.parse::<Arguments>().is_ok(), "{good}");
        }
        for bad in ["a\nshell", "a || shell", "a && b", "${net0/ip}", "\"", "é", &"a".repeat(1025)]
        {
            assert!(bad.parse::<Arguments>().is_err(), "{bad}");
        }
    }
}
