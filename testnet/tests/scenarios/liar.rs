//! A member that had the file, and sends something else from then on.

use std::fs;

use anyhow::{Result, ensure};
use p2pinst_testnet::root::expect_whole;
use p2pinst_testnet::{Deb, Node, eventually};

use crate::harness::{LATER, SOON, cluster, publish_to_all};
use crate::hostile;

const MIB: u64 = 1 << 20;

#[test]
fn anytime_a_peer_that_sends_wrong_bytes_is_caught_and_others_are_asked() {
    cluster(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        n1.ok(["group", "create", "second", "--hosts", "n2"])?;
        let file = Deb::new("coveted", "1.0").payload(8 * MIB).build(lab.dir())?;
        n1.publish(&file, &["--group", "second", "--urgent", "--wait"])?;
        // n2 has all of it. From now on it answers with something else.
        n2.stop()?;
        let liar = hostile::start(n2, hostile::Manner::Garbage)?;
        n1.sees_up(3, SOON)?;
        n3.sees_up(3, SOON)?;
        // n1 is slow, so that n3 asks n2 as well.
        lab.network().switch()?.limit(1, "20mbit")?;
        publish_to_all(n1, &file, &[]).run()?.ok()?;
        n3.installs("coveted", "1.0", LATER)?;
        expect_whole(&n3.root())?;
        let payload = "usr/share/coveted/payload";
        let [a, b] = [fs::read(n2.root().join(payload))?, fs::read(n3.root().join(payload))?];
        ensure!(a == b, "n3 installed other bytes than were published");
        let id = n1.roster()?.named("n2")?.id.clone();
        eventually(SOON, "n3 says who sent wrong bytes", || banned(n3, &id))?;
        drop(liar);
        Ok(())
    });
}

fn banned(node: &Node, id: &str) -> Result<()> {
    let log = node.log_text();
    let found = log.lines().any(|l| l.contains("wrong bytes") && l.contains(id));
    ensure!(found, "no line of its log has `wrong bytes` and {id}");
    Ok(())
}
