//! The inside of a node, for people who look for a mistake.

use dht_store::Views;
use dht_store::placement;
use dht_store::store::Wanted;
use p2pinst_api::inspect::{CellPage, KeyPage, KeyView, PeerView};
use p2pinst_api::request::{ApiError, CellBytes, DebugCells, ErrorKind};
use p2pinst_types::{Kind, Name, NodeId, PublicKey};

use super::{Api, ApiFailure, Reply, status};

/// Cells of one answer, in bytes: leaves room in a frame for the rest.
const BYTES: usize = 600 * 1024;
/// Cells of one answer.
const CELLS: usize = 4096;
/// Subjects of one answer: each with up to eight replicas.
const KEYS: usize = 1024;

fn invalid(message: String, hint: &str) -> ApiFailure {
    ApiError::new(ErrorKind::Invalid, message).hint(hint).into()
}

fn known() -> impl Iterator<Item = Kind> {
    (1..=31).chain(0x8001..=0x801f).map(Kind).filter(|k| k.is_known())
}

fn word(kind: Kind) -> String {
    kind.to_string().replace(' ', "-")
}

fn kinds() -> String {
    known().map(word).collect::<Vec<_>>().join(", ")
}

/// `status`, `node-record`, `0x8003`, `7`
fn kind(text: &str) -> Option<Kind> {
    let number = || match text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    let named = known().find(|k| word(*k) == text);
    named.or_else(|| number().map(Kind))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.len().is_multiple_of(2) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let byte = |i: usize| u8::from_str_radix(text.get(i..i + 2)?, 16).ok();
    if digits { (0..text.len()).step_by(2).map(byte).collect() } else { None }
}

/// What a name or a number stands for: the beginnings of the subjects.
fn subjects(views: &Views, text: &str) -> Vec<Vec<u8>> {
    let name = text.parse::<Name>().ok();
    let mut found = Vec::new();
    if let Some(machine) = name.as_ref().and_then(|n| views.machine_named(n)) {
        found.extend([machine.id.as_bytes().to_vec(), machine.node.0.as_bytes().to_vec()]);
    }
    if name.as_ref().is_some_and(|n| views.has_group(n)) {
        found.push(text.as_bytes().to_vec());
    }
    if let Ok(order) = status::find(views, text) {
        found.push(order.id.as_bytes().to_vec());
    }
    if found.is_empty() {
        found.extend(hex(text));
    }
    found
}

fn author(views: &Views, text: &str) -> Option<PublicKey> {
    let named = text.parse::<Name>().ok().and_then(|name| {
        let machine = views.machine_named(&name).map(|m| m.node.0);
        machine
            .or_else(|| views.grants.values().find(|g| g.grant.name == name).map(|g| g.grant.key))
    });
    named
        .or_else(|| text.parse::<PublicKey>().ok())
        .or_else(|| text.parse::<NodeId>().ok().map(|n| n.0))
}

impl Api {
    pub(super) async fn debug_cells(&self, ask: DebugCells) -> Reply<CellPage> {
        let views = self.store.views();
        let mut wanted = Wanted {
            from: ask.from.unwrap_or_default(),
            limit: ask.limit.clamp(1, CELLS),
            bytes: BYTES,
            ..Wanted::default()
        };
        if let Some(text) = &ask.kind {
            let hint = &format!("kinds: {}, or a number", kinds());
            let kind =
                kind(text).ok_or_else(|| invalid(format!("there is no kind {text:?}"), hint))?;
            wanted.kind = Some(kind);
        }
        if let Some(text) = &ask.subject {
            wanted.subjects = subjects(&views, text);
            if wanted.subjects.is_empty() {
                let message =
                    format!("{text:?} is no machine, deployment or group, nor hexadecimal");
                return Err(invalid(
                    message,
                    "give a name, or the beginning of a subject in hexadecimal",
                ));
            }
        }
        if let Some(text) = &ask.author {
            let unknown = || {
                invalid(
                    format!("{text:?} is no machine and no key"),
                    "see them: p2pinst node ls, p2pinst key ls",
                )
            };
            wanted.author = Some(author(&views, text).ok_or_else(unknown)?);
        }
        let page = self.store.run(move |s| s.look(&wanted)).await?;
        let page =
            page.map_err(|e| ApiFailure(ApiError::new(ErrorKind::Internal, e.to_string())))?;
        let cells = page.cells.iter().map(|c| CellBytes(c.bytes().to_vec())).collect();
        Ok(CellPage { cells, next: page.next })
    }

    pub(super) fn debug_peers(&self) -> Vec<PeerView> {
        let views = self.store.views();
        let peers = self.net.peers();
        let mut nodes: Vec<NodeId> = views.machines.values().map(|m| m.node).collect();
        nodes.extend(peers.connected());
        nodes.retain(|n| *n != self.own.node);
        nodes.sort_unstable();
        nodes.dedup();
        let view = |id: NodeId| {
            let (peer, traffic) = (peers.get(&id), peers.traffic().of(&id));
            PeerView {
                id,
                name: views.machine_of(&id.0).map(|m| m.name.clone()),
                up: peer.up,
                since: peer.since,
                incarnation: peer.incarnation,
                addrs: peer.addrs,
                asked: traffic.asked,
                answered: traffic.answered,
            }
        };
        let mut views: Vec<PeerView> = nodes.into_iter().map(view).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    pub(super) async fn debug_keys(&self, limit: usize) -> Reply<KeyPage> {
        let limit = limit.clamp(1, KEYS);
        let held = self.store.run(move |s: &mut dht_store::Store| {
            let all: Vec<_> = s.shelf().map(|(s, h)| (s.clone(), h.clone())).collect();
            all
        });
        let held = held.await?;
        let more = held.len().saturating_sub(limit);
        let views = self.store.views();
        let view = |(subject, held): (dht_store::shelf::Subject, dht_store::shelf::Held)| {
            let replicas = self.replicas.of(&subject);
            KeyView {
                kind: subject.kind,
                place: placement::key(views.roots.cluster(), subject.kind, &subject.id),
                here: replicas.contains(&self.own.node),
                replicas,
                cells: held.cells,
                bytes: held.bytes,
                subject: subject.id,
            }
        };
        Ok(KeyPage { keys: held.into_iter().take(limit).map(view).collect(), more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_numbers_are_read() {
        for (text, want) in [
            ("status", Some(Kind::STATUS)),
            ("node-record", Some(Kind::NODE_RECORD)),
            ("0x8003", Some(Kind::STATUS)),
            ("7", Some(Kind::DEPLOYMENT)),
            ("0x0777", Some(Kind(0x0777))),
            ("stat", None),
            ("70000", None),
            ("", None),
        ] {
            assert_eq!(kind(text), want, "{text}");
        }
        assert_eq!(hex("00fF"), Some(vec![0, 255]));
        for bad in ["0", "0g", "é0", "+1"] {
            assert_eq!(hex(bad), None, "{bad}");
        }
    }
}
