//! `p2pinst store`

use std::time::{SystemTime, UNIX_EPOCH};

use p2pinst_api::Client;
use p2pinst_api::request::{CheckBlob, CleanStore, ListStore, PinBlob};
use p2pinst_api::store::{CleanView, StoreView, StoredState, StoredView};
use p2pinst_types::{Hash, Millis};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::format::{self, Table};
use crate::handover;

/// Digits of a root that are shown.
const SHORT: usize = 16;

/// Look after the files that this machine keeps
#[derive(Debug, clap::Subcommand)]
pub(crate) enum StoreCommand {
    /// List the files in the store, why they are kept, and what they take
    #[command(after_long_help = "Example:\n  p2pinst store ls")]
    Ls,
    /// Remove what nobody needs, as far as the quota asks for it
    ///
    /// Also parts of files whose order is over. The node does the same by itself when there is too
    /// little room.
    #[command(after_long_help = "Examples:
  p2pinst store gc --dry-run
  p2pinst store gc --all")]
    Gc {
        /// Only show what would go
        #[arg(long)]
        dry_run: bool,
        /// Remove everything that nobody needs, room or not
        #[arg(long)]
        all: bool,
    },
    /// Read files back, and give up what the disk has damaged
    ///
    /// Damaged pieces are fetched again where somebody needs the file. Fails if anything was damaged.
    #[command(after_long_help = "Examples:
  p2pinst store verify
  p2pinst store verify 3f2a9c51")]
    Verify {
        /// Only this one: the beginning of its root [default: all]
        blob: Option<String>,
    },
    /// Keep a file, whether anybody needs it or not
    #[command(after_long_help = "Example:\n  p2pinst store pin 3f2a9c51")]
    Pin {
        /// The beginning of its root, a deployment (alice-42) or NAME=VERSION
        blob: String,
    },
    /// Let a file go when there is no room
    #[command(after_long_help = "Example:\n  p2pinst store unpin 3f2a9c51")]
    Unpin {
        /// The beginning of its root, a deployment (alice-42) or NAME=VERSION
        blob: String,
    },
}

#[derive(Serialize)]
struct Verified<'a> {
    blobs: &'a [VerifiedBlob],
    bytes: u64,
    damaged: u64,
}

#[derive(Serialize)]
struct VerifiedBlob {
    root: Hash,
    bytes: u64,
    damaged: u64,
    /// Whether damaged pieces are fetched again.
    needed: bool,
}

pub(super) async fn run(context: &Context, command: StoreCommand) -> Result<(), CliError> {
    let mut client = context.connect().await?;
    match command {
        StoreCommand::Ls => ls(context, &mut client).await,
        StoreCommand::Gc { dry_run, all } => {
            let view = client.call(CleanStore { dry_run, all }).await?;
            gc(context, &view, dry_run)
        }
        StoreCommand::Verify { blob } => verify(context, &mut client, blob.as_deref()).await,
        StoreCommand::Pin { blob } => pin(context, &mut client, blob, true).await,
        StoreCommand::Unpin { blob } => pin(context, &mut client, blob, false).await,
    }
}

/// Every blob, page by page.
async fn list(client: &mut Client) -> Result<StoreView, CliError> {
    let mut view = client.call(ListStore { after: None }).await?;
    while let Some(after) = view.next.take() {
        let page = client.call(ListStore { after: Some(after) }).await?;
        view.blobs.extend(page.blobs);
        view.next = page.next;
    }
    Ok(view)
}

async fn ls(context: &Context, client: &mut Client) -> Result<(), CliError> {
    let view = list(client).await?;
    if context.json {
        return context.print_json(&view);
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    context.print(table(&view, now))?;
    context.tell(totals(&view));
    Ok(())
}

fn short(root: &Hash) -> String {
    root.to_string().chars().take(SHORT).collect()
}

fn table(view: &StoreView, now: Millis) -> String {
    let mut table = Table::new(&["ROOT", "SIZE", "STATE", "USED", "KEPT FOR", "PACKAGE"]);
    for blob in &view.blobs {
        table.row([
            short(&blob.root),
            format::size(blob.size),
            state(blob),
            format::age(now.since(blob.used)),
            reasons(blob),
            format::names(&blob.releases, 2),
        ]);
    }
    table.text("")
}

fn state(blob: &StoredView) -> String {
    let percent = || u128::from(blob.have) * 100 / u128::from(blob.size.max(1));
    match blob.state {
        StoredState::Complete => "complete".to_owned(),
        StoredState::Part => format!("part {}%", percent()),
        StoredState::Damaged => format!("damaged {}%", percent()),
    }
}

fn reasons(blob: &StoredView) -> String {
    let mut reasons = Vec::new();
    if blob.pinned {
        reasons.push("pin".to_owned());
    }
    if !blob.orders.is_empty() {
        reasons.push(format::names(&blob.orders, 3));
    }
    let others =
        [(blob.fetching, "coming in"), (blob.serving, "going out"), (blob.fresh, "just came")];
    reasons.extend(others.into_iter().filter(|(is, _)| *is).map(|(_, why)| why.to_owned()));
    if reasons.is_empty() { "-".to_owned() } else { reasons.join(", ") }
}

fn totals(view: &StoreView) -> String {
    format!(
        "{} take {} of at most {} (quota {}); {} are free on the disk.",
        format::count(view.count, "file"),
        format::size(view.bytes),
        format::size(view.high),
        view.quota,
        format::size(view.free)
    )
}

fn gc(context: &Context, view: &CleanView, dry_run: bool) -> Result<(), CliError> {
    if context.json {
        return context.print_json(view);
    }
    let mut table = Table::bare();
    for blob in &view.removed {
        let what = if blob.complete { "file" } else { "part of a file" };
        table.row([short(&blob.root), format::size(blob.size), what.to_owned()]);
    }
    context.print(table.text(""))?;
    let would = if dry_run { "would be" } else { "are" };
    context.tell(format_args!(
        "{} {would} removed, {}; {} of at most {} {would} taken then.",
        format::count(view.count, "file"),
        format::size(view.before.saturating_sub(view.after)),
        format::size(view.after),
        format::size(view.high)
    ));
    Ok(())
}

async fn verify(
    context: &Context,
    client: &mut Client,
    blob: Option<&str>,
) -> Result<(), CliError> {
    const TEMPLATE: &str = "{msg} [{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}";
    let mut view = list(client).await?;
    if let Some(blob) = blob {
        view.blobs.retain(|b| blob.len() >= 4 && b.root.to_string().starts_with(blob));
        if view.blobs.is_empty() {
            return Err(CliError::failed(format!("no file in the store begins with {blob}"))
                .hint(format!("see them: {}", context.command("store ls"))));
        }
    }
    let bar = handover::bar(context, view.blobs.iter().map(|b| b.have).sum(), TEMPLATE, "reading");
    let mut done = Vec::new();
    for blob in &view.blobs {
        let mut sum = VerifiedBlob { root: blob.root, bytes: 0, damaged: 0, needed: false };
        let mut from = Some(0);
        while let Some(at) = from {
            let seen = client.call(CheckBlob { root: blob.root, from: at }).await?;
            sum.bytes += seen.bytes;
            sum.damaged += seen.damaged;
            sum.needed = seen.needed;
            from = seen.next;
            bar.inc(seen.bytes);
        }
        done.push(sum);
    }
    bar.finish_and_clear();
    report(context, &done)
}

fn report(context: &Context, done: &[VerifiedBlob]) -> Result<(), CliError> {
    let (bytes, damaged) =
        done.iter().fold((0, 0), |(b, d), blob| (b + blob.bytes, d + blob.damaged));
    if context.json {
        context.print_json(&Verified { blobs: done, bytes, damaged })?;
    } else {
        let mut table = Table::bare();
        for blob in done.iter().filter(|b| b.damaged > 0) {
            let pieces = usize::try_from(blob.damaged).unwrap_or(usize::MAX);
            let pieces = format::count(pieces, "damaged piece");
            let again = if blob.needed { "fetched again" } else { "nobody needs it" };
            table.row([short(&blob.root), pieces, again.to_owned()]);
        }
        context.print(table.text(""))?;
        let (files, size) = (format::count(done.len(), "file"), format::size(bytes));
        context.tell(format_args!("{files} were read, {size}."));
    }
    if damaged == 0 {
        return Ok(());
    }
    let pieces = format::count(usize::try_from(damaged).unwrap_or(usize::MAX), "piece");
    Err(CliError::failed(format!("the disk has damaged {pieces}"))
        .hint("look at the disk: dmesg, smartctl -a"))
}

async fn pin(
    context: &Context,
    client: &mut Client,
    blob: String,
    pin: bool,
) -> Result<(), CliError> {
    let view = client.call(PinBlob { blob, pin }).await?;
    if context.json {
        return context.print_json(&view);
    }
    context.tell(match (pin, view.changed) {
        (true, true) => format!("{} is pinned.", short(&view.root)),
        (true, false) => format!("{} was pinned before.", short(&view.root)),
        (false, true) => format!("{} is pinned no more.", short(&view.root)),
        (false, false) => format!("{} was not pinned.", short(&view.root)),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(root: u8, state: StoredState, have: u64) -> StoredView {
        StoredView {
            root: Hash([root; 32]),
            size: 1 << 20,
            state,
            have,
            pinned: false,
            orders: vec![],
            fetching: false,
            serving: false,
            fresh: false,
            used: Millis(0),
            releases: vec![],
        }
    }

    #[test]
    fn every_file_says_why_it_is_there() {
        let mut needed = blob(1, StoredState::Complete, 1 << 20);
        needed.pinned = true;
        needed.orders = vec!["alice-1".to_owned()];
        needed.releases = vec!["hello 1.0 all".to_owned()];
        let mut part = blob(2, StoredState::Part, 1 << 19);
        part.fetching = true;
        let damaged = blob(3, StoredState::Damaged, 0);
        let view = StoreView {
            blobs: vec![needed, part, damaged],
            next: None,
            count: 3,
            bytes: 3 << 20,
            free: 1 << 30,
            high: 800 << 20,
            low: 700 << 20,
            quota: "80%".to_owned(),
        };
        let want = "\
ROOT              SIZE     STATE       USED  KEPT FOR      PACKAGE
0101010101010101  1.0 MiB  complete    2m    pin, alice-1  hello 1.0 all
0202020202020202  1.0 MiB  part 50%    2m    coming in
0303030303030303  1.0 MiB  damaged 0%  2m    -
";
        assert_eq!(table(&view, Millis(120_000)), want);
        let totals = totals(&view);
        assert!(totals.starts_with("3 files take 3.0 MiB of at most 800.0 MiB"), "{totals}");
    }
}
