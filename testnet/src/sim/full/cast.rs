//! Who takes part: a cluster of keys, certificates and first cells. Every key comes from a number.

use std::time::Duration;

use p2pinst_trust::SecretKey;
use p2pinst_trust::fixture::{Invited, Lab, Node, START, key, name};
use p2pinst_types::record::{Invite, Role};
use p2pinst_types::{Cell, Kind, Labels, Millis};

/// When a simulation begins: after everything that the founding wrote.
pub(crate) const BEGIN: Millis = Millis(START.0 + 3_600_000);

/// The numbers of keys.
const OPERATORS: [(u16, &str); 3] = [(50, "carol"), (51, "dora"), (52, "eve")];
const MALLORY: u16 = 60;
const INVITES: u16 = 70;
const MACHINES: u16 = 100;

/// See the module.
#[derive(Debug)]
pub(crate) struct Cast {
    pub(crate) lab: Lab,
    /// What every node has at the beginning.
    pub(crate) genesis: Vec<Cell>,
    /// Operators and publishers; the last is not honest.
    pub(crate) operators: Vec<SecretKey>,
    /// Nobody gave it anything.
    pub(crate) mallory: SecretKey,
    /// The machines, and the site of each; those that join later too.
    pub(crate) machines: Vec<(Node, u8)>,
}

impl Cast {
    /// A cluster of so many machines at two sites, and others that have a certificate only.
    pub(crate) fn new(founders: usize, late: usize) -> Self {
        let mut lab = Lab::default();
        let mut genesis = vec![lab.operator_grant.clone(), lab.publisher_grant.clone()];
        let mut operators = Vec::new();
        for (n, called) in OPERATORS {
            let operator = key(n);
            let roles = [Role::Operator, Role::Publisher];
            genesis.push(lab.grant(operator.public(), called, &roles));
            operators.push(operator);
        }
        let uses = u32::try_from(founders + late).unwrap_or(u32::MAX);
        let sites = ["lab", "pisa"].map(|site| invite(&mut lab, site, uses));
        genesis.extend(sites.iter().map(|i| i.cell.clone()));
        let mut machines = Vec::new();
        for (n, at) in (0..founders + late).zip([0u8, 0, 1].iter().cycle()) {
            let Some(invited) = sites.get(usize::from(*at)) else { continue };
            let number = MACHINES + u16::try_from(n).unwrap_or(u16::MAX - MACHINES);
            let node = lab.node(invited, number, &format!("n{n}"));
            if n < founders {
                let by = lab.operator.clone();
                genesis.push(lab.admit(&by, &node));
            }
            machines.push((node, *at));
        }
        Self { lab, genesis, operators, mallory: key(MALLORY), machines }
    }
}

fn invite(lab: &mut Lab, site: &str, uses: u32) -> Invited {
    let invite_key = key(INVITES + u16::from(site.as_bytes().first().copied().unwrap_or(0)));
    let invite = Invite {
        key: invite_key.public(),
        site: name(site),
        labels: Labels::default(),
        uses,
        not_after: lab.clock.after(Duration::from_secs(24 * 3600)),
        replaces: None,
        boot: None,
    };
    let operator = lab.operator.clone();
    let cell = lab.write(&operator, Kind::INVITE, invite.key.as_bytes(), &invite);
    Invited { key: invite_key, invite, cell }
}
