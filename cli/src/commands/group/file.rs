//! `p2pinst group import|export`: groups as a Clumpt group file.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use p2pinst_api::view::GroupView;
use p2pinst_types::groupfile::{self, FileGroup};
use p2pinst_types::hostexpr::{self, HostExpr};
use p2pinst_types::record::Group;
use p2pinst_types::{Kind, Name, limits};
use serde::Serialize;

use super::edit::{open, refuse_all};
use super::{all, state, unknown};
use crate::context::Context;
use crate::error::CliError;
use crate::format::{self, Table};

/// Make the groups that a file describes
///
/// The file is that of Clumpt. Groups that are missing are made, existing ones become what the
/// file says: description and machines, without what was added to them or removed since. Groups
/// that the file does not name stay as they are. A file with an error changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst group import groups.conf --dry-run
  p2pinst group import groups.conf

The file:
  group {
      name = \"LSC\"
      description = \"Room 214 - CT/UFSM\"
      machines = { host01, host02, node[03-16], 10.0.0.1-12 }
  }
  group { name = \"gpu\" select = \"gpu=true\" }    # select is not in Clumpt's own format")]
pub(crate) struct ImportArgs {
    /// The file, or - for stdin
    file: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// Print groups as a file for `group import`
///
/// The file is that of Clumpt. Machines that were added are written with the others. What the
/// format cannot express, machines that were removed, is written as the names of those that are
/// members now, below a comment that says so. What groups ask of machines (`group policy`) is not in it, and an import
/// leaves it as it is.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst group export > groups.conf
  p2pinst group export gpu LSC")]
pub(crate) struct ExportArgs {
    /// The groups [default: all but the built-in one]
    #[arg(value_name = "NAME")]
    names: Vec<Name>,
    /// Write every group as the names of its members now: for Clumpt, which knows no labels
    #[arg(long)]
    members: bool,
}

/// What becomes of a group of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Made,
    Changed,
    Same,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Changed => "changed",
            Self::Same => "same",
        }
    }
}

#[derive(Serialize)]
struct Line {
    name: Name,
    outcome: Outcome,
}

#[derive(Serialize)]
struct Imported {
    groups: Vec<Line>,
    dry_run: bool,
}

#[derive(Serialize)]
struct ExportedGroup {
    name: Name,
    description: String,
    machines: Vec<String>,
    select: Option<String>,
    exact: bool,
}

#[derive(Serialize)]
struct Exported {
    file: String,
    groups: Vec<ExportedGroup>,
}

pub(super) async fn import(context: &Context, args: ImportArgs) -> Result<(), CliError> {
    let shown = args.file.display();
    let bytes = read(&args.file)?;
    let groups = groupfile::parse(&bytes).map_err(|e| {
        CliError::failed(format!("cannot import {shown}: {e}"))
            .hint("nothing was changed: correct the file and import it again")
    })?;
    let (mut client, mut signer) = if args.dry_run {
        (context.connect().await?, None)
    } else {
        let (client, signer) = open(context, args.key.as_ref()).await?;
        (client, Some(signer))
    };
    let mut lines = Vec::new();
    for group in groups {
        let known = state(&mut client, &group.name).await?;
        let outcome = match &known.group {
            None => Outcome::Made,
            Some(view) if view.concurrent.is_empty() && is_as(view, &group) => Outcome::Same,
            Some(_) => Outcome::Changed,
        };
        if let Some(signer) = signer.as_mut().filter(|_| outcome != Outcome::Same) {
            let mut definition = Group::new(group.description, group.hosts, group.select);
            (definition.after, definition.floor) = (known.after, known.clean);
            signer.not_before(known.clean.max(known.after));
            signer.add(Kind::GROUP, group.name.as_str().as_bytes(), &definition)?;
        }
        lines.push(Line { name: group.name, outcome });
    }
    if let Some(signer) = signer {
        signer.submit(&mut client).await?;
    }
    let count = |what: Outcome| lines.iter().filter(|l| l.outcome == what).count();
    let (made, changed) = (count(Outcome::Made), count(Outcome::Changed));
    let would = if args.dry_run { "would be " } else { "" };
    context.tell(format_args!(
        "{}: {made} {would}made, {changed} {would}changed, {} the same.",
        format::count(lines.len(), "group"),
        count(Outcome::Same)
    ));
    if context.json {
        return context.print_json(&Imported { groups: lines, dry_run: args.dry_run });
    }
    let mut table = Table::bare();
    for line in lines {
        table.row([line.outcome.as_str().to_owned(), line.name.to_string()]);
    }
    context.print(table.text(""))
}

fn read(file: &Path) -> Result<Vec<u8>, CliError> {
    // one byte more than is allowed tells that there is more
    let most = limits::GROUP_FILE as u64 + 1;
    if file == Path::new("-") {
        let mut bytes = Vec::new();
        let read = io::stdin().take(most).read_to_end(&mut bytes);
        read.map_err(|e| CliError::failed(format!("cannot read stdin: {e}")))?;
        return Ok(bytes);
    }
    Ok(p2pinst_files::read(file, most)?)
}

/// Whether a group is what a file says already, edits included.
fn is_as(view: &GroupView, group: &FileGroup) -> bool {
    exact(view).is_some_and(|now| now.means(group))
}

/// A group as the format can express it; `None` when machines were removed from it.
fn exact(view: &GroupView) -> Option<FileGroup> {
    if view.edits.iter().any(|e| !e.present) {
        return None;
    }
    let defined = view.hosts.as_deref().into_iter();
    let terms: Vec<&str> = defined.chain(view.edits.iter().map(|e| e.hosts.as_str())).collect();
    Some(FileGroup {
        name: view.name.clone(),
        description: view.description.clone(),
        hosts: hosts(&terms.join(",")).ok()?,
        select: view.select.as_deref().map(str::parse).transpose().ok()?,
        comment: String::new(),
    })
}

fn hosts(text: &str) -> Result<Option<HostExpr>, hostexpr::HostExprError> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

/// A group as the names of its members now.
fn by_name(view: &GroupView, why: &str) -> Result<FileGroup, CliError> {
    let text = hostexpr::fold(&view.members).join(",");
    let hosts = hosts(&text).map_err(|e| {
        CliError::failed(format!(
            "cannot export the group {}: its members are {}",
            view.name, e.reason
        ))
    })?;
    Ok(FileGroup {
        name: view.name.clone(),
        description: view.description.clone(),
        hosts,
        select: None,
        comment: format!(
            "{}: the names of its {} now. {why}",
            view.name,
            format::count(view.members.len(), "member")
        ),
    })
}

pub(super) async fn export(context: &Context, args: ExportArgs) -> Result<(), CliError> {
    args.names.iter().try_for_each(refuse_all)?;
    let mut client = context.connect().await?;
    let mut views: Vec<GroupView> = Vec::new();
    if args.names.is_empty() {
        views = all(&mut client).await?;
        views.retain(|g| g.name != Name::all());
    }
    for name in &args.names {
        let known = state(&mut client, name).await?;
        let Some(view) = known.group else { return Err(unknown(context, name, &known)) };
        if !views.iter().any(|v| v.name == view.name) {
            views.push(view);
        }
    }
    let (mut groups, mut lines, mut inexact) = (Vec::new(), Vec::new(), Vec::new());
    for view in &views {
        let plain = exact(view).filter(|g| g.select.is_none() || !args.members);
        let is_exact = plain.is_some();
        let group = match plain {
            Some(group) => group,
            None if args.members => by_name(view, "Labels or removed machines stand behind it.")?,
            None => by_name(view, "Machines were removed from it, which this format cannot say.")?,
        };
        if !is_exact {
            inexact.push(&view.name);
        }
        lines.push(ExportedGroup {
            name: view.name.clone(),
            description: view.description.clone(),
            machines: group.hosts.iter().flat_map(HostExpr::terms).map(str::to_owned).collect(),
            select: group.select.as_ref().map(ToString::to_string),
            exact: is_exact,
        });
        groups.push(group);
    }
    let file = groupfile::print(&groups);
    if !inexact.is_empty() {
        let names = format::names(&inexact, 20);
        context.tell(format_args!(
            "Written as the names of their members now, which later machines will not join: {names}."
        ));
    }
    if context.json {
        return context.print_json(&Exported { file, groups: lines });
    }
    context.print(file)
}
