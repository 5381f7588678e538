//! A search for secrets in all bytes of an image.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::image::holes::{self, BUFFER};
use crate::image::process::Watch;
use crate::image::source::{ReadAt as _, Source};

/// So many bytes of a secret are looked for: a key has 32, 43 as text.
const NEEDLE: usize = 24;

/// Of a long word so much is looked at, from its end.
const WORD: usize = 128;

/// What is looked for: parts of secrets, and whose they are.
#[derive(Debug, Default)]
pub(super) struct Needles {
    of: HashMap<[u8; NEEDLE], PathBuf>,
}

impl Needles {
    /// Takes parts of a secret: of its last two long words, for keys begin with what all of their kind begin with.
    pub(super) fn add(&mut self, secret: &[u8], name: &Path) {
        let words = secret.split(u8::is_ascii_whitespace).filter(|word| word.len() >= NEEDLE);
        for word in words.rev().take(2) {
            let end = word.get(word.len().saturating_sub(WORD)..).unwrap_or_default();
            // several, for a filesystem may store a short file in two places
            for part in end.windows(NEEDLE).step_by(NEEDLE / 3) {
                if let Ok(needle) = part.try_into()
                    && is_various(needle)
                {
                    self.of.insert(needle, name.to_owned());
                }
            }
        }
    }

    /// The first that is found, and where.
    pub(super) fn find_in(
        &self,
        image: &Source,
        watch: &Watch<'_>,
    ) -> io::Result<Option<(PathBuf, u64)>> {
        if self.of.is_empty() {
            return Ok(None);
        }
        let mut first = vec![false; 1 << 16];
        for [a, b, ..] in self.of.keys() {
            if let Some(seen) = first.get_mut(usize::from(u16::from_le_bytes([*a, *b]))) {
                *seen = true;
            }
        }
        let mut buffer = vec![0; BUFFER + NEEDLE];
        for (start, end) in holes::data(image.file(), 0, image.len())? {
            let mut at = start;
            while at < end {
                if watch.is_stopped() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                // what lies across two parts is found in the first: each is read a little longer
                let n = image.read_at(at, &mut buffer)?;
                let bytes = buffer.get(..n).unwrap_or_default();
                if let Some((name, offset)) = self.find(bytes, &first) {
                    return Ok(Some((name, at + offset)));
                }
                at += BUFFER as u64;
                (watch.progress)(at.min(end), Some(image.len()));
            }
        }
        Ok(None)
    }

    fn find(&self, bytes: &[u8], first: &[bool]) -> Option<(PathBuf, u64)> {
        let windows = bytes.windows(NEEDLE).enumerate();
        let mut likely = windows.filter(|(_, window)| match window {
            [a, b, ..] => {
                first.get(usize::from(u16::from_le_bytes([*a, *b]))).is_some_and(|seen| *seen)
            }
            _ => false,
        });
        likely.find_map(|(offset, window)| Some((self.of.get(window)?.clone(), offset as u64)))
    }
}

/// Zeros and the like are everywhere.
fn is_various(mut needle: [u8; NEEDLE]) -> bool {
    needle.sort_unstable();
    needle.chunk_by(|a, b| a == b).count() >= NEEDLE / 3
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_secret_is_found_wherever_it_lies() {
        let secret = b"p2pinst-secret-key-1 n1\n0f1e2d3c4b5a69788796a5b4c3d2e1f000112233445566778899aabbccddeeff\n";
        let mut needles = Needles::default();
        needles.add(secret, Path::new("/key"));
        needles.add(&[0; 100], Path::new("/zeros"));
        assert_eq!(needles.of.len(), 6);
        let stop = AtomicBool::new(false);
        let watch = Watch { progress: &|_, _| (), stop: &stop };
        for at in [0, 1, 5000, BUFFER as u64 - 60, BUFFER as u64 - 1, 3 << 20] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(8 << 20).unwrap();
            let source = Source::open(file.path()).unwrap();
            assert!(needles.find_in(&source, &watch).unwrap().is_none());
            file.as_file().write_all_at(secret, at).unwrap();
            let (name, offset) = needles.find_in(&source, &watch).unwrap().unwrap();
            assert!(name == Path::new("/key") && (at..at + 90).contains(&offset));
        }
    }
}
