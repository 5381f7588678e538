//! Older versions: refused, unless it is meant.

use anyhow::{Result, ensure};
use p2pinst_testnet::Lab;
use p2pinst_testnet::cluster::says;

use crate::harness::{SOON, cluster, deb, publish_to_all};

fn publish(lab: &Lab, version: &str, args: &[&str]) -> Result<p2pinst_testnet::Done> {
    publish_to_all(lab.node(1)?, &deb(lab, "versioned", version)?, args).run()
}

#[test]
fn an_older_version_than_what_is_ordered_needs_allow_downgrade() {
    cluster(2, |lab| {
        publish(lab, "1.10", &["--wait"])?.ok()?;
        // By dpkg's order, not by that of the letters.
        says(&publish(lab, "1.9", &["--wait"])?.fails_with(1)?, &["--allow-downgrade", "1.10"])?;
        lab.node(2)?.installs("versioned", "1.10", SOON)?;
        publish(lab, "1.9", &["--wait", "--allow-downgrade"])?.ok()?;
        lab.nodes().iter().try_for_each(|n| n.installs("versioned", "1.9", SOON))?;
        publish(lab, "1.11", &["--wait"])?.ok()?;
        lab.nodes().iter().try_for_each(|n| n.installs("versioned", "1.11", SOON))
    });
}

#[test]
fn the_same_version_again_changes_nothing() {
    cluster(2, |lab| {
        publish(lab, "1.0", &["--wait"])?.ok()?;
        let before = lab.node(2)?.ok(["history"])?;
        publish(lab, "1.0", &["--wait"])?.ok()?;
        ensure!(lab.node(2)?.ok(["history"])? == before, "it was installed again");
        Ok(())
    });
}
