//! `p2pinst grant`

use std::collections::BTreeSet;
use std::time::Duration;

use p2pinst_api::Client;
use p2pinst_api::request::Grants;
use p2pinst_api::view::GrantView;
use p2pinst_types::record::{Grant, Role};
use p2pinst_types::{Kind, Millis, Name, PublicKey};
use serde::Serialize;

use crate::args;
use crate::commands::roster;
use crate::context::Context;
use crate::error::CliError;
use crate::rootkeys::RootKeys;
use crate::signer::Signer;

/// Give a key power over the cluster
///
/// Signed with the cluster's root key, so it runs where that is (`p2pinst key import` brings it
/// back); with as many of its keys as it needs, where it has several. The roles: operator (says who gets what), publisher (says what is good), enroller
/// (invites only), boot, power. An administrator who publishes needs operator and publisher.
/// Granting again to the same key replaces what it had.
///
/// boot and power are for machines, which are named by their names: one with boot certifies the machines
/// that are installed over the network, one with power switches the power of others.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst grant 3b6a27bc… --name alice --role operator --role publisher
  p2pinst grant n2 --role boot --role power")]
pub(crate) struct GrantArgs {
    /// The public key, as `p2pinst key new` printed it; or the name of a machine, whose node gets the power
    #[arg(value_name = "KEY|NODE")]
    to: String,
    /// The key's name, unique in the cluster [default: op- and the key's first six digits]
    #[arg(long)]
    name: Option<Name>,
    /// What the key may do; may be repeated
    #[arg(long = "role", value_name = "ROLE", required = true)]
    roles: Vec<Role>,
    /// How long: 24h, 90d [default: until revoked]
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    ttl: Option<Duration>,
}

#[derive(Serialize)]
struct Document {
    key: PublicKey,
    name: Name,
    roles: BTreeSet<Role>,
    not_after: Option<Millis>,
    peers: usize,
}

pub(super) async fn run(context: &Context, args: GrantArgs) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let mut roots = RootKeys::find(context, &mut client, info.cluster).await?;
    let root = roots.take_signer(context)?;
    let grants = client.call(Grants {}).await?;
    let (key, known) = receiver(context, &mut client, &args.to).await?;
    let name = name(args.name.clone().or(known), key, &grants)?;

    let mut signer = Signer::open(context, &mut client, root, info.cluster).await?;
    let grant = Grant {
        key,
        name,
        roles: args.roles.into_iter().collect(),
        not_after: args.ttl.map(|ttl| signer.now().after(ttl)),
        cosigned: Vec::new(),
    };
    let grant = roots.cosign(grant);
    signer.add(Kind::GRANT, grant.key.as_bytes(), &grant)?;
    let peers = signer.submit(&mut client).await?.peers;

    let Grant { key, name, roles, not_after, .. } = grant;
    let list = roles.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(", ");
    let until = not_after.map_or_else(|| "until revoked".to_owned(), |t| format!("until {t}"));
    context.tell(format_args!("{name} ({}) is now {list}, {until}.", key.short()));
    if context.json {
        context.print_json(&Document { key, name, roles, not_after, peers })?;
    }
    Ok(())
}

/// A key, or the key of a machine's node and the machine's name.
async fn receiver(
    context: &Context,
    client: &mut Client,
    to: &str,
) -> Result<(PublicKey, Option<Name>), CliError> {
    if let Ok(key) = to.parse() {
        return Ok((key, None));
    }
    let nodes = client.nodes(false).await?;
    let node = roster::find(context, &nodes, to)
        .map_err(|e| e.hint("or give a public key, 64 hexadecimal digits"))?;
    Ok((node.id.0, Some(node.name.clone())))
}

/// The name given, the one the key has already, or one made of the key.
fn name(given: Option<Name>, key: PublicKey, grants: &[GrantView]) -> Result<Name, CliError> {
    let known = grants.iter().find(|g| g.key == key).map(|g| g.name.clone());
    let name = match given.or(known) {
        Some(name) => name,
        None => {
            let digits: String = key.to_string().chars().take(6).collect();
            format!("op-{digits}").parse().map_err(CliError::failed)?
        }
    };
    match grants.iter().find(|g| g.name == name && g.key != key) {
        None => Ok(name),
        Some(other) => {
            let key = other.key.short();
            Err(CliError::failed(format!("another key ({key}) is called {name} already"))
                .hint("deployments are named after keys: choose another name with --name"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_stay() {
        let of = |given: Option<&str>, grants: &[GrantView]| {
            name(given.map(|n| n.parse().unwrap()), PublicKey([0xab; 32]), grants)
        };
        let grant = |name: &str, key| GrantView {
            name: name.parse().unwrap(),
            key: PublicKey([key; 32]),
            roles: vec![],
            not_after: None,
            revoked: false,
        };
        assert_eq!(of(None, &[]).unwrap().as_str(), "op-ababab");
        assert_eq!(of(None, &[grant("alice", 0xab)]).unwrap().as_str(), "alice");
        assert_eq!(of(Some("bob"), &[grant("alice", 0xab)]).unwrap().as_str(), "bob");
        assert!(of(Some("bob"), &[grant("bob", 1)]).is_err());
    }
}
