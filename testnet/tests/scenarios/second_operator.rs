//! The loss of one machine does not orphan the cluster.

use anyhow::ensure;
use p2pinst_testnet::Invite;

use crate::harness::{SOON, cluster, deb, publish_to_all, scenario};

#[test]
fn another_operator_goes_on_when_the_first_machine_is_dead() {
    scenario(4, |lab| {
        lab.form(3, &Invite::default())?;
        let [n1, n2, n4] = [lab.node(1)?, lab.node(2)?, lab.node(4)?];
        publish_to_all(n1, &deb(lab, "kept", "1.0")?, &["--wait"]).run()?.ok()?;
        n1.share_power(n2)?;
        n1.kill()?;
        n4.join(&n2.invite(&Invite::default())?)?;
        n2.ok(["group", "create", "rest", "--hosts", "n[2-4]"])?;
        let file = deb(lab, "kept", "1.1")?;
        let published = n2.publish(&file, &["--group", "rest", "--urgent", "--wait"])?;
        for i in 2..=4 {
            lab.node(i)?.installs("kept", "1.1", SOON)?;
        }
        ensure!(n4.deployment(&published.deployment)?.count("installed") == 3);
        Ok(())
    });
}

#[test]
fn a_key_without_power_is_refused() {
    cluster(2, |lab| {
        let n2 = lab.node(2)?;
        let file = deb(lab, "refused", "1.0")?;
        publish_to_all(n2, &file, &[]).run()?.fails_with(1)?;
        n2.new_key()?;
        publish_to_all(n2, &file, &[]).run()?.fails_with(1)?;
        n2.refused(1, ["invite"])?;
        n2.refused(1, ["group", "create", "mine", "--hosts", "n2"])?;
        ensure!(lab.node(1)?.status()?.deployments.is_empty());
        Ok(())
    });
}

#[test]
fn publisher_and_operator_are_two_powers() {
    cluster(2, |lab| {
        let key = lab.node(2)?.new_key()?;
        lab.node(1)?.grant(&key, lab.node(2)?, &["publisher"])?;
        publish_to_all(lab.node(2)?, &deb(lab, "half", "1.0")?, &[]).run()?.fails_with(1)?;
        lab.node(2)?.refused(1, ["invite"])?;
        ensure!(lab.node(1)?.status()?.deployments.is_empty());
        Ok(())
    });
}
