//! `p2pinst group policy`

use p2pinst_types::record::GroupPolicy;
use p2pinst_types::{Kind, Name};

use super::edit::{after, existing, open};
use super::unknown;
use crate::context::Context;
use crate::error::CliError;

/// Say what a group asks of machines that are installed into it
///
/// With a console code a bare machine of the group gets its certificate, and its image, only when the code of its order
/// (`p2pinst deploy --code`) is typed at its console: nobody else on its segment can pass for it. Orders without
/// a code are refused then, and scouts under an older one have to wait; those that were let in before go on, until their
/// order is taken back or another one given. The built-in group `all` may be named. Of a group of addresses only members
/// are asked that are installed anew: the addresses of bare machines are not known. What is asked outlives the group: one that is made anew under the name asks
/// the same.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst group policy lobby --console-code wanted
  p2pinst group policy all --console-code free")]
pub(crate) struct PolicyArgs {
    /// The group's name
    name: Name,
    /// Whether a code must be typed at the machine's console
    #[arg(long, value_enum)]
    console_code: Asked,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

/// Whether something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Asked {
    /// It must be typed
    Wanted,
    /// Not by this group
    Free,
}

pub(super) async fn run(context: &Context, args: PolicyArgs) -> Result<(), CliError> {
    let name = args.name;
    let (mut client, mut signer) = open(context, args.key.as_ref()).await?;
    existing(context, &mut client, &name).await?;
    let policy = GroupPolicy { console_code: args.console_code == Asked::Wanted };
    signer.add(Kind::GROUP_POLICY, name.as_str().as_bytes(), &policy)?;
    signer.submit(&mut client).await?;

    let shown = |console_code| console_code == policy.console_code;
    let known =
        after(&mut client, &name, |k| k.group.as_ref().is_none_or(|g| shown(g.console_code)))
            .await?;
    let Some(group) = known.group.as_ref() else { return Err(unknown(context, &name, &known)) };
    if !shown(group.console_code) {
        return Err(CliError::failed(format!("this node knows a later word about {name}"))
            .hint(format!("look at it: {}", context.command(&format!("group show {name}")))));
    }
    context.tell(match group.console_code {
        true => {
            format!("Machines are installed into {name} with a code only, typed at their consoles.")
        }
        false => format!("{name} asks for no code at the consoles of its machines."),
    });
    if context.json {
        context.print_json(group)?;
    }
    Ok(())
}
