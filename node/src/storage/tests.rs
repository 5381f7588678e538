//! Sizes for people; the rest is tested over real nodes, and its parts where they are.

use super::human;

#[test]
fn sizes_are_short() {
    for (bytes, want) in [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (40 << 20, "40.0 MiB"),
        (u64::MAX, "16777215.9 TiB"),
    ] {
        assert_eq!(human(bytes), want);
    }
}
