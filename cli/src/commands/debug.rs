//! `p2pinst debug`: the inside of this machine's node.

use p2pinst_api::inspect::{CellPage, KeyPage, PeerView};
use p2pinst_api::request::{CellBytes, DebugCells, DebugKeys, DebugPeers, Info};
use p2pinst_types::cell::FORMAT_CBOR;
use p2pinst_types::record::{
    Admission, Adoption, Assignment, BootStatus, Controller, Deployment, Disarmament, Grant, Group,
    GroupEdit, GroupPolicy, HistorySegment, Image, ImageRemoval, Inventory, Invite, LabelEdit,
    MachineName, NodeRecord, PowerOrder, PowerStatus, Release, Resealed, Retirement, Revocation,
    Setup, Sighting, Standing, Status,
};
use p2pinst_types::{Cell, Hlc, Kind, Millis, NodeId, PublicKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::context::{Context, cluster_now};
use crate::error::CliError;
use crate::format::{self, Table};

/// Look into this machine's node, to find a mistake
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DebugCommand {
    Cells(CellsArgs),
    Peers(PeersArgs),
    Keys(KeysArgs),
}

/// Show the cells that this node holds
///
/// A cell is the unit of replicated state: one signed, versioned value with one writer. The newest
/// version of each is held.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst debug cells --kind status --subject alice-42
  p2pinst debug cells --author n2 --json")]
pub(crate) struct CellsArgs {
    /// Only of this kind: status, history, node-record, deployment, … or a number
    #[arg(long)]
    kind: Option<String>,
    /// Only of this machine, deployment or group, or whose subject begins so (hexadecimal)
    #[arg(long, value_name = "NAME|HEX")]
    subject: Option<String>,
    /// Only by this machine or key (its name, or the key itself)
    #[arg(long, value_name = "NAME|KEY")]
    author: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Go on where an earlier page has ended
    #[arg(long, value_name = "HEX", value_parser = place)]
    from: Option<Place>,
}

/// Show the nodes that this node knows, and what was exchanged with them
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst debug peers")]
pub(crate) struct PeersArgs {}

/// Show the subjects of which this node holds records for others
///
/// Histories, statuses and node records lie on the nodes that are closest to their key.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst debug keys --limit 20")]
pub(crate) struct KeysArgs {
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

/// Where a page begins.
#[derive(Debug, Clone)]
struct Place(Vec<u8>);

fn place(text: &str) -> Result<Place, String> {
    let wrong = || "it is not what a page has ended with".to_owned();
    let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
    if text.len() > 512 || !text.len().is_multiple_of(2) || !digits {
        return Err(wrong());
    }
    let byte = |i: usize| text.get(i..i + 2).and_then(|d| u8::from_str_radix(d, 16).ok());
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
    bytes.map(Place).ok_or_else(wrong)
}

pub(super) async fn run(context: &Context, command: DebugCommand) -> Result<(), CliError> {
    let mut client = context.connect().await?;
    match command {
        DebugCommand::Cells(CellsArgs { kind, subject, author, limit, from }) => {
            let from = from.map(|p| p.0);
            let ask = DebugCells { kind, subject, author, limit, from };
            cells(context, &client.call(ask).await?)
        }
        DebugCommand::Peers(_) => {
            let now = cluster_now(&client.call(Info {}).await?);
            peers(context, &client.call(DebugPeers {}).await?, now)
        }
        DebugCommand::Keys(args) => {
            keys(context, &client.call(DebugKeys { limit: args.limit }).await?)
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A subject for people: a name where it is one.
fn readable(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).ok();
    let name = text.filter(|t| !t.is_empty() && t.chars().all(|c| c.is_ascii_graphic()));
    name.map_or_else(|| hex(bytes), ToOwned::to_owned)
}

#[derive(Debug, Serialize)]
struct CellLine {
    kind: String,
    kind_number: u16,
    subject: String,
    slot: String,
    author: PublicKey,
    incarnation: u64,
    seq: u64,
    at: Millis,
    hlc: Hlc,
    size: usize,
    /// `None`: this version does not understand it.
    payload: Option<Value>,
}

fn value<T: DeserializeOwned + Serialize>(cell: &Cell) -> Option<Value> {
    serde_json::to_value(cell.record::<T>().ok()?).ok()
}

/// The payload, decoded.
fn payload(cell: &Cell) -> Option<Value> {
    if cell.format != FORMAT_CBOR {
        return None;
    }
    match cell.id.kind {
        Kind::GRANT => value::<Grant>(cell),
        Kind::INVITE => value::<Invite>(cell),
        Kind::ADMISSION => value::<Admission>(cell),
        Kind::REVOCATION => value::<Revocation>(cell),
        Kind::GROUP => value::<Group>(cell),
        Kind::GROUP_EDIT => value::<GroupEdit>(cell),
        Kind::GROUP_POLICY => value::<GroupPolicy>(cell),
        Kind::LABEL => value::<LabelEdit>(cell),
        Kind::MACHINE_NAME => value::<MachineName>(cell),
        Kind::RELEASE => value::<Release>(cell),
        Kind::DEPLOYMENT => value::<Deployment>(cell),
        Kind::RETIREMENT => value::<Retirement>(cell),
        Kind::STANDING => value::<Standing>(cell),
        Kind::ADOPTION => value::<Adoption>(cell),
        Kind::IMAGE => value::<Image>(cell),
        Kind::IMAGE_REMOVAL => value::<ImageRemoval>(cell),
        Kind::SETUP => value::<Setup>(cell),
        Kind::ASSIGNMENT => value::<Assignment>(cell),
        Kind::DISARMAMENT => value::<Disarmament>(cell),
        Kind::SIGHTING => value::<Sighting>(cell),
        Kind::BOOT_STATUS => value::<BootStatus>(cell),
        Kind::INVENTORY => value::<Inventory>(cell),
        Kind::CONTROLLER => value::<Controller>(cell),
        Kind::POWER_ORDER => value::<PowerOrder>(cell),
        Kind::RESEALED => value::<Resealed>(cell),
        Kind::POWER_STATUS => value::<PowerStatus>(cell),
        Kind::NODE_RECORD => value::<NodeRecord>(cell),
        Kind::HISTORY => value::<HistorySegment>(cell),
        Kind::STATUS => value::<Status>(cell),
        _ => None,
    }
}

fn line(cell: &Cell) -> CellLine {
    CellLine {
        kind: cell.id.kind.to_string(),
        kind_number: cell.id.kind.0,
        subject: hex(&cell.id.subject),
        slot: hex(&cell.id.slot),
        author: cell.id.author,
        incarnation: cell.version.incarnation,
        seq: cell.version.seq,
        at: cell.hlc.millis(),
        hlc: cell.hlc,
        size: cell.bytes().len(),
        payload: payload(cell),
    }
}

fn cells(context: &Context, page: &CellPage) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct Document {
        cells: Vec<CellLine>,
        next: Option<String>,
    }
    let parsed: Vec<Cell> =
        page.cells.iter().filter_map(|CellBytes(b)| Cell::parse(b.clone()).ok()).collect();
    let next = page.next.as_deref().map(hex);
    if context.json {
        return context.print_json(&Document { cells: parsed.iter().map(line).collect(), next });
    }
    let mut table =
        Table::new(&["KIND", "SUBJECT", "SLOT", "AUTHOR", "VERSION", "WRITTEN", "SIZE", "PAYLOAD"]);
    for cell in &parsed {
        let decoded = payload(cell).map_or_else(|| "?".to_owned(), |v| v.to_string());
        table.row([
            cell.id.kind.to_string(),
            readable(&cell.id.subject),
            hex(&cell.id.slot),
            cell.id.author.short(),
            format!("{}.{}", cell.version.incarnation, cell.version.seq),
            cell.hlc.to_string(),
            cell.bytes().len().to_string(),
            decoded,
        ]);
    }
    context.print(table.text_within("", format::width()))?;
    if let Some(next) = next {
        context.tell(format_args!("There may be more: add --from {next}"));
    }
    Ok(())
}

fn peers(context: &Context, peers: &[PeerView], now: Millis) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct Document<'a> {
        peers: &'a [PeerView],
    }
    if context.json {
        return context.print_json(&Document { peers });
    }
    let mut table =
        Table::new(&["NAME", "NODE", "STATE", "INCARNATION", "ASKED", "ANSWERED", "ADDRESSES"]);
    for peer in peers {
        table.row([
            peer.name.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string),
            peer.id.short(),
            format::liveness(peer.up, peer.since, now),
            peer.incarnation.to_string(),
            peer.asked.to_string(),
            peer.answered.to_string(),
            format::names(&peer.addrs, 2),
        ]);
    }
    context.print(table.text(""))
}

fn keys(context: &Context, page: &KeyPage) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct KeyLine<'a> {
        kind: String,
        subject: String,
        place: String,
        replicas: &'a [NodeId],
        here: bool,
        cells: usize,
        bytes: u64,
    }
    #[derive(Serialize)]
    struct Document<'a> {
        keys: Vec<KeyLine<'a>>,
        more: usize,
    }
    if context.json {
        let lines = page.keys.iter().map(|k| KeyLine {
            kind: k.kind.to_string(),
            subject: hex(&k.subject),
            place: k.place.to_string(),
            replicas: &k.replicas,
            here: k.here,
            cells: k.cells,
            bytes: k.bytes,
        });
        return context.print_json(&Document { keys: lines.collect(), more: page.more });
    }
    let mut table = Table::new(&["KIND", "SUBJECT", "PLACE", "HERE", "CELLS", "BYTES", "REPLICAS"]);
    for key in &page.keys {
        let replicas: Vec<String> = key.replicas.iter().map(NodeId::short).collect();
        table.row([
            key.kind.to_string(),
            hex(&key.subject),
            key.place.short(),
            if key.here { "yes" } else { "no" }.to_owned(),
            key.cells.to_string(),
            key.bytes.to_string(),
            format::names(&replicas, 8),
        ]);
    }
    context.print(table.text_within("", format::width()))?;
    if page.more > 0 {
        context.tell(format_args!("And {} more: give a higher --limit.", page.more));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_names() {
        assert_eq!(place("80030a").unwrap().0, [0x80, 3, 10]);
        for bad in ["8", "zz", "é1", "+1"] {
            assert!(place(bad).is_err(), "{bad}");
        }
        assert_eq!(readable(b"gpu"), "gpu");
        assert_eq!(readable(&[0, 255]), "00ff");
        assert_eq!(readable(b""), "");
    }
}
