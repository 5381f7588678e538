//! Values of options: durations, labels, addresses.

use std::time::Duration;

use p2pinst_types::record::LabelEdit;
use p2pinst_types::{LabelValue, Labels, Name};

use crate::error::CliError;

/// The reason of a revocation, for people.
pub(crate) fn reason(text: &str) -> Result<String, String> {
    if text.len() > REASON {
        return Err(format!("longer than {REASON} bytes"));
    }
    Ok(text.to_owned())
}

/// Longest reason, in bytes: as revocations bound it.
const REASON: usize = 1024;

/// Where a node listens when nothing else is said.
pub(crate) const LISTEN: &str = "/ip4/0.0.0.0/tcp/4001";
/// Longest address taken, in bytes: as certificates bound it.
const ADDR_MAX: usize = 256;

/// Reads `30m`, `24h`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number and a unit: 90s, 30m, 24h, 7d".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit = match text.get(digits.len()..) {
        Some("s") => 1,
        Some("m") => 60,
        Some("h") => 3600,
        Some("d") => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number.checked_mul(unit).ok_or("that is too long")?;
    // a century: what is longer is a slip of the hand, and would overflow clocks
    if seconds == 0 || seconds > 100 * 366 * 86_400 {
        return Err("from one second to a hundred years are possible".to_owned());
    }
    Ok(Duration::from_secs(seconds))
}

/// Checks an address in outline; the node knows the details.
pub(crate) fn address(text: &str) -> Result<String, String> {
    let known = ["/ip4/", "/ip6/", "/dns/", "/dns4/", "/dns6/"];
    let plausible = known.iter().any(|p| text.starts_with(p)) && text.contains("/tcp/");
    if !plausible || text.len() > ADDR_MAX || text.chars().any(|c| c.is_control() || c == ' ') {
        return Err("write it as /ip4/10.0.0.1/tcp/4001 or /dns/n1.example.org/tcp/4001".to_owned());
    }
    Ok(text.to_owned())
}

/// Gathers `--label k=v` options.
pub(crate) fn labels(pairs: &[(Name, LabelValue)]) -> Result<Labels, CliError> {
    let mut labels = Labels::new();
    for (key, value) in pairs {
        if LabelEdit::is_reserved(key) {
            return Err(CliError::usage(format!(
                "{key} cannot be a label: every machine has a {key}"
            ))
            .hint(format!("selectors know it by itself: --select '{key}=…'")));
        }
        if labels.insert(key.clone(), value.clone()).is_some() {
            return Err(CliError::usage(format!("the label {key} is given twice")));
        }
    }
    if labels.len() > p2pinst_types::limits::LABELS {
        let most = p2pinst_types::limits::LABELS;
        return Err(CliError::usage(format!("a machine has at most {most} labels")));
    }
    Ok(labels)
}

/// The machine's own name, as far as it is one for p2pinst.
pub(crate) fn hostname() -> Option<Name> {
    let uname = rustix::system::uname();
    name_from(uname.nodename().to_str().ok()?)
}

/// The name of whoever runs the command, also through sudo.
pub(crate) fn user() -> Option<Name> {
    let users = ["SUDO_USER", "USER"].into_iter().filter_map(|v| std::env::var(v).ok());
    users.filter_map(|u| name_from(&u)).find(|u| u.as_str() != "root")
}

/// Makes a name of a text by leaving out what names do not have.
fn name_from(text: &str) -> Option<Name> {
    let kept = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let text: String = text.chars().filter(kept).collect();
    let text = text.trim_start_matches(['.', '_', '-']);
    text.chars().take(Name::MAX).collect::<String>().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, secs) in [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(secs)));
        }
        for bad in ["", "h", "24", "24 h", "-1h", "1.5h", "24hh", "1é", "0s", "99999999999999999d"]
        {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses() {
        assert!(address(LISTEN).is_ok() && address("/ip6/::1/tcp/0").is_ok());
        for bad in ["", "10.0.0.1:4001", "/ip4/1.2.3.4/udp/1", "/ip4/1.2.3.4/tcp/1 x"] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn labels_are_unique() {
        let label = |text| p2pinst_types::name::parse_label(text).unwrap();
        assert_eq!(labels(&[label("a=1"), label("b=")]).unwrap().len(), 2);
        assert!(labels(&[label("a=1"), label("a=2")]).is_err());
        assert!(labels(&[label("site=x")]).is_err());
    }

    #[test]
    fn names_are_made_of_what_is_there() {
        assert_eq!(name_from("-Änna Ng").unwrap().as_str(), "nnaNg");
        assert_eq!(name_from("ü"), None);
        assert_eq!(name_from(&"x".repeat(99)).unwrap().as_str().len(), 63);
    }
}
