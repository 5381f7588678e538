//! Groups: definitions and edits of several operators, on both sides of a partition.

use std::collections::BTreeSet;

use dht_store::view::{GroupHead, Views};
use p2pinst_trust::SecretKey;
use p2pinst_trust::fixture::{Lab, key, name};
use p2pinst_types::cell::Draft;
use p2pinst_types::record::{Adoption, Group, GroupEdit, GroupPolicy, Role};
use p2pinst_types::{Cell, CellId, Hlc, Kind, LabelValue, Labels, Mac, MachineId, codec};
use proptest::prelude::*;

use crate::world::{apply, store};

/// A cluster with the operators alice, bob and carol and the machines n1 to n9.
struct World {
    lab: Lab,
    operators: [SecretKey; 3],
    base: Vec<Cell>,
}

const ALICE: usize = 0;
const BOB: usize = 1;
const CAROL: usize = 2;

impl World {
    fn new() -> Self {
        let mut lab = Lab::default();
        let operators = [lab.operator.clone(), key(60), key(61)];
        let mut base = vec![lab.operator_grant.clone()];
        for (key, known_as) in operators[1..].iter().zip(["bobby", "carol"]) {
            base.push(lab.grant(key.public(), known_as, &[Role::Operator]));
        }
        let invite = lab.invite(100, 9);
        base.push(invite.cell.clone());
        for n in 1..=9 {
            let node = lab.node(&invite, 100 + n, &format!("n{n}"));
            base.push(lab.admit(&operators[ALICE], &node));
        }
        Self { lab, operators, base }
    }

    /// A time after all that the base says.
    fn at(&self, n: u64) -> Hlc {
        Hlc(Hlc::at(self.lab.clock).0 + n)
    }

    fn sign(&mut self, by: usize, kind: Kind, slot: Vec<u8>, payload: Vec<u8>, hlc: Hlc) -> Cell {
        let key = self.operators[by].clone();
        let version = self.lab.next(&key.public());
        let id = CellId { kind, subject: b"gpu".to_vec(), slot, author: key.public() };
        let draft = Draft { id, version, hlc, payload };
        draft.sign(self.lab.cluster(), |m| key.sign(m)).unwrap()
    }

    fn define(&mut self, by: usize, group: &Group, at: u64) -> Cell {
        let hlc = self.at(at);
        self.sign(by, Kind::GROUP, vec![], codec::encode(group).unwrap(), hlc)
    }

    fn edit(&mut self, by: usize, hosts: &str, present: bool, at: u64) -> Cell {
        let edit = GroupEdit { hosts: hosts.parse().unwrap(), present };
        let (slot, hlc) = (GroupEdit::slot(&edit.hosts), self.at(at));
        self.sign(by, Kind::GROUP_EDIT, slot, codec::encode(&edit).unwrap(), hlc)
    }

    fn views(&self, cells: &[Cell]) -> Views {
        let (_dir, mut store) = store(&self.lab);
        let all = [&self.base, cells].concat();
        for (outcome, cell) in apply(&mut store, &all).iter().zip(&all) {
            assert!(outcome.is_here(), "{outcome:?} {cell:?}");
        }
        store.views().as_ref().clone()
    }

    fn members(&self, cells: &[Cell]) -> String {
        members(&self.views(cells))
    }
}

/// The numbers of the machines in the group.
fn members(views: &Views) -> String {
    let gpu = name("gpu");
    let names: BTreeSet<_> =
        views.members(&gpu).map(|m| m.name.as_str().trim_start_matches('n').to_owned()).collect();
    names.into_iter().collect()
}

fn hosts(text: &str) -> Group {
    Group::new(String::new(), Some(text.parse().unwrap()), None)
}

fn removal(after: Hlc) -> Group {
    Group { removed: true, after, hosts: None, ..hosts("x") }
}

#[test]
fn edits_add_and_remove() {
    let mut w = World::new();
    let mut cells = vec![w.define(ALICE, &hosts("n[1-3]"), 10)];
    assert_eq!(w.members(&cells), "123");
    cells.push(w.edit(ALICE, "n[5-7]", true, 20));
    cells.push(w.edit(BOB, "n2", false, 21));
    assert_eq!(w.members(&cells), "13567");
    // node5 in an added range, and removed: the newest counts, whoever wrote it
    cells.push(w.edit(BOB, "n5", false, 22));
    assert_eq!(w.members(&cells), "1367");
    cells.push(w.edit(ALICE, "n[4-5]", true, 23));
    assert_eq!(w.members(&cells), "134567");
    // what was added is taken back in the same words, by another
    cells.push(w.edit(CAROL, "n[5-7]", false, 24));
    assert_eq!(w.members(&cells), "134", "n5 too: that is the newest word about it");
    let views = w.views(&cells);
    let info = &views.groups[&name("gpu")];
    let edits: Vec<_> =
        info.edits.iter().map(|e| (e.edit.hosts.to_string(), e.edit.present)).collect();
    let want = [("n[5-7]", false), ("n[4-5]", true), ("n5", false), ("n2", false)];
    assert_eq!(edits, want.map(|(h, p)| (h.to_owned(), p)), "one of each term, newest first");
    assert!(info.concurrent.is_empty());
}

#[test]
fn on_a_tie_the_removal_wins() {
    let mut w = World::new();
    let base = [w.define(ALICE, &hosts("n1"), 10)];
    for (first, second) in [(ALICE, BOB), (BOB, ALICE)] {
        let tie = [w.edit(first, "n5", true, 20), w.edit(second, "n5", false, 20)];
        assert_eq!(w.members(&[&base[..], &tie[..]].concat()), "1");
        let ranges = [w.edit(first, "n[5-6]", true, 30), w.edit(second, "n[6-7]", false, 30)];
        assert_eq!(w.members(&[&base[..], &ranges[..]].concat()), "15");
    }
    let gone = w.define(BOB, &removal(Hlc::default()), 40);
    let kept = w.define(ALICE, &hosts("n1"), 40);
    for cells in [[gone.clone(), kept.clone()], [kept, gone]] {
        let views = w.views(&cells);
        assert!(views.groups.is_empty() && !views.has_group(&name("gpu")));
        let info = &views.removed_groups[&name("gpu")];
        assert_eq!(
            info.concurrent.len(),
            1,
            "what was written in the same moment is not forgotten"
        );
    }
}

#[test]
fn a_group_that_is_removed_and_made_again_has_no_old_edits() {
    let mut w = World::new();
    let (a, b) = (w.at(10), w.at(30));
    let mut cells = vec![
        w.define(ALICE, &hosts("n[1-3]"), 10),
        w.edit(BOB, "n9", true, 20),
        w.edit(ALICE, "n1", false, 21),
        w.define(ALICE, &removal(a), 30),
    ];
    assert_eq!(w.members(&cells), "");
    // on the other side of a partition, after the removal
    cells.push(w.edit(CAROL, "n8", true, 35));
    let views = w.views(&cells);
    assert_eq!(members(&views), "");
    let head = views.group_head(&name("gpu"));
    assert_eq!((head.after, head.floor), (b, w.at(35)));
    let again = Group { after: head.after, floor: head.floor, ..hosts("n[1-2]") };
    // by the one whose removal it replaces, or by another
    for by in [ALICE, BOB] {
        let mut cells = cells.clone();
        cells.push(w.define(by, &again, 40));
        assert_eq!(w.members(&cells), "12");
        cells.push(w.edit(BOB, "n9", true, 50));
        assert_eq!(w.members(&cells), "129");
        let views = w.views(&cells);
        assert!(views.groups[&name("gpu")].concurrent.is_empty());
        assert_eq!(views.group_head(&name("gpu")).floor, head.floor, "carried on");
        assert_eq!(views.group_head(&name("gpu")).clean, w.at(50));
    }
    assert_eq!(w.views(&[]).group_head(&name("gpu")), GroupHead::default());
}

#[test]
fn definitions_of_two_sides_are_concurrent_until_somebody_settles_it() {
    let mut w = World::new();
    let first = w.at(10);
    let text = |t: &str| Group { description: t.to_owned(), after: first, ..hosts("n1") };
    let mut cells = vec![
        w.define(ALICE, &hosts("n1"), 10),
        w.define(ALICE, &text("alice's"), 20),
        w.define(BOB, &text("bob's"), 21),
    ];
    let views = w.views(&cells);
    let info = &views.groups[&name("gpu")];
    assert_eq!(
        (info.group.description.as_str(), info.author),
        ("bob's", w.operators[BOB].public())
    );
    let [other] = info.concurrent.as_slice() else { panic!("{:?}", info.concurrent) };
    assert_eq!((other.group.description.as_str(), other.hlc), ("alice's", w.at(20)));
    assert_eq!(other.author, w.operators[ALICE].public());

    // carol saw both
    let head = views.group_head(&name("gpu"));
    assert_eq!(head.after, w.at(21));
    cells.push(w.define(CAROL, &Group { after: head.after, ..text("ours") }, 30));
    let views = w.views(&cells);
    let info = &views.groups[&name("gpu")];
    assert_eq!((info.group.description.as_str(), info.concurrent.len()), ("ours", 0));
}

#[test]
fn who_knew_it_or_says_the_same_is_not_concurrent() {
    let mut w = World::new();
    let first = w.define(ALICE, &hosts("n1"), 10);
    let knew = w.define(BOB, &Group { after: w.at(10), ..hosts("n2") }, 20);
    assert!(w.views(&[first.clone(), knew]).groups[&name("gpu")].concurrent.is_empty());
    let same = w.define(CAROL, &hosts("n1"), 20);
    assert!(w.views(&[first, same]).groups[&name("gpu")].concurrent.is_empty());
}

#[test]
fn a_removal_on_one_side_and_an_edit_on_the_other_are_both_told() {
    let mut w = World::new();
    let (made, at) = (w.define(ALICE, &hosts("n[1-2]"), 10), w.at(10));
    // bob's word is newer: the group stays, with all its edits, and the removal is told
    let before = w.edit(CAROL, "n7", true, 15);
    let gone = w.define(ALICE, &removal(at), 20);
    let described =
        w.define(BOB, &Group { description: "new".into(), after: at, ..hosts("n[1-2]") }, 25);
    let views = w.views(&[made.clone(), before.clone(), gone, described]);
    assert_eq!(members(&views), "127");
    assert!(views.groups[&name("gpu")].concurrent[0].group.removed);
    // the removal is newer: the group is gone, and bob's word is told
    let described =
        w.define(BOB, &Group { description: "new".into(), after: at, ..hosts("n[1-2]") }, 30);
    let gone = w.define(ALICE, &removal(at), 35);
    let views = w.views(&[made, before, described, gone]);
    assert_eq!((members(&views).as_str(), views.groups.len()), ("", 0));
    let told = &views.removed_groups[&name("gpu")].concurrent;
    assert_eq!(told[0].group.description, "new");
}

#[test]
fn who_has_no_power_edits_nothing() {
    let mut w = World::new();
    let made = w.define(ALICE, &hosts("n1"), 10);
    let (key, cell) = (w.operators[BOB].public(), w.edit(BOB, "n5", true, 20));
    let root = w.lab.root.clone();
    let revoked = w.lab.revoke(&root, key, None);
    // the revocation is dated after what bob wrote: it stands; what he writes later does not
    let late = w.edit(BOB, "n6", true, 20 + (1 << 20));
    assert_eq!(w.members(&[made, cell, revoked, late]), "15");
}

#[test]
fn what_a_group_asks_is_the_newest_word_of_those_who_have_power() {
    let mut w = World::new();
    let asks = |w: &mut World, by, console_code, at| {
        let payload = codec::encode(&GroupPolicy { console_code }).unwrap();
        let hlc = w.at(at);
        w.sign(by, Kind::GROUP_POLICY, vec![], payload, hlc)
    };
    let selector = Group::new(String::new(), None, Some("gpu=true".parse().unwrap()));
    let mut cells = vec![w.define(ALICE, &selector, 10), w.edit(ALICE, "n[1-2]", true, 11)];
    let (gpu, n1, n3, site) = (name("gpu"), name("n1"), name("n3"), name("lab"));
    let (plain, other) = (Labels::default(), MachineId([9; 16]));
    let labels: Labels = [(gpu.clone(), LabelValue::try_from("true".to_owned()).unwrap())].into();
    let asking = |views: &Views, machine: &MachineId, name, labels| {
        views.asks_for_code(machine, (name, &site, labels)).cloned()
    };
    assert_eq!(asking(&w.views(&cells), &other, &n1, &labels), None, "nothing was said");
    cells.push(asks(&mut w, ALICE, true, 20));
    let views = w.views(&cells);
    assert_eq!(asking(&views, &other, &n1, &plain), Some(gpu.clone()), "by its name");
    assert_eq!(asking(&views, &other, &n3, &labels), Some(gpu.clone()), "by its labels");
    assert_eq!(asking(&views, &other, &n3, &plain), None);
    // a member is asked for as what it is, whatever it is to be
    let member = views.machines.values().find(|m| m.name == name("n2")).unwrap().id;
    assert_eq!(asking(&views, &member, &n3, &plain), Some(gpu.clone()));
    // one that is only adopted is asked for as what it was adopted, whatever its order says
    let (plain_site, machine) = (site.clone(), Adoption::machine(Mac([2, 0, 0, 0, 0, 7])));
    let (name7, macs) = (name("b7"), vec![]);
    let adoption =
        Adoption { name: name7, macs, site: plain_site, labels: labels.clone(), removed: false };
    let alice = w.operators[ALICE].clone();
    cells.push(w.lab.write(&alice, Kind::ADOPTION, machine.as_bytes(), &adoption));
    let views = w.views(&cells);
    assert_eq!(asking(&views, &machine, &n3, &plain), Some(gpu.clone()));
    // of two the later counts; who has no power any more asks nothing
    cells.push(asks(&mut w, BOB, false, 30));
    assert_eq!(asking(&w.views(&cells), &other, &n1, &labels), None);
    let (root, carol) = (w.lab.root.clone(), w.operators[CAROL].public());
    cells.push(w.lab.revoke(&root, carol, None));
    cells.push(asks(&mut w, CAROL, true, 40 + (1 << 20)));
    assert_eq!(asking(&w.views(&cells), &other, &n1, &labels), None);
    // nobody is in a group that is gone; what it asked is asked again by one of its name
    cells.push(asks(&mut w, ALICE, true, 50));
    let head = w.views(&cells).group_head(&gpu);
    cells.push(w.define(BOB, &removal(head.after), 60));
    assert_eq!(asking(&w.views(&cells), &other, &n3, &labels), None);
    cells.push(w.define(BOB, &selector, 70));
    assert_eq!(asking(&w.views(&cells), &other, &n3, &labels), Some(gpu));
}

/// A random act of one of three operators.
#[derive(Debug, Clone)]
enum Act {
    Define {
        by: usize,
        hosts: Option<String>,
        text: u8,
        removed: bool,
        after: u64,
        floor: u64,
        at: u64,
    },
    Edit {
        by: usize,
        hosts: String,
        present: bool,
        at: u64,
    },
}

fn term() -> impl Strategy<Value = String> {
    prop_oneof![
        (1u8..=9).prop_map(|n| format!("n{n}")),
        (1u8..=9, 0u8..4).prop_map(|(n, m)| format!("n[{n}-{}]", n + m)),
        (101u8..=109, 0u8..4).prop_map(|(n, m)| format!("10.77.0.{n}-{}", n + m)),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    // few times, so that ties happen
    let at = 1u64..16;
    let define =
        (0usize..3, prop::option::of(term()), 0u8..2, any::<bool>(), 0u64..16, 0u64..6, at.clone());
    let define = define.prop_map(|(by, hosts, text, removed, after, floor, at)| Act::Define {
        by,
        hosts,
        text,
        removed: removed && at % 3 == 0,
        after,
        floor,
        at,
    });
    let edit = (0usize..3, term(), any::<bool>(), at);
    let edit = edit.prop_map(|(by, hosts, present, at)| Act::Edit { by, hosts, present, at });
    prop_oneof![1 => define, 3 => edit]
}

impl World {
    fn act(&mut self, act: &Act) -> Cell {
        match act {
            Act::Define { by, hosts, text, removed, after, floor, at } => {
                let hosts = hosts.as_ref().map(|h| h.parse().unwrap());
                let (after, floor) = (self.at(*after), self.at(*floor));
                let group = Group {
                    removed: *removed,
                    after,
                    floor,
                    ..Group::new(text.to_string(), hosts, None)
                };
                self.define(*by, &group, *at)
            }
            Act::Edit { by, hosts, present, at } => self.edit(*by, hosts, *present, *at),
        }
    }
}

/// What the rules say, read off the acts themselves, machine by machine.
fn model(acts: &[Act]) -> String {
    // an author has one definition, and one edit of each term: the last written
    let mut definitions: [Option<&Act>; 3] = [None; 3];
    for act in acts {
        if let Act::Define { by, .. } = act {
            definitions[*by] = Some(act);
        }
    }
    let newest = definitions.into_iter().flatten().map(|d| match d {
        Act::Define { at, removed, hosts, floor, .. } => (*at, *removed, hosts, *floor),
        Act::Edit { .. } => unreachable!(),
    });
    let newest: Vec<_> = newest.collect();
    let Some(top) = newest.iter().map(|d| (d.0, d.1)).max() else { return String::new() };
    if top.1 {
        return String::new();
    }
    let winners: Vec<_> = newest.iter().filter(|d| (d.0, d.1) == top).collect();
    // which of two definitions of one moment wins is for their hashes: not modelled
    let [(_, _, hosts, floor)] = winners.as_slice() else { return "?".to_owned() };
    let expr = |text: &str| text.parse::<p2pinst_types::hostexpr::HostExpr>().unwrap();
    let mut members = String::new();
    for n in 1u8..=9 {
        let (name, addr) = (format!("n{n}"), [std::net::Ipv4Addr::new(10, 77, 0, 100 + n)]);
        let mut last: Vec<(usize, &str, u64, bool)> = Vec::new();
        for act in acts {
            let Act::Edit { by, hosts, present, at } = act else { continue };
            last.retain(|(b, h, ..)| (b, *h) != (by, hosts.as_str()));
            last.push((*by, hosts, *at, *present));
        }
        let word = last
            .iter()
            .filter(|(_, h, at, _)| at > floor && expr(h).contains(&name, &addr))
            .map(|(.., at, present)| (*at, !*present))
            .max();
        let defined = hosts.as_ref().is_some_and(|h| expr(h).contains(&name, &addr));
        if word.map_or(defined, |(_, out)| !out) {
            members.push_str(&n.to_string());
        }
    }
    members
}

/// All that the views say of groups.
fn seen(views: &Views) -> String {
    format!(
        "{}\n{:#?}\n{:#?}\n{:?}",
        members(views),
        views.groups,
        views.removed_groups,
        views.group_head(&name("gpu"))
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Equal sets of cells give equal groups: in any order, in any batches, and also where what
    /// was replaced never arrived.
    #[test]
    fn groups_do_not_depend_on_the_order(
        acts in prop::collection::vec(act(), 1..24),
        seed in any::<u64>(),
        cuts in prop::collection::vec(1usize..6, 1..20),
    ) {
        let mut w = World::new();
        let cells: Vec<Cell> = acts.iter().map(|a| w.act(a)).collect();
        let reference = w.views(&cells);
        let want = model(&acts);
        prop_assert!(want == "?" || members(&reference) == want, "{} is not {want}", members(&reference));

        let mut shuffled = [&w.base[..], &cells].concat();
        shuffled.sort_by_cached_key(|c| p2pinst_types::Hash::of_parts("shuffle", &[&seed.to_be_bytes(), c.bytes()]));
        let (_dir, mut other) = store(&w.lab);
        let mut rest = &shuffled[..];
        for n in cuts.iter().cycle() {
            let (batch, tail) = rest.split_at((*n).min(rest.len()));
            apply(&mut other, batch);
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(seen(&other.views()), seen(&reference));

        let newest: Vec<Cell> =
            cells.iter().filter(|c| cells.iter().all(|o| o.id != c.id || o.version <= c.version)).cloned().collect();
        prop_assert_eq!(seen(&w.views(&newest)), seen(&reference));
    }

    /// Two sides of a partition that edit different machines both keep their edits.
    #[test]
    fn both_sides_keep_their_edits(
        left in prop::collection::vec((1u8..=4, any::<bool>()), 0..12),
        right in prop::collection::vec((5u8..=9, any::<bool>()), 0..12),
        describe in any::<bool>(),
    ) {
        let mut w = World::new();
        let base = [w.define(CAROL, &hosts("n[2-7]"), 1)];
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for (i, (n, present)) in (10u64..).zip(left) {
            a.push(w.edit(ALICE, &format!("n{n}"), present, i));
        }
        for (i, (n, present)) in (12u64..).zip(right) {
            b.push(w.edit(BOB, &format!("n{n}"), present, i));
        }
        if describe {
            let after = w.at(1);
            let text = |t: &str| Group { description: t.to_owned(), after, ..hosts("n[2-7]") };
            a.push(w.define(ALICE, &text("a"), 40));
            b.push(w.define(BOB, &text("b"), 41));
        }
        let side = |cells: &[Cell], keep: &str| -> String {
            w.members(&[&base[..], cells].concat()).chars().filter(|c| keep.contains(*c)).collect()
        };
        let want = format!("{}{}", side(&a, "1234"), side(&b, "56789"));
        for (x, y) in [(&a, &b), (&b, &a)] {
            let views = w.views(&[&base[..], x, y].concat());
            prop_assert_eq!(members(&views), &want[..]);
            prop_assert_eq!(views.groups[&name("gpu")].concurrent.len(), usize::from(describe));
        }
    }
}
