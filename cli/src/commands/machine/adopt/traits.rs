//! Selectors of machines by what they are made of: `vendor=Dell* && memory>=64GB && site=pisa`. Pure.
//!
//! Written like the selectors of groups (`p2pinst_types::selector`), which know labels; here are sizes and numbers too,
//! `*` for any text, and a comma for `&&`.

use std::fmt;
use std::str::FromStr;

use p2pinst_boot::setup::Bytes;
use p2pinst_types::record::{Disk, Firmware, Inventory};
use p2pinst_types::selector::SelectorError;
use p2pinst_types::{Mac, Name, limits};

/// A machine that was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// The interface that asked.
    pub(super) mac: Mac,
    /// The site of the node that saw it last.
    pub(super) site: Option<&'a Name>,
    /// What it is made of, where it has told.
    pub(super) inventory: Option<&'a Inventory>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Mac,
    Site,
    Vendor,
    Product,
    Serial,
    Uuid,
    Firmware,
    Arch,
    Cpu,
    Controller,
    Cpus,
    Memory,
    Disks,
    Disk,
}

const FIELDS: [(&str, Field); 15] = [
    ("mac", Field::Mac),
    ("site", Field::Site),
    ("vendor", Field::Vendor),
    ("manufacturer", Field::Vendor),
    ("product", Field::Product),
    ("serial", Field::Serial),
    ("uuid", Field::Uuid),
    ("firmware", Field::Firmware),
    ("arch", Field::Arch),
    ("cpu", Field::Cpu),
    ("controller", Field::Controller),
    ("cpus", Field::Cpus),
    ("memory", Field::Memory),
    ("disks", Field::Disks),
    ("disk", Field::Disk),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Is,
    Not,
    Less,
    Most,
    More,
    Least,
}

/// Longer ones before those that they begin with.
const COMPARE: [(&str, Compare); 7] = [
    ("==", Compare::Is),
    ("!=", Compare::Not),
    ("<=", Compare::Most),
    (">=", Compare::Least),
    ("=", Compare::Is),
    ("<", Compare::Less),
    (">", Compare::More),
];

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Text(Field, bool, String),
    /// The first digits of an address, without separators.
    Mac(bool, String),
    Number(Field, Compare, u64),
    Known(Field, bool),
}

/// A parsed selector: all conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Traits {
    text: String,
    terms: Vec<Term>,
}

impl Traits {
    /// Whether a machine is selected. Of what it is made of nothing holds while that is not known, not even that it is
    /// something else.
    pub(super) fn matches(&self, seen: &Seen<'_>) -> bool {
        self.terms.iter().all(|term| term.holds(seen).unwrap_or(false))
    }
}

impl Term {
    fn holds(&self, seen: &Seen<'_>) -> Option<bool> {
        match self {
            Self::Mac(wanted, digits) => {
                let nics = seen.inventory.iter().flat_map(|i| &i.nics).map(|n| n.mac);
                let mut macs = nics.chain([seen.mac]).map(plain);
                Some(macs.any(|mac| mac.starts_with(digits)) == *wanted)
            }
            Self::Text(Field::Site, wanted, pattern) => {
                Some(fits(pattern, seen.site?.as_str()) == *wanted)
            }
            Self::Text(field, wanted, pattern) => {
                let value = text(*field, seen.inventory?);
                Some(value.is_some_and(|value| fits(pattern, value)) == *wanted)
            }
            Self::Number(Field::Disk, compare, than) => {
                let mut disks = usable(seen.inventory?);
                Some(disks.any(|d| compare.holds(d.size, *than)))
            }
            Self::Number(field, compare, than) => {
                Some(compare.holds(number(*field, seen.inventory?), *than))
            }
            Self::Known(Field::Mac, wanted) => Some(*wanted),
            Self::Known(Field::Site, wanted) => Some(seen.site.is_some() == *wanted),
            Self::Known(Field::Disk, wanted) => {
                Some(usable(seen.inventory?).next().is_some() == *wanted)
            }
            Self::Known(field @ (Field::Cpus | Field::Memory | Field::Disks), wanted) => {
                Some((number(*field, seen.inventory?) > 0) == *wanted)
            }
            Self::Known(field, wanted) => Some(text(*field, seen.inventory?).is_some() == *wanted),
        }
    }
}

impl Compare {
    fn holds(self, value: u64, than: u64) -> bool {
        match self {
            Self::Is => value == than,
            Self::Not => value != than,
            Self::Less => value < than,
            Self::Most => value <= than,
            Self::More => value > than,
            Self::Least => value >= than,
        }
    }
}

/// Disks that something may be installed on.
fn usable(inventory: &Inventory) -> impl Iterator<Item = &Disk> {
    inventory.disks.iter().filter(|d| !d.removable)
}

fn number(field: Field, inventory: &Inventory) -> u64 {
    match field {
        Field::Cpus => u64::from(inventory.cpus),
        Field::Memory => inventory.memory,
        _ => usable(inventory).count() as u64,
    }
}

fn text(field: Field, inventory: &Inventory) -> Option<&str> {
    match field {
        Field::Vendor => inventory.vendor.as_deref(),
        Field::Product => inventory.product.as_deref(),
        Field::Serial => inventory.serial.as_deref(),
        Field::Uuid => inventory.uuid.as_deref(),
        Field::Cpu => inventory.cpu.as_deref(),
        Field::Controller => inventory.controller.as_deref(),
        Field::Arch => Some(&inventory.arch),
        Field::Firmware => Some(match inventory.firmware {
            Firmware::Bios => "bios",
            Firmware::Uefi => "uefi",
        }),
        _ => None,
    }
}

fn plain(mac: Mac) -> String {
    mac.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text is as a pattern says, in capital letters or small ones; `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

impl FromStr for Traits {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let wrong = |at: usize, reason: String| SelectorError {
            text: text.to_owned(),
            at: at.min(text.len().saturating_sub(1)),
            reason,
        };
        if text.len() > limits::EXPR {
            let reason = format!("longer than {} characters", limits::EXPR);
            return Err(SelectorError { text: text.chars().take(60).collect(), at: 0, reason });
        }
        // a caret under a text of one byte for each character stands where it should
        if let Some(at) = text.find(|c: char| !matches!(c, ' '..='~')) {
            return Err(wrong(at, "write printable ASCII characters, and * for others".to_owned()));
        }
        let mut terms = Vec::new();
        for (at, raw) in parts(text) {
            let lead = raw.len() - raw.trim_start().len();
            let term = term(raw.trim()).map_err(|(offset, why)| wrong(at + lead + offset, why))?;
            terms.push(term);
        }
        Ok(Self { text: text.to_owned(), terms })
    }
}

/// The conditions, and where each begins. What stands between quotation marks is not taken apart.
fn parts(text: &str) -> Vec<(usize, &str)> {
    let (mut parts, mut begin, mut quoted, mut skip) = (Vec::new(), 0, false, 0);
    for (at, c) in text.char_indices() {
        let rest = text.get(at..).unwrap_or_default();
        let separator = match c {
            _ if at < skip || quoted => 0,
            ',' => 1,
            _ if rest.starts_with("&&") => 2,
            _ => 0,
        };
        quoted ^= c == '"';
        if separator > 0 {
            parts.push((begin, text.get(begin..at).unwrap_or_default()));
            (begin, skip) = (at + separator, at + separator);
        }
    }
    parts.push((begin, text.get(begin..).unwrap_or_default()));
    parts
}

/// What is wrong with a condition, and at which offset.
type Wrong = (usize, String);

fn term(text: &str) -> Result<Term, Wrong> {
    if text.is_empty() {
        let reason =
            "a condition is missing (write vendor=Dell*, memory>=64GB, site!=pisa or !serial)";
        return Err((0, reason.to_owned()));
    }
    let end = |c: char| !(c.is_ascii_alphanumeric() || c == '-');
    if let Some(key) = text.strip_prefix('!') {
        let rest = key.find(end).map(|at| (1 + at, "the condition ends here".to_owned()));
        return rest.map_or_else(|| Ok(Term::Known(field(key).map_err(|e| (1, e))?, false)), Err);
    }
    let key = text.get(..text.find(end).unwrap_or(text.len())).unwrap_or_default();
    let field = field(key).map_err(|e| (0, e))?;
    let rest = text.get(key.len()..).unwrap_or_default();
    let operator = rest.trim_start();
    let at = text.len() - operator.len();
    if operator.is_empty() {
        return Ok(Term::Known(field, true));
    }
    let known = COMPARE.into_iter().find(|(sign, _)| operator.starts_with(sign));
    let (sign, compare) = known
        .ok_or_else(|| (at, "write =, !=, <, <=, > or >= behind the name of a trait".to_owned()))?;
    let value = operator.get(sign.len()..).unwrap_or_default().trim_start();
    let from = text.len() - value.len();
    let value = unquoted(value).map_err(|(offset, why)| (from + offset, why))?;
    let equal = match compare {
        Compare::Is => Ok(true),
        Compare::Not => Ok(false),
        _ => Err((at, format!("{key} is no number: write = or !="))),
    };
    match field {
        Field::Mac => Ok(Term::Mac(equal?, digits(value).map_err(|e| (from, e))?)),
        Field::Memory | Field::Disk => {
            let bytes: Bytes = value.parse().map_err(|e| (from, format!("{e}")))?;
            Ok(Term::Number(field, compare, bytes.0))
        }
        Field::Cpus | Field::Disks => {
            let number = value.parse().map_err(|_| (from, format!("{value:?} is no number")))?;
            Ok(Term::Number(field, compare, number))
        }
        _ => Ok(Term::Text(field, equal?, value.to_owned())),
    }
}

fn field(key: &str) -> Result<Field, String> {
    let known = FIELDS.into_iter().find(|(name, _)| *name == key);
    known.map(|(_, field)| field).ok_or_else(|| {
        let names: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
        format!("there is no trait {key:?}; there are {}", names.join(", "))
    })
}

fn unquoted(value: &str) -> Result<&str, Wrong> {
    let Some(inner) = value.strip_prefix('"') else {
        return match value.find(['"', '=', '<', '>', '&']) {
            _ if value.is_empty() => Err((0, "a value is missing".to_owned())),
            Some(at) => Err((at, "put a value with this character between \"\"".to_owned())),
            None => Ok(value),
        };
    };
    let open = || (0, "the quotation mark is not closed".to_owned());
    let (inside, behind) = inner.split_once('"').ok_or_else(open)?;
    match behind.trim() {
        "" => Ok(inside),
        _ => Err((inside.len() + 2, "the condition ends at the quotation mark".to_owned())),
    }
}

/// `52:54:00` and `52-54-00*` as `525400`.
fn digits(value: &str) -> Result<String, String> {
    let digits: String = value
        .strip_suffix('*')
        .unwrap_or(value)
        .chars()
        .filter(|c| !matches!(c, ':' | '-' | '.'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let fits = (1..=12).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit());
    fits.then_some(digits)
        .ok_or_else(|| format!("{value:?} is no beginning of an address: write it as 52:54:00"))
}

impl fmt::Display for Traits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::record::Nic;

    use super::*;

    fn made() -> Inventory {
        let mut made = crate::planning::tests::inventory(None);
        made.vendor = Some("Dell Inc.".to_owned());
        made.product = Some("PowerEdge R640, rev 2".to_owned());
        (made.cpus, made.memory) = (32, 67_000_000_000);
        let mac = Mac([0x3c, 0xec, 0xef, 0, 0, 2]);
        made.nics = vec![Nic { name: "eno2".into(), mac, driver: None, link: true, mbit: None }];
        made
    }

    fn matches(text: &str) -> bool {
        let (made, site) = (made(), "pisa".parse().unwrap());
        let mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
        let seen = Seen { mac, site: Some(&site), inventory: Some(&made) };
        text.parse::<Traits>().unwrap().matches(&seen)
    }

    #[test]
    fn conditions() {
        for text in [
            "vendor=Dell*,memory>=64GB,site=pisa",
            "vendor = \"dell inc.\" && cpus==32 && cpus<33 && cpus>31",
            "manufacturer=*INC* && !serial && vendor && serial!=x",
            "product=\"PowerEdge R640, rev 2\"",
            "product=power*640*2,arch=x86_64,firmware=uefi",
            "mac=52:54:00,mac=3c-ec-ef-00-00-02,mac=52*,mac!=aa",
            "disk>=8GiB,disk<=8GiB,disks=1,memory,site!=rome,mac,disk",
        ] {
            assert!(matches(text), "{text}");
        }
        for text in [
            "vendor=Dell",
            "vendor=*x*",
            "vendor=Dell*Dell*",
            "memory>=64GiB",
            "site=rome",
            "site!=p*",
            "!vendor",
            "serial",
            "mac=54",
            "disk>8GiB",
            "disks!=1",
            "cpus=32,cpus!=32",
            "firmware=bios",
        ] {
            assert!(!matches(text), "{text}");
        }
    }

    #[test]
    fn of_a_machine_that_has_not_told_nothing_holds_but_where_it_was_seen() {
        let site: Name = "pisa".parse().unwrap();
        let mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
        let seen = Seen { mac, site: Some(&site), inventory: None };
        let matches = |text: &str| text.parse::<Traits>().unwrap().matches(&seen);
        assert!(matches("mac=52:54") && matches("site=pisa,mac!=aa"));
        for text in ["vendor=x", "vendor!=x", "!vendor", "cpus>=0", "disk!=1", "firmware!=uefi"] {
            assert!(!matches(text), "{text}");
        }
        let nowhere = Seen { site: None, ..seen };
        assert!(!"site!=rome".parse::<Traits>().unwrap().matches(&nowhere));
    }

    #[test]
    fn removable_disks_do_not_count() {
        let mut made = made();
        made.disks[0].removable = true;
        let seen = Seen { mac: Mac([2; 6]), site: None, inventory: Some(&made) };
        let matches = |text: &str| text.parse::<Traits>().unwrap().matches(&seen);
        assert!(matches("disks=0,!disk") && !matches("disk>0"));
    }

    #[test]
    fn errors_point_at_the_character() {
        for (text, at) in [
            ("", 0),
            ("vendor=x,", 8),
            ("vendor=x && vendr=y", 12),
            ("memory>=64XB", 8),
            ("cpus=many", 5),
            ("vendor>x", 6),
            ("vendor~x", 6),
            ("site=a=b", 6),
            ("product=\"a, b", 8),
            ("product=\"a\" b", 11),
            ("mac=xyz", 4),
            ("!vendor=x", 7),
            ("vendor=", 6),
            ("vendor=ü", 7),
        ] {
            let error = text.parse::<Traits>().unwrap_err();
            assert_eq!(error.at, at, "{error}");
        }
        let long = format!("vendor={}", "x".repeat(5000));
        assert!(long.parse::<Traits>().unwrap_err().to_string().len() < 400);
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_a_panic(text in "\\PC*", rest in "[a-z!=<>&,\"*0-9: ]{0,60}") {
            for text in [text, rest] {
                if let Ok(traits) = text.parse::<Traits>() {
                    let made = made();
                    traits.matches(&Seen { mac: Mac([2; 6]), site: None, inventory: Some(&made) });
                }
            }
        }
    }
}
