//! Compressed images of which any part can be read: zstd in frames, with a table of them at the end.
//!
//! The format is the official seekable one (`contrib/seekable_format` of zstd), so that `zstd -d` reads it. The
//! frames are the chunks of a [recipe](crate::recipe) of the *content*, each compressed alone: equal
//! stretches of two images are equal frames, and a second version of a compressed image costs little more than what
//! has changed. The first frame holds no content; it says that this was made here, so that nobody else's file is unpacked
//! unasked.
//!
//! What is read is bounded before it is believed: frames by [`FRAME_MAX`], the table by [`FRAMES_MAX`] and
//! the file's length; each frame carries a checksum of its content.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use p2pinst_types::Hash;
use thiserror::Error;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use crate::recipe::{CHUNK_MAX, Chunk, Cutter, DATA_MAX, Kind};
use crate::store::sparse;

/// The compression that is usual: a third of its bytes remain of a system's image, at 60 MB/s for each processor.
pub const LEVEL: i32 = 9;
/// The most content of one frame, in bytes.
pub const FRAME_MAX: u32 = 8 << 20;
/// The most frames of one image: 512 GiB of usual ones.
pub const FRAMES_MAX: u32 = 1 << 21;

/// First bytes of what is made here: a frame that decoders skip, its length, and whose it is.
const MARK: [u8; 24] = *b"\x50\x2a\x4d\x18\x10\x00\x00\x00p2pinst-image-1\n";
/// First bytes of the table: a frame that decoders skip as well.
const TABLE: [u8; 4] = 0x184d_2a5e_u32.to_le_bytes();
/// Last bytes of the table.
const SEEKABLE: [u8; 4] = 0x8f92_eab1_u32.to_le_bytes();
/// Magic and length of a frame that is skipped.
const SKIPPABLE: usize = 8;
/// Number of frames, descriptor, magic.
const FOOTER: usize = 9;
/// In the descriptor: each entry has a checksum.
const CHECKSUMS: u8 = 1 << 7;
/// In the descriptor: bits that must be 0.
const RESERVED: u8 = 0b0111_1100;
/// Frames are one chunk as long as they are not longer than this together: a chunk costs 36 bytes of the
/// recipe, which has one for 512 of the image at most; and a MiB of zeros is a frame of 50 bytes.
const TOGETHER: u64 = 20 << 10;
/// Read at a time.
const BUFFER: usize = 256 << 10;

/// A compressed image cannot be made or read.
#[derive(Debug, Error)]
pub enum SeekableError {
    /// The content cannot be read.
    #[error("cannot read the content: {0}")]
    Input(#[source] io::Error),
    /// The image or the content cannot be written.
    #[error("cannot write: {0}")]
    Output(#[source] io::Error),
    /// The image cannot be read.
    #[error("cannot read the compressed image: {0}")]
    Read(#[source] io::Error),
    /// It cannot be compressed.
    #[error("cannot compress: {0}")]
    Compress(#[source] io::Error),
    /// The content is too long.
    #[error("an image has at most {FRAMES_MAX} frames")]
    TooLong,
    /// There is no table at its end.
    #[error(
        "this is no compressed image of which parts can be read: it has no table of its frames"
    )]
    NoTable,
    /// The table at its end cannot be.
    #[error("the table of the compressed image is damaged: {0}")]
    Table(&'static str),
    /// A frame is not what the table says.
    #[error("frame {frame} of the compressed image is damaged")]
    Frame {
        /// Its number, from 0.
        frame: usize,
    },
    /// There is no such part.
    #[error("the content has {len} bytes, and not {end}")]
    Range {
        /// Its length.
        len: u64,
        /// Where the part would end.
        end: u64,
    },
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the content.
    pub content: u64,
    /// Bytes of the image.
    pub image: u64,
    /// Frames with content.
    pub frames: u32,
}

/// Compresses all that a reader gives. Blocking; holds a few MiB.
///
/// # Errors
/// When the reader or the writer fails, or there is too much.
pub fn write(
    reader: &mut dyn Read,
    out: &mut dyn Write,
    level: i32,
) -> Result<Written, SeekableError> {
    let mut compressor = Compressor::new(level).map_err(SeekableError::Compress)?;
    let checked = compressor.set_parameter(CParameter::ChecksumFlag(true));
    checked.map_err(SeekableError::Compress)?;
    let mut image = Image { out, compressor, table: Vec::new(), content: 0, bytes: 0 };
    image.put(&MARK, 0)?;
    let mut cutter = Cutter::with_zeros(CHUNK_MAX as u64);
    let (mut waiting, mut buffer) = (Vec::new(), vec![0; BUFFER]);
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(SeekableError::Input(e)),
        };
        let bytes = buffer.get(..n).unwrap_or_default();
        waiting.extend_from_slice(bytes);
        cutter.push(bytes);
        image.frames(&mut waiting, &cutter.take())?;
    }
    image.frames(&mut waiting, &cutter.finish())?;
    image.finish()
}

/// An image that is being written.
struct Image<'a> {
    out: &'a mut dyn Write,
    compressor: Compressor<'static>,
    /// Of each frame its length, and that of its content.
    table: Vec<(u32, u32)>,
    content: u64,
    bytes: u64,
}

impl Image<'_> {
    /// Compresses the chunks with which `waiting` begins.
    fn frames(&mut self, waiting: &mut Vec<u8>, chunks: &[Chunk]) -> Result<(), SeekableError> {
        let mut at = 0;
        for chunk in chunks {
            let end = at + chunk.len as usize;
            let bytes = waiting.get(at..end).unwrap_or_default();
            let frame = self.compressor.compress(bytes).map_err(SeekableError::Compress)?;
            self.put(&frame, chunk.len)?;
            at = end;
        }
        waiting.drain(..at);
        Ok(())
    }

    fn put(&mut self, frame: &[u8], content: u32) -> Result<(), SeekableError> {
        if self.table.len() > FRAMES_MAX as usize {
            return Err(SeekableError::TooLong);
        }
        let len = u32::try_from(frame.len()).map_err(|_| SeekableError::TooLong)?;
        self.table.push((len, content));
        self.content += u64::from(content);
        self.bytes += u64::from(len);
        self.out.write_all(frame).map_err(SeekableError::Output)
    }

    fn finish(self) -> Result<Written, SeekableError> {
        let count = u32::try_from(self.table.len()).map_err(|_| SeekableError::TooLong)?;
        let mut table = TABLE.to_vec();
        let len = self.table.len() * 8 + FOOTER;
        table.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        for (len, content) in &self.table {
            table.extend_from_slice(&len.to_le_bytes());
            table.extend_from_slice(&content.to_le_bytes());
        }
        table.extend_from_slice(&count.to_le_bytes());
        table.push(0);
        table.extend_from_slice(&SEEKABLE);
        self.out
            .write_all(&table)
            .and_then(|()| self.out.flush())
            .map_err(SeekableError::Output)?;
        let image = self.bytes + table.len() as u64;
        Ok(Written { content: self.content, image, frames: count - 1 })
    }
}

/// Whether content that begins like this is an image that was made here.
#[must_use]
pub fn is_image(head: &[u8]) -> bool {
    head.starts_with(&MARK)
}

/// Bytes of the beginning that [`is_image`] looks at.
pub const HEAD: usize = MARK.len();

/// One frame.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// Where it begins in the image.
    at: u64,
    len: u32,
    /// Where its content begins.
    start: u64,
    content: u32,
}

/// Reads parts of the content of an image. Blocking; holds one frame.
pub struct Reader {
    file: File,
    frames: Vec<Frame>,
    len: u64,
    /// Where the table begins.
    table: u64,
    decompressor: Decompressor<'static>,
    /// The frame that was read last, and its content.
    last: Option<(usize, Vec<u8>)>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("len", &self.len)
            .field("frames", &self.frames.len())
            .finish()
    }
}

impl Reader {
    /// Reads the table of an image: of one made here or by another tool in the same format.
    ///
    /// # Errors
    /// When it has none, it is damaged, or has longer frames than [`FRAME_MAX`].
    pub fn open(file: File) -> Result<Self, SeekableError> {
        let size = file.metadata().map_err(SeekableError::Read)?.len();
        let mut footer = [0; FOOTER];
        let at = size.checked_sub(FOOTER as u64).ok_or(SeekableError::NoTable)?;
        file.read_exact_at(&mut footer, at).map_err(SeekableError::Read)?;
        let (count, rest) = footer.split_first_chunk::<4>().ok_or(SeekableError::NoTable)?;
        let (count, [flags, magic @ ..]) = (u32::from_le_bytes(*count), rest) else {
            return Err(SeekableError::NoTable);
        };
        if *magic != SEEKABLE {
            return Err(SeekableError::NoTable);
        }
        if flags & RESERVED != 0 {
            return Err(SeekableError::Table("unknown flags"));
        }
        if count > FRAMES_MAX + 1 {
            return Err(SeekableError::Table("too many frames"));
        }
        let entry = if flags & CHECKSUMS != 0 { 12 } else { 8 };
        let len = SKIPPABLE + count as usize * entry + FOOTER;
        let begin = size.checked_sub(len as u64);
        let begin = begin.ok_or(SeekableError::Table("it is longer than the file"))?;
        let mut table = vec![0; len];
        file.read_exact_at(&mut table, begin).map_err(SeekableError::Read)?;
        let expected = u32::try_from(len - SKIPPABLE).unwrap_or(u32::MAX).to_le_bytes();
        let body = table.strip_prefix(&TABLE).and_then(|t| t.strip_prefix(&expected));
        let body = body.ok_or(SeekableError::Table("it does not begin like one"))?;
        let (mut at, mut start) = (0u64, 0u64);
        let mut frames = Vec::with_capacity(count as usize);
        for bytes in body.chunks_exact(entry).take(count as usize) {
            let number = |bytes: Option<&[u8]>| {
                bytes.and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
            };
            let (len, content) = (number(bytes.get(..4)), number(bytes.get(4..8)));
            if content > FRAME_MAX || len > 2 * FRAME_MAX {
                return Err(SeekableError::Table("a frame is too long"));
            }
            frames.push(Frame { at, len, start, content });
            at += u64::from(len);
            start += u64::from(content);
        }
        if at != begin {
            return Err(SeekableError::Table("the frames are not as long as the file"));
        }
        let decompressor = Decompressor::new().map_err(SeekableError::Read)?;
        Ok(Self { file, frames, len: start, table: begin, decompressor, last: None })
    }

    /// Length of the content in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no content at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads the content from `offset` on, as much as `out` has room for.
    ///
    /// # Errors
    /// When it is not that long, or the image is damaged or cannot be read.
    pub fn read_range(&mut self, offset: u64, out: &mut [u8]) -> Result<(), SeekableError> {
        let end = offset.saturating_add(out.len() as u64);
        if end > self.len {
            return Err(SeekableError::Range { len: self.len, end });
        }
        let (mut at, mut rest) = (offset, out);
        while !rest.is_empty() {
            let number = self.frames.partition_point(|f| f.start + u64::from(f.content) <= at);
            let start = self.frames.get(number).map_or(0, |f| f.start);
            let content = self.frame(number)?;
            let skip = usize::try_from(at - start).unwrap_or(usize::MAX);
            let part = content.get(skip..).unwrap_or_default();
            let n = part.len().min(rest.len());
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(part.get(..n).unwrap_or_default());
            if n == 0 {
                return Err(SeekableError::Frame { frame: number });
            }
            (at, rest) = (at + n as u64, later);
        }
        Ok(())
    }

    /// The content of a frame.
    fn frame(&mut self, number: usize) -> Result<&[u8], SeekableError> {
        let damaged = SeekableError::Frame { frame: number };
        let Some(frame) = self.frames.get(number).copied() else { return Err(damaged) };
        if self.last.as_ref().is_none_or(|(last, _)| *last != number) {
            let mut bytes = vec![0; frame.len as usize];
            self.file.read_exact_at(&mut bytes, frame.at).map_err(SeekableError::Read)?;
            let mut content = self.last.take().map(|(_, content)| content).unwrap_or_default();
            content.clear();
            content.reserve_exact(frame.content as usize);
            let n = self.decompressor.decompress_to_buffer(&bytes, &mut content);
            if n.ok() != Some(frame.content as usize) {
                return Err(damaged);
            }
            self.last = Some((number, content));
        }
        Ok(self.last.as_ref().map_or(&[], |(_, content)| content.as_slice()))
    }

    /// Writes the whole content into an empty file, zeros as holes.
    ///
    /// # Errors
    /// When the image is damaged or cannot be read, or the file cannot be written.
    pub fn extract(&mut self, to: &File) -> Result<(), SeekableError> {
        to.set_len(self.len).map_err(SeekableError::Output)?;
        for number in 0..self.frames.len() {
            let Some(Frame { start, content: 1.., .. }) = self.frames.get(number).copied() else {
                continue;
            };
            let content = self.frame(number)?;
            sparse::write_at(to, content, start).map_err(SeekableError::Output)?;
        }
        Ok(())
    }

    /// The chunks of the image's recipe: its frames as they are, short ones with those that follow, and
    /// the table.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn chunks(&self) -> Result<Vec<Chunk>, SeekableError> {
        let end = self.file.metadata().map_err(SeekableError::Read)?.len();
        let mut frames: Vec<Range<u64>> = Vec::new();
        for frame in &self.frames {
            let end = frame.at + u64::from(frame.len);
            match frames.last_mut() {
                Some(last) if last.end - last.start < TOGETHER => last.end = end,
                _ => frames.push(frame.at..end),
            }
        }
        let most = u64::from(DATA_MAX);
        let pieces = |range: Range<u64>| {
            (range.start..range.end)
                .step_by(DATA_MAX as usize)
                .map(move |at| at..range.end.min(at + most))
        };
        let mut out = Vec::new();
        let mut bytes = Vec::new();
        for range in frames.into_iter().chain(std::iter::once(self.table..end)).flat_map(pieces) {
            bytes.resize(usize::try_from(range.end - range.start).unwrap_or(0), 0);
            self.file.read_exact_at(&mut bytes, range.start).map_err(SeekableError::Read)?;
            let len = u32::try_from(bytes.len()).unwrap_or(0);
            out.push(Chunk { len, kind: Kind::Data(Hash::of(&bytes)) });
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn noise(len: usize, seed: u8) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
        out
    }

    /// Noise, text, zeros.
    fn content() -> Vec<u8> {
        let mut out = noise(2 * MIB, 1);
        out.extend("all work and no play ".bytes().cycle().take(3 * MIB));
        out.extend(vec![0; 5 * MIB + 17]);
        out.extend(noise(MIB, 2));
        out
    }

    fn image(content: &[u8]) -> (File, Written) {
        let mut out = Vec::new();
        let written = write(&mut &content[..], &mut out, 3).unwrap();
        assert_eq!((written.image, written.content), (out.len() as u64, content.len() as u64));
        (file(&out), written)
    }

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut out = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut out, 0).unwrap();
        out
    }

    #[test]
    fn it_reads_back_whole_and_in_part() {
        let content = content();
        let (file, written) = image(&content);
        assert!(written.image < 4 * MIB as u64 && written.frames > 10, "{written:?}");
        let mut reader = Reader::open(file).unwrap();
        assert_eq!(reader.len(), content.len() as u64);
        let len = content.len();
        for (at, n) in [(0, 1), (0, len), (len - 1, 1), (2 * MIB - 5, 10), (MIB, 6 * MIB), (len, 0)]
        {
            let mut out = vec![9; n];
            reader.read_range(at as u64, &mut out).unwrap();
            assert!(out == content[at..at + n], "{n} at {at}");
        }
        let error = reader.read_range(len as u64, &mut [0]).unwrap_err();
        assert!(matches!(error, SeekableError::Range { .. }), "{error}");
        let to = tempfile::tempfile().unwrap();
        reader.extract(&to).unwrap();
        assert!(bytes(&to) == content);
        let taken = std::os::unix::fs::MetadataExt::blocks(&to.metadata().unwrap()) * 512;
        assert!(taken < 8 * MIB as u64, "{taken} bytes are taken");
        for empty in [&b""[..], b"x"] {
            let (file, _) = image(empty);
            let mut reader = Reader::open(file).unwrap();
            let mut out = vec![0; empty.len()];
            reader.read_range(0, &mut out).unwrap();
            assert_eq!((out.as_slice(), reader.is_empty()), (empty, empty.is_empty()));
        }
    }

    #[test]
    fn equal_stretches_are_equal_frames() {
        let old = content();
        let mut new = old.clone();
        new.splice(MIB..MIB, noise(1000, 7));
        let chunks = |content: &[u8]| {
            let (file, written) = image(content);
            let chunks = Reader::open(file).unwrap().chunks().unwrap();
            assert_eq!(chunks.iter().map(|c| u64::from(c.len)).sum::<u64>(), written.image);
            let (table, frames) = chunks.split_last().unwrap();
            assert!(frames.len() < written.frames as usize && table.len > 8 * written.frames);
            let short = frames.iter().filter(|c| u64::from(c.len) < TOGETHER);
            assert!(short.count() <= 1, "the last one may be short");
            chunks
        };
        let (old, new) = (chunks(&old), chunks(&new));
        let fresh = new.iter().filter(|c| !old.contains(c)).count();
        assert!((2..=4).contains(&fresh), "{fresh} of {} are new, the table among them", new.len());
    }

    #[test]
    fn damage_is_told_and_tables_are_not_believed() {
        let content = content();
        let (file_, written) = image(&content);
        let good = bytes(&file_);
        let open = |bytes: &[u8]| Reader::open(file(bytes));
        let table = good.len() - (SKIPPABLE + (written.frames as usize + 1) * 8 + FOOTER);
        for at in table..good.len() {
            for bit in [0x80, 1] {
                let mut bad = good.clone();
                bad[at] ^= bit;
                let Ok(mut reader) = open(&bad) else { continue };
                // how the content is divided is wrong, or bits that mean nothing
                let mut out = vec![0; reader.len() as usize];
                let read = reader.read_range(0, &mut out);
                assert!(read.is_err() || out == content, "byte {at}");
            }
        }
        assert!(matches!(open(&good[..good.len() - 1]), Err(SeekableError::NoTable)));
        assert!(matches!(open(&good[1..]), Err(SeekableError::Table(_))));
        assert!(matches!(open(b""), Err(SeekableError::NoTable)));
        assert!(matches!(open(&content), Err(SeekableError::NoTable)));
        let mut huge = good.clone();
        let at = good.len() - FOOTER;
        huge[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(open(&huge), Err(SeekableError::Table("too many frames"))));
        let mut bad = good.clone();
        bad[MIB] ^= 1;
        let mut reader = open(&bad).unwrap();
        let mut out = vec![0; content.len()];
        assert!(matches!(reader.read_range(0, &mut out), Err(SeekableError::Frame { .. })));
        assert!(reader.extract(&tempfile::tempfile().unwrap()).is_err());
        let at = content.len() as u64 - 10;
        reader.read_range(at, &mut out[..10]).unwrap();
        assert_eq!(out[..10], content[content.len() - 10..], "other frames are well");
        assert!(is_image(&good) && !is_image(&content) && !is_image(&good[..HEAD - 1]));
    }
}
