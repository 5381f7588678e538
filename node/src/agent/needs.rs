//! Which blobs the live orders need on this machine.

use std::collections::{BTreeMap, BTreeSet};

use dht_store::Views;
use p2pinst_install::plan::{Decision, Order, plan};
use p2pinst_types::{DeploymentId, Name};

use super::{Agent, planned};
use crate::storage::Needs;

impl Agent {
    /// What live orders to this machine need (not those that others have taken the place of), and what
    /// it has promised to hold for orders to others.
    pub(super) fn needs(
        &self,
        views: &Views,
        own: &[Order],
        superseded: impl Fn(&DeploymentId) -> bool,
    ) -> Needs {
        let mut needs = Needs::new();
        let mut need = |order: &Order| {
            let live = views.order(order.id.as_bytes());
            let name = live.map_or_else(|| order.id.short(), |o| views.order_name(o));
            needs.entry(order.release.blob.root).or_default().insert(name);
        };
        let own_ids: BTreeSet<&DeploymentId> = own.iter().map(|o| &o.id).collect();
        own.iter().filter(|o| !o.retired && !superseded(&o.id)).for_each(&mut need);
        let node = self.context.own.node;
        let promised = views.orders.iter().filter(|o| o.deployment.holders.contains(&node));
        let groups: BTreeSet<&Name> =
            promised.filter(|o| !own_ids.contains(&o.id)).map(|o| &o.deployment.group).collect();
        for group in groups {
            let orders = planned(views, |o| o.deployment.group == *group);
            let installs: Vec<Order> =
                orders.iter().filter(|o| !o.deployment.preheat).cloned().collect();
            // as a member sees it that has nothing yet
            let plans = plan(&installs, self.context.dpkg.native(), |_| None);
            let decisions: BTreeMap<_, _> = plans.values().flat_map(|p| &p.decisions).collect();
            let stands = |o: &&Order| {
                let decision = decisions.get(&o.id);
                !o.retired && !matches!(decision, Some(Decision::Superseded { .. }))
            };
            let promised = |o: &&Order| o.deployment.holders.contains(&node);
            orders.iter().filter(stands).filter(promised).for_each(&mut need);
        }
        needs
    }
}
