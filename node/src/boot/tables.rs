//! What the boot service may do, made of what the cluster says. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dht_store::Views;
use p2pinst_boot::dhcp::table::{Armed, Mode, Style, Table, Wants};
use p2pinst_boot::service::Tables;
use p2pinst_types::{AssignmentId, Hash, Mac, Millis};

use super::Parts;
use super::artefacts::Artefacts;
use super::members::Members;
use super::mirrors::Mirrors;
use crate::net::socket_addr;

/// Made of what the views say now.
pub(super) fn make(
    parts: &Parts,
    (artefacts, mirrors): (&Artefacts, &Mirrors),
    members: &Members,
    views: &Views,
    now: Millis,
) -> Tables {
    let mut table = Table::off(parts.node);
    table.mode = match parts.config.mode().unwrap_or(Mode::Off) {
        // who is a stranger is not known yet
        Mode::Discover if !members.is_complete() => Mode::Armed,
        mode => mode,
    };
    table.cluster = cluster(&views.roots.cluster().0);
    table.node_port = parts.addrs.iter().find_map(|a| socket_addr(a)).map_or(0, |a| a.port());
    table.http_port = parts.config.http_port;
    table.members = views.machines.values().map(|m| m.node).collect();
    table.machines = machines(members, views, now);
    if matches!(table.mode, Mode::Off | Mode::Armed) {
        // nobody else is answered
        table.machines.retain(|_, armed| armed.wants == Wants::Scout);
    }
    let (offered, programs) = artefacts.offered();
    table.artefacts = offered;
    let files = artefacts.files().collect::<BTreeSet<_>>();
    Tables { table, files, programs, mirrors: mirrors.offered() }
}

/// Every machine of which anything is known: those without an order start from their disks.
pub(super) fn machines(members: &Members, views: &Views, now: Millis) -> BTreeMap<Mac, Armed> {
    let disk = Armed { assignment: Hash([0; 32]), style: Style::default(), wants: Wants::Disk };
    // an order says more than an adoption, and that more than a member says of itself
    let mut machines: BTreeMap<Mac, Armed> = members.macs().map(|mac| (mac, disk)).collect();
    let adopted = views.adopted.values().flat_map(|a| &a.adoption.macs);
    machines.extend(adopted.map(|mac| (*mac, disk)));
    for assigned in views.assignments.values().filter(|a| a.is_armed(now)) {
        let assignment = number(&assigned.id);
        let scout = Armed { assignment, style: Style::default(), wants: Wants::Scout };
        // an interface that was moved to another machine since is that one's
        let still = |mac: &&Mac| views.machine_with(mac) == Some(assigned.machine);
        machines.extend(assigned.order.macs.iter().filter(still).map(|mac| (*mac, scout)));
    }
    machines
}

/// The first bytes of the cluster's id, as beacons have them.
pub(crate) fn cluster(id: &Hash) -> [u8; 8] {
    id.0.first_chunk().copied().unwrap_or_default()
}

fn number(id: &AssignmentId) -> Hash {
    Hash::of_parts("p2pinst/boot-rank/1", &[id.as_bytes()])
}

/// Until the next order ends by itself.
pub(super) fn next_end(views: &Views, now: Millis) -> Option<Duration> {
    let armed = views.assignments.values().filter(|a| a.is_armed(now));
    armed.map(|a| a.order.not_after.since(now) + Duration::from_millis(1)).min()
}
