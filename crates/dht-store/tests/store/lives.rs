//! A node begins a life at every start: hundreds of lives of one key reach everybody, whole.

use dht_store::store::Write;
use dht_store::{Outcome, Store};
use p2pinst_trust::fixture::{LIFE, Lab};
use p2pinst_trust::policy;
use p2pinst_types::record::{Admission, NodeRecord};
use p2pinst_types::{Kind, Version};

use crate::sync::{converge, never};
use crate::world::{LATER, apply, store};

/// Starts of the node; in every one it admits a machine.
const STARTS: u16 = 300;

fn record(store: &mut Store, lab: &Lab, by: &p2pinst_trust::fixture::Node, life: u64) -> Version {
    let machine = store.views().machine_of(&by.id()).unwrap().id;
    let record = NodeRecord {
        addrs: vec![],
        version: life.to_string(),
        started: lab.clock,
        architecture: "amd64".to_owned(),
        needs: None,
        macs: vec![],
    };
    let write = Write {
        kind: Kind::NODE_RECORD,
        subject: machine.as_bytes(),
        slot: b"",
        incarnation: life,
    };
    store.write(&by.key, write, &record, LATER).unwrap().version
}

#[test]
fn a_node_that_was_started_hundreds_of_times_is_understood() {
    let mut lab = Lab::default();
    let ((_d1, mut a), (_d2, mut b)) = (store(&lab), store(&lab));
    let invite = lab.invite(100, u32::from(STARTS) + 1);
    let alice = lab.operator.clone();
    let first = lab.node(&invite, 101, "first");
    let admitted = lab.admit(&alice, &first);
    apply(&mut a, &[lab.operator_grant.clone(), invite.cell.clone(), admitted]);
    let mut versions = Vec::new();
    for start in 1..=STARTS {
        let life = LIFE + u64::from(start) * 10;
        let guest = lab.node(&invite, 101 + start, &format!("n{start}"));
        let admission =
            Admission { machine: policy::machine_id(&guest.signed), cert: guest.signed.clone() };
        let (id, now) = (guest.id(), LATER);
        let write =
            Write { kind: Kind::ADMISSION, subject: id.as_bytes(), slot: b"", incarnation: life };
        let cell = a.write(&first.key, write, &admission, now).unwrap();
        assert_eq!(cell.version, Version { incarnation: life, seq: 1 });
        versions.push(record(&mut a, &lab, &first, life));
    }
    assert!(versions.is_sorted_by(|x, y| x < y), "a later start has written an older version");
    // somebody who knows nothing yet, over small messages
    converge(&mut a, &mut b, 4000, never);
    assert_eq!(b.views().machines.len(), usize::from(STARTS) + 1);
    assert_eq!(a.heads(), b.heads());
    // an older life writes nothing more, and its records count as what they are
    let machine = b.views().machine_of(&first.id()).unwrap().id;
    let mut cells = a.data(Kind::NODE_RECORD, machine.as_bytes()).unwrap();
    let newest = cells.pop().unwrap();
    assert_eq!(apply(&mut b, std::slice::from_ref(&newest)), [Outcome::Accepted]);
    assert_eq!(apply(&mut b, &[newest]), [Outcome::Known]);
    let old = Write {
        kind: Kind::NODE_RECORD,
        subject: machine.as_bytes(),
        slot: b"",
        incarnation: LIFE,
    };
    assert!(a.write(&first.key, old, &1u8, LATER).is_err());
    // what an older life wrote is known to be older
    let (_d3, mut c) = store(&lab);
    converge(&mut a, &mut c, 1 << 20, never);
    record(&mut c, &lab, &first, LIFE);
    let older = c.data(Kind::NODE_RECORD, machine.as_bytes()).unwrap();
    assert_eq!(apply(&mut b, &older), [Outcome::Newer]);
}
