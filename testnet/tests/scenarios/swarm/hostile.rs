//! Members that say they have everything, and send nonsense, or nothing.

use std::fs::File;

use anyhow::{Result, ensure};
use p2pinst_api::DataDir;
use p2pinst_chunks::BlobStore;
use p2pinst_testnet::Node;

use super::{MIB, Swarm, logs};
use crate::harness::{SOON, cluster};
use crate::hostile::{self, Manner};

#[test]
fn eventually_all_finish_beside_a_member_that_sends_garbage_and_ban_it() {
    with_hostile("garbage", Manner::Garbage, |swarm, n2| {
        let id = swarm.lab.node(1)?.roster()?.named(n2.name())?.id.clone();
        for n in [3, 4, 5] {
            logs(swarm.lab.node(n)?, SOON, ["wrong bytes", &id])?;
            logs(swarm.lab.node(n)?, SOON, ["banned", &id])?;
        }
        Ok(())
    });
}

#[test]
fn eventually_all_finish_beside_a_member_that_claims_all_and_sends_nothing() {
    with_hostile("silence", Manner::Silence, |_, _| Ok(()));
}

#[test]
fn eventually_all_finish_beside_a_member_that_is_always_busy() {
    with_hostile("busy", Manner::Busy, |_, _| Ok(()));
}

/// n2 is hostile; n3, n4 and n5 get what n1 publishes all the same.
fn with_hostile(
    name: &'static str,
    manner: Manner,
    check: impl FnOnce(&Swarm<'_>, &Node) -> Result<()>,
) {
    cluster(5, |lab| {
        let swarm = Swarm::new(lab, name, 8 * MIB)?;
        let n2 = lab.node(2)?;
        n2.stop()?;
        // it has all of it, and does not give it
        BlobStore::open(&DataDir::new(n2.data()).blobs())?
            .ingest(&mut File::open(&swarm.file)?, swarm.blob.len())?;
        let hostile = hostile::start(n2, manner)?;
        for n in [1, 3, 4, 5] {
            lab.node(n)?.sees_up(5, SOON)?;
        }
        swarm.rate(&[1, 2, 3, 4, 5], "20mbit")?;
        swarm.publish()?;
        swarm.arrives(&[1, 3, 4, 5])?;
        check(&swarm, n2)?;
        for n in [1, 3, 4, 5] {
            let node = lab.node(n)?;
            ensure!(!node.log_text().contains("panicked"), "{} has panicked", node.name());
        }
        drop(hostile);
        Ok(())
    });
}
