//! Releases and the orders that name them. R1: two signatures make an install.

use p2pinst_types::record::{Deployment, Release, Role};
use p2pinst_types::{DeploymentId, Hlc, PublicKey};

use super::{Entry, Views};
use crate::record::Record;

/// An order that counts: its operator had the power, and its release has a publisher's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The deployment's id.
    pub id: DeploymentId,
    /// Who ordered.
    pub author: PublicKey,
    /// When.
    pub hlc: Hlc,
    /// What was ordered, to whom and how.
    pub deployment: Deployment,
    /// The release.
    pub release: Release,
}

impl Views {
    pub(super) fn fold_orders(&mut self, sorted: &[&Entry]) {
        for entry in sorted {
            let Record::Release(id, release) = &entry.record else { continue };
            if self.authorised(&entry.cell, &[Role::Publisher]) {
                self.releases.insert(*id, release.clone());
            }
        }
        for entry in sorted {
            let Record::Retirement(retirement) = &entry.record else { continue };
            if self.authorised(&entry.cell, &[Role::Operator]) {
                self.retired.insert(retirement.deployment);
            }
        }
        for entry in sorted {
            let Record::Deployment(id, deployment) = &entry.record else { continue };
            let Some(release) = self.releases.get(&deployment.release) else { continue };
            if self.authorised(&entry.cell, &[Role::Operator]) {
                let over = self.retired.contains(id);
                let orders = if over { &mut self.over } else { &mut self.orders };
                orders.push(Order {
                    id: *id,
                    author: entry.cell.id.author,
                    hlc: entry.cell.hlc,
                    deployment: deployment.clone(),
                    release: release.clone(),
                });
            }
        }
    }

    /// The name of an order for people: `alice-42`.
    #[must_use]
    pub fn order_name(&self, order: &Order) -> String {
        let author = self.key_name(&order.author);
        let author = author.map_or_else(|| order.author.short(), ToString::to_string);
        format!("{author}-{}", order.deployment.number)
    }
}
