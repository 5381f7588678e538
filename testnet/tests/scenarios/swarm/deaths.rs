//! Nodes that are killed in the middle of a distribution.

use anyhow::ensure;
use p2pinst_testnet::eventually;

use super::{MIB, Swarm, received};
use crate::harness::{LATER, cluster};

#[test]
fn eventually_half_of_the_nodes_killed_halfway_finish_with_what_they_had() {
    cluster(5, |lab| {
        let swarm = Swarm::new(lab, "halved", 16 * MIB)?;
        swarm.rate(&[1, 2, 3, 4, 5], "20mbit")?;
        swarm.publish()?;
        let mut before = Vec::new();
        for n in [4, 5] {
            swarm.halfway(n, 40)?;
            lab.node(n)?.kill()?;
            before.push((n, swarm.missing(n)?, received(lab.node(n)?)?));
        }
        swarm.arrives(&[1, 2, 3])?;
        for n in [4, 5] {
            lab.node(n)?.start()?;
        }
        swarm.arrives(&[4, 5])?;
        for (n, missing, then) in before {
            let came = received(lab.node(n)?)? - then;
            let most = missing + missing / 4 + MIB;
            ensure!(came <= most, "n{n} missed {missing} bytes, and {came} came");
            ensure!(most < swarm.blob.len(), "n{n} had too little for this test");
        }
        Ok(())
    });
}

#[test]
fn eventually_all_have_it_though_the_publisher_dies_with_its_first_copy_out() {
    cluster(4, |lab| {
        let swarm = Swarm::new(lab, "orphan", 12 * MIB)?;
        // what the publisher sends in a second is what three others take
        swarm.rate(&[1], "24mbit")?;
        swarm.rate(&[2, 3, 4], "8mbit")?;
        swarm.publish()?;
        eventually(LATER, "every piece is out", || {
            ensure!(swarm.whole_among(&[2, 3, 4])?);
            Ok(())
        })?;
        lab.node(1)?.kill()?;
        let has = [2, 3, 4].map(|n| swarm.percent(n).unwrap_or(100));
        ensure!(has.iter().any(|p| *p < 100), "it was too fast for this test: {has:?}");
        swarm.arrives(&[2, 3, 4])
    });
}

#[test]
fn eventually_a_node_that_is_killed_again_and_again_has_all_without_beginning_anew() {
    cluster(3, |lab| {
        let swarm = Swarm::new(lab, "stubborn", 8 * MIB)?;
        swarm.rate(&[3], "8mbit")?;
        let n3 = lab.node(3)?;
        let begun = received(n3)?;
        swarm.publish()?;
        let mut had = 0;
        for percent in [15, 35, 55, 75] {
            swarm.halfway(3, percent)?;
            n3.kill()?;
            let has = swarm.percent(3)?;
            ensure!(has >= had, "it had {had} %, and has {has} % now");
            had = has;
            n3.start()?;
        }
        swarm.arrives(&[3])?;
        // what comes within a second (1 MiB) is not durable yet, and was lost each time
        let (came, whole) = (received(n3)? - begun, swarm.blob.len());
        ensure!(came < whole * 2, "{came} bytes came for {whole}");
        Ok(())
    });
}
