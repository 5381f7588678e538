//! A realistic set of cells, and what can be seen of a store.

use dht_store::Store;
use p2pinst_trust::fixture::{Lab, key};
use p2pinst_types::record::{Grant, Group, Role};
use p2pinst_types::{Cell, Kind, Millis};
use tempfile::TempDir;

/// Long after everything that the fixture writes.
pub(crate) const LATER: Millis = Millis(1_800_000_000_000 + 3 * 3600 * 1000);

/// A store of its own.
pub(crate) fn store(lab: &Lab) -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb"), lab.roots.clone()).unwrap();
    (dir, store)
}

/// Cells of every kind, by root, administrators and members, with every conflict that honest
/// people run into: replaced records, a name asked for twice, an invite used too often, a machine
/// admitted by two members, powers that ended, keys that were revoked, machines that were renamed,
/// labelled and that left, a root that was replaced.
pub(crate) fn cells() -> (Lab, Vec<Cell>) {
    let mut lab = Lab::default();
    let (alice, bob) = (lab.operator.clone(), lab.publisher.clone());
    let mut cells = vec![lab.operator_grant.clone(), lab.publisher_grant.clone()];

    // three members, each admitted by the one before
    let invite = lab.invite(100, 3);
    let nodes: Vec<_> = (1..=3).map(|n| lab.node(&invite, 100 + n, &format!("n{n}"))).collect();
    cells.push(invite.cell.clone());
    cells.push(lab.admit(&alice, &nodes[0]));
    cells.push(lab.admit(&nodes[0].key, &nodes[1]));
    cells.push(lab.admit(&nodes[1].key, &nodes[2]));
    // the third is admitted by another member too; a fourth is beyond the invite's uses, and
    // admits a fifth all the same
    cells.push(lab.admit(&nodes[0].key, &nodes[2]));
    let fourth = lab.node(&invite, 104, "n4");
    cells.push(lab.admit(&nodes[2].key, &fourth));
    let fifth = lab.node(&invite, 105, "n5");
    cells.push(lab.admit(&fourth.key, &fifth));
    // a name that is taken, from another invite
    let second = lab.invite(110, 2);
    cells.push(second.cell.clone());
    let twin = lab.node(&second, 111, "n2");
    cells.push(lab.admit(&nodes[1].key, &twin));
    cells.push(lab.write(&twin.key, Kind(0x0123), b"of a void member", &1u8));

    // two administrators get one name; the later loses it, and what it wrote is void
    let carol = key(50);
    cells.push(lab.grant(carol.public(), "alice", &[Role::Operator, Role::Publisher]));
    cells.push(lab.group(&carol, "gpu", "void[1-9]"));
    // dora's power is narrowed by a later grant
    let dora = key(51);
    cells.push(lab.grant(dora.public(), "dora", &[Role::Operator, Role::Publisher]));
    let (by_dora, cell) = lab.release(&dora, "0.9");
    cells.extend([cell, lab.deploy(&dora, by_dora, "all")]);
    cells.push(lab.grant(dora.public(), "dora", &[Role::Operator]));
    // erin's ends
    let erin = key(52);
    let end = lab.clock.after(std::time::Duration::from_secs(2));
    cells.push(lab.grant_until(erin.public(), "erin", &[Role::Operator], Some(end)));
    cells.push(lab.group(&erin, "early", "n1"));
    cells.push(lab.group(&erin, "late", "n1"));

    // a group that two people redefine
    for hosts in ["n[1-2]", "n[1-3]"] {
        cells.push(lab.group(&alice, "gpu", hosts));
    }
    cells.push(lab.group(&dora, "gpu", "n3"));
    // machines that two people add and take out, and a group that is removed
    for (by, hosts, present) in [
        (&alice, "n[1-2]", true),
        (&dora, "n1", false),
        (&dora, "n[1-2]", false),
        (&alice, "n1", true),
    ] {
        cells.push(lab.group_edit(by, "gpu", hosts, present));
    }
    cells.push(lab.group(&dora, "old", "n1"));
    let removed = Group { removed: true, ..Group::new(String::new(), None, None) };
    cells.push(lab.write(&alice, Kind::GROUP, b"old", &removed));

    let (one, cell) = lab.release(&bob, "1.0");
    cells.extend([cell, lab.deploy(&alice, one, "gpu")]);
    let (two, cell) = lab.release(&bob, "2.0");
    cells.extend([cell, lab.deploy(&alice, two, "gpu"), lab.deploy(&dora, two, "all")]);
    // an order without a publisher's word
    let (none, _) = lab.release(&alice, "3.0");
    cells.push(lab.deploy(&alice, none, "all"));

    // a machine and an administrator are revoked, and go on writing
    cells.push(lab.revoke(&alice, nodes[1].id(), None));
    let after = lab.node(&second, 112, "n6");
    cells.push(lab.admit(&nodes[1].key, &after));
    // its name is free for the machine that takes its place
    let heir = lab.node(&second, 113, "n2");
    cells.push(lab.admit(&nodes[0].key, &heir));
    let root = lab.root.clone();
    cells.push(lab.revoke(&root, dora.public(), None));
    cells.push(lab.deploy(&dora, one, "all"));

    // names: the first to get m1 keeps it; n3 keeps its own; n1 is free for one that joins
    let [one_id, three_id] = [nodes[0].machine(), nodes[2].machine()];
    cells.push(lab.rename(&alice, &one_id, "m1"));
    cells.push(lab.rename(&alice, &three_id, "m1"));
    cells.push(lab.rename(&carol, &three_id, "void"));
    let third = lab.invite(120, 2);
    cells.push(third.cell.clone());
    let late = lab.node(&third, 121, "n1");
    cells.push(lab.admit(&nodes[2].key, &late));
    cells.push(lab.rename(&alice, &one_id, "m0"));
    // labels: the newest edit of each
    cells.push(lab.label(&alice, &one_id, "gpu", Some("a100")));
    cells.push(lab.label(&alice, &one_id, "gpu", Some("h100")));
    cells.push(lab.label(&carol, &one_id, "void", Some("x")));
    // one leaves, and goes on writing
    let leaver = lab.node(&third, 122, "n7");
    cells.push(lab.admit(&nodes[0].key, &leaver));
    cells.push(lab.admit(&leaver.key, &nodes[2]));
    cells.push(lab.revoke(&leaver.key, leaver.id(), None));
    let fourth = lab.invite(130, 1);
    let beyond = lab.node(&fourth, 131, "n8");
    cells.extend([fourth.cell.clone(), lab.admit(&leaver.key, &beyond)]);

    cells.extend(crate::boot::cells(&mut lab, &nodes[0]));
    cells.extend(crate::controllers::cells(&mut lab, &nodes[0], &nodes[2]));
    // what a newer version writes
    cells.push(lab.write(&alice, Kind(0x0777), b"of tomorrow", &"?"));
    let odd = lab.group(&alice, "odd", "n1");
    cells.push(lab.in_format(&alice, &odd, 9));

    // the root is replaced; the old key goes on granting and revoking
    let old = lab.root.clone();
    let stands = |c: &&Cell| match c.id.kind {
        Kind::GRANT => c.id.subject != carol.public().as_bytes(),
        Kind::REVOCATION => c.id.author == old.public(),
        _ => false,
    };
    let standing: Vec<Cell> = cells.iter().filter(stands).cloned().collect();
    cells.push(lab.rotate(90, &standing.iter().collect::<Vec<_>>()));
    let new = std::mem::replace(&mut lab.root, old);
    let (frank, mallory) = (key(53), key(54));
    cells.push(lab.grant(mallory.public(), "mallory", &[Role::Operator, Role::Publisher]));
    let old = lab.root.clone();
    cells.push(lab.revoke(&old, alice.public(), None));
    lab.root = new;
    cells.push(lab.grant(frank.public(), "frank", &[Role::Operator]));
    cells.push(lab.group(&frank, "new", "n1"));
    cells.push(lab.group(&mallory, "stolen", "n1"));
    (lab, cells)
}

/// All that the views say, in a form that can be compared.
pub(crate) fn seen(store: &Store) -> String {
    let v = store.views();
    let invites: Vec<_> = v.invites.iter().map(|(k, i)| (k, &i.invite, i.used)).collect();
    let grants: Vec<(_, &Grant)> = v.grants.iter().map(|(k, g)| (k, &g.grant)).collect();
    format!(
        "{} {grants:#?}\n{:#?}\n{:#?}\n{invites:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{} unknown",
        v.root_in_force,
        v.revoked,
        v.former,
        v.machines,
        v.void,
        v.groups,
        v.removed_groups,
        v.releases,
        v.orders,
        v.unknown
    ) + &format!(
        "\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}",
        v.controllers,
        v.power_orders,
        v.adopted,
        v.images,
        v.removed_blobs,
        v.setups,
        v.assignments,
        v.scouts().collect::<Vec<_>>(),
        v.sightings
    )
}

/// Applies, one batch.
pub(crate) fn apply(store: &mut Store, cells: &[Cell]) -> Vec<dht_store::Outcome> {
    store.apply(cells.to_vec(), &[], LATER).unwrap()
}
