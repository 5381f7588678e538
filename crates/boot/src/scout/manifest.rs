//! What a scout was made of, and what came out: `manifest.json`.

use std::collections::BTreeMap;

use p2pinst_types::Hash;
use serde::{Deserialize, Serialize};

/// A file of the scout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Length in bytes.
    pub size: u64,
    /// blake3 of the whole.
    pub blake3: Hash,
}

/// The scout's files, and of what they were made. Nothing in it depends on the machine, the time or the place of the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of this file.
    pub format: u32,
    /// For which machines.
    pub profile: String,
    /// The kernel, as `uname -r` says.
    pub kernel: String,
    /// The time that all files in the scout bear: seconds since 1970.
    pub epoch: u32,
    /// The command line in the image for UEFI; for others the beginning of theirs.
    pub command_line: String,
    /// The files beside this one, by name.
    pub files: BTreeMap<String, File>,
    /// Debian's packages and their versions.
    pub packages: BTreeMap<String, String>,
    /// How many kernel modules it has.
    pub modules: usize,
    /// Modules that were wished for and that this kernel does not have.
    pub absent: Vec<String>,
    /// Firmware for devices: none. Cards that need a file to start (bnx2, some tg3) do not work in a scout.
    pub firmware: Vec<String>,
}

impl Manifest {
    /// The version of the form.
    pub const FORMAT: u32 = 1;
}
