//! Which disk of the machine a description means.

use p2pinst_types::record::{Disk, Inventory};

use super::{Identity, Refusal};
use crate::setup::document::{DiskSetup, Match, Pick};

/// The disk that a description means; `number` is the description's, from 1.
///
/// # Errors
/// When there is none, or more than one.
pub(super) fn choose<'a>(
    number: usize,
    setup: &DiskSetup,
    inventory: &'a Inventory,
) -> Result<&'a Disk, Refusal> {
    let named = setup.matching.serial.is_some() || setup.matching.wwn.is_some();
    let matching = inventory.disks.iter().filter(|disk| setup.matching.holds(disk));
    let (removable, mut fixed): (Vec<&Disk>, Vec<&Disk>) =
        matching.partition(|disk| disk.removable && !named);
    // of equal ones the first, wherever the kernel has found it first this time
    fixed.sort_by_key(|d| (d.path.is_none(), &d.path, d.wwn.is_none(), &d.wwn, &d.serial, &d.name));
    let picked = match setup.pick {
        _ if fixed.len() < 2 => fixed.first().copied(),
        None => {
            let which = fixed.iter().map(|disk| Identity::of(disk).to_string()).collect();
            return Err(Refusal::Ambiguous { disk: number, which });
        }
        Some(Pick::First) => fixed.first().copied(),
        Some(Pick::Smallest) => fixed.iter().min_by_key(|disk| disk.size).copied(),
        // the last of the greatest would be found otherwise
        Some(Pick::Largest) => fixed.iter().rev().max_by_key(|disk| disk.size).copied(),
    };
    picked.ok_or_else(|| match removable.first() {
        Some(disk) => Refusal::Removable { disk: number, which: Identity::of(disk).to_string() },
        None => Refusal::NoMatch {
            disk: number,
            wanted: setup.matching.to_string(),
            has: inventory.disks.iter().map(|disk| Identity::of(disk).to_string()).collect(),
        },
    })
}

impl Match {
    /// Whether everything that is said is so of this disk.
    #[must_use]
    pub fn holds(&self, disk: &Disk) -> bool {
        let text = |wanted: &Option<String>, is: &Option<String>| match (wanted, is) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(wanted), Some(is)) => glob(wanted.trim(), is),
        };
        let wwn = |wwn: &Option<String>| wwn.as_deref().map(plain_wwn);
        text(&wwn(&self.wwn), &wwn(&disk.wwn))
            && text(&self.serial, &disk.serial)
            && text(&self.model, &disk.model)
            && text(&self.path, &disk.path)
            && self.min_size.is_none_or(|least| disk.size >= least.0)
            && self.max_size.is_none_or(|most| disk.size <= most.0)
            && self.rotational.is_none_or(|rotational| disk.rotational == rotational)
    }
}

impl std::fmt::Display for Match {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts = [
            ("wwn", &self.wwn),
            ("serial", &self.serial),
            ("model", &self.model),
            ("path", &self.path),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key} = {:?}", value.as_ref()?)));
        let sizes = [("min_size", self.min_size), ("max_size", self.max_size)];
        let sizes =
            sizes.into_iter().filter_map(|(key, value)| Some(format!("{key} = \"{}\"", value?)));
        let rotational = self.rotational.map(|rotational| format!("rotational = {rotational}"));
        let all: Vec<String> = texts.chain(sizes).chain(rotational).collect();
        if all.is_empty() { f.write_str("any fixed disk") } else { f.write_str(&all.join(", ")) }
    }
}

/// A world-wide name without what says of which kind it is: the kernel, udev and the disk's label differ in that.
fn plain_wwn(wwn: &str) -> String {
    let mut plain = wwn.trim().to_ascii_lowercase();
    for prefix in ["wwn-", "nvme-", "naa.", "eui.", "0x"] {
        if let Some(rest) = plain.strip_prefix(prefix) {
            plain = rest.to_owned();
        }
    }
    plain
}

/// Whether a text has the form of a pattern, of which `*` is any characters and `?` one. The case of letters does not count.
fn glob(pattern: &str, text: &str) -> bool {
    let lower =
        |text: &str| -> Vec<char> { text.chars().map(|c| c.to_ascii_lowercase()).collect() };
    let (pattern, text) = (lower(pattern), lower(text));
    // where the last star was, and how far the text had been eaten then
    let (mut p, mut t, mut star) = (0, 0, None);
    while let Some(c) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == c => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, eaten)) => {
                    star = Some((at, eaten + 1));
                    p = at + 1;
                    t = eaten + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, holds) in [
            ("Samsung*", "SAMSUNG SSD 980", true),
            ("*980", "Samsung SSD 980", true),
            ("*a*b", "xaxxbxb", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("", "", true),
            ("", "x", false),
            ("***", "", true),
            ("*a*a*a*a*a*a*a*a*b", &"a".repeat(96), false),
        ] {
            assert_eq!(glob(pattern, text), holds, "{pattern} {text}");
        }
        for wwn in [
            "wwn-0x5000C500A1B2C3D4",
            "naa.5000c500a1b2c3d4",
            "0x5000c500a1b2c3d4",
            "5000c500a1b2c3d4",
        ] {
            assert_eq!(plain_wwn(wwn), "5000c500a1b2c3d4");
        }
    }
}
