//! Which key signs: the one that is named, or the only one here that has the power.

use p2pinst_api::Client;
use p2pinst_api::request::Grants;
use p2pinst_api::view::GrantView;
use p2pinst_types::Name;
use p2pinst_types::record::Role;

use crate::context::Context;
use crate::error::CliError;
use crate::format;
use crate::keystore::Key;

/// The power that a command needs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need {
    /// All of these roles.
    All(&'static [Role]),
    /// One of these roles.
    Any(&'static [Role]),
}

impl Need {
    fn met_by(self, roles: &[Role]) -> bool {
        match self {
            Self::All(need) => need.iter().all(|r| roles.contains(r)),
            Self::Any(need) => need.iter().any(|r| roles.contains(r)),
        }
    }

    fn words(self) -> String {
        let (roles, and) = match self {
            Self::All(roles) => (roles, " and "),
            Self::Any(roles) => (roles, " or "),
        };
        roles.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(and)
    }

    /// The options of `grant` that would help.
    fn options(self) -> String {
        let roles = match self {
            Self::All(roles) => roles,
            Self::Any(roles) => roles.get(..1).unwrap_or_default(),
        };
        roles.iter().map(|r| format!("--role {r}")).collect::<Vec<_>>().join(" ")
    }
}

/// A key, and the name under which it was given its power.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// The key.
    pub(crate) key: Key,
    /// The name that the cluster knows it by: deployments are called after it.
    pub(crate) granted: Name,
}

/// Finds the key that signs.
pub(crate) async fn key(
    context: &Context,
    client: &mut Client,
    named: Option<&Name>,
    need: Need,
) -> Result<Chosen, CliError> {
    let keystore = context.keystore();
    let keys = match named {
        Some(name) => vec![keystore.load(name)?],
        None => keystore.all()?,
    };
    let grants = client.call(Grants {}).await?;
    pick(keys, &grants, need).map_err(|missing| match missing {
        Missing::Several(names) => {
            let several = format::names(&names, 20);
            let what = need.words();
            CliError::failed(format!("several keys here may act as {what}: {several}"))
                .hint("name one with --key NAME")
        }
        Missing::Power(keys) => powerless(context, named, &keys, need),
    })
}

/// Why no key was found.
#[derive(Debug)]
enum Missing {
    /// More than one has the power.
    Several(Vec<Name>),
    /// None has; these are the keys.
    Power(Vec<Key>),
}

fn pick(keys: Vec<Key>, grants: &[GrantView], need: Need) -> Result<Chosen, Missing> {
    let (mut able, mut unable) = (Vec::new(), Vec::new());
    for key in keys {
        let mut own = grants.iter().filter(|g| g.key == key.public() && !g.revoked);
        match own.find(|g| need.met_by(&g.roles)) {
            Some(grant) => able.push(Chosen { granted: grant.name.clone(), key }),
            None => unable.push(key),
        }
    }
    match able.pop() {
        None => Err(Missing::Power(unable)),
        Some(only) if able.is_empty() => Ok(only),
        Some(last) => {
            let several = able.into_iter().chain([last]).map(|c| c.key.name);
            Err(Missing::Several(several.collect()))
        }
    }
}

fn powerless(context: &Context, named: Option<&Name>, keys: &[Key], need: Need) -> CliError {
    let what = need.words();
    let error = match named {
        Some(name) => CliError::failed(format!("the key {name} has no power as {what}")),
        None => CliError::failed(format!("no key on this machine has power as {what}")),
    };
    let own = |k: &&Key| k.name.as_str() != crate::keystore::ROOT;
    match keys.iter().find(own) {
        Some(key) => error.hint(format!(
            "where the root key is: p2pinst grant {} --name {} {}",
            key.public(),
            key.name,
            need.options()
        )),
        None => error
            .hint(format!("make a key with {}", context.command("key new NAME")))
            .hint("or run this on the machine of an administrator"),
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_trust::SecretKey;

    use super::*;

    const BOTH: Need = Need::All(&[Role::Operator, Role::Publisher]);
    const INVITES: Need = Need::Any(&[Role::Operator, Role::Enroller]);

    fn key(name: &str, seed: u8) -> Key {
        Key { name: name.parse().unwrap(), secret: SecretKey::from_seed(&[seed; 32]) }
    }

    fn grant(seed: u8, roles: &[Role], revoked: bool) -> GrantView {
        let key = key("x", seed);
        let (name, key) = (key.name.clone(), key.public());
        GrantView { name, key, roles: roles.to_vec(), not_after: None, revoked }
    }

    #[test]
    fn the_only_able_key_is_taken() {
        let keys = || vec![key("alice", 1), key("bob", 2), key("root", 3)];
        let grants = [
            grant(1, &[Role::Operator, Role::Publisher], false),
            grant(2, &[Role::Enroller], false),
        ];
        assert_eq!(pick(keys(), &grants, BOTH).unwrap().key.name.as_str(), "alice");
        let Err(Missing::Several(names)) = pick(keys(), &grants, INVITES) else { panic!() };
        assert_eq!(format::names(&names, 9), "alice, bob");
        let gone = [grant(1, &[Role::Operator, Role::Publisher], true)];
        assert!(matches!(pick(keys(), &gone, BOTH), Err(Missing::Power(_))));
        let half = [grant(1, &[Role::Operator], false)];
        assert!(matches!(pick(keys(), &half, BOTH), Err(Missing::Power(_))));
    }
}
