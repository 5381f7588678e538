//! `p2pinst join`

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use p2pinst_node::join::JoinOptions;
use p2pinst_trust::{Token, token};
use p2pinst_types::{ClusterId, Labels, Name, NodeId};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::args;
use crate::commands::init::node_name;
use crate::context::Context;
use crate::error::CliError;
use crate::founding;

/// Make this machine a member of a cluster
///
/// Needs a token, which `p2pinst invite` prints on any member, and one live member. The daemon
/// must not run yet. A token in an argument can be seen by other users of this machine while the
/// command runs; where that matters, use --token-file, or - to read it from stdin.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  p2pinst join p2pinst1-… --name n2
  ssh n1 p2pinst invite | p2pinst join -")]
pub(crate) struct JoinArgs {
    /// The token; - reads it from stdin
    #[arg(conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// This machine's name [default: its host name; with a token of `invite --replace` that of the
    /// machine whose place it takes]
    #[arg(long, value_name = "HOST")]
    name: Option<Name>,
    /// Where the node listens; may be repeated
    #[arg(long, value_name = "MULTIADDR", value_parser = args::address, default_value = args::LISTEN)]
    listen: Vec<String>,
}

#[derive(Serialize)]
struct Document {
    cluster: ClusterId,
    cluster_name: String,
    node: NodeId,
    name: Name,
    site: Name,
    labels: Labels,
    through: String,
}

pub(super) async fn run(context: &Context, args: JoinArgs) -> Result<(), CliError> {
    let token = read_token(args.token, args.token_file)?;
    let name = match (args.name, &token.name) {
        (Some(given), Some(place)) if given != *place => {
            return Err(CliError::usage(format!(
                "this token is for the place of {place}, not {given}"
            ))
            .hint("leave out --name, or ask for a token of your own: p2pinst invite"));
        }
        (_, Some(place)) => place.clone(),
        (given, None) => node_name(given, "--name")?,
    };
    founding::refuse_member(context)?;
    let dir = &context.dir;
    let joined = founding::join(JoinOptions { dir, token, name, listen: args.listen }).await?;
    context.tell(format_args!(
        "Joined the cluster {} as {} (site {}), through {}.\n\nNext:\n  start the node  p2pinstd{}",
        joined.cluster_name,
        joined.name,
        joined.site,
        joined.through,
        context.data_dir_option()
    ));
    if !context.json {
        return Ok(());
    }
    context.print_json(&Document {
        cluster: joined.cluster,
        cluster_name: joined.cluster_name,
        node: joined.node,
        name: joined.name,
        site: joined.site,
        labels: joined.labels,
        through: joined.through,
    })
}

fn read_token(given: Option<String>, file: Option<PathBuf>) -> Result<Token, CliError> {
    let text = match (given.map(Zeroizing::new), file) {
        (_, Some(file)) => from_utf8(p2pinst_files::read(&file, token::MAX as u64 + 2)?)?,
        (Some(text), None) if *text != "-" => text,
        (None, None) if io::stdin().is_terminal() => {
            return Err(CliError::usage("a token is needed")
                .hint("`p2pinst invite` prints one on any member of the cluster")
                .hint("give it as argument, with --token-file FILE, or on stdin"));
        }
        (_, None) => from_stdin()?,
    };
    Token::decode(&text).map_err(not_a_token)
}

fn not_a_token(error: token::TokenError) -> CliError {
    CliError::failed(error).hint("`p2pinst invite` prints a token on any member of the cluster")
}

fn from_stdin() -> Result<Zeroizing<String>, CliError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(token::MAX));
    let read = io::stdin().take(token::MAX as u64 + 2).read_to_end(&mut bytes);
    read.map_err(|e| CliError::failed(format!("cannot read the token from stdin: {e}")))?;
    from_utf8(std::mem::take(&mut *bytes))
}

fn from_utf8(bytes: Vec<u8>) -> Result<Zeroizing<String>, CliError> {
    let text = String::from_utf8(bytes).map_err(|e| {
        drop(Zeroizing::new(e.into_bytes()));
        not_a_token(token::TokenError::NotAToken)
    })?;
    Ok(Zeroizing::new(text))
}
