//! `p2pinst limits`

use std::time::Duration;

use p2pinst_api::request::{Limits, LimitsChange};
use p2pinst_api::view::{LimitedView, LimitsView, SettingView, WindowView};
use p2pinst_types::{Limit, Rate, Rates};
use serde::Serialize;

use crate::args;
use crate::context::Context;
use crate::error::CliError;
use crate::format::{self, Table};

/// How fast this machine's node may send and receive packages
#[derive(Debug, clap::Subcommand)]
pub(crate) enum LimitsCommand {
    Show(ShowArgs),
    Set(SetArgs),
    Reset(ResetArgs),
}

/// Show what is limited now, and why
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst limits show")]
pub(crate) struct ShowArgs {}

/// Set limits while the node runs
///
/// Limits are up, down, wan_up and wan_down: bytes of packages that leave or come, and those to and
/// from other sites. Rates are in bytes or bits (50MB/s, 500KiB/s, 20Mbit/s); none: as fast as it
/// goes. They take the place of what config.toml says until the node stops, or until they are
/// taken back: limits reset.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst limits set up=10MB/s wan_up=20Mbit/s
  p2pinst limits set wan_up=none --for 2h
  p2pinst limits set up=50MB/s --keep")]
pub(crate) struct SetArgs {
    /// What is limited, and to which rate
    #[arg(required = true, value_name = "LIMIT=RATE", value_parser = limit)]
    limits: Vec<(String, Limit)>,
    /// For how long (30m, 2h) [default: until the node stops]
    #[arg(long = "for", value_name = "TIME", value_parser = args::duration)]
    time: Option<Duration>,
    /// Write them into config.toml as well
    #[arg(long, conflicts_with = "time")]
    keep: bool,
}

/// Take back what was set while the node runs
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst limits reset")]
pub(crate) struct ResetArgs {}

fn limit(text: &str) -> Result<(String, Limit), String> {
    let names = Rates::NAMES.join(", ");
    let wrong = || format!("write a limit and a rate, as in up=10MB/s; limits are {names}");
    let (name, rate) = text.split_once('=').ok_or_else(wrong)?;
    if !Rates::NAMES.contains(&name) {
        return Err(wrong());
    }
    Ok((name.to_owned(), rate.parse::<Limit>().map_err(|e| e.to_string())?))
}

/// Gathers the limits of a command line.
fn rates(limits: &[(String, Limit)]) -> Result<Rates, CliError> {
    let mut rates = Rates::default();
    for (name, limit) in limits {
        if rates.by_name(name).is_some_and(|old| old.replace(*limit).is_some()) {
            return Err(CliError::usage(format!("the limit {name} is given twice")));
        }
    }
    Ok(rates)
}

#[derive(Serialize)]
struct Document<'a> {
    now: Now,
    always: Rates,
    windows: &'a [WindowView],
    set: &'a [SettingView],
    busy: bool,
    busy_up: Option<u64>,
    upload_slots: usize,
    deployments: Vec<Limited<'a>>,
}

/// In bytes per second.
#[derive(Serialize)]
struct Now {
    up: Option<u64>,
    down: Option<u64>,
    wan_up: Option<u64>,
    wan_down: Option<u64>,
}

#[derive(Serialize)]
struct Limited<'a> {
    name: &'a str,
    limit: u64,
}

pub(super) async fn run(context: &Context, command: LimitsCommand) -> Result<(), CliError> {
    let change = match command {
        LimitsCommand::Show(_) => None,
        LimitsCommand::Reset(_) => Some(LimitsChange::Reset),
        LimitsCommand::Set(set) => {
            let rates = rates(&set.limits)?;
            let for_ms = |t: Duration| u64::try_from(t.as_millis()).unwrap_or(u64::MAX);
            Some(if set.keep {
                LimitsChange::Keep { rates }
            } else {
                LimitsChange::Set { rates, for_ms: set.time.map(for_ms) }
            })
        }
    };
    let view = context.connect().await?.call(Limits { change }).await?;
    if context.json { context.print_json(&document(&view)) } else { context.print(text(&view)) }
}

fn document(view: &LimitsView) -> Document<'_> {
    let bytes = |limit: Option<Limit>| limit.and_then(Limit::rate).map(Rate::bytes);
    let Rates { up, down, wan_up, wan_down } = view.now;
    let limited = |d: &'_ LimitedView| -> u64 { d.limit.bytes() };
    Document {
        now: Now {
            up: bytes(up),
            down: bytes(down),
            wan_up: bytes(wan_up),
            wan_down: bytes(wan_down),
        },
        always: view.always,
        windows: &view.windows,
        set: &view.set,
        busy: view.busy,
        busy_up: view.busy_up.map(Rate::bytes),
        upload_slots: view.upload_slots,
        deployments: view
            .deployments
            .iter()
            .map(|d| Limited { name: &d.name, limit: limited(d) })
            .collect(),
    }
}

/// Why a limit is what it is: what comes first counts.
fn because(view: &LimitsView, name: &str) -> String {
    let says = |rates: &Rates| rates.named().any(|(n, limit)| n == name && limit.is_some());
    if let Some(set) = view.set.iter().find(|s| says(&s.rates)) {
        return match set.left_ms {
            Some(left) => format!("set, for {} more", format::age(Duration::from_millis(left))),
            None => "set, until the node stops".to_owned(),
        };
    }
    if let Some(window) = view.windows.iter().find(|w| w.holds && says(&w.rates)) {
        let days = if window.days.len() == 7 { String::new() } else { window.days.join(",") + " " };
        return format!("{days}{}-{}", window.from, window.to);
    }
    if says(&view.always) { "config.toml".to_owned() } else { String::new() }
}

fn text(view: &LimitsView) -> String {
    let mut table = Table::new(&["LIMIT", "RATE", "BECAUSE"]);
    for (name, limit) in view.now.named() {
        let rate = limit.unwrap_or(Limit::None).to_string();
        table.row([name.to_owned(), rate, because(view, name)]);
    }
    if view.busy {
        let rate = view.busy_up.map_or_else(|| "none".to_owned(), |r| r.to_string());
        let why = "other programs are at work; not for what is urgent";
        table.row(["busy_up".to_owned(), rate, why.to_owned()]);
    }
    for one in &view.deployments {
        table.row([one.name.clone(), one.limit.to_string(), "its order".to_owned()]);
    }
    table.text("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_not_given_twice() {
        let both = [limit("up=10MB/s").unwrap(), limit("wan_up=none").unwrap()];
        let read = rates(&both).unwrap();
        assert_eq!(read.up, Some(Limit::At(Rate::new(10_000_000).unwrap())));
        assert_eq!((read.wan_up, read.down), (Some(Limit::None), None));
        assert!(rates(&[both[0].clone(), both[0].clone()]).is_err());
        for bad in ["up", "sideways=1MB/s", "up=", "up=5", "up=1kB/s"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_limit_tells_why() {
        let rates = |text: &str| rates(&[limit(text).unwrap()]).unwrap();
        let window = WindowView {
            days: vec!["mon".to_owned()],
            from: "08:00".to_owned(),
            to: "18:00".to_owned(),
            rates: rates("down=2MB/s"),
            holds: true,
        };
        let set = SettingView { rates: rates("up=1MB/s"), left_ms: Some(3_600_000) };
        let always = rates("wan_up=20Mbit/s").or(rates("up=9MB/s"));
        let view = LimitsView {
            now: set.rates.or(window.rates).or(always),
            always,
            windows: vec![window],
            set: vec![set],
            busy: true,
            busy_up: Some(Rate::new(1_000_000).unwrap()),
            upload_slots: 4,
            deployments: vec![LimitedView { name: "alice-3".to_owned(), limit: Rate::MIN }],
        };
        let want = "\
LIMIT     RATE      BECAUSE
up        1MB/s     set, for 1h more
down      2MB/s     mon 08:00-18:00
wan_up    2500kB/s  config.toml
wan_down  none
busy_up   1MB/s     other programs are at work; not for what is urgent
alice-3   16kB/s    its order
";
        assert_eq!(text(&view), want);
        let json = serde_json::to_value(document(&view)).unwrap();
        assert_eq!(
            (&json["now"]["up"], &json["now"]["wan_down"]),
            (&1_000_000.into(), &None::<u64>.into())
        );
        assert_eq!(
            (&json["always"]["up"], &json["always"]["down"]),
            (&"9MB/s".into(), &None::<u64>.into())
        );
    }
}
