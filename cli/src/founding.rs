//! Founding and joining: done by the node's library, which owns the format of a node's identity;
//! here its errors become those of the command line.

use p2pinst_node::found::{self, FoundError, Founded, InitOptions};
use p2pinst_node::identity::{Identity, IdentityError};
use p2pinst_node::join::{self, JoinError, JoinOptions, Joined};

use crate::context::Context;
use crate::error::CliError;

/// Founds a cluster with this machine as its first node. Blocks.
pub(crate) fn init(options: InitOptions<'_>) -> Result<Founded, CliError> {
    found::init(options).map_err(|e: FoundError| CliError::of_node(e.kind(), &e, e.hint()))
}

/// Makes this machine a member of a cluster.
pub(crate) async fn join(options: JoinOptions<'_>) -> Result<Joined, CliError> {
    let joined = join::join(options).await;
    joined.map_err(|e: JoinError| CliError::of_node(e.kind(), &e, e.hint()))
}

/// Refuses a data directory that belongs to a cluster, and says to which.
pub(crate) fn refuse_member(context: &Context) -> Result<(), CliError> {
    let dir = context.dir.path().display();
    match context.dir.identity().try_exists() {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(e) => return Err(CliError::failed(format!("cannot look into {dir}: {e}"))),
    }
    let identity = match Identity::load(&context.dir) {
        Ok(identity) => identity,
        Err(IdentityError::None { .. }) => return Ok(()),
        Err(e) => return Err(CliError::failed(e)),
    };
    let named = identity.roots(&context.dir).map(|r| r.cluster_name()).unwrap_or_default();
    let (name, id) = (&identity.name, identity.cluster.0.short());
    Err(CliError::failed(format!("{dir} belongs to the cluster {named} ({id}) already, as {name}"))
        .hint("for another node on this machine, name another directory with --data-dir")
        .hint(format!("to leave that cluster for good: {}", context.command("leave"))))
}
