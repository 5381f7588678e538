//! Version order of package managers. Pure, so that every node folds the same desired state,
//! whatever package manager it has itself.

use std::cmp::Ordering;

/// Compares two Debian versions as dpkg does (Debian Policy 5.6.12; `deb-version(7)`):
/// epoch, then upstream version, then revision.
#[must_use]
pub fn compare_debian(a: &str, b: &str) -> Ordering {
    let (a, b) = (split_debian(a), split_debian(b));
    compare_digits(a.0, b.0)
        .then_with(|| compare_part(a.1, b.1))
        .then_with(|| compare_part(a.2, b.2))
}

/// `[epoch:]upstream[-revision]`; an absent epoch or revision counts as empty.
fn split_debian(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Compares runs of non-digits and runs of digits in turn.
fn compare_part(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (word_a, rest_a) = split_at(a, |c| c.is_ascii_digit());
        let (word_b, rest_b) = split_at(b, |c| c.is_ascii_digit());
        let (number_a, next_a) = split_at(rest_a, |c| !c.is_ascii_digit());
        let (number_b, next_b) = split_at(rest_b, |c| !c.is_ascii_digit());
        let order = compare_word(word_a, word_b).then_with(|| compare_digits(number_a, number_b));
        if order.is_ne() {
            return order;
        }
        (a, b) = (next_a, next_b);
    }
    Ordering::Equal
}

fn split_at(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stop).unwrap_or(text.len()))
}

/// `~` before the end of the text, the end before letters, letters before all else.
fn compare_word(a: &str, b: &str) -> Ordering {
    let rank = |c: Option<char>| match c {
        Some('~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i64::from(u32::from(c)),
        Some(c) => i64::from(u32::from(c)) + 256,
    };
    let (mut a, mut b) = (a.chars(), b.chars());
    loop {
        let (x, y) = (a.next(), b.next());
        let order = rank(x).cmp(&rank(y));
        if order.is_ne() || (x.is_none() && y.is_none()) {
            return order;
        }
    }
}

/// Compares digits as numbers of any length.
fn compare_digits(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn examples_of_the_policy() {
        let sorted = [
            "1.0~~", "1.0~~a", "1.0~", "1.0", "1.0-1", "1.0-1.1", "1.0a", "1.0+", "1.0.1", "1.10",
            "1:0.1",
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(compare_debian(a, b), i.cmp(&j), "{a} {b}");
            }
        }
        assert_eq!(compare_debian("0:1.0", "1.00-0"), Ordering::Equal);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        /// The real dpkg is the judge.
        #[test]
        fn agrees_with_dpkg(a in "([0-2]:)?[0-9][0-9a-c.+~]{0,5}(-[0-9a-b.~+]{1,3})?",
                            b in "([0-2]:)?[0-9][0-9a-c.+~]{0,5}(-[0-9a-b.~+]{1,3})?") {
            let says = |op: &str| std::process::Command::new("dpkg")
                .args(["--compare-versions", &a, op, &b]).status().unwrap().success();
            let order = compare_debian(&a, &b);
            prop_assert_eq!(order.is_lt(), says("lt"), "{} {}", a, b);
            prop_assert_eq!(order.is_eq(), says("eq"), "{} {}", a, b);
        }

        #[test]
        fn is_a_total_order(a in "[0-9a-b.~:+-]{0,6}", b in "[0-9a-b.~:+-]{0,6}", c in "[0-9a-b.~:+-]{0,6}") {
            prop_assert_eq!(compare_debian(&a, &b), compare_debian(&b, &a).reverse());
            if compare_debian(&a, &b).is_le() && compare_debian(&b, &c).is_le() {
                prop_assert!(compare_debian(&a, &c).is_le());
            }
        }
    }
}
