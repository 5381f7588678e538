//! What becomes of whole clusters: starts, crashes, partitions, losses.

use std::time::Duration;

use super::{PERIOD, Sim, seed};
use crate::liveness::core::Input;

fn life_of(count: usize, most: [u64; 2]) -> Sim {
    let [detect, join] = most.map(Duration::from_secs);
    let mut sim = Sim::new(count, 64, seed());
    if count > 500 {
        sim.introduce();
    }
    println!("all found each other in {:?}", sim.settle(30));
    sim.run(PERIOD * 15);
    let rate = sim.rate(15);
    println!("at rest {rate} bytes per second and node, framing and TCP included");
    assert!(rate < 500, "{rate}");

    for closes in if count > 500 { &[true][..] } else { &[true, false] } {
        let closes = *closes;
        let dead = [1, 5, count / 2];
        dead.iter().for_each(|n| sim.kill(*n, closes));
        let took = sim.settle(30);
        println!("three are dead (connections close: {closes}): all know in {took:?}");
        assert!(took <= if closes { detect } else { detect + PERIOD * 4 });
        sim.run(PERIOD * 5);
        dead.iter().for_each(|n| sim.start(*n, 2));
        let took = sim.settle(60);
        println!("back in another life: all know in {took:?}");
        assert!(took <= join);
        sim.run(PERIOD * 5);
        let life = |n: usize| sim.hosts[n].core.get(&sim.ids[5]).unwrap().life;
        assert!(sim.running().filter(|n| *n != 5).all(|n| life(n) == 2));
    }
    assert_eq!(sim.falsely_down(), 0);
    sim
}

fn part_and_heal(mut sim: Sim, most: u64) {
    let count = sim.hosts.len();
    sim.hosts.iter_mut().enumerate().for_each(|(n, h)| h.side = n % 2);
    sim.run(PERIOD * 20);
    let other = |n: usize, m: usize| sim.sees(n, m).is_up() != (n % 2 == m % 2);
    let wrong = |n: usize| (0..count).filter(|m| *m != n && other(n, *m)).count();
    assert_eq!((0..count).map(wrong).sum::<usize>(), 0, "each side sees itself alone");
    sim.hosts.iter_mut().for_each(|h| h.side = 0);
    let before: usize = sim.hosts.iter().map(|h| h.sent).sum();
    let took = sim.settle(120);
    let cost = (sim.hosts.iter().map(|h| h.sent).sum::<usize>() - before) / count;
    println!("healed in {took:?}, {cost} bytes per node");
    assert!(took <= Duration::from_secs(most));
}

#[test]
fn a_cluster_of_20_lives_through_crashes_and_a_partition() {
    part_and_heal(life_of(20, [5, 5]), 20);
}

#[test]
fn a_cluster_of_200_lives_through_crashes_and_a_partition() {
    part_and_heal(life_of(200, [8, 10]), 60);
}

#[test]
fn a_cluster_of_1000_lives_through_crashes() {
    life_of(1000, [8, 10]);
}

#[test]
#[ignore = "takes minutes without optimisation"]
fn a_cluster_of_1000_lives_through_a_partition() {
    let mut sim = Sim::new(1000, 64, seed());
    sim.introduce();
    sim.run(PERIOD * 5);
    part_and_heal(sim, 60);
}

#[test]
fn with_a_tenth_of_the_messages_lost_nobody_alive_is_down_and_the_dead_are_found() {
    for count in [20, 200] {
        let mut sim = Sim::new(count, 64, seed());
        sim.loss = 0.1;
        sim.settle(60);
        for _ in 0..40 {
            sim.run(PERIOD);
            assert_eq!(sim.falsely_down(), 0);
        }
        sim.kill(3, false);
        println!("found in {:?}", sim.settle(20));
    }
}

#[test]
fn a_clean_stop_is_known_in_a_second() {
    let mut sim = Sim::new(60, 64, seed());
    sim.settle(30);
    sim.run(PERIOD * 5);
    sim.step(7, Input::Leave);
    sim.run(PERIOD / 10);
    sim.kill(7, true);
    assert!(sim.settle(5) < PERIOD);
}
