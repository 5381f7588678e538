//! A download of the whole from one mirror after the other.

use std::fs::File;
use std::io::{Read, Seek, Write};

use p2pinst_types::limits;

use super::{Gave, Job, http, interrupted, usable};
use crate::error::CliError;

impl Job<'_> {
    /// Asks the mirrors in that order, each alone, until one sends what fits the sums. `unlike` is why something
    /// that was there before did not.
    pub(super) fn whole(
        &self,
        order: &[usize],
        mut gave: Vec<Gave>,
        file: &mut File,
        mut unlike: Option<String>,
    ) -> Result<Vec<Gave>, CliError> {
        gave.iter_mut().for_each(|g| g.bytes = 0);
        for mirror in order {
            let (Some(gave_one), Some(offer)) = (gave.get_mut(*mirror), self.offers.get(*mirror))
            else {
                continue;
            };
            file.set_len(0).and_then(|()| file.rewind()).map_err(|e| self.unwritten(&e))?;
            self.bar.set_position(0);
            let copied = match usable(offer, self.wanted.size) {
                Err(reason) => Err(reason),
                Ok(offer) => {
                    let len = self.wanted.size.or(offer.len);
                    http::with(self.least, self.stop, |http| match http.whole(&gave_one.url) {
                        Ok(reader) => self.copy(reader, len, file),
                        Err(reason) => Ok(Err(reason)),
                    })?
                }
            };
            if self.is_stopped() {
                return Err(interrupted());
            }
            match copied {
                Err(reason) => gave_one.failed = Some(reason),
                Ok(bytes) => match self.unlike(file)? {
                    None => {
                        gave_one.bytes = bytes;
                        gave_one.failed = None;
                        return Ok(gave);
                    }
                    Some(why) => {
                        gave_one.failed = Some(format!("what it sends is another file: {why}"));
                        unlike = Some(why);
                    }
                },
            }
        }
        match unlike {
            Some(why) => Err(self.other_file(&why, &gave)),
            None => Err(self.failed("no mirror that is left has all of it", &gave)),
        }
    }

    fn copy(
        &self,
        mut reader: impl Read,
        len: Option<u64>,
        file: &mut File,
    ) -> Result<Result<u64, String>, CliError> {
        let (mut buffer, mut seen) = (vec![0; 256 << 10], 0);
        loop {
            if self.is_stopped() {
                return Err(interrupted());
            }
            let bytes = match reader.read(&mut buffer) {
                Ok(n) => buffer.get(..n).unwrap_or_default(),
                Err(e) => return Ok(Err(e.to_string())),
            };
            seen += bytes.len() as u64;
            if bytes.is_empty() || seen > len.unwrap_or(limits::BLOB) {
                break;
            }
            file.write_all(bytes).map_err(|e| self.unwritten(&e))?;
            self.bar.inc(bytes.len() as u64);
        }
        Ok(match len {
            Some(len) if seen != len => Err(format!("it sends {seen} bytes of {len}")),
            None if seen > limits::BLOB => Err("it does not stop".to_owned()),
            _ => Ok(seen),
        })
    }
}
