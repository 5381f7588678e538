//! The cluster's root as the node knows it, and those of its keys that are on this machine.

use p2pinst_api::Client;
use p2pinst_api::request::ReadRoots;
use p2pinst_trust::key::verify_cell;
use p2pinst_trust::{RootChain, policy};
use p2pinst_types::record::{Grant, RootDoc};
use p2pinst_types::{Cell, ClusterId, Kind};

use crate::context::Context;
use crate::error::CliError;
use crate::format;
use crate::keystore::Key;

/// See the module.
#[derive(Debug)]
pub(crate) struct RootKeys {
    /// The chain, verified.
    pub(crate) chain: RootChain,
    /// The version that is in force on the node.
    pub(crate) in_force: u64,
    /// The grants that count, or counted, verified.
    pub(crate) grants: Vec<(Cell, Grant)>,
    /// The revocations by root keys that count.
    pub(crate) revocations: Vec<Cell>,
    /// The newest root.
    pub(crate) doc: RootDoc,
    /// Its keys on this machine.
    pub(crate) here: Vec<Key>,
}

impl RootKeys {
    /// Asks the node, and looks into the key store.
    pub(crate) async fn find(
        context: &Context,
        client: &mut Client,
        cluster: ClusterId,
    ) -> Result<Self, CliError> {
        let roots = client.call(ReadRoots {}).await?;
        let chain = RootChain::verify(cluster, roots.chain)?;
        let doc = chain.current().cloned().ok_or_else(|| CliError::failed("there is no root"))?;
        let mut grants = Vec::new();
        for bytes in roots.grants {
            let cell = Cell::parse(bytes.0)?;
            let grant: Grant = cell.record()?;
            policy::check_grant(&chain, &cell, &grant).map_err(CliError::failed)?;
            grants.push((cell, grant));
        }
        let mut revocations = Vec::new();
        for bytes in roots.revocations {
            let cell = Cell::parse(bytes.0)?;
            let good = cell.id.kind == Kind::REVOCATION
                && chain.has_key(&cell.id.author)
                && verify_cell(&cluster, &cell);
            if !good {
                return Err(CliError::failed(
                    "the node shows a revocation that no root key signed",
                ));
            }
            revocations.push(cell);
        }
        let mut here = context.keystore().all()?;
        here.retain(|k| doc.keys.contains(&k.public()));
        Ok(Self { chain, in_force: roots.in_force, grants, revocations, doc, here })
    }

    /// How many of the root's keys must sign.
    pub(crate) fn threshold(&self) -> usize {
        self.doc.threshold.into()
    }

    /// Refuses when too few of the root's keys are here.
    pub(crate) fn ensure_enough(&self, context: &Context, what: &str) -> Result<(), CliError> {
        let (here, need) = (self.here.len(), self.threshold());
        if here >= need {
            return Ok(());
        }
        let error = if need == 1 {
            format!("only the cluster's root key can {what}, and it is not on this machine")
        } else {
            let names: Vec<_> = self.here.iter().map(|k| k.name.clone()).collect();
            let found =
                if names.is_empty() { "none".to_owned() } else { format::names(&names, 20) };
            let all = self.doc.keys.len();
            format!(
                "{need} of the cluster's {all} root keys together can {what}; on this machine: {found}"
            )
        };
        Err(CliError::failed(error)
            .hint(format!("bring it back from its export: {}", context.command("key import FILE")))
            .hint(if need == 1 {
                "or run this where the cluster was founded"
            } else {
                "or run this where the keys are"
            }))
    }

    /// Takes out the key that signs; the others stay, to co-sign.
    pub(crate) fn take_signer(&mut self, context: &Context) -> Result<Key, CliError> {
        self.ensure_enough(context, "give power")?;
        Ok(self.here.remove(0))
    }

    /// Adds the co-signatures that a grant needs beside its author's.
    pub(crate) fn cosign(&self, mut grant: Grant) -> Grant {
        for key in self.here.iter().take(self.threshold().saturating_sub(1)) {
            grant = policy::cosign(&self.chain, grant, &key.secret);
        }
        grant
    }
}
