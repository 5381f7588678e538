//! Waves of an order: which machine begins when. Pure.

use std::str::FromStr;

use p2pinst_types::{Hash, MachineId, PublicKey};

/// The most waves.
const MOST: u16 = 100;

/// How many of the machines, in percent, have begun after each wave; the last is 100.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::commands) struct Waves(Vec<u8>);

/// Reads `90%` or `90`.
pub(super) fn percent(text: &str) -> Result<u8, String> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    let number = digits.parse().ok().filter(|n: &u8| *n <= 100);
    number.ok_or_else(|| "write a part of a hundred: 90%".to_owned())
}

impl FromStr for Waves {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "write a number of waves (1 to {MOST}), or what has begun after each: 10%,50%,100%"
            )
        };
        if let Ok(count) = text.parse::<u16>() {
            if !(1..=MOST).contains(&count) {
                return Err(wrong());
            }
            let part = |i: u16| u8::try_from(u32::from(i) * 100 / u32::from(count)).unwrap_or(100);
            return Ok(Self((1..=count).map(part).collect()));
        }
        let parts: Result<Vec<u8>, String> = text.split(',').map(|p| percent(p.trim())).collect();
        let mut parts = parts.map_err(|_| wrong())?;
        let rises = parts.windows(2).all(|w| w.first() < w.last());
        if !rises || parts.first().is_none_or(|first| *first == 0) || !text.contains('%') {
            return Err("the parts rise, from more than 0 to 100: 10%,50%,100%".to_owned());
        }
        if parts.last() != Some(&100) {
            parts.push(100);
        }
        Ok(Self(parts))
    }
}

impl Waves {
    /// All machines begin.
    pub(in crate::commands) fn at_once() -> Self {
        Self(vec![100])
    }

    /// The wave of each machine, from 0, in their order.
    pub(super) fn of(
        &self,
        author: &PublicKey,
        number: u64,
        machines: impl Iterator<Item = MachineId>,
    ) -> Vec<u16> {
        let lot = |machine: MachineId| {
            let parts: [&[u8]; 3] = [author.as_bytes(), &number.to_be_bytes(), machine.as_bytes()];
            Hash::of_parts("p2pinst/wave/1", &parts)
        };
        let mut lots: Vec<(Hash, usize)> =
            machines.enumerate().map(|(at, machine)| (lot(machine), at)).collect();
        lots.sort_unstable();
        let all = lots.len();
        let mut waves = vec![0; all];
        for (rank, (_, at)) in lots.into_iter().enumerate() {
            // of few machines each wave has one at least, as long as there are some
            let begun = |part: &u8| (all * usize::from(*part)).div_ceil(100);
            let wave = self.0.iter().position(|part| rank < begun(part)).unwrap_or(0);
            if let Some(place) = waves.get_mut(at) {
                *place = u16::try_from(wave).unwrap_or(u16::MAX);
            }
        }
        waves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(text: &str, machines: usize) -> Vec<usize> {
        let waves: Waves = text.parse().unwrap();
        let ids = (0..machines).map(|i| MachineId([u8::try_from(i).unwrap(); 16]));
        let of = waves.of(&PublicKey([7; 32]), 42, ids);
        let last = of.iter().max().map_or(0, |w| usize::from(*w) + 1);
        (0..last).map(|w| of.iter().filter(|o| usize::from(**o) == w).count()).collect()
    }

    #[test]
    fn machines_are_divided_as_it_is_said() {
        assert_eq!(sizes("1", 5), [5]);
        assert_eq!(sizes("3", 9), [3, 3, 3]);
        assert_eq!(sizes("10%,50%,100%", 20), [2, 8, 10]);
        assert_eq!(sizes("10%,50%", 20), [2, 8, 10]);
        assert_eq!(sizes("10%,50%,100%", 1), [1]);
        assert_eq!(sizes("100%", 4), [4]);
        assert_eq!(sizes("3", 0), [] as [usize; 0]);
    }

    #[test]
    fn the_lot_falls_anew_for_each_order() {
        let waves: Waves = "2".parse().unwrap();
        let ids = || (0..64).map(|i| MachineId([i; 16]));
        let of = |number| waves.of(&PublicKey([7; 32]), number, ids());
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn what_is_no_waves_is_refused() {
        for bad in ["", "0", "101", "0%,100%", "50%,10%", "50%,50%", "10%,x", "10,20", "110%"] {
            assert!(bad.parse::<Waves>().is_err(), "{bad:?}");
        }
        assert_eq!((percent("90%"), percent("90"), percent("0")), (Ok(90), Ok(90), Ok(0)));
        assert!(percent("101%").is_err() && percent("-1").is_err() && percent("%").is_err());
    }
}
