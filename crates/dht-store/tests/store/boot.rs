//! Bare metal: who may install what on a machine, and as what it comes back.

use std::time::Duration;

use dht_store::{Outcome, Store};
use p2pinst_trust::fixture::{Invited, Lab, Node, key, name};
use p2pinst_trust::{Refusal, SecretKey, policy};
use p2pinst_types::record::{
    Adoption, Assignment, BootState, BootStatus, BootUse, Disarmament, Ended, Firmware,
    GroupPolicy, Guise, Image, ImageKind, ImageRemoval, Inventory, Invite, Role, Setup, Sighting,
    Task,
};
use p2pinst_types::{
    AssignmentId, BlobRef, Cell, Hash, Kind, Labels, Mac, MachineId, Millis, SetupId, codec,
};
use tempfile::TempDir;

use crate::world::{LATER, apply, store};

const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

fn adoption(named: &str) -> Adoption {
    let (site, labels) = (name("lab"), Labels::default());
    Adoption { name: name(named), macs: vec![MAC], site, labels, removed: false }
}

fn order(lab: &Lab, named: &str) -> Assignment {
    Assignment {
        number: 1,
        task: Task::Install { setup: SetupId(Hash([3; 32])), images: [].into(), plan: None },
        name: name(named),
        site: name("lab"),
        labels: Labels::default(),
        macs: vec![MAC],
        power: true,
        wave: 0,
        gate: 100,
        code: None,
        not_after: lab.clock.after(Duration::from_secs(3600)),
    }
}

/// Orders something for a machine; the cell and the order's id.
fn assign(
    lab: &mut Lab,
    by: &SecretKey,
    machine: MachineId,
    order: &Assignment,
) -> (AssignmentId, Cell) {
    let cell = lab.write_in(by, (Kind::ASSIGNMENT, machine.as_bytes(), None), order);
    (Assignment::id(&by.public(), &machine, cell.hlc, cell.payload()), cell)
}

fn disarm(
    lab: &mut Lab,
    by: &SecretKey,
    machine: MachineId,
    assignment: AssignmentId,
    ended: Ended,
) -> Cell {
    let record = Disarmament { assignment, ended, reason: String::new() };
    let slot = assignment.as_bytes().to_vec();
    lab.write_in(by, (Kind::DISARMAMENT, machine.as_bytes(), Some(slot)), &record)
}

/// An invite of the boot role, after `change`.
fn invite(
    lab: &mut Lab,
    by: &SecretKey,
    n: u16,
    (machine, assignment, guise): (MachineId, AssignmentId, Guise),
    change: impl FnOnce(&mut Invite),
) -> Invited {
    let invite_key = key(n);
    let mut invite = Invite {
        key: invite_key.public(),
        site: name("lab"),
        labels: Labels::default(),
        uses: 1,
        not_after: lab.clock.after(Duration::from_secs(600)),
        replaces: Some(machine),
        boot: Some(BootUse { assignment, guise }),
    };
    change(&mut invite);
    let cell = lab.write(by, Kind::INVITE, invite.key.as_bytes(), &invite);
    Invited { key: invite_key, invite, cell }
}

/// A machine that is adopted, ordered, booted and installed, and one that only is seen.
pub(crate) fn cells(lab: &mut Lab, member: &Node) -> Vec<Cell> {
    let (alice, bob, booter) = (lab.operator.clone(), lab.publisher.clone(), member.key.clone());
    let machine = Adoption::machine(MAC);
    let mut cells = vec![lab.grant(booter.public(), "booter", &[Role::Boot])];
    for named in ["b1", "b2"] {
        cells.push(lab.write(&alice, Kind::ADOPTION, machine.as_bytes(), &adoption(named)));
    }
    cells.push(lab.label(&alice, &machine, "gpu", Some("yes")));
    let policy = GroupPolicy { console_code: true };
    cells.push(lab.write(&alice, Kind::GROUP_POLICY, b"all", &policy));
    cells.push(image(lab, &bob, "debian", 1));
    cells.push(image(lab, &alice, "void", 2));
    let setup = Setup { name: name("compute"), text: "x".to_owned() };
    let id = Setup::id(&codec::encode(&setup).unwrap());
    cells.push(lab.write(&alice, Kind::SETUP, &id.0.0, &setup));
    let first = order(lab, "b2");
    let (old, cell) = assign(lab, &alice, machine, &first);
    cells.push(cell);
    let (id, cell) = assign(lab, &alice, machine, &Assignment { number: 2, ..first });
    cells.push(cell);
    for (n, assignment, guise) in
        [(201, old, Guise::Scout), (203, id, Guise::Scout), (205, id, Guise::System)]
    {
        let invited = invite(lab, &booter, n, (machine, assignment, guise), |_| {});
        let node = lab.node(&invited, n + 1, "b2");
        cells.extend([invited.cell, lab.admit(&booter, &node)]);
    }
    cells.push(disarm(lab, &booter, machine, id, Ended::Installed));
    let sighting = Sighting { mac: Mac([2, 0, 0, 0, 0, 9]), at: Millis(5), inventory: None };
    cells.push(lab.write(&booter, Kind::SIGHTING, &[0, 7], &sighting));
    cells
}

fn image(lab: &mut Lab, by: &SecretKey, named: &str, n: u8) -> Cell {
    let image = Image {
        name: name(named),
        kind: ImageKind::Disk,
        arch: "x86_64".to_owned(),
        files: [("disk.raw".to_owned(), BlobRef::new(Hash([n; 32]), 1000).unwrap())].into(),
        about: String::new(),
        at: Millis(i64::from(n).cast_unsigned()),
    };
    let id = Image::id(&codec::encode(&image).unwrap());
    lab.write(by, Kind::IMAGE, &id.0.0, &image)
}

/// A cluster with a member that boots others, and an adopted machine with an order.
struct World {
    lab: Lab,
    booter: Node,
    machine: MachineId,
    id: AssignmentId,
    cells: Vec<Cell>,
}

fn world() -> World {
    let mut lab = Lab::default();
    let alice = lab.operator.clone();
    let joined = lab.invite(100, 5);
    let booter = lab.node(&joined, 101, "n1");
    let machine = Adoption::machine(MAC);
    let mut cells =
        vec![lab.operator_grant.clone(), lab.publisher_grant.clone(), joined.cell.clone()];
    cells.push(lab.admit(&alice, &booter));
    cells.push(lab.grant(booter.id(), "n1", &[Role::Boot, Role::Power]));
    cells.push(lab.write(&alice, Kind::ADOPTION, machine.as_bytes(), &adoption("b1")));
    let order = order(&lab, "b1");
    let (id, cell) = assign(&mut lab, &alice, machine, &order);
    cells.push(cell);
    World { lab, booter, machine, id, cells }
}

impl World {
    fn store(&self) -> (TempDir, Store) {
        let (dir, mut store) = store(&self.lab);
        let outcomes = apply(&mut store, &self.cells);
        assert!(outcomes.iter().all(|o| *o == Outcome::Accepted), "{outcomes:?}");
        (dir, store)
    }

    fn invite(&mut self, n: u16, guise: Guise, change: impl FnOnce(&mut Invite)) -> Invited {
        let (by, what) = (self.booter.key.clone(), (self.machine, self.id, guise));
        invite(&mut self.lab, &by, n, what, change)
    }

    /// A machine that joins by an invite; the cells too.
    fn joins(&mut self, invited: &Invited, n: u16, named: &str) -> (Node, Vec<Cell>) {
        let node = self.lab.node(invited, n, named);
        let by = self.booter.key.clone();
        let cells = vec![invited.cell.clone(), self.lab.admit(&by, &node)];
        (node, cells)
    }
}

#[test]
fn a_machine_is_scout_then_itself() {
    let mut world = world();
    let (_dir, mut store) = world.store();
    let invited = world.invite(200, Guise::Scout, |_| {});
    let (scout, cells) = world.joins(&invited, 201, "b1");
    apply(&mut store, &cells);
    let views = store.views();
    let found = views.scout_of(&scout.id(), LATER);
    assert!(found.is_none(), "its invite is over by then");
    let found = views.scout_of(&scout.id(), world.lab.clock).unwrap();
    assert_eq!((found.machine, found.assignment), (world.machine, world.id));
    assert!(views.machine_of(&scout.id()).is_none(), "it is no machine of the roster");
    assert!(views.machine_named(&name("b1")).is_none());
    assert_eq!(views.bare().get(&name("b1")), Some(&world.machine));

    let invited = world.invite(202, Guise::System, |_| {});
    let over = disarm(
        &mut world.lab,
        &world.booter.key.clone(),
        world.machine,
        world.id,
        Ended::Installed,
    );
    let (system, cells) = world.joins(&invited, 203, "b1");
    apply(&mut store, &[vec![over], cells].concat());
    let views = store.views();
    let machine = views.machine_of(&system.id()).unwrap();
    assert_eq!((machine.id, &machine.name), (world.machine, &name("b1")));
    assert!(views.bare().is_empty());
    let now = world.lab.clock;
    assert!(!views.current_assignment(&world.machine).unwrap().is_armed(now), "it was one-shot");

    // installed again, the machine stays what it was, and what it wrote before stands
    let record = world.lab.write(&system.key, Kind::INVENTORY, world.machine.as_bytes(), &"x");
    let alice = world.lab.operator.clone();
    let again = Assignment { number: 2, ..order(&world.lab, "b1") };
    let (id, cell) = assign(&mut world.lab, &alice, world.machine, &again);
    world.id = id;
    apply(&mut store, &[cell]);
    let invited = world.invite(204, Guise::System, |_| {});
    let (second, cells) = world.joins(&invited, 205, "b1");
    apply(&mut store, &cells);
    assert_eq!(store.views().machine_of(&second.id()).unwrap().id, world.machine);
    assert!(store.views().machine_of(&system.id()).is_none());
    let late = world.lab.write(&system.key, Kind::INVENTORY, world.machine.as_bytes(), &"y");
    let outcomes = apply(&mut store, &[late, record]);
    assert!(matches!(outcomes[0], Outcome::Held(_)), "{outcomes:?}");
    assert_eq!(outcomes[1], Outcome::Accepted);
}

#[test]
fn of_two_scouts_of_one_machine_the_later_counts() {
    let mut world = world();
    let (_dir, mut store) = world.store();
    let one = world.invite(200, Guise::Scout, |_| {});
    let (first, cells) = world.joins(&one, 201, "b1");
    apply(&mut store, &cells);
    let two = world.invite(202, Guise::Scout, |_| {});
    let (second, cells) = world.joins(&two, 203, "b1");
    apply(&mut store, &cells);
    let (views, now) = (store.views(), world.lab.clock);
    assert!(views.scout_of(&second.id(), now).is_some());
    assert!(views.scout_of(&first.id(), now).is_none());
    assert_eq!(views.void.get(&first.id()), Some(&Refusal::Revoked));
}

#[test]
fn what_the_boot_role_gives_is_what_was_ordered() {
    let mut world = world();
    let (_dir, mut store) = world.store();
    let boot = |world: &World, guise| Some(BootUse { assignment: world.id, guise });
    type Change = Box<dyn FnOnce(&mut Invite)>;
    let elsewhere = BootUse { assignment: AssignmentId([9; 16]), guise: Guise::System };
    let cases: Vec<(&str, Guise, Change)> = vec![
        ("more uses", Guise::System, Box::new(|i| i.uses = 2)),
        ("another site", Guise::System, Box::new(|i| i.site = name("elsewhere"))),
        (
            "a label",
            Guise::System,
            Box::new(|i| drop(i.labels.insert(name("gpu"), "x".to_owned().try_into().unwrap()))),
        ),
        ("another machine", Guise::Scout, Box::new(|i| i.replaces = Some(MachineId([7; 16])))),
        ("no machine", Guise::System, Box::new(|i| i.replaces = None)),
        ("no assignment", Guise::System, Box::new(move |i| i.boot = Some(elsewhere))),
        ("no use of the boot role", Guise::System, Box::new(|i| i.boot = None)),
    ];
    for (n, (what, guise, change)) in (200..).step_by(2).zip(cases) {
        let invited = world.invite(n, guise, change);
        let (node, cells) = world.joins(&invited, n + 1, "b1");
        apply(&mut store, &cells);
        let (views, now) = (store.views(), world.lab.clock);
        assert!(views.machine_of(&node.id()).is_none(), "{what}");
        assert!(views.scout_of(&node.id(), now).is_none(), "{what}");
        assert!(views.void.contains_key(&node.id()), "{what}");
    }
    // another name, and the name of another machine
    let invited = world.invite(240, Guise::System, |_| {});
    let (node, cells) = world.joins(&invited, 241, "b2");
    apply(&mut store, &cells);
    assert!(store.views().machine_of(&node.id()).is_none());
    // who has no boot role gives nothing
    let alice = world.lab.operator.clone();
    let use_ = boot(&world, Guise::System);
    let what = (world.machine, world.id, Guise::System);
    let invited = invite(&mut world.lab, &alice, 242, what, |i| i.boot = use_);
    let (node, cells) = world.joins(&invited, 243, "b1");
    apply(&mut store, &cells);
    assert!(store.views().machine_of(&node.id()).is_none());
}

#[test]
fn what_is_over_gives_no_power_any_more() {
    for how in ["cancelled", "superseded", "expired"] {
        let mut world = world();
        let (_dir, mut store) = world.store();
        let alice = world.lab.operator.clone();
        let cell = match how {
            "cancelled" => {
                Some(disarm(&mut world.lab, &alice, world.machine, world.id, Ended::Cancelled))
            }
            "superseded" => {
                let next = Assignment { number: 2, ..order(&world.lab, "b1") };
                Some(assign(&mut world.lab, &alice, world.machine, &next).1)
            }
            _ => {
                world.lab.clock = world.lab.clock.after(Duration::from_secs(3601));
                None
            }
        };
        apply(&mut store, cell.as_slice());
        for (n, guise) in [(200, Guise::Scout), (202, Guise::System)] {
            let invited = world.invite(n, guise, |_| {});
            let (node, cells) = world.joins(&invited, n + 1, "b1");
            apply(&mut store, &cells);
            let (views, now) = (store.views(), world.lab.clock);
            assert!(views.machine_of(&node.id()).is_none(), "{how}");
            assert!(views.scout_of(&node.id(), now).is_none(), "{how}");
        }
    }
}

#[test]
fn a_scout_says_how_far_its_own_machine_is_and_nothing_else() {
    let mut world = world();
    let (_dir, mut store) = world.store();
    let invited = world.invite(200, Guise::Scout, |_| {});
    let (scout, cells) = world.joins(&invited, 201, "b1");
    apply(&mut store, &cells);
    let (booter, machine) = (world.booter.key.clone(), world.machine);
    let lab = &mut world.lab;
    let status = BootStatus {
        assignment: world.id,
        state: BootState::Writing,
        since: Millis(5),
        done: (1, 2),
        detail: String::new(),
    };
    let inventory = Inventory {
        uuid: None,
        vendor: None,
        product: None,
        serial: None,
        firmware: Firmware::Uefi,
        arch: "x86_64".to_owned(),
        cpu: None,
        cpus: 4,
        memory: 1 << 30,
        disks: Vec::new(),
        nics: Vec::new(),
        controller: None,
    };
    let other = [7; 16];
    let own = machine.as_bytes();
    let good = [
        lab.write(&scout.key, Kind::BOOT_STATUS, own, &status),
        lab.write(&scout.key, Kind::INVENTORY, own, &inventory),
        lab.write(&booter, Kind::BOOT_STATUS, own, &status),
    ];
    assert!(apply(&mut store, &good).iter().all(|o| *o == Outcome::Accepted));
    let bad = [
        lab.write(&scout.key, Kind::BOOT_STATUS, &other, &status),
        lab.write(&scout.key, Kind::INVENTORY, &other, &inventory),
        lab.write(&booter, Kind::INVENTORY, own, &inventory),
        lab.write(&scout.key, Kind::NODE_RECORD, own, &status),
        lab.write(&scout.key, Kind::HISTORY, own, &status),
        lab.write(&scout.key, Kind::GROUP, b"gpu", &status),
        lab.write(&key(77), Kind::BOOT_STATUS, own, &status),
    ];
    for (cell, outcome) in bad.iter().zip(apply(&mut store, &bad)) {
        assert!(matches!(outcome, Outcome::Held(_) | Outcome::Rejected(_)), "{cell:?} {outcome:?}");
    }
    // R16: it admits nobody
    let joined = lab.invite(210, 5);
    let friend = lab.node(&joined, 211, "friend");
    let cells = [joined.cell.clone(), lab.admit(&scout.key, &friend)];
    apply(&mut store, &cells);
    assert!(store.views().machine_of(&friend.id()).is_none());
}

#[test]
fn an_image_that_was_removed_comes_never_again() {
    let mut world = world();
    let (_dir, mut store) = world.store();
    let (alice, bob, booter) =
        (world.lab.operator.clone(), world.lab.publisher.clone(), world.booter.key.clone());
    let before = store.views().images.len();
    let cells = [
        image(&mut world.lab, &bob, "old", 41),
        image(&mut world.lab, &bob, "older", 42),
        // the same file under another name
        image(&mut world.lab, &bob, "same", 42),
    ];
    let id = |cell: &Cell| Image::id(cell.payload());
    let remove = |lab: &mut Lab, by: &SecretKey, image| {
        let record = ImageRemoval { image, reason: String::new() };
        lab.write(by, Kind::IMAGE_REMOVAL, &image.0.0, &record)
    };
    let by_nobody = remove(&mut world.lab, &booter, id(&cells[0]));
    let by_operator = remove(&mut world.lab, &alice, id(&cells[0]));
    let by_publisher = remove(&mut world.lab, &bob, id(&cells[1]));
    // it may come before the image
    apply(&mut store, &[by_publisher, by_nobody]);
    apply(&mut store, &cells);
    let names = |store: &Store| {
        let views = store.views();
        let mut names: Vec<String> =
            views.images.values().map(|p| p.image.name.to_string()).collect();
        names.sort();
        names.retain(|n| ["old", "older", "same"].contains(&n.as_str()));
        names
    };
    assert_eq!(names(&store), ["old", "same"]);
    assert!(store.views().removed_blobs.is_empty(), "another image has the file");
    apply(&mut store, &[by_operator]);
    assert_eq!((names(&store), store.views().images.len()), (vec!["same".to_owned()], before + 1));
    assert_eq!(store.views().removed_blobs, [Hash([41; 32])].into());
    // published anew with another time it is another image
    let mut again: Image = cells[0].record().unwrap();
    again.at = Millis(77);
    let new = Image::id(&codec::encode(&again).unwrap());
    let cell = world.lab.write(&bob, Kind::IMAGE, &new.0.0, &again);
    apply(&mut store, &[cell]);
    assert_eq!(names(&store), ["old", "same"]);
    assert!(store.views().removed_blobs.is_empty());
    let wrong = world.lab.write(
        &alice,
        Kind::IMAGE_REMOVAL,
        &[1; 32],
        &ImageRemoval { image: new, reason: String::new() },
    );
    assert!(matches!(apply(&mut store, &[wrong])[0], Outcome::Rejected(_)), "its subject");
}

#[test]
fn the_chain_of_a_scout_is_verified_before_anything_else() {
    let mut world = world();
    let invited = world.invite(200, Guise::Scout, |_| {});
    let node = world.lab.node(&invited, 201, "b1");
    let grant = world.cells[4].clone();
    let mut hello = world.lab.hello(&invited, &node, None);
    let verify = |hello: &p2pinst_trust::Hello| {
        p2pinst_trust::Hello::verify(&hello.encode().unwrap(), &world.lab.roots, &node.id())
    };
    assert_eq!(verify(&hello).unwrap_err(), Refusal::NotCertified, "the operator has not invited");
    hello.grant = grant.bytes().to_vec();
    assert_eq!(verify(&hello).unwrap().invite.boot.map(|b| b.guise), Some(Guise::Scout));
    assert_eq!(policy::machine_id(&node.signed), world.machine);
}

#[test]
fn machines_are_known_by_their_interfaces_and_groups() {
    let mut world = world();
    let (_dir, mut store) = world.store();
    let (alice, booter) = (world.lab.operator.clone(), world.booter.key.clone());
    assert_eq!(store.views().machine_with(&MAC), Some(world.machine));
    let mac = Mac([2, 0, 0, 0, 0, 9]);
    let sight = |mac, at| Sighting { mac, at: Millis(at), inventory: None };
    let lab = &mut world.lab;
    let cells = [
        lab.group(&alice, "rack1", "b[1-9]"),
        lab.write(&booter, Kind::SIGHTING, &[0, 1], &sight(mac, 5)),
        lab.write(&booter, Kind::SIGHTING, &[0, 2], &sight(MAC, 5)),
        lab.write(&alice, Kind::SIGHTING, &[0, 3], &sight(Mac([2; 6]), 5)),
    ];
    apply(&mut store, &cells);
    let views = store.views();
    assert_eq!(views.sightings.keys().collect::<Vec<_>>(), [&mac], "only strangers are sighted");
    assert_eq!(views.sightings[&mac].by, booter.public());
    assert!(views.is_bare_member(&views.adopted[&world.machine].adoption, &name("rack1")));
    let beyond = world.lab.write(&booter, Kind::SIGHTING, &[1, 0], &sight(mac, 5));
    assert!(matches!(apply(&mut store, &[beyond])[0], Outcome::Rejected(_)), "bounded");
    let gone = Adoption { removed: true, ..adoption("b1") };
    let gone = world.lab.write(&alice, Kind::ADOPTION, world.machine.as_bytes(), &gone);
    apply(&mut store, &[gone]);
    assert_eq!(store.views().machine_with(&MAC), None);
}
