//! `p2pinst swarm`

use std::io::{self, IsTerminal};
use std::time::Duration;

use p2pinst_api::ClientError;
use p2pinst_api::request::{ErrorKind, Swarm};
use p2pinst_api::swarm::{BlobSwarm, SwarmMember, SwarmPeer, SwarmView};

use crate::context::Context;
use crate::error::CliError;
use crate::follow::Link;
use crate::format::{self, Table};
use crate::screen::screen;
use crate::spread;

/// How often a watched swarm is looked at.
const PAUSE: Duration = Duration::from_secs(1);

/// Show how a file spreads, live
///
/// Its machines are asked how far they are (of large groups up to 256). Without a name: all files
/// that this machine's node fetches or serves now.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst swarm --watch
  p2pinst swarm alice-42")]
pub(crate) struct SwarmArgs {
    /// A deployment, by name (alice-42) or the beginning of its id; or the beginning of a file's
    /// blake3 hash
    what: Option<String>,
    /// Show also what this machine's node exchanges with each of its peers
    #[arg(long)]
    peers: bool,
    /// Stay, and show it anew each second, until interrupted
    #[arg(long)]
    watch: bool,
}

pub(super) async fn run(context: &Context, args: SwarmArgs) -> Result<(), CliError> {
    let client = context.connect().await?;
    let mut link = Link::new(context, client);
    let ask = Swarm { what: args.what.clone() };
    if args.watch {
        return tokio::select! {
            ended = watch(context, &mut link, &args, ask) => ended,
            // how a watch ends
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
    }
    let view = link.call(ask).await?;
    if context.json {
        return context.print_json(&view);
    }
    context.print(report(&view, args.peers))
}

async fn watch(
    context: &Context,
    link: &mut Link<'_>,
    args: &SwarmArgs,
    ask: Swarm,
) -> Result<(), CliError> {
    let redraws = !context.json && io::stdout().is_terminal();
    let mut first = true;
    loop {
        let view = match link.call(ask.clone()).await {
            // whoever watches everything waits until there is something
            Err(ClientError::Api(e)) if args.what.is_none() && e.kind == ErrorKind::Invalid => None,
            view => Some(view?),
        };
        match &view {
            None if redraws => context.print(screen("Nothing is at work now.\n", first))?,
            None => {}
            Some(view) if redraws => context.print(screen(&report(view, args.peers), first))?,
            Some(view) if context.json => context.print_json_line(view)?,
            Some(view) => context.print(view.swarms.iter().map(line).collect::<String>())?,
        }
        first = false;
        tokio::time::sleep(PAUSE).await;
    }
}

/// What it is, for people.
fn title(swarm: &BlobSwarm) -> String {
    let name = swarm.deployments.first().cloned().unwrap_or_else(|| swarm.blob.short());
    match &swarm.package {
        Some(package) => format!("{name}: {}", format::clean(&package.to_string())),
        None => name,
    }
}

/// An exchange in one line.
fn line(swarm: &BlobSwarm) -> String {
    let mut parts = vec![
        format!("{} there", spread::percent(swarm.done)),
        format!("{}/{} have all", swarm.complete, swarm.answered),
    ];
    parts.extend(swarm.left_ms.map(|left| format!("about {} left", format::took(left))));
    parts.extend(swarm.efficiency.map(|e| format!("efficiency {e:.2}")));
    format!("{}: {}\n", title(swarm), parts.join(", "))
}

/// The exchanges for people.
fn report(view: &SwarmView, peers: bool) -> String {
    let mut text = String::new();
    for swarm in &view.swarms {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&picture(swarm));
        if peers {
            text.push_str(&table_of_peers(&swarm.peers));
        }
    }
    text
}

fn picture(swarm: &BlobSwarm) -> String {
    let size = format::size(swarm.size);
    let pieces = format::count(usize::try_from(swarm.pieces).unwrap_or(usize::MAX), "piece");
    let mut text = line(swarm);
    let of = format::count(swarm.machines, "machine");
    text.push_str(&format!("  {size} in {pieces}, blob {}; {of}", swarm.blob.short()));
    if swarm.answered < swarm.machines {
        text.push_str(&format!(", {} asked, {} answered", swarm.asked, swarm.answered));
    }
    text.push('\n');
    let elapsed = swarm.elapsed_ms.map(|ms| format!("{} since the order", format::took(ms)));
    let best = swarm.bound.as_ref().map(|b| format!("at best {}", spread::bound(b)));
    let times: Vec<String> = elapsed.into_iter().chain(best).collect();
    if !times.is_empty() {
        text.push_str(&format!("  {}\n", times.join("; ")));
    }
    let copies = swarm.publisher_copies.map(|c| format!("publisher copies {c:.2}"));
    let duplicates = format!("duplicates {}", spread::percent(swarm.duplicate_share));
    let sums: Vec<String> =
        copies.into_iter().chain([duplicates]).chain(spread::wan(&swarm.sites)).collect();
    text.push_str(&format!("  {}\n\n", sums.join("; ")));
    if swarm.answered > swarm.members.len() {
        text.push_str(&histogram(swarm));
        text.push_str("\n  the slowest:\n");
    }
    text.push_str(&table_of_members(&swarm.members));
    text
}

/// How many machines have how much.
fn histogram(swarm: &BlobSwarm) -> String {
    const WIDTH: usize = 40;
    let most = swarm.histogram.iter().copied().max().unwrap_or(0).max(1);
    let mut table = Table::bare();
    for (tenth, count) in swarm.histogram.iter().enumerate() {
        let label = if tenth == 10 { "100 %".to_owned() } else { format!("{} %", tenth * 10) };
        table.row([label, count.to_string(), "#".repeat((count * WIDTH).div_ceil(most))]);
    }
    table.text("  ")
}

fn table_of_members(members: &[SwarmMember]) -> String {
    let mut table =
        Table::new(&["MACHINE", "SITE", "HAS", "IN", "OUT", "SOURCES", "TAKERS", "FROM"]);
    for member in members {
        let (name, site) = (member.name.to_string(), member.site.to_string());
        let Some(p) = &member.progress else {
            let has = match (member.up, member.answered) {
                (false, _) => "down",
                (true, false) => "no answer",
                (true, true) => "nothing",
            };
            table.row([name, site, has.to_owned()]);
            continue;
        };
        let from = &p.received;
        let near = [("rack", from.rack), ("site", from.site), ("WAN", from.wan)];
        let near = near.iter().filter(|(_, bytes)| *bytes > 0);
        let near: Vec<String> =
            near.map(|(what, bytes)| format!("{what} {}", format::size(*bytes))).collect();
        table.row([
            name,
            site,
            spread::percent(member.done),
            spread::rate(p.rate_in),
            spread::rate(p.rate_out),
            p.sources.to_string(),
            p.takers.to_string(),
            near.join(", "),
        ]);
    }
    table.text("  ")
}

fn table_of_peers(peers: &[SwarmPeer]) -> String {
    let mut table = Table::new(&[
        "PEER",
        "NEAR",
        "RECEIVED",
        "DUPLICATE",
        "WRONG",
        "SENT",
        "IN",
        "OUT",
        "REFUSED",
    ]);
    for peer in peers {
        let name = peer.name.as_ref().map_or_else(|| peer.id.short(), ToString::to_string);
        let near = format!("{:?}", peer.distance).to_ascii_lowercase();
        let refused: u32 = peer.refused.iter().fold(0, |sum, n| sum.saturating_add(*n));
        let refused = if peer.banned { "banned".to_owned() } else { refused.to_string() };
        table.row([
            name,
            near,
            format::size(peer.received),
            format::size(peer.duplicate),
            format::size(peer.bad),
            format::size(peer.sent),
            spread::rate(peer.rate_in),
            spread::rate(peer.rate_out),
            refused,
        ]);
    }
    format!("\n{}", table.text("  "))
}

#[cfg(test)]
mod tests {
    use p2pinst_api::swarm::{BoundView, SiteCopies};
    use p2pinst_types::record::{ByDistance, Distance, Progress, Speeds};
    use p2pinst_types::{BlobRef, Hash, Millis, NodeId, PublicKey};

    use super::*;

    fn progress() -> Progress {
        Progress {
            blob: BlobRef::new(Hash([0xab; 32]), 1_000_000).unwrap(),
            pieces: 8,
            held: 500_000,
            fetching: true,
            begun: Some(Millis(0)),
            ended: None,
            received: ByDistance { rack: 0, site: 400_000, wan: 100_000 },
            duplicate: 0,
            bad: 0,
            sent: ByDistance::default(),
            sent_pieces: 0,
            rate_in: 250_000,
            rate_out: 0,
            sources: 2,
            takers: 0,
            refused: [0; 2],
            banned: 0,
            speeds: Speeds::default(),
        }
    }

    fn member(name: &str, progress: Option<Progress>) -> SwarmMember {
        let (name, site) = (name.parse().unwrap(), "home".parse().unwrap());
        SwarmMember { name, site, up: true, answered: true, done: 0.5, progress }
    }

    fn swarm() -> BlobSwarm {
        BlobSwarm {
            blob: Hash([0xab; 32]),
            size: 1_000_000,
            pieces: 16,
            deployments: vec!["alice-1".to_owned()],
            package: None,
            machines: 3,
            asked: 2,
            answered: 2,
            complete: 0,
            fetching: 1,
            done: 0.25,
            histogram: [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0],
            elapsed_ms: Some(2_000),
            left_ms: Some(4_000),
            bound: Some(BoundView { ms: 1_000, limit: "WAN of pisa".to_owned(), known: true }),
            efficiency: Some(0.125),
            publisher_copies: Some(0.5),
            sites: vec![SiteCopies {
                site: "pisa".parse().unwrap(),
                machines: 1,
                wan_bytes: 7,
                copies: 0.1,
            }],
            received: 500_000,
            duplicate: 5_000,
            duplicate_share: 0.01,
            members: vec![member("n2", Some(progress())), member("n3", None)],
            peers: vec![SwarmPeer {
                name: None,
                id: NodeId(PublicKey([1; 32])),
                distance: Distance::Wan,
                received: 100_000,
                verified: 100_000,
                duplicate: 0,
                bad: 0,
                sent: 0,
                sent_pieces: 0,
                rate_in: 0,
                rate_out: 0,
                refused: [1, 2],
                banned: false,
            }],
        }
    }

    #[test]
    fn a_picture_of_a_few() {
        let want = "\
alice-1: 25.0 % there, 0/2 have all, about 4.0 s left, efficiency 0.12
  976.5 KiB in 16 pieces, blob abababab; 3 machines, 2 asked, 2 answered
  2.0 s since the order; at best 1.0 s (WAN of pisa)
  publisher copies 0.50; duplicates 1.0 %; WAN copies: pisa 0.10

  MACHINE  SITE  HAS      IN          OUT    SOURCES  TAKERS  FROM
  n2       home  50.0 %   250.0 kB/s  0 B/s  2        0       site 390.6 KiB, WAN 97.6 KiB
  n3       home  nothing
";
        let view = SwarmView { swarms: vec![swarm()] };
        assert_eq!(report(&view, false), want);
        let peers = report(&view, true);
        assert!(
            peers.contains("  wan   97.6 KiB  0 B        0 B    0 B   0 B/s  0 B/s  3\n"),
            "{peers}"
        );
    }

    #[test]
    fn of_many_the_spread_and_the_slowest_are_shown() {
        let mut many = swarm();
        (many.machines, many.asked, many.answered) = (500, 256, 250);
        many.histogram = [0, 10, 0, 0, 0, 0, 0, 0, 0, 40, 200];
        let text = picture(&many);
        assert!(text.contains("  10 %   10   ##\n"), "{text}");
        assert!(text.contains("  100 %  200  ########################################\n"));
        assert!(text.contains("the slowest:\n  MACHINE"));
    }
}
