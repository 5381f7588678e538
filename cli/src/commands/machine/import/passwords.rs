//! Who logs in to the controllers of a list: users of the list or of the command line, passwords of files that only
//! their owner may read. Passwords are in no error and in no list.

use std::collections::BTreeMap;
use std::path::Path;

use p2pinst_boot::power::controller::Controller as Address;
use p2pinst_boot::power::credentials::Credentials;
use p2pinst_types::Name;
use zeroize::Zeroizing;

use crate::commands::power;
use crate::error::CliError;

/// Longest file of passwords, in bytes: as long as the longest list.
const FILE: u64 = 4 << 20;

/// See the module.
#[derive(Default)]
pub(super) struct Passwords {
    user: Option<String>,
    all: Option<Zeroizing<String>>,
    named: BTreeMap<Name, Zeroizing<String>>,
}

impl Passwords {
    /// Reads the files: one with the password of all, and one with those of machines by name.
    pub(super) fn read(
        user: Option<&str>,
        all: Option<&Path>,
        named: Option<&Path>,
    ) -> Result<Self, CliError> {
        Ok(Self {
            user: user.map(str::to_owned),
            all: all.map(power::password).transpose()?,
            named: named.map(read).transpose()?.unwrap_or_default(),
        })
    }

    /// What the controller of a machine is told; what is missing.
    pub(super) fn of(
        &self,
        name: &Name,
        address: &Address,
        user: Option<&str>,
    ) -> Result<Option<Credentials>, String> {
        let needs = address.driver().needs_credentials();
        let user = match user.or_else(|| self.user.as_deref().filter(|_| needs)) {
            Some(user) => user,
            None if needs => {
                return Err("this controller asks for a user: say it in the column user, or by \
                            --user"
                    .to_owned());
            }
            None => return Ok(None),
        };
        let password = self.named.get(name).or(self.all.as_ref());
        let password = password.ok_or_else(|| {
            format!(
                "the password of {user} is missing: --password-file FILE has one for all, --env-file \
                 FILE lines like {name}=PASSWORD"
            )
        })?;
        let both = Credentials::new(user.to_owned(), password.as_str().to_owned());
        both.map(Some).map_err(|e| e.to_string())
    }
}

fn read(path: &Path) -> Result<BTreeMap<Name, Zeroizing<String>>, CliError> {
    let bytes = Zeroizing::new(p2pinst_files::read_private(path, FILE)?);
    let shown = path.display();
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| CliError::failed(format!("{shown} is no text in UTF-8")))?;
    parse(text).map_err(|(line, reason)| {
        CliError::failed(format!("cannot use the passwords in {shown}: line {line}: {reason}"))
            .hint("a line is NAME=PASSWORD, with the name of a machine")
    })
}

/// The passwords by name; empty lines and those that begin with # are left out.
fn parse(text: &str) -> Result<BTreeMap<Name, Zeroizing<String>>, (usize, String)> {
    let mut all = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        // nothing of a line that cannot be read is told: it may be a password
        let (name, password) =
            line.split_once('=').ok_or((number, "there is no = in it".to_owned()))?;
        let name: Name =
            name.trim().parse().map_err(|_| (number, "no name stands before the =".to_owned()))?;
        if all.insert(name.clone(), Zeroizing::new(password.to_owned())).is_some() {
            return Err((number, format!("{name} is there twice")));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn the_nearest_word_counts() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let mut both = Passwords {
            user: Some("admin".to_owned()),
            all: Some(Zeroizing::new("all".to_owned())),
            named: parse("# rack 1\n\n n1 =a=b \nn2=\n").unwrap(),
        };
        let of = |p: &Passwords, n: &str, line: &str, user: Option<&str>| {
            p.of(&name(n), &address(line), user)
        };
        let is = |user: &str, password: &str| {
            Ok(Some(Credentials::new(user.to_owned(), password.to_owned()).unwrap()))
        };
        let ipmi = "ipmi://10.0.0.5";
        assert_eq!(of(&both, "n1", ipmi, None), is("admin", "a=b "));
        assert_eq!(of(&both, "n2", ipmi, Some("root")), is("root", ""));
        assert_eq!(of(&both, "n3", ipmi, None), is("admin", "all"));
        // who needs none gets one only where the list says so
        assert_eq!(of(&both, "n3", "wol://", None), Ok(None));
        assert_eq!(of(&both, "n3", "libvirt:///system?domain=n3", Some("x")), is("x", "all"));
        both.all = None;
        assert!(of(&both, "n3", ipmi, None).unwrap_err().contains("n3=PASSWORD"));
        assert!(of(&Passwords::default(), "n3", ipmi, None).unwrap_err().contains("--user"));
    }

    #[test]
    fn what_cannot_be_read_is_not_told() {
        for (text, line) in [("n1=a\nsecret\n", 2), ("sec ret=x\n", 1), ("n1=a\n\nn1=secret\n", 3)]
        {
            let (at, reason) = parse(text).unwrap_err();
            assert!(at == line && !reason.contains("sec"), "{at}: {reason}");
        }
    }
}
