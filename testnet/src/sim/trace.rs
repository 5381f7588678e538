//! What happened, line by line: two runs of one seed have the same lines.

use std::fmt::Arguments;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use p2pinst_types::Hash;

use super::queue::Micros;

/// Lines that are hashed together before the next.
const BLOCK: usize = 64 * 1024;

/// See the module. Keeps a hash of all lines, and the lines themselves in a file if asked to.
#[derive(Debug, Default)]
pub struct Trace {
    hash: Option<Hash>,
    block: Vec<u8>,
    lines: u64,
    file: Option<BufWriter<File>>,
}

impl Trace {
    /// A trace that also goes to a file.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn to_file(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { file: Some(BufWriter::new(file)), ..Self::default() })
    }

    /// Adds a line.
    pub fn line(&mut self, at: Micros, what: Arguments<'_>) {
        let from = self.block.len();
        // writing to memory does not fail
        writeln!(self.block, "{at} {what}").ok();
        self.lines += 1;
        if let (Some(file), Some(line)) = (&mut self.file, self.block.get(from..)) {
            file.write_all(line).ok();
        }
        if self.block.len() >= BLOCK {
            self.fold();
        }
    }

    fn fold(&mut self) {
        let before = self.hash.unwrap_or(Hash([0; 32]));
        self.hash = Some(Hash::of_parts("p2pinst/sim/1", &[&before.0, &self.block]));
        self.block.clear();
    }

    /// The hash of all lines, and their number.
    pub fn finish(mut self) -> (Hash, u64) {
        self.fold();
        if let Some(file) = &mut self.file {
            file.flush().ok();
        }
        (self.hash.unwrap_or(Hash([0; 32])), self.lines)
    }
}
