//! Paths inside a target: relative, without `..`, short enough for the kernel.

use std::collections::HashSet;

use super::{ArchiveError, shown};

/// PATH_MAX, with its terminating zero.
const LONGEST: usize = 4095;
/// NAME_MAX of all usual filesystems.
const NAME: usize = 255;
/// All names of symbolic links that are remembered, in bytes: ten times what a large system has.
const LINKS: usize = 64 << 20;

/// A place below the target: names joined by `/`, none of them empty, `.` or `..`. The target itself has no names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place(Vec<u8>);

impl Place {
    /// The place that a path of an archive names.
    ///
    /// # Errors
    /// When it is absolute, has `..` or a zero in it, or is too long.
    pub fn parse(path: &[u8]) -> Result<Self, ArchiveError> {
        let refused = |reason| ArchiveError::Path { path: shown(path), reason };
        if path.is_empty() {
            return Err(refused("is empty"));
        }
        if path.len() > LONGEST {
            return Err(refused("is longer than 4095 bytes"));
        }
        if path.starts_with(b"/") {
            return Err(refused("is absolute"));
        }
        if path.contains(&0) {
            return Err(refused("has a zero in it"));
        }
        let mut place = Vec::with_capacity(path.len());
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => continue,
                b".." => return Err(refused("has .. in it")),
                long if long.len() > NAME => {
                    return Err(refused("has a name longer than 255 bytes"));
                }
                _ => {}
            }
            if !place.is_empty() {
                place.push(b'/');
            }
            place.extend_from_slice(name);
        }
        Ok(Self(place))
    }

    /// Its bytes, without a slash at either end; none for the target itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the target itself.
    #[must_use]
    pub fn is_target(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that it lies in; empty for the target.
    #[must_use]
    pub fn parent(&self) -> &[u8] {
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        self.0.get(..end).unwrap_or_default()
    }

    /// The directories above it, from the outermost.
    fn above(&self) -> impl Iterator<Item = &[u8]> {
        let slashes = self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        slashes.filter_map(|(end, _)| self.0.get(..end))
    }
}

/// The symbolic links that an archive has made so far.
#[derive(Debug, Default)]
pub(super) struct Links {
    places: HashSet<Vec<u8>>,
    bytes: usize,
}

impl Links {
    pub(super) fn add(&mut self, place: &Place) -> Result<(), ArchiveError> {
        if self.places.insert(place.0.clone()) {
            self.bytes += place.0.len();
        }
        if self.bytes > LINKS {
            let limit = LINKS as u64;
            return Err(ArchiveError::TooMuch { what: "bytes of symbolic links", limit });
        }
        Ok(())
    }

    pub(super) fn has(&self, place: &Place) -> bool {
        self.places.contains(&place.0)
    }

    /// Refuses a place below a link: who unpacks it would follow the link.
    pub(super) fn refuse_through(&self, place: &Place) -> Result<(), ArchiveError> {
        match place.above().find(|dir| self.places.contains(*dir)) {
            Some(link) => {
                Err(ArchiveError::ThroughLink { path: shown(&place.0), link: shown(link) })
            }
            None => Ok(()),
        }
    }
}
