//! Founding and joining, which the node's crate does: it owns the format of a node's identity.

use p2pinst_api::DataDir;
use p2pinst_trust::{SecretKey, Token};
use p2pinst_types::{ClusterId, Labels, Name, NodeId, Version};

use crate::error::CliError;

pub(crate) struct InitOptions<'a> {
    pub(crate) dir: &'a DataDir,
    pub(crate) cluster: Name,
    pub(crate) node_name: Name,
    pub(crate) site: Name,
    pub(crate) labels: Labels,
    pub(crate) listen: Vec<String>,
    pub(crate) root_key: &'a SecretKey,
    pub(crate) operator_key: &'a SecretKey,
    pub(crate) operator_name: Name,
}

pub(crate) struct Founded {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) root_head: Version,
    pub(crate) operator_head: Version,
}

pub(crate) struct JoinOptions<'a> {
    pub(crate) dir: &'a DataDir,
    pub(crate) token: Token,
    pub(crate) name: Name,
    pub(crate) listen: Vec<String>,
}

pub(crate) struct Joined {
    pub(crate) cluster: ClusterId,
    pub(crate) cluster_name: String,
    pub(crate) node: NodeId,
    pub(crate) name: Name,
    pub(crate) site: Name,
    pub(crate) labels: Labels,
    pub(crate) through: String,
}

/// Founds a cluster with this machine as its first node.
pub(crate) fn init(_options: InitOptions<'_>) -> Result<Founded, CliError> {
    Err(CliError::failed("not built in"))
}

/// Makes this machine a member of a cluster.
pub(crate) async fn join(_options: JoinOptions<'_>) -> Result<Joined, CliError> {
    std::future::ready(Err(CliError::failed("not built in"))).await
}
