//! Compressed files, unpacked: zstd by its library, gzip and xz by their programs.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::process::Stdio;

use p2pinst_command::clean;
use tempfile::TempPath;

use super::{Job, PrepareError, rewound};
use crate::image::format::Format;
use crate::image::holes::{BUFFER, SparseWriter};
use crate::image::process::Running;
use crate::image::source::Source;

/// Memory that a decompressor may take: `zstd --ultra -22 --long=27` and `xz -9` stay far below.
const WINDOW_LOG: u32 = 27;
const XZ_MEMORY: &str = "--memlimit-decompress=256MiB";

/// Where unpacking failed.
enum Failed {
    Reading(io::Error),
    Writing(io::Error),
    Stopped,
}

impl Job<'_> {
    pub(super) fn unpack(&self, source: Source, format: Format) -> Result<TempPath, PrepareError> {
        match format {
            Format::Gzip => self.unpack_by("gzip", &["-dc"], "gzip", source),
            Format::Xz => self.unpack_by("xz", &["-dc", "-T1", XZ_MEMORY], "xz-utils", source),
            _ => self.unpack_zstd(source),
        }
    }

    fn unpack_zstd(&self, source: Source) -> Result<TempPath, PrepareError> {
        let read = |source| PrepareError::Read { path: self.path(), source };
        let mut decoder = zstd::stream::read::Decoder::with_buffer(rewound(source).map_err(read)?)
            .map_err(read)?;
        decoder.window_log_max(WINDOW_LOG).map_err(read)?;
        let target = self.new_file()?;
        match self.pour(decoder, target.as_file()) {
            Ok(()) => Ok(target.into_temp_path()),
            Err(failed) => Err(self.failed(failed)),
        }
    }

    fn unpack_by(
        &self,
        program: &'static str,
        args: &[&str],
        package: &'static str,
        source: Source,
    ) -> Result<TempPath, PrepareError> {
        let read = |source| PrepareError::Read { path: self.path(), source };
        let no_tool = |source| PrepareError::NoTool { path: self.path(), program, package, source };
        let stdin = rewound(source).map_err(read)?.into_inner();
        let mut command = clean(program);
        command.args(args);
        let running = Running::start(command, Stdio::from(stdin), Stdio::piped());
        let mut running = running.map_err(no_tool)?;
        let pipe = running.take_stdout().ok_or_else(|| no_tool(io::Error::other("no pipe")))?;
        let target = self.new_file()?;
        match self.pour(pipe, target.as_file()) {
            Ok(()) => {}
            Err(failed) => return Err(self.failed(failed)),
        }
        let ended = running.finish().map_err(no_tool)?;
        if !ended.success {
            return Err(PrepareError::Damaged { path: self.path(), said: ended.said });
        }
        Ok(target.into_temp_path())
    }

    fn pour(&self, mut from: impl Read, to: &File) -> Result<(), Failed> {
        let mut writer = SparseWriter::new(to, self.options.max_len);
        let mut buffer = vec![0; BUFFER];
        let done = Cell::new(0);
        loop {
            if self.watch.is_stopped() {
                return Err(Failed::Stopped);
            }
            let n = match fill(&mut from, &mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => return Err(Failed::Reading(e)),
            };
            writer.write_all(buffer.get(..n).unwrap_or_default()).map_err(Failed::Writing)?;
            done.set(done.get() + n as u64);
            (self.watch.progress)(done.get(), None);
        }
        writer.finish().map(drop).map_err(Failed::Writing)
    }

    fn failed(&self, failed: Failed) -> PrepareError {
        match failed {
            Failed::Reading(e) => PrepareError::Damaged { path: self.path(), said: e.to_string() },
            Failed::Writing(e) if e.kind() == io::ErrorKind::FileTooLarge => self.too_long(),
            Failed::Writing(source) => {
                PrepareError::Write { dir: self.options.work_dir.clone(), source }
            }
            Failed::Stopped => PrepareError::Stopped { path: self.path() },
        }
    }
}

/// Reads until the buffer is full or the end has come: holes are found in large buffers.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
