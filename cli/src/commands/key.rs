//! `p2pinst key`

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use p2pinst_api::request::Grants;
use p2pinst_api::view::GrantView;
use p2pinst_files::Access;
use p2pinst_trust::{SecretKey, seal};
use p2pinst_types::{Name, PublicKey};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::args;
use crate::context::Context;
use crate::error::CliError;
use crate::format::Table;
use crate::keystore::{Key, Keystore, ROOT};
use crate::rootkeys::RootKeys;

/// Longest passphrase file, in bytes.
const PASSPHRASE_MAX: u64 = 4096;

/// Make, list, export and import administrators' keys
///
/// A key lives on one machine, in keys/ in the data directory, and only the command line opens
/// it. A second administrator makes a key of their own (key new) and is given power over the
/// cluster (grant).
#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeyCommand {
    New(NewArgs),
    Ls(LsArgs),
    Export(ExportArgs),
    Import(ImportArgs),
}

/// Make a key, and print its public half
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst key new alice")]
pub(crate) struct NewArgs {
    /// The key's name [default: your user name or this machine's, with a number if that is taken]
    name: Option<Name>,
}

/// List the keys on this machine, and what they may do
///
/// The roles are shown when the node runs.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst key ls")]
pub(crate) struct LsArgs {}

/// Write a key to a file, sealed with a passphrase
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:
  p2pinst key export root /media/usb/root.key --remove")]
pub(crate) struct ExportArgs {
    /// The key
    name: Name,
    /// Where to: a file that does not exist yet, or - for stdout
    file: PathBuf,
    /// Remove the key from this machine, once the file is on the disk and can be opened
    #[arg(long)]
    remove: bool,
    /// Read the passphrase from a file (its first line) in place of the terminal
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Take in a key that `key export` wrote
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst key import /media/usb/root.key")]
pub(crate) struct ImportArgs {
    /// The file, or - for stdin
    file: PathBuf,
    /// Another name for the key [default: as it was]
    #[arg(long)]
    name: Option<Name>,
    /// Read the passphrase from a file (its first line) in place of the terminal
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Line {
    name: Name,
    key: PublicKey,
    /// `None`: unknown, the node does not answer.
    roles: Option<Vec<String>>,
}

#[derive(Serialize)]
struct List {
    keys: Vec<Line>,
}

#[derive(Serialize)]
struct OneKey {
    name: Name,
    key: PublicKey,
}

#[derive(Serialize)]
struct Exported {
    name: Name,
    key: PublicKey,
    file: String,
    removed: bool,
}

pub(super) async fn run(context: &Context, command: KeyCommand) -> Result<(), CliError> {
    match command {
        KeyCommand::New(args) => new(context, args),
        KeyCommand::Ls(LsArgs {}) => list(context).await,
        KeyCommand::Export(args) => export(context, args),
        KeyCommand::Import(args) => import(context, args),
    }
}

fn new(context: &Context, args: NewArgs) -> Result<(), CliError> {
    let name = match args.name {
        Some(name) => name,
        None => default_name(&context.keystore())?,
    };
    refuse_root(&name)?;
    let secret = SecretKey::generate()?;
    let key = secret.public();
    context.keystore().add(&name, &secret)?;
    if context.json {
        return context.print_json(&OneKey { name, key });
    }
    context.tell(format_args!(
        "The key {name} has no power yet. Where the root key is:\n  \
         p2pinst grant {key} --name {name} --role operator --role publisher"
    ));
    context.print(format_args!("{key}\n"))
}

/// The name of whoever runs the command, else the host's; the first of `alice`, `alice-2`,
/// `alice-3` that is free.
fn default_name(keystore: &Keystore) -> Result<Name, CliError> {
    let not_root = |name: &Name| name.as_str() != ROOT;
    let base = args::user().or_else(args::hostname).filter(not_root);
    let base = base.map_or_else(|| "admin".to_owned(), |name| name.to_string());
    let numbered = |n: usize| {
        let tail = if n == 1 { String::new() } else { format!("-{n}") };
        let head: String = base.chars().take(Name::MAX.saturating_sub(tail.len())).collect();
        format!("{head}{tail}").parse::<Name>()
    };
    let taken = keystore.names()?.len();
    // of one more name than there are keys, one is free
    (1..=taken.saturating_add(1))
        .filter_map(|n| numbered(n).ok())
        .find(|name| !keystore.has(name))
        .ok_or_else(|| {
            CliError::failed("no name for the key").hint("name it: p2pinst key new NAME")
        })
}

fn refuse_root(name: &Name) -> Result<(), CliError> {
    if name.as_str() != ROOT {
        return Ok(());
    }
    Err(CliError::failed("root is the name of the cluster's root key").hint("choose another name"))
}

async fn list(context: &Context) -> Result<(), CliError> {
    let keys = context.keystore().all()?;
    let powers = match powers(context).await {
        Ok(powers) => Some(powers),
        Err(e) => {
            context.tell(format_args!("The roles are not known: {}.", e.error));
            None
        }
    };
    let roles =
        |key: &Key| powers.as_ref().map(|(grants, root)| roles(grants, root, &key.public()));
    let line = |k: &Key| Line { name: k.name.clone(), key: k.public(), roles: roles(k) };
    let keys: Vec<Line> = keys.iter().map(line).collect();
    if context.json {
        return context.print_json(&List { keys });
    }
    let mut table = Table::new(&["NAME", "KEY", "ROLES"]);
    for line in keys {
        let roles = match line.roles {
            None => "?".to_owned(),
            Some(roles) if roles.is_empty() => "-".to_owned(),
            Some(roles) => roles.join(","),
        };
        table.row([line.name.to_string(), line.key.to_string(), roles]);
    }
    context.print(table.text(""))
}

/// The grants, and the keys of the present root.
async fn powers(context: &Context) -> Result<(Vec<GrantView>, BTreeSet<PublicKey>), CliError> {
    let (mut client, info) = context.connect_info().await?;
    let grants = client.call(Grants {}).await?;
    let roots = RootKeys::find(context, &mut client, info.cluster).await?;
    Ok((grants, roots.doc.keys))
}

fn roles(grants: &[GrantView], root: &BTreeSet<PublicKey>, key: &PublicKey) -> Vec<String> {
    let own = grants.iter().filter(|g| g.key == *key && !g.revoked);
    let granted = own.flat_map(|g| g.roles.iter().map(ToString::to_string));
    root.contains(key).then(|| ROOT.to_owned()).into_iter().chain(granted).collect()
}

fn is_stream(file: &Path) -> bool {
    file == Path::new("-")
}

fn export(context: &Context, args: ExportArgs) -> Result<(), CliError> {
    if args.remove && is_stream(&args.file) {
        return Err(CliError::usage("--remove needs a file: nobody knows where stdout goes"));
    }
    let keystore = context.keystore();
    let key = keystore.load(&args.name)?;
    let shown = args.file.display().to_string();
    if !is_stream(&args.file) && fs::symlink_metadata(&args.file).is_ok() {
        return Err(CliError::failed(format!("{shown} exists already"))
            .hint("name a new file: an export is never overwritten"));
    }
    let passphrase = passphrase(args.passphrase_file.as_deref(), true)?;
    let text = seal::seal(&key.name, &key.secret, &passphrase)?;
    if is_stream(&args.file) {
        return context.print(text);
    }
    p2pinst_files::write(&args.file, text.as_bytes(), Access::Private)?;
    let written = read_sealed(&args.file)?;
    let (_, back) = seal::open(&written, &passphrase)?;
    if back.public() != key.public() {
        return Err(CliError::failed(format!("{shown} does not hold what was written to it"))
            .hint("the disk may be failing: export to another one"));
    }
    if args.remove {
        keystore.remove(&key.name)?;
    }
    let gone = if args.remove { " It is no longer on this machine." } else { "" };
    context.tell(format_args!(
        "The key {} is in {shown}, sealed with the passphrase.{gone}\n\
         To bring it back: {}",
        key.name,
        context.command(&format!("key import {shown}"))
    ));
    if context.json {
        let public = key.public();
        let document = Exported { name: key.name, key: public, file: shown, removed: args.remove };
        context.print_json(&document)?;
    }
    Ok(())
}

fn import(context: &Context, args: ImportArgs) -> Result<(), CliError> {
    let sealed = read_sealed(&args.file)?;
    let passphrase = passphrase(args.passphrase_file.as_deref(), false)?;
    let (own_name, secret) = seal::open(&sealed, &passphrase)?;
    let (name, key) = (args.name.unwrap_or(own_name), secret.public());
    let keystore = context.keystore();
    if keystore.has(&name) && keystore.load(&name)?.public() == key {
        context.tell(format_args!("The key {name} is on this machine already."));
    } else {
        keystore.add(&name, &secret)?;
        context.tell(format_args!("The key {name} ({}) is on this machine now.", key.short()));
    }
    if context.json {
        context.print_json(&OneKey { name, key })?;
    }
    Ok(())
}

fn read_sealed(file: &Path) -> Result<String, CliError> {
    let bytes = if is_stream(file) {
        let mut bytes = Vec::new();
        let read = io::stdin().take(seal::MAX).read_to_end(&mut bytes);
        read.map_err(|e| CliError::failed(format!("cannot read stdin: {e}")))?;
        bytes
    } else {
        p2pinst_files::read(file, seal::MAX)?
    };
    String::from_utf8(bytes).map_err(|_| seal::SealError::NotSealed.into())
}

/// The passphrase, from a file or the terminal; asked for twice when it is a new one.
fn passphrase(file: Option<&Path>, new: bool) -> Result<Zeroizing<String>, CliError> {
    let text = match file {
        Some(file) => {
            first_line(&Zeroizing::new(p2pinst_files::read_private(file, PASSPHRASE_MAX)?))?
        }
        None => {
            let text = ask(if new { "New passphrase: " } else { "Passphrase: " })?;
            if new && *ask("The same again: ")? != *text {
                return Err(CliError::failed("the two passphrases differ").hint("try again"));
            }
            text
        }
    };
    if text.is_empty() {
        return Err(CliError::failed("the passphrase is empty").hint("choose a long one"));
    }
    Ok(text)
}

fn first_line(bytes: &[u8]) -> Result<Zeroizing<String>, CliError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| CliError::failed("the passphrase file is not text (UTF-8)"))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, CliError> {
    rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|e| {
        CliError::failed(format!("cannot ask for the passphrase: {e}"))
            .hint("without a terminal, use --passphrase-file FILE")
    })
}
