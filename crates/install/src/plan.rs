//! Desired state: the orders for this machine, folded into one decision for each.
//!
//! Pure. Equal sets of orders give equal plans on every machine with equal packages, in whatever
//! order they arrived; and a plan that was carried out leaves nothing to do.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use p2pinst_types::record::install::{Deployment, Manager, PackageId, Release};
use p2pinst_types::{DeploymentId, Hlc, PublicKey};

/// An order whose group contains this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub id: DeploymentId,
    /// Who signed it.
    pub author: PublicKey,
    /// When.
    pub hlc: Hlc,
    /// The order.
    pub deployment: Deployment,
    /// What it orders.
    pub release: Release,
    /// Whether it is over: it still supersedes others, and nothing is installed because of it.
    pub retired: bool,
}

impl Order {
    /// The order of time, the same for everybody.
    fn when(&self) -> (Hlc, PublicKey, DeploymentId) {
        (self.hlc, self.author, self.id)
    }

    fn compare_version(&self, other: &str) -> Ordering {
        let package = &self.release.package;
        package.manager.compare(&package.version, other)
    }
}

/// A package line: what can have one version at a time on a machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line {
    /// Whose package it is.
    pub manager: Manager,
    /// Its name.
    pub name: String,
    /// Its architecture; `all` is one with the machine's own, since such packages replace each
    /// other.
    pub architecture: String,
}

impl Line {
    /// The line of a package on a machine of the architecture `native`.
    #[must_use]
    pub fn of(package: &PackageId, native: &str) -> Self {
        let architecture =
            if package.architecture == "all" { native } else { &package.architecture };
        Self {
            manager: package.manager,
            name: package.name.clone(),
            architecture: architecture.to_owned(),
        }
    }
}

/// What to do about an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Install it.
    Install,
    /// Nothing: this version is there, and is not older.
    Satisfied {
        /// What is there.
        installed: String,
    },
    /// Nothing: another order counts.
    Superseded {
        /// That one.
        by: DeploymentId,
    },
}

/// What the orders of one line come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinePlan {
    /// The order that counts.
    pub winner: DeploymentId,
    /// One decision for each order of the line.
    pub decisions: BTreeMap<DeploymentId, Decision>,
}

/// The order that counts so far, while orders are folded by time.
#[derive(Clone, Copy)]
struct Front<'a> {
    order: &'a Order,
    /// Whether exactly this version is wanted: it was ordered with leave to downgrade.
    exact: bool,
}

impl<'a> Front<'a> {
    /// The higher version counts, of equal ones the later order; an order with leave to downgrade
    /// beats all before it. An order that repeats the version after that changes nothing in what
    /// is wanted, or machines that slept in between would end elsewhere than the others.
    fn next(self, order: &'a Order) -> Self {
        if order.deployment.allow_downgrade {
            return Self { order, exact: true };
        }
        match order.compare_version(&self.order.release.package.version) {
            Ordering::Less => self,
            // one that is over does not take the place of one that is not
            Ordering::Equal if order.retired => self,
            Ordering::Equal => Self { order, exact: self.exact },
            Ordering::Greater => Self { order, exact: false },
        }
    }

    fn satisfied_by(self, installed: &str) -> bool {
        match self.order.compare_version(installed) {
            Ordering::Less => !self.exact,
            Ordering::Equal => true,
            Ordering::Greater => false,
        }
    }
}

/// Folds the orders for a machine of the architecture `native`. `installed` gives the version of
/// a line that is properly there.
#[must_use]
pub fn plan(
    orders: &[Order],
    native: &str,
    installed: impl Fn(&Line) -> Option<String>,
) -> BTreeMap<Line, LinePlan> {
    let mut lines: BTreeMap<Line, Vec<&Order>> = BTreeMap::new();
    for order in orders {
        lines.entry(Line::of(&order.release.package, native)).or_default().push(order);
    }
    let mut plans = BTreeMap::new();
    for (line, mut orders) in lines {
        orders.sort_by_key(|order| order.when());
        let front = orders.iter().fold(None, |front: Option<Front<'_>>, order| {
            Some(front.map_or(Front { order, exact: order.deployment.allow_downgrade }, |front| {
                front.next(order)
            }))
        });
        let Some(front) = front else { continue };
        let satisfied = installed(&line).filter(|version| front.satisfied_by(version));
        let decide = |order: &Order| {
            let wanted = order.compare_version(&front.order.release.package.version).is_eq();
            match &satisfied {
                Some(installed) if wanted => Decision::Satisfied { installed: installed.clone() },
                // what is over is not installed, and what it had superseded does not come back
                None if order.id == front.order.id && !order.retired => Decision::Install,
                _ => Decision::Superseded { by: front.order.id },
            }
        };
        let decisions = orders.iter().map(|order| (order.id, decide(order))).collect();
        plans.insert(line, LinePlan { winner: front.order.id, decisions });
    }
    plans
}

#[cfg(test)]
mod tests {
    use p2pinst_types::record::install::Mode;
    use p2pinst_types::{BlobRef, Hash, ReleaseId};
    use proptest::prelude::*;

    use super::*;

    /// `(name, version, architecture)` ordered by `author` at `hlc`.
    fn order(id: u8, hlc: u64, author: u8, package: (&str, &str, &str), downgrade: bool) -> Order {
        Order {
            id: DeploymentId([id; 16]),
            author: PublicKey([author; 32]),
            hlc: Hlc(hlc),
            deployment: Deployment {
                number: u64::from(id),
                release: ReleaseId(Hash([id; 32])),
                group: "all".parse().unwrap(),
                mode: Mode::Urgent,
                allow_downgrade: downgrade,
                holders: vec![],
                shards: 1,
                preheat: false,
                limit: None,
            },
            release: Release {
                package: PackageId {
                    manager: Manager::Dpkg,
                    name: package.0.to_owned(),
                    version: package.1.to_owned(),
                    architecture: package.2.to_owned(),
                },
                file: "x.deb".to_owned(),
                blob: BlobRef::new(Hash([id; 32]), 1).unwrap(),
            },
            retired: false,
        }
    }

    fn hello(id: u8, hlc: u64, version: &str, downgrade: bool) -> Order {
        order(id, hlc, 0, ("hello", version, "amd64"), downgrade)
    }

    /// The decisions by the id's byte, when `version` of everything is installed.
    fn decide(orders: &[Order], version: Option<&str>) -> Vec<(u8, String)> {
        let plans = plan(orders, "amd64", |_| version.map(str::to_owned));
        let mut all: Vec<_> = plans
            .values()
            .flat_map(|p| &p.decisions)
            .map(|(id, decision)| {
                let word = match decision {
                    Decision::Install => "install".to_owned(),
                    Decision::Satisfied { installed } => format!("has {installed}"),
                    Decision::Superseded { by } => format!("by {}", by.0[0]),
                };
                (id.0[0], word)
            })
            .collect();
        all.sort();
        all
    }

    fn words(orders: &[Order], version: Option<&str>) -> Vec<String> {
        decide(orders, version).into_iter().map(|(_, word)| word).collect()
    }

    #[test]
    fn the_highest_version_wins_whenever_it_was_ordered() {
        let orders = [hello(1, 10, "1.10", false), hello(2, 20, "1.9", false)];
        assert_eq!(words(&orders, None), ["install", "by 1"]);
        assert_eq!(words(&orders, Some("1.9")), ["install", "by 1"]);
        assert_eq!(words(&orders, Some("1.10")), ["has 1.10", "by 1"]);
        assert_eq!(words(&orders, Some("2")), ["has 2", "by 1"]);
    }

    #[test]
    fn of_equal_versions_the_later_wins_then_the_author() {
        let orders = [hello(1, 10, "1", false), hello(2, 20, "1", false)];
        assert_eq!(words(&orders, None), ["by 2", "install"]);
        assert_eq!(words(&orders, Some("1")), ["has 1", "has 1"]);
        let same = |id, author| order(id, 10, author, ("hello", "1", "amd64"), false);
        assert_eq!(words(&[same(1, 9), same(2, 8)], None), ["install", "by 1"]);
    }

    #[test]
    fn leave_to_downgrade_beats_what_was_before_and_wants_exactly_this() {
        let mut orders = vec![hello(1, 10, "2", false), hello(2, 20, "1", true)];
        assert_eq!(words(&orders, Some("2")), ["by 2", "install"]);
        assert_eq!(words(&orders, Some("1")), ["by 2", "has 1"]);
        // what is ordered before it in time does not count, whenever it arrives
        orders.push(hello(3, 15, "3", false));
        assert_eq!(words(&orders, Some("2")), ["by 2", "install", "by 2"]);
        // the same version again changes nothing in what is wanted
        orders.push(hello(4, 30, "1", false));
        assert_eq!(words(&orders, Some("2")), ["by 4", "by 4", "by 4", "install"]);
        // a higher one does
        orders.push(hello(5, 40, "1.5", false));
        assert_eq!(words(&orders, Some("2")), ["by 5", "by 5", "by 5", "by 5", "has 2"]);
    }

    #[test]
    fn lines_do_not_mix() {
        let orders = [
            hello(1, 10, "1", false),
            order(2, 20, 0, ("hello", "2", "all"), false),
            order(3, 30, 0, ("hello", "3", "i386"), false),
            order(4, 40, 0, ("other", "4", "amd64"), false),
        ];
        assert_eq!(words(&orders, None), ["by 2", "install", "install", "install"]);
    }

    fn any_orders() -> impl Strategy<Value = Vec<Order>> {
        let one = (0u64..6, 0u8..3, 0u8..2, 0u8..4, prop::bool::weighted(0.3));
        prop::collection::vec(one, 0..8).prop_map(|list| {
            let orders =
                list.into_iter().zip(0u8..).map(|((hlc, author, name, version, d), id)| {
                    let name = ["hello", "other"][usize::from(name)];
                    let version = ["1.0", "1.0~rc1", "1.10", "1:0"][usize::from(version)];
                    order(id, hlc, author, (name, version, "amd64"), d)
                });
            orders.collect()
        })
    }

    #[test]
    fn what_is_over_is_not_installed_and_brings_nothing_back() {
        let over = |order: Order| Order { retired: true, ..order };
        let decisions = |orders: &[Order], there: &str| {
            let plans = plan(orders, "amd64", |_| Some(there.to_owned()));
            plans.into_values().next().unwrap().decisions
        };
        // a rollback that is done and retired: the version that it had replaced stays away
        let orders = [hello(1, 1, "2.0", false), over(hello(2, 2, "1.0", true))];
        assert!(decisions(&orders, "1.0").values().all(|d| *d != Decision::Install));
        // and one that never was done is not done any more
        assert!(decisions(&orders, "2.0").values().all(|d| *d != Decision::Install));
        // who orders the same again gets it
        let again = [orders.to_vec(), vec![hello(3, 3, "2.0", false)]].concat();
        assert_eq!(decisions(&again, "1.0")[&DeploymentId([3; 16])], Decision::Install);
        // a repeated order that is over takes nothing from the one that is not
        let twice = [hello(1, 1, "2.0", false), over(hello(2, 2, "2.0", false))];
        assert_eq!(decisions(&twice, "1.0")[&DeploymentId([1; 16])], Decision::Install);
    }

    proptest! {
        #[test]
        fn does_not_depend_on_the_order_of_arrival(
            orders in any_orders(),
            version in prop::option::of(prop::sample::select(vec!["0.5", "1.0", "1.5", "1:1"])),
            turn in 0usize..8,
        ) {
            let mut other = orders.clone();
            other.reverse();
            let turn = turn.min(other.len());
            other.rotate_left(turn);
            prop_assert_eq!(decide(&orders, version), decide(&other, version));
        }

        #[test]
        fn a_plan_carried_out_leaves_nothing_to_do(
            orders in any_orders(),
            version in prop::option::of(prop::sample::select(vec!["0.5", "1.0", "1.5", "1:1"])),
        ) {
            let mut now: BTreeMap<Line, Option<String>> = BTreeMap::new();
            let first = plan(&orders, "amd64", |_| version.map(str::to_owned));
            for (line, planned) in &first {
                prop_assert_eq!(
                    planned.decisions.values().filter(|d| **d == Decision::Install).count()
                        + usize::from(matches!(planned.decisions[&planned.winner], Decision::Satisfied { .. })),
                    1
                );
                let installs = planned.decisions[&planned.winner] == Decision::Install;
                let winner = orders.iter().find(|o| o.id == planned.winner).unwrap();
                let after = if installs { Some(winner.release.package.version.clone()) } else { version.map(str::to_owned) };
                now.insert(line.clone(), after);
            }
            let second = plan(&orders, "amd64", |line| now[line].clone());
            for planned in second.values() {
                prop_assert!(!planned.decisions.values().any(|d| *d == Decision::Install));
            }
        }

        /// A machine that saw every order at once and one that carried out each as it came end
        /// with the same version, unless a fix from elsewhere was newer.
        #[test]
        fn those_who_slept_end_where_the_others_are(mut orders in any_orders()) {
            orders.sort_by_key(|order| order.when());
            let carry_out = |orders: &[Order], now: &mut BTreeMap<Line, String>| {
                for (_, planned) in plan(orders, "amd64", |line| now.get(line).cloned()) {
                    if planned.decisions[&planned.winner] == Decision::Install {
                        let package = &orders.iter().find(|o| o.id == planned.winner).unwrap().release.package;
                        now.insert(Line::of(package, "amd64"), package.version.clone());
                    }
                }
            };
            let (mut awake, mut slept) = (BTreeMap::new(), BTreeMap::new());
            for count in 1..=orders.len() {
                carry_out(&orders[..count], &mut awake);
            }
            carry_out(&orders, &mut slept);
            prop_assert_eq!(awake, slept);
        }
    }
}
