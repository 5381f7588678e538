//! Waves of an order: a slice of its machines begins once enough of those before are installed. Pure.

use dht_store::Views;
use dht_store::view::Assigned;
use p2pinst_types::record::Ended;

/// Whether a machine's wave may begin, by what all nodes know; why not.
///
/// # Errors
/// When too few machines of the waves before are installed.
pub(crate) fn may_begin(views: &Views, assigned: &Assigned) -> Result<(), String> {
    let order = &assigned.order;
    let same = |a: &&Assigned| a.author == assigned.author && a.order.number == order.number;
    let before = views.assignments.values().filter(same).filter(|a| a.order.wave < order.wave);
    let (mut all, mut installed) = (0u64, 0u64);
    for earlier in before {
        let done = earlier.ended.as_ref().is_some_and(|(_, d)| d.ended == Ended::Installed);
        all += 1;
        installed += u64::from(done);
    }
    if installed * 100 >= all * u64::from(order.gate) {
        return Ok(());
    }
    let (wave, gate) = (order.wave + 1, order.gate);
    Err(format!(
        "wave {wave} waits: {installed} of {all} machines of the waves before are installed, {gate} % must be"
    ))
}
