//! A member that does not keep to the protocol: it sends noise, old cells, forged ones, claims that
//! are not so, and answers something else.

use dht_store::Outcome;
use dht_store::coverage::Ranges;
use dht_store::sync::Part;
use dht_store::wire::{CellBytes, Request, Response};
use p2pinst_types::record::Group;
use p2pinst_types::{Cell, Hlc, Kind, Millis, Version, codec};
use rand::rngs::StdRng;
use rand::seq::{IndexedMutRandom as _, IndexedRandom as _};
use rand::{Rng as _, RngExt as _};

use super::cast::Cast;
use super::world::Packet;

/// The name of the group that must never be seen.
pub(crate) const EVIL: &str = "evil";

fn noise(rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..300)];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// A group of somebody who has no power.
fn powerless(rng: &mut StdRng, cast: &Cast, now: Millis) -> Cell {
    let by = &cast.mallory;
    let hosts = "n[0-99]".parse().ok();
    let payload = codec::encode(&Group::new(String::new(), hosts, None)).unwrap_or_default();
    let version = Version { incarnation: 1, seq: rng.random_range(1..9) };
    cast.lab.sign(by, (Kind::GROUP, EVIL.as_bytes()), (version, Hlc::at(now)), payload)
}

/// A cell of somebody else in which one byte is another.
fn forged(rng: &mut StdRng, known: &[Cell]) -> Option<Vec<u8>> {
    let mut bytes = known.choose(rng)?.bytes().to_vec();
    let at = rng.random_range(0..bytes.len());
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << rng.random_range(0..8);
    }
    Some(bytes)
}

fn cells(rng: &mut StdRng, cast: &Cast, known: &[Cell], now: Millis) -> Vec<CellBytes> {
    let one = |rng: &mut StdRng| match rng.random_range(0..4) {
        0 => noise(rng),
        1 => powerless(rng, cast, now).bytes().to_vec(),
        2 => forged(rng, known).unwrap_or_default(),
        // a replay: most are replaced by now
        _ => known.choose(rng).map(|c| c.bytes().to_vec()).unwrap_or_default(),
    };
    (0..rng.random_range(1..6)).map(|_| CellBytes(one(rng))).collect()
}

/// "You have all that this one has written."
fn claims(rng: &mut StdRng, known: &[Cell]) -> Vec<Part> {
    let author = known.choose(rng).map(|c| (c.id.author, c.version.incarnation));
    let part = |(author, incarnation)| Part {
        author,
        incarnation,
        ranges: Ranges::up_to(if rng.random_bool(0.5) { 1000 } else { u64::MAX }),
    };
    author.map(part).into_iter().collect()
}

/// Something to send unasked.
pub(crate) fn packet(rng: &mut StdRng, cast: &Cast, known: &[Cell], now: Millis) -> Packet {
    let cells = cells(rng, cast, known, now);
    let request = match rng.random_range(0..4) {
        0 => Request::Push { cells, covered: claims(rng, known) },
        1 => Request::Put { cells },
        2 => {
            let bytes = cells.into_iter().next().map(|c| c.0).unwrap_or_default();
            return Packet::Gossip(bytes);
        }
        _ => return Packet::Request(0, noise(rng)),
    };
    Packet::Request(0, codec::encode(&request).unwrap_or_default())
}

/// What becomes of an honest answer; `None`: silence.
pub(crate) fn answer(rng: &mut StdRng, cast: &Cast, honest: Response) -> Option<Vec<u8>> {
    let said = match (rng.random_range(0..6), honest) {
        (0, _) => return None,
        (1, _) => return Some(noise(rng)),
        // all is well, as it says
        (2, Response::Heads { clock, roots, .. }) => Response::Same { roots, clock },
        // a cell is withheld, and said to be there
        (2, Response::Cells { mut cells, covered }) => {
            cells.pop();
            Response::Cells { cells, covered }
        }
        (3, Response::Heads { mut logs, roots, clock }) => {
            if let Some(log) = logs.choose_mut(rng) {
                log.lives.values_mut().for_each(|r| r.add(1, 500));
            }
            Response::Heads { logs, roots: roots + 1, clock: Millis(clock.0 ^ 0xffff_ffff) }
        }
        (3, Response::Cells { mut cells, covered }) => {
            cells.push(CellBytes(powerless(rng, cast, Millis(0)).bytes().to_vec()));
            Response::Cells { cells, covered }
        }
        (2, Response::Differ { .. }) => Response::Equal,
        (2, Response::Data { .. }) => Response::Data { cells: Vec::new(), more: true },
        (2, Response::Outcomes(outcomes)) => {
            Response::Outcomes(outcomes.iter().map(|_| Outcome::Held(String::new())).collect())
        }
        (_, other) => other,
    };
    Some(codec::encode(&said).unwrap_or_default())
}
