//! `p2pinst root rotate` and `p2pinst root show`

use std::collections::{BTreeMap, BTreeSet};

use p2pinst_trust::SecretKey;
use p2pinst_types::record::{Grant, RootDoc, Standing};
use p2pinst_types::{Kind, Name, PublicKey, codec, limits};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::format::{self, Table};
use crate::keystore::{Key, ROOT};
use crate::rootkeys::RootKeys;
use crate::signer::Signer;

/// Replace the cluster's root key
///
/// For a key that may be in wrong hands, or in too few. Signed with the keys of the present root
/// and of the new one, so it runs where they are. Whoever has power now keeps it (revoke before
/// who should not); the former root keys give none any more, and take none away. Machines that are
/// off catch up when they are back, also after several rotations. Afterwards export the new keys (`p2pinst key
/// export`), as those of before.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst root rotate
  p2pinst root rotate --new-key r1 --new-key r2 --new-key r3 --threshold 2")]
pub(crate) struct RotateArgs {
    /// A key of the new root, on this machine (`p2pinst key new NAME`) or as public key; may be
    /// repeated [default: a fresh one, called root-2 and on]
    #[arg(long = "new-key", value_name = "NAME|KEY")]
    new_keys: Vec<String>,
    /// How many of the new keys must sign [default: as before]
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u8).range(1..))]
    threshold: Option<u8>,
    /// Also when no other machine can be asked: grants that are not known here end, and a root that
    /// was replaced elsewhere meanwhile splits the cluster for good
    #[arg(long)]
    alone: bool,
}

/// Show the cluster's root: its version, its keys, how many must sign
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst root show")]
pub(crate) struct ShowArgs {}

#[derive(Serialize)]
struct Document {
    version: u64,
    in_force: u64,
    threshold: u8,
    keys: BTreeSet<PublicKey>,
    here: Vec<Name>,
}

#[derive(Serialize)]
struct Rotated {
    version: u64,
    threshold: u8,
    keys: BTreeSet<PublicKey>,
    here: Vec<Name>,
    standing: BTreeSet<Name>,
    peers: usize,
}

pub(super) async fn show(context: &Context) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let roots = RootKeys::find(context, &mut client, info.cluster).await?;
    let RootDoc { version, threshold, keys, .. } = roots.doc;
    let here: Vec<Name> = roots.here.iter().map(|k| k.name.clone()).collect();
    if context.json {
        let in_force = roots.in_force;
        return context.print_json(&Document { version, in_force, threshold, keys, here });
    }
    let mut table = Table::bare();
    let mut row = |what: &str, value: String| table.row([what.to_owned(), value]);
    row("version", version.to_string());
    row("in force", roots.in_force.to_string());
    row("threshold", format!("{threshold} of {}", keys.len()));
    for key in &keys {
        let name = roots.here.iter().find(|k| k.public() == *key);
        let name = name.map_or_else(String::new, |k| format!(" ({}, on this machine)", k.name));
        row("key", format!("{key}{name}"));
    }
    context.print(table.text(""))
}

pub(super) async fn rotate(context: &Context, args: RotateArgs) -> Result<(), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let mut before = RootKeys::find(context, &mut client, info.cluster).await?;
    before.ensure_enough(context, "replace the root")?;
    // the node asks others what is new: the list is of all that the cluster knows
    let key = before.here.remove(0);
    let mut signer = Signer::open(context, &mut client, key, info.cluster).await?;
    if !signer.is_fresh() && !args.alone {
        return Err(CliError::failed(
            "no other machine can be asked, and this one may not know of all grants",
        )
        .hint("repeat it when another machine is connected: p2pinst node ls")
        .hint("when there will be none again: --alone"));
    }
    let roots = RootKeys::find(context, &mut client, info.cluster).await?;
    roots.ensure_enough(context, "replace the root")?;
    if roots.doc != before.doc {
        return Err(CliError::failed("the root was replaced meanwhile")
            .hint(format!("see {}, and repeat the command", context.command("root show"))));
    }
    let standing = standing(&roots)?;
    let list = codec::encode(&standing)?;
    let version = roots.doc.version + 1;
    let New { keys, signers } = new_keys(context, &args.new_keys, version)?;
    let threshold = args.threshold.unwrap_or(roots.doc.threshold);
    ensure_possible(&keys, &signers, threshold)?;
    let doc = RootDoc {
        version,
        keys: keys.clone(),
        threshold,
        standing: Some(Standing::id(&list)),
        ..roots.doc.clone()
    };
    let old = roots.here.iter().map(|k| &k.secret);
    let all: Vec<&SecretKey> = old.chain(signers.iter().map(|k| &k.secret)).collect();
    let chain = roots.chain.rotate(&doc, &unique(&all))?;

    let former: Vec<Name> =
        roots.here.iter().filter(|k| !keys.contains(&k.public())).map(|k| k.name.clone()).collect();
    // by a key of the present root: the list goes before the root that names it
    let id = Standing::id(&list);
    signer.add_encoded(Kind::STANDING, id.0.as_slice(), list)?;
    let peers = signer.submit_roots(&mut client, chain.signed().to_vec()).await?.peers;

    let here: Vec<Name> = signers.iter().map(|k| k.name.clone()).collect();
    // of several to one key the newest, which comes last
    let powers: BTreeMap<PublicKey, &Grant> =
        roots.grants.iter().map(|(_, g)| (g.key, g)).collect();
    let names: BTreeSet<Name> = powers.values().map(|g| g.name.clone()).collect();
    explain(context, &doc, &here, &former, &names);
    if context.json {
        let standing = names;
        context.print_json(&Rotated { version, threshold, keys, here, standing, peers })?;
    }
    Ok(())
}

/// The list of what goes on: all grants that count, those that they replaced, under which things
/// were done, and what root keys have revoked.
fn standing(roots: &RootKeys) -> Result<Standing, CliError> {
    let standing = Standing {
        grants: roots.grants.iter().map(|(cell, _)| cell.hash()).collect(),
        revocations: roots.revocations.iter().map(p2pinst_types::Cell::hash).collect(),
    };
    if standing.cells() > limits::STANDING {
        let (n, most) = (standing.cells(), limits::STANDING);
        return Err(CliError::failed(format!(
            "the cluster has {n} grants and revocations by root keys, and a new root takes over at most {most}"
        ))
        .hint("grants that have expired or were replaced or revoked count, too: what was done under them would be void")
        .hint("found a new cluster when the root key is in wrong hands"));
    }
    Ok(standing)
}

/// The keys of the new root, and those of them that are here.
struct New {
    keys: BTreeSet<PublicKey>,
    signers: Vec<Key>,
}

fn new_keys(context: &Context, given: &[String], version: u64) -> Result<New, CliError> {
    let keystore = context.keystore();
    let mut new = New { keys: BTreeSet::new(), signers: Vec::new() };
    if given.is_empty() {
        let name: Name = format!("{ROOT}-{version}").parse().map_err(CliError::failed)?;
        // of an attempt that failed, or fresh
        if !keystore.has(&name) {
            keystore.add(&name, &SecretKey::generate()?)?;
        }
        let key = keystore.load(&name)?;
        new.keys.insert(key.public());
        new.signers.push(key);
        return Ok(new);
    }
    for text in given {
        let public = match text.parse::<PublicKey>() {
            Ok(public) => public,
            Err(_) => {
                let name: Name = text.parse().map_err(CliError::usage)?;
                let key = keystore.load(&name)?;
                let public = key.public();
                new.signers.push(key);
                public
            }
        };
        if !new.keys.insert(public) {
            return Err(CliError::usage(format!("the key {text} is given twice")));
        }
    }
    Ok(new)
}

fn ensure_possible(
    keys: &BTreeSet<PublicKey>,
    signers: &[Key],
    threshold: u8,
) -> Result<(), CliError> {
    let (all, need) = (keys.len(), usize::from(threshold));
    if all > limits::ROOT_KEYS {
        let most = limits::ROOT_KEYS;
        return Err(CliError::usage(format!("a root has at most {most} keys")));
    }
    if all < need {
        let given = format::count(all, "key");
        return Err(CliError::usage(format!(
            "{need} keys must sign, and the new root has {given}"
        ))
        .hint("name more with --new-key, or ask for fewer with --threshold"));
    }
    if signers.len() < need {
        let here = signers.len();
        return Err(CliError::failed(format!("{need} of the new keys must sign; {here} are here"))
            .hint(
                "make them here (p2pinst key new NAME) or bring them (p2pinst key import FILE)",
            ));
    }
    Ok(())
}

/// Each key once: one that stays in the root signs for both.
fn unique<'a>(keys: &[&'a SecretKey]) -> Vec<&'a SecretKey> {
    let mut seen = BTreeSet::new();
    keys.iter().copied().filter(|k| seen.insert(k.public())).collect()
}

fn explain(
    context: &Context,
    doc: &RootDoc,
    here: &[Name],
    former: &[Name],
    standing: &BTreeSet<Name>,
) {
    let RootDoc { version, threshold, keys, .. } = doc;
    let names: Vec<Name> = standing.iter().cloned().collect();
    context.tell(format_args!(
        "The cluster has root v{version}: {threshold} of {} must sign.\nThey keep their power: {}.",
        format::count(keys.len(), "key"),
        format::names(&names, 20)
    ));
    if !former.is_empty() {
        let list = format::names(former, 20);
        context.tell(format_args!("No power gives or takes any more: {list}."));
    }
    for name in here {
        let export = context.command(&format!("key export {name} FILE"));
        context.tell(format_args!("Keep a copy elsewhere: {export}"));
    }
}
