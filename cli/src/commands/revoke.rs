//! `p2pinst revoke`

use p2pinst_api::Client;
use p2pinst_api::request::Grants;
use p2pinst_api::view::NodeInfo;
use p2pinst_types::record::{Revocation, Role};
use p2pinst_types::{Kind, Name, PublicKey};
use serde::Serialize;

use crate::args;
use crate::choose::{self, Need};
use crate::context::Context;
use crate::error::CliError;
use crate::format;
use crate::keystore::Key;
use crate::rootkeys::RootKeys;
use crate::signer::Signer;

/// Digits of a key that are enough to name it.
const DIGITS: usize = 8;

/// Take back what a key may do: an administrator's power, an invite, a machine's membership
///
/// What the key did before stands. An administrator's key is revoked by the cluster's root key, so
/// that runs where one of its keys is; invites and machines by any operator. Nothing that was
/// revoked comes back: make a new key, invite anew.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst revoke bob --reason 'has left the lab'
  p2pinst revoke 3b6a27bc        (an invite, as `p2pinst invite ls` shows it)")]
pub(crate) struct RevokeArgs {
    /// The name of an administrator's key or of a machine, or a key: all of its digits or the
    /// first eight
    #[arg(value_name = "KEY|NAME")]
    target: String,
    /// Why, for people
    #[arg(long, value_name = "TEXT", value_parser = args::reason, default_value = "", hide_default_value = true)]
    reason: String,
    /// The key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// What a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Grant,
    Machine,
    Invite,
}

#[derive(Debug, Clone)]
struct Target {
    what: What,
    key: PublicKey,
    name: String,
    revoked: bool,
}

#[derive(Serialize)]
struct Document {
    what: What,
    key: PublicKey,
    name: String,
    peers: usize,
}

pub(super) async fn run(context: &Context, args: RevokeArgs) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let all = targets(&mut client).await?;
    let Target { what, key, name, revoked } = pick(context, all, &args.target)?;
    if revoked {
        return Err(CliError::failed(format!("{name} is revoked already")));
    }
    let signing = signer(context, &mut client, args.key.as_ref(), what, &info).await?;
    let mut signer = Signer::open(context, &mut client, signing, info.cluster).await?;
    let record = Revocation { key, last_good: None, reason: args.reason };
    signer.add(Kind::REVOCATION, key.as_bytes(), &record)?;
    let peers = signer.submit(&mut client).await?.peers;
    let what_it_was = match what {
        What::Grant => "has no power any more",
        What::Machine => "is no member any more",
        What::Invite => "lets nobody in any more",
    };
    context.tell(format_args!("{name} {what_it_was}; {} told.", format::count(peers, "peer")));
    if context.json {
        context.print_json(&Document { what, key, name, peers })?;
    }
    Ok(())
}

async fn targets(client: &mut Client) -> Result<Vec<Target>, CliError> {
    let grants = client.call(Grants {}).await?.into_iter().map(|g| Target {
        what: What::Grant,
        key: g.key,
        name: g.name.to_string(),
        revoked: g.revoked,
    });
    let mut all: Vec<Target> = grants.collect();
    all.extend(client.nodes(false).await?.into_iter().map(|n| Target {
        what: What::Machine,
        key: n.id.0,
        name: n.name.to_string(),
        revoked: false,
    }));
    all.extend(client.invites().await?.into_iter().map(|i| Target {
        what: What::Invite,
        key: i.invite,
        name: format!("the invite {}", i.invite.short()),
        revoked: i.revoked,
    }));
    Ok(all)
}

fn pick(context: &Context, all: Vec<Target>, text: &str) -> Result<Target, CliError> {
    let by_key = |t: &Target| text.len() >= DIGITS && t.key.to_string().starts_with(text);
    let mut found: Vec<Target> = all.into_iter().filter(|t| t.name == text || by_key(t)).collect();
    match (found.pop(), found.as_slice()) {
        (Some(one), []) => Ok(one),
        (Some(last), [first, ..]) => {
            let (a, b) = (first.key.short(), last.key.short());
            let (what_a, what_b) = (words(first.what), words(last.what));
            Err(CliError::failed(format!("{text} is {what_a} ({a}) and {what_b} ({b})"))
                .hint("name it by more of its key"))
        }
        (None, _) => Err(CliError::failed(format!("nothing is called {text:?}"))
            .hint(format!("machines: {}", context.command("node ls")))
            .hint(format!("invites: {}", context.command("invite ls")))
            .hint(format!("a key is named by {DIGITS} digits or more"))),
    }
}

fn words(what: What) -> &'static str {
    match what {
        What::Grant => "an administrator's key",
        What::Machine => "a machine",
        What::Invite => "an invite",
    }
}

/// R16: the root revokes what it granted, operators the rest.
async fn signer(
    context: &Context,
    client: &mut Client,
    named: Option<&Name>,
    what: What,
    info: &NodeInfo,
) -> Result<Key, CliError> {
    if what != What::Grant {
        return Ok(choose::key(context, client, named, Need::All(&[Role::Operator])).await?.key);
    }
    let roots = RootKeys::find(context, client, info.cluster).await?;
    let fits = |k: &Key| named.is_none_or(|n| k.name == *n);
    // one key of the root is enough to take power away
    match roots.here.into_iter().find(fits) {
        Some(key) => Ok(key),
        None => Err(CliError::failed(
            "only a root key of the cluster takes power away, and none is on this machine",
        )
        .hint(format!("bring it back from its export: {}", context.command("key import FILE")))),
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_api::DataDir;

    use super::*;

    #[test]
    fn a_target_is_one_thing() {
        let context = Context { dir: DataDir::new("d"), json: false };
        let target = |what, byte, name: &str| Target {
            what,
            key: PublicKey([byte; 32]),
            name: name.to_owned(),
            revoked: false,
        };
        let all = || {
            vec![
                target(What::Grant, 1, "alice"),
                target(What::Machine, 2, "alice"),
                target(What::Invite, 3, "the invite 03030303"),
            ]
        };
        let found = |text: &str| pick(&context, all(), text).map(|t| t.what);
        assert!(found("alice").unwrap_err().error.contains("a machine"));
        assert_eq!(found("02020202").unwrap(), What::Machine);
        assert_eq!(found(&"03".repeat(32)).unwrap(), What::Invite);
        for none in ["bob", "0202", "04040404", ""] {
            assert!(found(none).unwrap_err().error.contains("nothing is called"));
        }
    }
}
