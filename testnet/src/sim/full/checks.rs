//! What must hold at any time, what must come about once nothing more goes wrong, and what must be
//! so in the end.

use std::collections::BTreeMap;

use dht_store::repair::Sites as _;
use dht_store::shelf::Subject;
use p2pinst_types::{Cell, CellId, Hash, Name, Plane};

use super::liar::EVIL;
use super::world::World;

/// A check that does not hold: its name, and what was found.
pub(crate) type Broken = (&'static str, String);

/// Checks, by name.
type Check = (&'static str, fn(&World) -> Result<(), String>);

const ANYTIME: [Check; 7] = [
    ("anytime_equal_cells_give_equal_views", equal_views),
    ("anytime_acknowledged_cells_stay", acknowledged_stay),
    ("anytime_own_records_stay", own_records_stay),
    ("anytime_only_the_authorised_are_seen", only_the_authorised),
    ("anytime_no_honest_author_is_named", no_honest_author_is_named),
    ("anytime_nobody_forgets_what_it_wrote", nobody_forgets),
    ("anytime_queues_are_bounded", queues_are_bounded),
];

const FINALLY: [Check; 5] = [
    ("finally_all_hold_what_was_acknowledged", all_hold_what_was_acknowledged),
    ("finally_what_was_settled_survives", settled_survives),
    ("finally_everything_is_read_at_its_newest", everything_is_read),
    ("finally_replicas_hold_the_same", replicas_hold_the_same),
    ("finally_merge_laws_hold", merge_laws),
];

fn all(world: &World, checks: &[Check]) -> Result<(), Broken> {
    checks.iter().try_for_each(|(name, check)| check(world).map_err(|what| (*name, what)))
}

/// What must hold whenever one looks.
pub(crate) fn anytime(world: &World) -> Result<(), Broken> {
    all(world, &ANYTIME)
}

/// What must hold once all has come to rest.
pub(crate) fn finally(world: &World) -> Result<(), Broken> {
    all(world, &FINALLY)
}

/// What does not yet agree; `None`: all nodes hold the same, and nothing waits for its replicas.
pub(crate) fn unrest(world: &World) -> Option<Broken> {
    let honest = world.honest();
    let mut digests: BTreeMap<Hash, Vec<usize>> = BTreeMap::new();
    for i in &honest {
        let store = world.node(*i).and_then(|n| n.store.as_ref())?;
        digests.entry(store.digest()).or_default().push(*i);
    }
    if digests.len() > 1 {
        let sides: Vec<&Vec<usize>> = digests.values().collect();
        let what = format!("these nodes agree with each other only: {sides:?}");
        return Some(("eventually_all_control_planes_agree", what));
    }
    let waiting = |i: &usize| world.node(*i).is_some_and(|n| n.outbox.health().unsettled > 0);
    let waiting: Vec<usize> = honest.into_iter().filter(waiting).collect();
    (!waiting.is_empty())
        .then(|| ("eventually_outboxes_are_empty", format!("records of {waiting:?} wait")))
}

fn equal_views(world: &World) -> Result<(), String> {
    let mut seen: BTreeMap<Hash, (usize, Hash)> = BTreeMap::new();
    for i in world.honest() {
        let Some(store) = world.node(i).and_then(|n| n.store.as_ref()) else { continue };
        let mut views = (*store.views()).clone();
        views.equivocators.clear(); // what a node can prove depends on what it was shown
        let told = Hash::of(format!("{views:?}").as_bytes());
        let (other, theirs) = seen.entry(store.digest()).or_insert((i, told));
        if *theirs != told {
            return Err(format!("n{other} and n{i} hold the same cells and see different things"));
        }
    }
    Ok(())
}

fn is_not_older(held: Option<&Cell>, promised: &Cell) -> bool {
    held.is_some_and(|held| held.order(promised).is_ge())
}

fn acknowledged_stay(world: &World) -> Result<(), String> {
    for (home, cell) in &world.ledger.acknowledged {
        let Some(store) = world.node(*home).and_then(|n| n.store.as_ref()) else { continue };
        if !is_not_older(store.control(&cell.id), cell) {
            return Err(format!("n{home} has lost {cell:?}, which it had taken"));
        }
    }
    Ok(())
}

fn held(world: &World, i: usize, id: &CellId) -> Option<Cell> {
    let store = world.node(i)?.store.as_ref()?;
    store.data(id.kind, &id.subject).ok()?.into_iter().find(|c| c.id == *id)
}

fn own_records_stay(world: &World) -> Result<(), String> {
    for (id, (i, cell)) in &world.ledger.written {
        let reads = |s: &dht_store::Store| s.data(id.kind, &id.subject).is_ok();
        let up = world.node(*i).and_then(|n| n.store.as_ref()).is_some_and(reads);
        if up && !is_not_older(held(world, *i, id).as_ref(), cell) {
            return Err(format!("n{i} has lost {cell:?}, which it had written"));
        }
    }
    Ok(())
}

fn only_the_authorised(world: &World) -> Result<(), String> {
    let mallory = world.cast.mallory.public();
    for i in world.honest() {
        let Some(views) = world.node(i).and_then(super::node::Node::views) else { continue };
        let evil = |n: &Name| n.as_str() == EVIL;
        let group = views.groups.iter().find(|(n, g)| evil(n) || g.author == mallory);
        let order = views.orders.iter().find(|o| o.author == mallory);
        if group.is_some() || order.is_some() || views.grants.contains_key(&mallory) {
            return Err(format!("n{i} believes one who has no power: {group:?} {order:?}"));
        }
        if views.machines.len() > world.nodes.len() {
            return Err(format!("n{i} has {} machines in its roster", views.machines.len()));
        }
    }
    Ok(())
}

fn no_honest_author_is_named(world: &World) -> Result<(), String> {
    let eve = world.cast.operators.last().map(p2pinst_trust::SecretKey::public);
    for i in world.honest() {
        let Some(views) = world.node(i).and_then(super::node::Node::views) else { continue };
        if let Some(named) = views.equivocators.iter().find(|a| Some(**a) != eve) {
            let twins = world.node(i).and_then(|n| n.store.as_ref()).and_then(|s| s.twins(named));
            return Err(format!("n{i} says that {} signed twice: {twins:?}", named.short()));
        }
    }
    Ok(())
}

fn queues_are_bounded(world: &World) -> Result<(), String> {
    for (i, node) in world.nodes.iter().enumerate() {
        if let Some((what, len, most)) = node.queues().into_iter().find(|(_, len, m)| len > m) {
            return Err(format!("n{i}: {what}: {len}, more than {most}"));
        }
        let own = world.ledger.written.values().filter(|(by, _)| *by == i).count();
        // a write that failed may have reached the disk all the same
        let cells = node.outbox.health().cells;
        if cells > own + 2 {
            return Err(format!("n{i} has {cells} cells in its outbox, of {own}"));
        }
    }
    Ok(())
}

fn all_hold_what_was_acknowledged(world: &World) -> Result<(), String> {
    for (home, cell) in &world.ledger.acknowledged {
        for i in world.honest() {
            let Some(store) = world.node(i).and_then(|n| n.store.as_ref()) else { continue };
            if !is_not_older(store.control(&cell.id), cell) {
                return Err(format!("n{i} has not {cell:?}, which n{home} has taken"));
            }
        }
    }
    Ok(())
}

fn settled_survives(world: &World) -> Result<(), String> {
    let honest = world.honest();
    for (id, cell) in &world.ledger.settled {
        if !honest.iter().any(|i| is_not_older(held(world, *i, id).as_ref(), cell)) {
            return Err(format!("nobody has {cell:?}, which a majority had acknowledged"));
        }
    }
    Ok(())
}

/// The replicas of a subject, as a node sees them.
fn replicas(world: &World, i: usize, subject: &Subject) -> Vec<usize> {
    let Some(node) = world.node(i) else { return Vec::new() };
    let Some(views) = node.views() else { return Vec::new() };
    let site = views.of_subject(subject);
    let replicas = node.ring.replicas(subject, site.as_ref());
    replicas.iter().filter_map(|r| world.ids.get(r).copied()).collect()
}

/// Every node finds the newest version of everything by asking the replicas.
fn everything_is_read(world: &World) -> Result<(), String> {
    for (id, (by, newest)) in &world.ledger.written {
        let subject = Subject::of(newest);
        // of a machine that is gone for ever, what it had handed on
        let gone = world.node(*by).is_none_or(|n| n.lost);
        let promised = if gone { world.ledger.settled.get(id) } else { Some(newest) };
        let Some(promised) = promised else { continue };
        for i in world.honest() {
            let asked = replicas(world, i, &subject);
            let read = asked.iter().filter_map(|r| held(world, *r, id)).reduce(Cell::merge);
            if !is_not_older(read.as_ref(), promised) {
                let read = read.map(|c| c.version);
                return Err(format!("n{i} asks {asked:?} for {promised:?} of n{by}: {read:?}"));
            }
        }
    }
    Ok(())
}

/// Replicas have repaired each other.
fn replicas_hold_the_same(world: &World) -> Result<(), String> {
    for id in world.ledger.settled.keys() {
        let subject = Subject { kind: id.kind, id: id.subject.clone() };
        let Some(first) = world.honest().first().copied() else { continue };
        let asked = replicas(world, first, &subject);
        let digest = |i: &usize| {
            let store = world.node(*i)?.store.as_ref()?;
            store.held_of(&subject).map(|held| held.digest)
        };
        let digests: Vec<_> = asked.iter().map(digest).collect();
        if digests.windows(2).any(|two| two.first() != two.last()) {
            let held = |i: &usize| {
                let store = world.node(*i).and_then(|n| n.store.as_ref());
                let cells = store.and_then(|s| s.data(subject.kind, &subject.id).ok());
                let told = |c: &Cell| {
                    (world.ids.get(&c.id.author).copied(), c.version.seq, c.id.slot.last().copied())
                };
                format!("n{i} {:?}", cells.unwrap_or_default().iter().map(told).collect::<Vec<_>>())
            };
            let held: Vec<String> = asked.iter().map(held).collect();
            return Err(format!("of {subject:?}: {held:#?}"));
        }
    }
    Ok(())
}

fn nobody_forgets(world: &World) -> Result<(), String> {
    match world.ledger.behind.first() {
        None => Ok(()),
        Some((i, cell)) => Err(format!("others have a newer version than n{i} of {cell:?}")),
    }
}

/// Of all versions of a place that there have been, in pairs and threes.
fn merge_laws(world: &World) -> Result<(), String> {
    for versions in world.ledger.versions.values() {
        for three in versions.windows(3) {
            let [a, b, c] = three else { continue };
            let ab = a.clone().merge(b.clone());
            let commutes = ab == b.clone().merge(a.clone());
            let joins = ab.clone().merge(c.clone()) == a.clone().merge(b.clone().merge(c.clone()));
            if !commutes || !joins || ab.clone().merge(ab.clone()) != ab {
                return Err(format!("merging {a:?}, {b:?}, {c:?}"));
            }
        }
    }
    Ok(())
}

/// How many cells of a plane the nodes hold on average.
pub(crate) fn cells_per_node(world: &World, plane: Plane) -> f64 {
    let honest = world.honest();
    let count = |i: &usize| {
        let store = world.node(*i).and_then(|n| n.store.as_ref());
        store.map_or(0, |s| if plane == Plane::Control { s.size().0 } else { s.size().1 })
    };
    honest.iter().map(count).sum::<usize>() as f64 / honest.len().max(1) as f64
}
