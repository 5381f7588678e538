//! How the statuses of a deployment are divided: shards of about 64 machines, contiguous in the
//! wave hash, so that a wave of machines is a few whole shards.

use crate::id::{DeploymentId, MachineId};
use crate::{Hash, limits};

/// Machines for which one shard is meant: their statuses fit in some ten kilobytes.
pub const SHARD_MACHINES: usize = 64;
/// Length of the subject of a status: the deployment's id and the shard, two bytes.
const SUBJECT: usize = DeploymentId::LEN + 2;

/// Where a machine stands among all machines of a deployment: another place in every deployment,
/// so that the first waves do not always meet the same machines.
#[must_use]
pub fn wave_hash(deployment: &DeploymentId, machine: &MachineId) -> u64 {
    let hash = Hash::of_parts("p2pinst/wave/1", &[deployment.as_bytes(), machine.as_bytes()]);
    hash.0.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// Into how many shards the statuses of this many machines are divided: a power of two.
#[must_use]
pub fn shards_for(machines: usize) -> u16 {
    let shards = machines.div_ceil(SHARD_MACHINES).next_power_of_two();
    u16::try_from(shards).unwrap_or(limits::SHARDS).clamp(1, limits::SHARDS)
}

/// The shard of a machine, from 0: the first bits of its wave hash. `shards`: a power of two.
#[must_use]
pub fn shard_of(deployment: &DeploymentId, machine: &MachineId, shards: u16) -> u16 {
    let bits = shards.max(1).ilog2();
    let top = wave_hash(deployment, machine).checked_shr(u64::BITS - bits).unwrap_or(0);
    u16::try_from(top).unwrap_or(0)
}

/// The subject of the statuses of one shard.
#[must_use]
pub fn status_subject(deployment: &DeploymentId, shard: u16) -> Vec<u8> {
    [deployment.as_bytes().as_slice(), &shard.to_be_bytes()].concat()
}

/// The deployment and the shard of a status's subject; `None`: it is not one.
#[must_use]
pub fn parse_status_subject(subject: &[u8]) -> Option<(DeploymentId, u16)> {
    if subject.len() != SUBJECT {
        return None;
    }
    let (id, shard) = subject.split_at_checked(DeploymentId::LEN)?;
    Some((DeploymentId::from_slice(id)?, u16::from_be_bytes(shard.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(n: u32) -> MachineId {
        let mut id = [0; MachineId::LEN];
        id[..4].copy_from_slice(&n.to_be_bytes());
        MachineId(id)
    }

    #[test]
    fn one_shard_for_64_machines() {
        let want = [(0, 1), (1, 1), (64, 1), (65, 2), (128, 2), (129, 4), (10_000, 256)];
        for (machines, shards) in want {
            assert_eq!(shards_for(machines), shards, "{machines}");
        }
        assert_eq!(shards_for(usize::MAX >> 1), limits::SHARDS);
        assert!(limits::SHARDS.is_power_of_two());
    }

    #[test]
    fn shards_are_contiguous_in_the_wave_hash_and_even() {
        let id = DeploymentId([7; 16]);
        let mut order: Vec<u32> = (0..4096).collect();
        order.sort_by_key(|n| wave_hash(&id, &machine(*n)));
        let shards: Vec<u16> = order.iter().map(|n| shard_of(&id, &machine(*n), 64)).collect();
        assert!(shards.is_sorted());
        for shard in 0..64 {
            let size = shards.iter().filter(|s| **s == shard).count();
            assert!((30..110).contains(&size), "{size} in {shard}");
        }
        // twice as many shards: each falls into two
        for n in 0..100 {
            let whole = shard_of(&id, &machine(n), 64);
            assert_eq!(shard_of(&id, &machine(n), 128) / 2, whole);
            assert_eq!(shard_of(&id, &machine(n), 1), 0);
        }
        assert_ne!(wave_hash(&id, &machine(1)), wave_hash(&DeploymentId([8; 16]), &machine(1)));
    }

    #[test]
    fn golden_wave_hash() {
        assert_eq!(wave_hash(&DeploymentId([7; 16]), &machine(1)), 1_360_082_148_331_578_004);
    }

    #[test]
    fn subjects_are_read_back() {
        let id = DeploymentId([7; 16]);
        let subject = status_subject(&id, 0x0102);
        assert_eq!(subject.len(), 18);
        assert_eq!(parse_status_subject(&subject), Some((id, 0x0102)));
        assert_eq!(parse_status_subject(&subject[..17]), None);
        assert_eq!(parse_status_subject(id.as_bytes()), None);
    }
}
