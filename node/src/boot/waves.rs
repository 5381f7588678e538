//! Waves of an order: a slice of its machines begins once enough of those before are installed. Pure.

use std::collections::BTreeMap;

use dht_store::Views;
use dht_store::view::Assigned;
use p2pinst_boot::setup::Setup;
use p2pinst_types::record::{Ended, Task};
use p2pinst_types::{Millis, Name, SetupId};

/// Machines that are named in a reason.
const NAMED: usize = 8;

/// The machines of the waves before, without those whose order was taken back: they are neither installed nor missing.
struct Before<'a> {
    installed: u64,
    missing: Vec<&'a Assigned>,
}

/// How it stands with the waves before. Of a machine that was ordered anew since, the new order tells.
fn before<'a>(views: &'a Views, assigned: &Assigned) -> Before<'a> {
    let order = &assigned.order;
    let same = |a: &&Assigned| a.author == assigned.author && a.order.number == order.number;
    let earlier = views.assignments.values().filter(same).filter(|a| a.order.wave < order.wave);
    let mut before = Before { installed: 0, missing: Vec::new() };
    let mut by_installers = BTreeMap::new();
    for first in earlier {
        let newer = first.superseded.and_then(|_| views.current_assignment(&first.machine));
        let last = newer.unwrap_or(first);
        match last.ended.as_ref().map(|(_, over)| over.ended) {
            // an installer that a scout has started is at work, until its system joins
            Some(Ended::Installed)
                if last.joined.is_none() && is_by_installer(views, last, &mut by_installers) =>
            {
                before.missing.push(last);
            }
            Some(Ended::Installed) => before.installed += 1,
            Some(Ended::Cancelled) => {}
            None => before.missing.push(last),
        }
    }
    before
}

/// Whether an installer makes the system of an order, which joins then. Setups are many machines': each is read once.
fn is_by_installer(views: &Views, of: &Assigned, known: &mut BTreeMap<SetupId, bool>) -> bool {
    let Task::Install { setup: id, .. } = &of.order.task else { return false };
    *known.entry(*id).or_insert_with(|| {
        let setup = views.setups.get(id).and_then(|record| Setup::parse(&record.text).ok());
        setup.is_some_and(|setup| setup.installer.is_some() && setup.agent)
    })
}

impl Before<'_> {
    fn all(&self) -> u64 {
        self.installed + self.missing.len() as u64
    }

    /// Whether that is enough, with some more installed.
    fn suffices(&self, more: u64, gate: u8) -> bool {
        (self.installed + more) * 100 >= self.all() * u64::from(gate)
    }

    fn words(&self, gate: u8) -> String {
        let (installed, all) = (self.installed, self.all());
        format!("{installed} of {all} machines of the waves before are installed, {gate} % must be")
    }
}

/// Whether a machine's wave may begin, by what all nodes know; why not.
///
/// # Errors
/// When too few machines of the waves before are installed.
pub(crate) fn may_begin(views: &Views, assigned: &Assigned) -> Result<(), String> {
    let (before, gate) = (before(views, assigned), assigned.order.gate);
    if before.suffices(0, gate) {
        return Ok(());
    }
    let wave = assigned.order.wave + 1;
    Err(format!("wave {wave} waits: {}", before.words(gate)))
}

/// Why a wave that waits can never begin, unless somebody does something; `failed` knows whose scouts have given up. `None`: it can,
/// as far as is known.
pub(crate) fn never_begins(
    views: &Views,
    assigned: &Assigned,
    now: Millis,
    failed: &dyn Fn(&Assigned) -> bool,
) -> Option<String> {
    let (before, gate) = (before(views, assigned), assigned.order.gate);
    let is_lost = |a: &&&Assigned| now > a.order.not_after || failed(a);
    let lost: Vec<&Name> = before.missing.iter().filter(is_lost).map(|a| &a.order.name).collect();
    let hopeful = before.missing.len().saturating_sub(lost.len()) as u64;
    if before.suffices(hopeful, gate) {
        return None;
    }
    let mut names: Vec<&str> = lost.iter().map(|name| name.as_str()).collect();
    names.sort_unstable();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let names = names.join(", ");
    let names = if more > 0 { format!("{names} and {more} more") } else { names };
    let (wave, words) = (assigned.order.wave + 1, before.words(gate));
    Some(format!(
        "wave {wave} cannot begin: {words}, and what has failed or is over its time keeps it from that ({names}): \
         order these machines again (p2pinst boot arm), or take their orders back (p2pinst boot disarm)"
    ))
}
