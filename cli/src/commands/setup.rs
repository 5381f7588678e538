//! `p2pinst setup`

use std::path::{Path, PathBuf};

use p2pinst_boot::setup::Setup;
use p2pinst_boot::setup::document::TEXT_MAX;
use p2pinst_types::{Hash, Name};
use serde::Serialize;

use crate::bare;
use crate::context::Context;
use crate::error::CliError;
use crate::format;
use crate::planning::{self, Planned};

/// Check host setups, and show what they would do
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SetupCommand {
    Check(CheckArgs),
    Plan(PlanArgs),
}

/// Read a host setup, and show everything that is wrong with it
///
/// Looks at the document alone: no machine, no image, no node is asked.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst setup check compute.toml")]
pub(crate) struct CheckArgs {
    /// The setup, TOML
    file: PathBuf,
}

/// Show what a host setup would do to a machine
///
/// Plans with what is known of the machine's disks, as its scout or its own system has told last, and with the newest
/// images. Nothing is written. The machine's scout plans again, with what it finds on the disks then.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst setup plan compute.toml --node rack1-07")]
pub(crate) struct PlanArgs {
    /// The setup, TOML
    file: PathBuf,
    /// The machine, by name or by the address of an interface
    #[arg(long, value_name = "NAME")]
    node: String,
}

#[derive(Serialize)]
struct Checked {
    name: Name,
    hash: Hash,
    disks: usize,
    images: Vec<Name>,
    templates: Vec<Name>,
}

#[derive(Serialize)]
struct Document<'a> {
    node: &'a Name,
    /// Names the goal of this plan; another order has another one.
    plan: Hash,
    destructive: bool,
    text: &'a str,
}

pub(super) async fn run(context: &Context, command: SetupCommand) -> Result<(), CliError> {
    match command {
        SetupCommand::Check(args) => check(context, &args),
        SetupCommand::Plan(args) => plan(context, args).await,
    }
}

/// Reads a setup.
pub(super) fn read(file: &Path) -> Result<(Setup, String), CliError> {
    // one byte more than is allowed tells that there is more
    let bytes = p2pinst_files::read(file, TEXT_MAX as u64 + 1)?;
    let shown = file.display();
    let text = String::from_utf8(bytes)
        .map_err(|_| CliError::failed(format!("{shown} is no text in UTF-8")))?;
    let setup = Setup::parse(&text).map_err(|e| CliError::failed(format!("{shown}: {e}")))?;
    Ok((setup, text))
}

fn check(context: &Context, args: &CheckArgs) -> Result<(), CliError> {
    let (setup, _) = read(&args.file)?;
    let templates = planning::templates(&setup);
    let images = planning::named(&setup).into_iter().filter(|name| !templates.contains(name));
    let images: Vec<Name> = images.cloned().collect();
    let templates: Vec<Name> = templates.into_iter().cloned().collect();
    let disks = setup.disk.len();
    if context.json {
        let (name, hash) = (setup.name.clone(), setup.hash());
        return context.print_json(&Checked { name, hash, disks, images, templates });
    }
    let uses = match images.is_empty() {
        true => "no image".to_owned(),
        false => format!("the images {}", format::names(&images, 16)),
    };
    let made = match templates.is_empty() {
        true => String::new(),
        false => format!(", the templates {}", format::names(&templates, 16)),
    };
    let what = match &setup.installer {
        Some(_) => "started in the scout's place".to_owned(),
        None => format::count(disks, "disk"),
    };
    context.print(format_args!("{}: {what}, {uses}{made}\n", setup.name))
}

async fn plan(context: &Context, args: PlanArgs) -> Result<(), CliError> {
    let (setup, text) = read(&args.file)?;
    let (mut client, info) = context.connect_info().await?;
    let images = bare::images(&mut client).await?;
    let planned = Planned::new(setup, text, &images);
    let machine = bare::machine(context, &mut client, &args.node).await?;
    let name = &machine.known.name;
    let Some(known) = &machine.inventory else {
        return Err(CliError::failed(format!("it is not known what {name} is made of")).hint(
            format!("let it tell: {}", context.command(&format!("boot arm {name} --inspect"))),
        ));
    };
    let wrong = |error: String| {
        let told = format::age(crate::context::cluster_now(&info).since(known.at));
        CliError::failed(format!("{name}: {error}"))
            .hint(format!("what is known of its disks was told {told} ago"))
    };
    if let Some(reason) = planned.foreign(&known.inventory) {
        return Err(wrong(reason));
    }
    if let Some(installer) = planned.installer().map_err(wrong)? {
        return Err(CliError::failed(format!(
            "what becomes of the disks of {name} is for the installer {installer} to decide"
        ))
        .hint("what it reads: p2pinst render"));
    }
    let now = p2pinst_types::Hlc::at(crate::context::cluster_now(&info));
    let plan = planned.plan(&machine, &known.inventory, now).map_err(|e| wrong(e.to_string()))?;
    let text = plan.describe();
    if context.json {
        let (plan, destructive) = (plan.hash(), plan.is_destructive());
        return context.print_json(&Document { node: name, plan, destructive, text: &text });
    }
    context.print(format::clean_lines(&text))
}
