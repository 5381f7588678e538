//! The addresses of an isolated segment: who has which, for how long.
//!
//! In memory alone, at most [`super::table::POOL`] of them. A machine's first choice follows from its hardware address, so that
//! two nodes that know nothing of each other choose alike, and a node that starts anew gives a machine what it had. Where two machines' choices meet, the
//! nodes of a segment keep apart by what they hear: a claim names the address that was offered, and each client tells everybody
//! which one it takes from whom (RFC 2131, section 3.1). What an offer holds back it holds for [`OFFERED`]; when all addresses are held
//! back by offers, as in a flood of made-up clients, the next client may get another's: whoever requests it first has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use p2pinst_types::{Hash, Mac};

use super::table::IsolatedPool;

/// For how long an offer holds an address back: clients take one within four seconds (measured), or ask again.
pub const OFFERED: Duration = Duration::from_secs(10);
/// For how long an address that a client found in use is left alone.
pub const DECLINED: Duration = Duration::from_secs(600);

/// Why an address is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It was offered to a machine.
    Offered(Mac),
    /// A machine has it.
    Leased(Mac),
    /// A client found it in use.
    Declined,
}

/// Who has which address.
#[derive(Debug, Default)]
pub struct Leases {
    uses: BTreeMap<Ipv4Addr, (Use, Duration)>,
    /// The inverse, for offers and leases.
    machines: BTreeMap<Mac, Ipv4Addr>,
}

impl Leases {
    /// How many addresses are not free.
    #[must_use]
    pub fn len(&self) -> usize {
        self.uses.len()
    }

    /// Whether all addresses are free.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uses.is_empty()
    }

    /// Forgets what is over, and what is no longer of the pool.
    pub fn expire(&mut self, now: Duration, pool: &IsolatedPool) {
        self.uses.retain(|address, (_, until)| *until > now && pool.contains(*address));
        let uses = &self.uses;
        self.machines.retain(|mac, address| {
            matches!(uses.get(address), Some((Use::Offered(m) | Use::Leased(m), _)) if m == mac)
        });
    }

    /// An address for a machine: what it has, what follows from its hardware address, or the next that is free. None where there
    /// is none. What `avoid` names is others'.
    pub fn offer(
        &mut self,
        now: Duration,
        pool: &IsolatedPool,
        avoid: &BTreeSet<Ipv4Addr>,
        mac: Mac,
    ) -> Option<Ipv4Addr> {
        self.expire(now, pool);
        let usable = |a: &Ipv4Addr| is_host(*a, pool) && !avoid.contains(a);
        if let Some(held) = self.machines.get(&mac).filter(|a| usable(a)) {
            return Some(*held);
        }
        let size = pool.size();
        let first = first_choice(mac).checked_rem(size)?;
        let places = (first..size).chain(0..first);
        let candidates = places.filter_map(|place| pool.at(place)).filter(usable);
        let mut only_offered = None;
        let mut free = None;
        for address in candidates {
            match self.uses.get(&address) {
                None => {
                    free = Some(address);
                    break;
                }
                Some((Use::Offered(_), _)) => only_offered = only_offered.or(Some(address)),
                Some((Use::Leased(_) | Use::Declined, _)) => {}
            }
        }
        let address = free.or(only_offered)?;
        self.set(address, Use::Offered(mac), now.saturating_add(OFFERED));
        Some(address)
    }

    /// Whether a machine may have an address from now on.
    pub fn take(
        &mut self,
        now: Duration,
        pool: &IsolatedPool,
        avoid: &BTreeSet<Ipv4Addr>,
        mac: Mac,
        address: Ipv4Addr,
    ) -> bool {
        self.expire(now, pool);
        let others = match self.uses.get(&address) {
            Some((Use::Offered(m) | Use::Leased(m), _)) => *m != mac,
            Some((Use::Declined, _)) => true,
            None => false,
        };
        if others || avoid.contains(&address) || !is_host(address, pool) {
            return false;
        }
        let lease = Duration::from_secs(pool.lease.into());
        self.set(address, Use::Leased(mac), now.saturating_add(lease));
        true
    }

    /// Another node offered a machine an address.
    pub fn offered_elsewhere(
        &mut self,
        now: Duration,
        pool: &IsolatedPool,
        mac: Mac,
        address: Ipv4Addr,
    ) {
        self.expire(now, pool);
        if pool.contains(address) && !self.uses.contains_key(&address) {
            self.set(address, Use::Offered(mac), now.saturating_add(OFFERED));
        }
    }

    /// A machine gives an address back.
    pub fn release(&mut self, mac: Mac, address: Ipv4Addr) {
        if self.machines.get(&mac) == Some(&address) {
            self.machines.remove(&mac);
            self.uses.remove(&address);
        }
    }

    /// A machine found the address that it was given in use. Whether it had been given it.
    pub fn decline(&mut self, now: Duration, mac: Mac, address: Ipv4Addr) -> bool {
        let its = self.machines.get(&mac) == Some(&address);
        if its {
            self.machines.remove(&mac);
            self.uses.insert(address, (Use::Declined, now.saturating_add(DECLINED)));
        }
        its
    }

    /// The one place that keeps both maps alike.
    fn set(&mut self, address: Ipv4Addr, what: Use, until: Duration) {
        if let Some((Use::Offered(mac) | Use::Leased(mac), _)) = self.uses.get(&address) {
            self.machines.remove(mac);
        }
        if let Use::Offered(mac) | Use::Leased(mac) = what
            && let Some(old) = self.machines.insert(mac, address)
            && old != address
        {
            self.uses.remove(&old);
        }
        self.uses.insert(address, (what, until));
    }
}

/// Whether an address of the pool can be a host's: neither the segment's own address nor everybody's, nor the router's or a name server's.
fn is_host(address: Ipv4Addr, pool: &IsolatedPool) -> bool {
    let host = !u32::from(pool.netmask);
    let part = u32::from(address) & host;
    let is_end = host > 1 && (part == 0 || part == host);
    pool.contains(address)
        && !is_end
        && pool.router != Some(address)
        && !pool.dns.contains(&address)
}

fn first_choice(mac: Mac) -> u32 {
    let Hash([a, b, c, d, ..]) = Hash::of_parts("p2pinst dhcp address", &[&mac.0]);
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn pool(first: u8, last: u8) -> IsolatedPool {
        IsolatedPool {
            first: [10, 0, 0, first].into(),
            last: [10, 0, 0, last].into(),
            netmask: [255, 255, 255, 0].into(),
            router: Some([10, 0, 0, 1].into()),
            dns: vec![[10, 0, 0, 2].into()],
            lease: 3600,
        }
    }

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    fn none() -> BTreeSet<Ipv4Addr> {
        BTreeSet::new()
    }

    #[test]
    fn two_nodes_choose_alike_and_nobody_is_given_what_another_has() {
        let pool = pool(10, 40);
        let (mut one, mut two) = (Leases::default(), Leases::default());
        let first = one.offer(S(0), &pool, &none(), mac(1)).unwrap();
        assert_eq!(two.offer(S(0), &pool, &none(), mac(1)), Some(first));
        assert_eq!(one.offer(S(1), &pool, &none(), mac(1)), Some(first), "it stays");
        let mut all = BTreeSet::new();
        for n in 0..31 {
            let address = one.offer(S(2), &pool, &none(), mac(n)).unwrap();
            assert!(one.take(S(2), &pool, &none(), mac(n), address));
            all.insert(address);
        }
        assert_eq!(all.len(), 31, "each has its own");
        assert_eq!(one.offer(S(2), &pool, &none(), mac(99)), None, "full");
        assert!(!one.take(S(2), &pool, &none(), mac(99), first), "another has it");
        assert!(one.offer(S(3603), &pool, &none(), mac(99)).is_some(), "leases end");
    }

    #[test]
    fn ends_routers_and_what_others_have_are_left_alone() {
        let pool = pool(0, 3);
        let own = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 3)]);
        let mut leases = Leases::default();
        assert_eq!(leases.offer(S(0), &pool, &own, mac(1)), None, "0, router, DNS, own");
        for n in 0..4 {
            assert!(!leases.take(S(0), &pool, &own, mac(1), [10, 0, 0, n].into()), "{n}");
        }
        assert!(!leases.take(S(0), &pool, &own, mac(1), [10, 0, 1, 9].into()), "elsewhere");
        assert!(leases.take(S(0), &pool, &none(), mac(1), [10, 0, 0, 3].into()));
    }

    #[test]
    fn who_asks_for_an_address_that_another_was_offered_elsewhere_is_refused() {
        let pool = pool(10, 20);
        let mut leases = Leases::default();
        let first = leases.offer(S(0), &pool, &none(), mac(1)).unwrap();
        let mut other = Leases::default();
        other.offered_elsewhere(S(0), &pool, mac(1), first);
        assert!(!other.take(S(1), &pool, &none(), mac(2), first));
        assert!(other.take(S(1), &pool, &none(), mac(1), first), "by whom it came does not matter");
        other.offered_elsewhere(S(1), &pool, mac(3), first);
        assert!(!other.take(S(2), &pool, &none(), mac(3), first), "what is leased stays");
    }

    #[test]
    fn addresses_come_back_and_those_in_use_are_avoided() {
        let pool = pool(10, 11);
        let mut leases = Leases::default();
        let first = leases.offer(S(0), &pool, &none(), mac(1)).unwrap();
        assert!(!leases.decline(S(0), mac(2), first), "not its own");
        assert!(leases.decline(S(0), mac(1), first));
        let second = leases.offer(S(0), &pool, &none(), mac(1)).unwrap();
        assert_ne!(first, second);
        assert!(!leases.take(S(1), &pool, &none(), mac(1), first));
        leases.release(mac(9), second);
        assert_eq!(leases.len(), 2);
        leases.release(mac(1), second);
        assert_eq!(leases.len(), 1);
        leases.expire(S(601), &pool);
        assert!(leases.is_empty());
    }

    #[test]
    fn a_flood_of_made_up_clients_keeps_no_address() {
        let pool = pool(10, 20);
        let mut leases = Leases::default();
        for n in 0..200 {
            assert!(leases.offer(S(0), &pool, &none(), mac(n)).is_some());
        }
        assert_eq!(leases.len(), 11);
        let address = leases.offer(S(0), &pool, &none(), mac(250)).unwrap();
        assert!(leases.take(S(0), &pool, &none(), mac(250), address));
    }

    proptest! {
        #[test]
        fn an_address_is_one_machines(steps in vec((0u8..5, 0u8..20, 8u8..24, 0u64..20), 0..200), last in any::<u8>()) {
            let pool = pool(10, last.min(22));
            let mut leases = Leases::default();
            let mut now = S(0);
            for (what, n, at, later) in steps {
                now += S(later);
                let address = Ipv4Addr::new(10, 0, 0, at);
                match what {
                    0 => { leases.offer(now, &pool, &none(), mac(n)); }
                    1 => { leases.take(now, &pool, &none(), mac(n), address); }
                    2 => leases.release(mac(n), address),
                    3 => { leases.decline(now, mac(n), address); }
                    _ => leases.offered_elsewhere(now, &pool, mac(n), address),
                }
                assert!(leases.len() <= pool.size() as usize);
                for (mac, address) in &leases.machines {
                    let used = leases.uses.get(address).map(|(what, _)| *what);
                    assert!(used == Some(Use::Offered(*mac)) || used == Some(Use::Leased(*mac)));
                }
            }
        }
    }
}
