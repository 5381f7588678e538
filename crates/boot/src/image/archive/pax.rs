//! Records of pax headers: `length key=value`, the length that of the whole record.

/// Records of one header, or all that are in force, in bytes. Ten times what attributes of a file can take.
pub(super) const MAX: u64 = 1 << 20;

/// The records of a header; nothing when it is damaged.
pub(super) fn parse(mut bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let blank = bytes.iter().position(|byte| *byte == b' ')?;
        let digits = std::str::from_utf8(bytes.get(..blank)?).ok()?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let len: usize = digits.parse().ok()?;
        let record = bytes.get(blank + 1..len)?;
        let record = record.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((record.get(..equals)?.to_vec(), record.get(equals + 1..)?.to_vec()));
        bytes = bytes.get(len..)?;
    }
    Some(records)
}

/// Adds a record.
pub(super) fn push(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // blank, equals sign, line feed
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A number as pax writes it: digits alone.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// A time as pax writes it: digits, perhaps a sign before them and a fraction after.
pub(super) fn time(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let lawful = !whole.is_empty() && text.len() <= 40 && digits(whole) && digits(fraction);
    // in one way only, so that it is read again as it was
    let plain = text.parse().map_or_else(|_| text.to_owned(), |seconds: u64| seconds.to_string());
    lawful.then_some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_count_themselves() {
        for (value, record) in
            [(1, "6 k=x"), (4, "9 k=x"), (5, "11 k=x"), (93, "99 k=x"), (94, "101 k=x")]
        {
            let mut out = Vec::new();
            push(&mut out, b"k", &vec![b'x'; value]);
            assert!(
                out.starts_with(record.as_bytes()),
                "{value}: {}",
                String::from_utf8_lossy(&out)
            );
            assert_eq!(parse(&out).unwrap()[0].1.len(), value);
        }
    }

    #[test]
    fn damaged_records_are_no_records() {
        for bad in
            ["x", "8 k=x", "9 k=x\n", "3 k\n", "+8 k=x\n", "99999999999999999999 k=\n", "0 =\n"]
        {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(time(b"-1.5").is_some() && time(b"1").is_some() && time(b"").is_none());
        assert!(time(b"1e9").is_none() && time(b"--1").is_none() && number(b"-1").is_none());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(records in prop::collection::vec(
            ("[^=]{1,20}", prop::collection::vec(any::<u8>(), 0..2000)), 0..8)) {
            let records: Vec<_> = records.into_iter().map(|(k, v)| (k.into_bytes(), v)).collect();
            let mut out = Vec::new();
            for (key, value) in &records {
                push(&mut out, key, value);
            }
            prop_assert_eq!(parse(&out), Some(records));
        }

        #[test]
        fn any_bytes_are_parsed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _records = parse(&bytes);
        }
    }
}
