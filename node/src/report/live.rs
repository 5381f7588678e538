//! How far an exchange is: what the machines say now.

use std::time::Duration;

use p2pinst_api::swarm::{BlobSwarm, SHOWN, SLOWEST, SwarmMember, SwarmPeer};
use p2pinst_types::record::{PackageId, Progress, Speeds};
use p2pinst_types::{BlobRef, Millis, Name};

use super::{Member, bound, copies, millis, share};

/// A machine, and what it answered.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Its name.
    pub(crate) name: Name,
    /// Its site.
    pub(crate) site: Name,
    /// Whether it is up.
    pub(crate) up: bool,
    /// Whether it had the blob from the beginning.
    pub(crate) holder: bool,
    /// Whether it was asked.
    pub(crate) asked: bool,
    /// Whether it answered.
    pub(crate) answered: bool,
    /// What; `None`: it has nothing of the blob.
    pub(crate) progress: Option<Progress>,
}

impl Asked {
    fn held(&self) -> u64 {
        self.progress.as_ref().map_or(0, |p| p.held)
    }

    fn fetches(&self) -> bool {
        self.progress.as_ref().is_some_and(|p| p.fetching)
    }

    fn speeds(&self) -> Speeds {
        self.progress.as_ref().map_or_else(Speeds::default, |p| p.speeds)
    }
}

/// What is known of a blob without asking anybody.
#[derive(Debug, Clone)]
pub(crate) struct Exchanged {
    /// The blob.
    pub(crate) blob: BlobRef,
    /// When it was ordered last.
    pub(crate) ordered: Option<Millis>,
    /// The names of the orders.
    pub(crate) deployments: Vec<String>,
    /// What it is.
    pub(crate) package: Option<PackageId>,
    /// The peers of this node.
    pub(crate) peers: Vec<SwarmPeer>,
}

/// When it began, and when it ended where it has.
fn span(
    ordered: Option<Millis>,
    answers: &[&Progress],
    done: bool,
) -> (Option<Millis>, Option<Millis>) {
    let begun = ordered.or_else(|| answers.iter().filter_map(|p| p.begun).min());
    let ended = answers.iter().filter_map(|p| p.ended).max();
    (begun, if done { ended } else { None })
}

/// The time until the last that fetches has all of it; of those that get nothing now it is not
/// known, so they count with what the others get together.
fn left(len: u64, machines: &[&Asked]) -> Option<u64> {
    let open = machines.iter().filter(|m| m.held() < len);
    let each: Vec<(u64, u64)> =
        open.map(|m| (len - m.held(), m.progress.as_ref().map_or(0, |p| p.rate_in))).collect();
    let secs = |bytes: u64, rate: u64| bytes as f64 / rate as f64;
    let all = (each.iter().map(|(b, _)| b).sum(), each.iter().map(|(_, r)| r).sum());
    let moving = each.iter().chain([&all]).filter(|(_, rate)| *rate > 0);
    let longest = moving.map(|(bytes, rate)| secs(*bytes, *rate)).max_by(f64::total_cmp)?;
    Some(millis(Duration::try_from_secs_f64(longest).unwrap_or(Duration::MAX)))
}

/// The picture of an exchange.
pub(crate) fn picture(now: Millis, what: Exchanged, mut machines: Vec<Asked>) -> BlobSwarm {
    let len = what.blob.len();
    machines.sort_by(|a, b| a.name.cmp(&b.name));
    let count = |of: fn(&Asked) -> bool| machines.iter().filter(|m| of(m)).count();
    let (asked, answered, fetching) =
        (count(|m| m.asked), count(|m| m.answered), count(Asked::fetches));
    let answers: Vec<&Asked> = machines.iter().filter(|m| m.answered).collect();
    let wanting: Vec<&Asked> = answers.iter().filter(|m| !m.holder).copied().collect();
    let held = wanting.iter().map(|m| m.held()).sum();
    let done = share(held, len.saturating_mul(wanting.len() as u64));
    let mut histogram = [0; 11];
    for machine in &answers {
        let tenth = u128::from(machine.held()) * 10 / u128::from(len.max(1));
        let bin = usize::try_from(tenth).unwrap_or(usize::MAX).min(10);
        histogram.iter_mut().skip(bin).take(1).for_each(|n| *n += 1);
    }
    let said: Vec<&Progress> = answers.iter().filter_map(|m| m.progress.as_ref()).collect();
    let complete = answers.iter().filter(|m| len > 0 && m.held() >= len).count();
    let all_done = complete == answers.len();
    let (begun, ended) = span(what.ordered, &said, all_done);
    let until = if all_done { ended } else { Some(now) };
    let elapsed = begun.zip(until).map(|(begun, until)| until.since(begun));
    let publisher = machines.iter().find(|m| m.holder);
    let best = publisher.and_then(|p| {
        let nodes: Vec<Member<'_>> = wanting
            .iter()
            .map(|m| Member { name: &m.name, site: &m.site, speeds: m.speeds() })
            .collect();
        bound(len, Member { name: &p.name, site: &p.site, speeds: p.speeds() }, &nodes)
    });
    let efficiency = best.as_ref().zip(elapsed).filter(|_| done > 0.0);
    let efficiency = efficiency.and_then(|((bound, _), t)| Some(bound.efficiency(t)? * done));
    let sum = |of: fn(&Progress) -> u64| said.iter().fold(0_u64, |s, p| s.saturating_add(of(p)));
    let (received, duplicate) = (sum(|p| p.received.total()), sum(|p| p.duplicate));
    let wan = |m: &&Asked| m.progress.as_ref().map_or(0, |p| p.received.wan);
    let home = publisher.map(|p| &p.site);
    let sites = copies(len, home, wanting.iter().map(|m| (&m.site, wan(m))));
    let sent = publisher.and_then(|p| p.progress.as_ref()).map(|p| p.sent.total());
    let swarm = BlobSwarm {
        blob: what.blob.root,
        size: len,
        pieces: what.blob.pieces(),
        deployments: what.deployments,
        package: what.package,
        machines: machines.len(),
        asked,
        answered,
        complete,
        fetching,
        done,
        histogram,
        elapsed_ms: elapsed.map(millis),
        left_ms: left(len, &wanting).filter(|_| !all_done),
        efficiency,
        bound: best.map(|(_, view)| view),
        publisher_copies: sent.map(|s| share(s, len)),
        sites,
        received,
        duplicate,
        duplicate_share: share(duplicate, received),
        members: Vec::new(),
        peers: what.peers,
    };
    BlobSwarm { members: shown(len, machines), ..swarm }
}

/// The lines: all, or the slowest.
fn shown(len: u64, mut machines: Vec<Asked>) -> Vec<SwarmMember> {
    if machines.len() > SHOWN {
        machines.retain(|m| m.answered);
        machines.sort_by_key(Asked::held);
        machines.truncate(SLOWEST);
    }
    let line = |m: Asked| SwarmMember {
        done: share(m.held(), len),
        name: m.name,
        site: m.site,
        up: m.up,
        answered: m.answered,
        progress: m.progress,
    };
    machines.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use p2pinst_types::Hash;
    use p2pinst_types::record::{ByDistance, Speed};

    use super::*;

    const LEN: u64 = 1_000_000;

    fn progress(held: u64, rate_in: u64, wan: u64) -> Progress {
        Progress {
            blob: BlobRef::new(Hash([1; 32]), LEN).unwrap(),
            pieces: 0,
            held,
            fetching: held < LEN,
            begun: Some(Millis(1_000)),
            ended: (held == LEN).then_some(Millis(9_000)),
            received: ByDistance { rack: 0, site: held - wan, wan },
            duplicate: held / 100,
            bad: 0,
            sent: ByDistance { rack: 0, site: LEN, wan: LEN / 50 },
            sent_pieces: 0,
            rate_in,
            rate_out: 0,
            sources: 0,
            takers: 0,
            refused: [0; 2],
            banned: 0,
            speeds: Speeds { up: Some(Speed { rate: LEN / 4, known: true }), ..Speeds::default() },
        }
    }

    fn asked(name: &str, site: &str, progress: Option<Progress>) -> Asked {
        let (name, site) = (name.parse().unwrap(), site.parse().unwrap());
        let (up, asked, answered, holder) = (true, true, true, false);
        Asked { name, site, up, holder, asked, answered, progress }
    }

    fn what() -> Exchanged {
        Exchanged {
            blob: BlobRef::new(Hash([1; 32]), LEN).unwrap(),
            ordered: Some(Millis(1_000)),
            deployments: vec!["alice-1".to_owned()],
            package: None,
            peers: vec![],
        }
    }

    #[test]
    fn a_picture_of_a_few() {
        let publisher = Asked { holder: true, ..asked("n1", "home", Some(progress(LEN, 0, 0))) };
        let silent = Asked { answered: false, ..asked("n5", "home", None) };
        let machines = vec![
            asked("n3", "away", Some(progress(LEN / 4, 50_000, LEN / 5))),
            publisher,
            asked("n2", "home", Some(progress(LEN / 2, 250_000, 0))),
            asked("n4", "away", None),
            silent,
        ];
        let view = picture(Millis(5_000), what(), machines);
        let counts = (view.machines, view.asked, view.answered, view.complete, view.fetching);
        assert_eq!(counts, (5, 5, 4, 1, 2));
        assert_eq!(view.done, 0.25);
        assert_eq!(view.histogram, [1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1]);
        assert_eq!(view.elapsed_ms, Some(4_000));
        // the publisher gives a quarter per second; what n4 can give nobody knows
        assert_eq!(view.bound.as_ref().unwrap().ms, 4_000);
        assert!((view.efficiency.unwrap() - 0.25).abs() < 1e-9);
        // n3 needs 750 kB at 50 kB/s
        assert_eq!(view.left_ms, Some(15_000));
        assert_eq!(view.publisher_copies, Some(1.02));
        assert_eq!((view.sites.len(), view.sites[0].copies, view.sites[0].machines), (1, 0.2, 2));
        let names: Vec<String> = view.members.iter().map(|m| m.name.to_string()).collect();
        assert_eq!(names, ["n1", "n2", "n3", "n4", "n5"]);
    }

    #[test]
    fn what_is_over_stands_still() {
        let publisher = Asked { holder: true, ..asked("n1", "home", Some(progress(LEN, 0, 0))) };
        let machines = vec![publisher, asked("n2", "home", Some(progress(LEN, 0, 0)))];
        let view = picture(Millis(50_000), what(), machines);
        assert_eq!((view.done, view.elapsed_ms, view.left_ms), (1.0, Some(8_000), None));
        assert!((view.efficiency.unwrap() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn of_many_the_slowest_are_shown() {
        let machine =
            |n: u64| asked(&format!("m{n:03}"), "home", Some(progress(n * LEN / 200, 1, 0)));
        let view = picture(Millis(5_000), what(), (0..=200).rev().map(machine).collect());
        assert_eq!((view.members.len(), view.histogram[10], view.histogram[0]), (SLOWEST, 1, 20));
        assert_eq!(view.members[0].name.to_string(), "m000");
        assert_eq!(view.histogram.iter().sum::<usize>(), 201);
        assert_eq!(view.bound, None, "nobody says who had it first");
    }
}
