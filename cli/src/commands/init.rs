//! `p2pinst init`

use std::fs;

use p2pinst_node::found::{Founded, InitOptions};
use p2pinst_trust::SecretKey;
use p2pinst_types::name::parse_label;
use p2pinst_types::{ClusterId, LabelValue, Name, NodeId};
use serde::Serialize;

use crate::args;
use crate::context::Context;
use crate::error::CliError;
use crate::founding;
use crate::keystore::{Key, Keystore, ROOT};

/// Found a cluster, with this machine as its first node
///
/// Makes the cluster's root key and an operator's key (both stay in keys/ in the data directory)
/// and the node's own key. Then start the daemon (p2pinstd), and invite other machines.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  p2pinst init --name lab --label gpu=true\n  p2pinstd &")]
pub(crate) struct InitArgs {
    /// The cluster's name
    #[arg(long, default_value = "lab")]
    name: Name,
    /// This machine's name [default: its host name]
    #[arg(long, value_name = "HOST")]
    node_name: Option<Name>,
    /// This machine's site: machines of one site are close to each other
    #[arg(long, default_value = "default")]
    site: Name,
    /// A label of this machine; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(Name, LabelValue)>,
    /// Where the node listens; may be repeated
    #[arg(long, value_name = "MULTIADDR", value_parser = args::address, default_value = args::LISTEN)]
    listen: Vec<String>,
    /// Name of the operator's key: what you publish is called after it [default: your user name]
    #[arg(long, value_name = "NAME")]
    operator: Option<Name>,
}

#[derive(Serialize)]
struct Document {
    cluster: ClusterId,
    name: Name,
    node: NodeId,
    node_name: Name,
    operator: Name,
}

pub(super) fn run(context: &Context, args: InitArgs) -> Result<(), CliError> {
    let labels = args::labels(&args.labels)?;
    let node_name = node_name(args.node_name, "--node-name")?;
    let operator_name = match args.operator {
        Some(name) => name,
        None => default_operator()?,
    };
    let root_name: Name = fixed(ROOT)?;
    if operator_name == root_name {
        return Err(CliError::usage("the operator's key cannot be called root")
            .hint("that is the name of the cluster's root key; name another with --operator"));
    }
    founding::refuse_member(context)?;
    let keystore = context.keystore();
    for name in [&root_name, &operator_name] {
        if keystore.has(name) {
            let path = keystore.path(name);
            return Err(CliError::failed(format!("there is a key already: {}", path.display()))
                .hint(
                    "it may have power in another cluster: move it away, or use another --data-dir",
                ));
        }
    }
    let root = Key { name: root_name, secret: SecretKey::generate()? };
    let operator = Key { name: operator_name, secret: SecretKey::generate()? };
    let options = InitOptions {
        dir: &context.dir,
        cluster: args.name.clone(),
        node_name: node_name.clone(),
        site: args.site,
        labels,
        listen: args.listen,
        root_key: &root.secret,
        operator_key: &operator.secret,
        operator_name: operator.name.clone(),
    };
    let founded = found(&keystore, &root, &operator, options)?;
    explain(context, &args.name, &node_name, &operator.name);
    if !context.json {
        return Ok(());
    }
    let (cluster, node) = (founded.cluster, founded.node);
    let (name, operator) = (args.name, operator.name);
    context.print_json(&Document { cluster, name, node, node_name, operator })
}

/// The keys are on the disk before the cluster exists, and gone again when it does not come to be.
fn found(
    keystore: &Keystore,
    root: &Key,
    operator: &Key,
    options: InitOptions<'_>,
) -> Result<Founded, CliError> {
    keystore.add(&root.name, &root.secret)?;
    keystore.add(&operator.name, &operator.secret)?;
    let founded = founding::init(options).inspect_err(|_| {
        for key in [root, operator] {
            // the first error is the one to tell
            drop(fs::remove_file(keystore.path(&key.name)));
        }
    })?;
    keystore.set_head(root, founded.root_head)?;
    keystore.set_head(operator, founded.operator_head)?;
    Ok(founded)
}

fn explain(context: &Context, cluster: &Name, node: &Name, operator: &Name) {
    let dir = context.data_dir_option();
    context.tell(format_args!(
        "The cluster {cluster} exists. {node} is its first node, {operator} its operator.

Next:
  start the node           p2pinstd{dir}
  let other machines join  p2pinst{dir} invite

Do these soon, or the loss of this machine would orphan the cluster:
  a second operator        p2pinst key new NAME            (on another member)
                           p2pinst{dir} grant KEY --name NAME --role operator --role publisher
  a copy of the root key   p2pinst{dir} key export root FILE  (store FILE elsewhere)"
    ));
}

/// The name given, or the host's.
pub(super) fn node_name(given: Option<Name>, option: &str) -> Result<Name, CliError> {
    given.or_else(args::hostname).ok_or_else(|| {
        CliError::failed("this machine's host name is no name for a node")
            .hint(format!("give it one with {option}"))
    })
}

fn default_operator() -> Result<Name, CliError> {
    match args::user() {
        Some(name) => Ok(name),
        None => fixed("admin"),
    }
}

fn fixed(name: &str) -> Result<Name, CliError> {
    name.parse().map_err(CliError::failed)
}
