//! What machines are told, by what the cluster says.

use std::sync::Arc;
use std::time::Duration;

use dht_store::view::Assigned;
use dht_store::{Store, Views};
use p2pinst_boot::dhcp::table::Wants;
use p2pinst_trust::fixture::{Invited, Lab, key, name};
use p2pinst_trust::{ScoutHello, SecretKey, console};
use p2pinst_types::record::{
    Adoption, Assignment, BootUse, Disarmament, Ended, Firmware, GroupPolicy, Guise, Inventory,
    Invite, Role, Setup, Task,
};
use p2pinst_types::{Cell, Kind, Labels, Mac, MachineId, NodeId, codec};
use tokio::time::Instant;

use super::judge::{Verdict, judge};
use super::members::Members;
use super::tables::machines;
use super::waves::{may_begin, never_begins};

const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const OTHER: Mac = Mac([0x52, 0x54, 0, 0, 0, 2]);

struct World {
    lab: Lab,
    store: Store,
    _dir: tempfile::TempDir,
}

fn world() -> World {
    let lab = Lab::default();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb"), lab.roots.clone()).unwrap();
    let mut world = World { lab, store, _dir: dir };
    let grants = [world.lab.operator_grant.clone(), world.lab.publisher_grant.clone()];
    world.apply(&grants);
    world
}

impl World {
    fn apply(&mut self, cells: &[Cell]) {
        let later = self.lab.clock.after(Duration::from_secs(60));
        let outcomes = self.store.apply(cells.to_vec(), &[], later).unwrap();
        assert!(outcomes.iter().all(dht_store::Outcome::is_here), "{outcomes:?}");
    }

    fn views(&self) -> Arc<Views> {
        self.store.views()
    }

    fn adopt(&mut self, mac: Mac, named: &str) -> MachineId {
        let (site, labels) = (name("lab"), Labels::default());
        let record = Adoption { name: name(named), macs: vec![mac], site, labels, removed: false };
        let (machine, alice) = (Adoption::machine(mac), self.lab.operator.clone());
        let cell = self.lab.write(&alice, Kind::ADOPTION, machine.as_bytes(), &record);
        self.apply(&[cell]);
        machine
    }

    fn order(&mut self, mac: Mac, named: &str, change: impl FnOnce(&mut Assignment)) -> Assigned {
        let machine = Adoption::machine(mac);
        let mut order = Assignment {
            number: 1,
            task: Task::Inspect,
            name: name(named),
            site: name("lab"),
            labels: Labels::default(),
            macs: vec![mac],
            power: false,
            wave: 0,
            gate: 100,
            code: None,
            not_after: self.lab.clock.after(Duration::from_secs(3600)),
        };
        change(&mut order);
        let alice = self.lab.operator.clone();
        let place = (Kind::ASSIGNMENT, machine.as_bytes().as_slice(), None);
        let cell = self.lab.write_in(&alice, place, &order);
        self.apply(&[cell]);
        self.views().current_assignment(&machine).unwrap().clone()
    }

    fn ended(&mut self, assigned: &Assigned, ended: Ended) {
        let record = Disarmament { assignment: assigned.id, ended, reason: String::new() };
        let slot = assigned.id.as_bytes().to_vec();
        let place = (Kind::DISARMAMENT, assigned.machine.as_bytes().as_slice(), Some(slot));
        let alice = self.lab.operator.clone();
        let cell = self.lab.write_in(&alice, place, &record);
        self.apply(&[cell]);
    }

    fn hello(&self, by: &SecretKey, macs: &[Mac]) -> ScoutHello {
        ScoutHello {
            cluster: *self.lab.cluster(),
            key: by.public(),
            macs: macs.to_vec(),
            inventory: Inventory {
                uuid: None,
                vendor: None,
                product: None,
                serial: None,
                firmware: Firmware::Bios,
                arch: "x86_64".to_owned(),
                cpu: None,
                cpus: 1,
                memory: 1,
                disks: Vec::new(),
                nics: Vec::new(),
                controller: None,
            },
            code: None,
            addrs: Vec::new(),
        }
    }

    fn judge(&self, hello: &ScoutHello, heard: Option<Mac>, alive: bool) -> Verdict {
        let gate = |_: &Assigned| Ok(());
        judge(&self.views(), hello, heard, self.lab.clock, &|_| alive, &gate)
    }
}

impl World {
    /// It becomes the scout of the machine, by the order that is in force.
    fn lets_in(&self, verdict: &Verdict, machine: MachineId) {
        let assignment = self.views().current_assignment(&machine).unwrap().id;
        assert_eq!(*verdict, Verdict::Certify { machine, assignment });
    }
}

fn waits(verdict: &Verdict, why: &str) {
    assert!(matches!(verdict, Verdict::Wait { reason, .. } if reason.contains(why)), "{verdict:?}");
}

#[test]
fn only_a_machine_with_an_order_in_force_becomes_a_scout() {
    let mut world = world();
    let hello = world.hello(&key(7), &[MAC]);
    assert_eq!(world.judge(&hello, Some(MAC), false), Verdict::Stranger { mac: MAC });
    let machine = world.adopt(MAC, "b1");
    waits(&world.judge(&hello, Some(MAC), false), "no order");
    let assigned = world.order(MAC, "b1", |_| {});
    world.lets_in(&world.judge(&hello, Some(MAC), false), machine);
    waits(&world.judge(&hello, None, false), "another segment");
    waits(&world.judge(&hello, Some(OTHER), false), "none of its interfaces");
    // beside others' interfaces its own counts: that of which the kernel knows
    world.adopt(OTHER, "b2");
    let both = world.hello(&key(7), &[OTHER, MAC]);
    world.lets_in(&world.judge(&both, Some(MAC), false), machine);
    // who lists another's interface is not it
    let third = Mac([0x52, 0x54, 0, 0, 0, 3]);
    let liar = world.hello(&key(8), &[third, MAC]);
    waits(&world.judge(&liar, Some(third), false), "not known as an interface of b1");
    world.ended(&assigned, Ended::Installed);
    waits(&world.judge(&hello, Some(MAC), false), "no order");
    world.order(MAC, "b1", |o| o.number = 2);
    world.lets_in(&world.judge(&hello, Some(MAC), false), machine);
    world.lab.clock = world.lab.clock.after(Duration::from_secs(3700));
    waits(&world.judge(&hello, Some(MAC), false), "no order");
}

#[test]
fn a_code_that_is_wanted_is_needed() {
    let mut world = world();
    let machine = world.adopt(MAC, "b1");
    let demand = console::demand("471147").unwrap();
    world.order(MAC, "b1", |o| o.code = Some(demand));
    let mut hello = world.hello(&key(7), &[MAC]);
    let Verdict::Wait { code: Some(salt), machine: waits_for, .. } =
        world.judge(&hello, None, false)
    else {
        panic!("no code is wanted");
    };
    assert_eq!(waits_for, Some(machine), "who switches its power hears that it waits");
    let cluster = *world.lab.cluster();
    let typed =
        |code, scout: &SecretKey| console::answer(code, &salt, &cluster, &scout.public()).unwrap();
    hello.code = Some(typed("081508", &key(7)));
    waits(&world.judge(&hello, None, false), "wrong");
    // what was overheard is of no use to another
    hello.code = Some(typed("471147", &key(8)));
    waits(&world.judge(&hello, None, false), "wrong");
    hello.code = Some(typed("471147", &key(7)));
    world.lets_in(&world.judge(&hello, None, false), machine);
}

#[test]
fn a_group_that_asks_for_a_code_lets_nobody_in_without_one() {
    let mut world = world();
    let machine = world.adopt(MAC, "b1");
    world.order(MAC, "b1", |_| {});
    let mut hello = world.hello(&key(7), &[MAC]);
    world.lets_in(&world.judge(&hello, Some(MAC), false), machine);
    let alice = world.lab.operator.clone();
    let policy = GroupPolicy { console_code: true };
    let cell = world.lab.write(&alice, Kind::GROUP_POLICY, b"all", &policy);
    world.apply(&[cell]);
    let verdict = world.judge(&hello, Some(MAC), false);
    waits(&verdict, "the group all asks for a code");
    let Verdict::Wait { code: None, machine: Some(known), .. } = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(known, machine);
    // an order that has one is as good as ever
    let demand = console::demand("471147").unwrap();
    world.order(MAC, "b1", |o| (o.number, o.code) = (2, Some(demand)));
    waits(&world.judge(&hello, Some(MAC), false), "wants a code");
    let cluster = *world.lab.cluster();
    let code = console::answer("471147", &demand.salt, &cluster, &key(7).public()).unwrap();
    hello.code = Some(code);
    world.lets_in(&world.judge(&hello, Some(MAC), false), machine);
}

#[test]
fn a_second_machine_that_says_it_is_the_first_is_kept_out_while_that_one_works() {
    let mut world = world();
    let machine = world.adopt(MAC, "b1");
    let assigned = world.order(MAC, "b1", |_| {});
    let (alice, booter) = (world.lab.operator.clone(), key(9));
    let joined = world.lab.invite(100, 1);
    let node = world.lab.node(&joined, 101, "n1");
    let grant = world.lab.grant(booter.public(), "booter", &[Role::Boot]);
    let admitted = world.lab.admit(&alice, &node);
    world.apply(&[joined.cell, admitted, grant]);
    let invite_key = key(200);
    let invite = Invite {
        key: invite_key.public(),
        site: name("lab"),
        labels: Labels::default(),
        uses: 1,
        not_after: world.lab.clock.after(Duration::from_secs(3600)),
        replaces: Some(machine),
        boot: Some(BootUse { assignment: assigned.id, guise: Guise::Scout }),
    };
    let cell = world.lab.write(&booter, Kind::INVITE, invite.key.as_bytes(), &invite);
    let invited = Invited { key: invite_key, invite, cell };
    let scout = world.lab.node(&invited, 201, "b1");
    let admitted = world.lab.admit(&node.key, &scout);
    world.apply(&[invited.cell.clone(), admitted]);
    assert!(world.views().scout_of(&scout.id(), world.lab.clock).is_some());

    let spoofer = world.hello(&key(7), &[MAC]);
    let spoofed = Verdict::Spoofed { machine, scout: NodeId(scout.id()) };
    assert_eq!(world.judge(&spoofer, Some(MAC), true), spoofed);
    // the machine has lost power, and comes again with another key
    world.lets_in(&world.judge(&spoofer, Some(MAC), false), machine);
    // the scout itself asks again: its answer was lost
    let again = world.hello(&scout.key, &[MAC]);
    world.lets_in(&world.judge(&again, Some(MAC), true), machine);
    // who knows the code of a newer order is the machine, whoever was let in without one
    let demand = console::demand("471147").unwrap();
    world.order(MAC, "b1", |o| (o.number, o.code) = (2, Some(demand)));
    waits(&world.judge(&again, Some(MAC), true), "wants a code");
    let (cluster, mut known) = (*world.lab.cluster(), world.hello(&key(8), &[MAC]));
    known.code = console::answer("471147", &demand.salt, &cluster, &key(8).public()).ok();
    world.lets_in(&world.judge(&known, Some(MAC), true), machine);
}

#[test]
fn a_member_that_starts_over_the_network_is_no_stranger() {
    let mut world = world();
    let mac = |n: u8| Mac([2, 0, 0, 0, 0, n]);
    let joined = world.lab.invite(100, 2);
    let (a, b) = (world.lab.node(&joined, 101, "n1"), world.lab.node(&joined, 102, "n2"));
    let alice = world.lab.operator.clone();
    let admitted = [world.lab.admit(&alice, &a), world.lab.admit(&alice, &b)];
    world.apply(&[vec![joined.cell], admitted.to_vec()].concat());
    let (views, start) = (world.views(), Instant::now());
    let mut members = Members::default();
    let due = members.due(&views, start);
    assert_eq!((due.len(), members.is_complete()), (2, false));
    let (first, second) = (due[0], due[1]);
    members.came(vec![(first, Some(vec![mac(1), mac(2), MAC])), (second, None)], start);
    assert_eq!(members.due(&views, start), []);
    assert!(members.is_complete(), "all were tried");
    let later = start + Duration::from_secs(30);
    assert_eq!(members.due(&views, later), [second], "it could not be read");
    members.came(vec![(second, Some(vec![mac(3)]))], later);
    let long = start + Duration::from_secs(601);
    assert_eq!(members.due(&views, long), [first]);
    members.came(vec![(first, None)], long);

    // what was known stays known, and orders say more
    world.adopt(MAC, "b1");
    world.order(MAC, "b1", |_| {});
    let machines = machines(&members, &world.views(), world.lab.clock);
    let wants: Vec<_> = machines.iter().map(|(mac, armed)| (*mac, armed.wants)).collect();
    let expected =
        [(mac(1), Wants::Disk), (mac(2), Wants::Disk), (mac(3), Wants::Disk), (MAC, Wants::Scout)];
    assert_eq!(wants, expected);
}

#[test]
fn a_wave_begins_when_enough_of_those_before_are_installed() {
    let mut world = world();
    let mac = |n: u8| Mac([2, 0, 0, 0, 0, n]);
    let mut first = Vec::new();
    for n in 0..4 {
        world.adopt(mac(n), &format!("b{n}"));
        first.push(world.order(mac(n), &format!("b{n}"), |_| {}));
    }
    world.adopt(mac(9), "b9");
    let second = world.order(mac(9), "b9", |o| (o.wave, o.gate) = (1, 75));
    assert_eq!(may_begin(&world.views(), &first[0]), Ok(()));
    for (done, assigned) in first.iter().enumerate().take(3) {
        let why = may_begin(&world.views(), &second).unwrap_err();
        assert!(why.contains(&format!("{done} of 4")), "{why}");
        world.ended(assigned, Ended::Installed);
    }
    assert_eq!(may_begin(&world.views(), &second), Ok(()));
}

#[test]
fn a_machine_whose_order_was_taken_back_is_neither_installed_nor_missing() {
    let mut world = world();
    let mac = |n: u8| Mac([2, 0, 0, 0, 0, n]);
    let mut first = Vec::new();
    for n in 0..3 {
        world.adopt(mac(n), &format!("b{n}"));
        first.push(world.order(mac(n), &format!("b{n}"), |_| {}));
    }
    world.adopt(MAC, "b9");
    let last = world.order(MAC, "b9", |o| (o.wave, o.gate) = (1, 100));
    let why = |world: &World| may_begin(&world.views(), &last).unwrap_err();
    world.ended(&first[0], Ended::Installed);
    assert!(why(&world).contains("1 of 3"), "{}", why(&world));
    world.ended(&first[1], Ended::Cancelled);
    assert!(why(&world).contains("1 of 2"), "{}", why(&world));
    // what it was ordered anew counts as that goes
    let again = world.order(mac(2), "b2", |o| o.number = 2);
    assert!(why(&world).contains("1 of 2"), "{}", why(&world));
    world.ended(&again, Ended::Installed);
    assert_eq!(may_begin(&world.views(), &last), Ok(()));
}

#[test]
fn a_machine_that_an_installer_was_started_on_is_not_installed_before_its_system_joins() {
    let mut world = world();
    let alice = world.lab.operator.clone();
    for (agent, may) in [(false, true), (true, false)] {
        let text = format!("name = \"x\"\nagent = {agent}\n[installer]\nimage = \"d-i\"\n");
        let record = Setup { name: name("x"), text };
        let setup = Setup::id(&codec::encode(&record).unwrap());
        let cell = world.lab.write(&alice, Kind::SETUP, &setup.0.0, &record);
        world.apply(&[cell]);
        let number = if agent { 2 } else { 1 };
        world.adopt(MAC, "b1");
        let first = world.order(MAC, "b1", |o| {
            (o.number, o.task) = (number, Task::Install { setup, images: [].into(), plan: None });
        });
        world.adopt(OTHER, "b2");
        let second = world.order(OTHER, "b2", |o| (o.number, o.wave, o.gate) = (number, 1, 50));
        world.ended(&first, Ended::Installed);
        assert_eq!(may_begin(&world.views(), &second).is_ok(), may, "agent: {agent}");
    }
}

#[test]
fn a_wave_begins_when_nothing_of_those_before_is_left() {
    let mut world = world();
    world.adopt(MAC, "b1");
    let one = world.order(MAC, "b1", |_| {});
    world.adopt(OTHER, "b2");
    let two = world.order(OTHER, "b2", |o| o.wave = 1);
    assert!(may_begin(&world.views(), &two).is_err());
    world.ended(&one, Ended::Cancelled);
    assert_eq!(may_begin(&world.views(), &two), Ok(()));
}

#[test]
fn a_wave_that_can_never_begin_says_so() {
    let mut world = world();
    let mac = |n: u8| Mac([2, 0, 0, 0, 0, n]);
    let soon = world.lab.clock.after(Duration::from_secs(600));
    let mut first = Vec::new();
    for n in 0..4 {
        world.adopt(mac(n), &format!("b{n}"));
        first.push(world.order(mac(n), &format!("b{n}"), |o| {
            if n == 3 {
                o.not_after = soon;
            }
        }));
    }
    world.adopt(MAC, "b9");
    let last = world.order(MAC, "b9", |o| (o.wave, o.gate) = (1, 75));
    let never = |world: &World, later: u64, failed: &[usize]| {
        let failed: Vec<_> = failed.iter().map(|n| first[*n].id).collect();
        let now = world.lab.clock.after(Duration::from_secs(later));
        never_begins(&world.views(), &last, now, &|a| failed.contains(&a.id))
    };
    assert_eq!(never(&world, 0, &[]), None);
    assert_eq!(never(&world, 0, &[1]), None, "three of four suffice");
    let why = never(&world, 0, &[1, 2]).unwrap();
    assert!(why.contains("wave 2 cannot begin") && why.contains("(b1, b2)"), "{why}");
    let why = never(&world, 700, &[1]).unwrap();
    assert!(why.contains("0 of 4") && why.contains("(b1, b3)"), "{why}");
    // who takes one of them out of it lets the others go on
    world.ended(&first[1], Ended::Cancelled);
    assert!(never(&world, 0, &[2]).is_some(), "two of three are too few");
    world.ended(&first[2], Ended::Cancelled);
    assert_eq!(never(&world, 0, &[]), None);
}
