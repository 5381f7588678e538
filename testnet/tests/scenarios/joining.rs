//! Who may become a member, and who not.

use std::thread;
use std::time::Duration;

use anyhow::ensure;
use p2pinst_testnet::cluster::{at_once, says};
use p2pinst_testnet::{Invite, eventually};

use crate::harness::{SOON, cluster, scenario};

#[test]
fn a_malformed_token_is_refused() {
    scenario(2, |lab| {
        lab.form(1, &Invite::default())?;
        let token = lab.node(1)?.invite(&Invite::default())?;
        let n2 = lab.node(2)?;
        let mut flipped = token.clone().into_bytes();
        let middle = flipped.len() / 2;
        flipped[middle] = if flipped[middle] == b'a' { b'b' } else { b'a' };
        let flipped = String::from_utf8(flipped)?;
        for bad in ["nonsense", "", &token[..token.len() - 5], &flipped, &format!("{token}x")] {
            says(&n2.join_with(bad).run()?.fails_with(1)?, &["token", "p2pinst invite"])?;
        }
        // The machine is not spoiled by that.
        n2.join(&token)
    });
}

#[test]
fn an_expired_token_is_refused() {
    scenario(2, |lab| {
        lab.form(1, &Invite::default())?;
        let token = lab.node(1)?.invite(&Invite::default().with(&["--ttl", "1s"]))?;
        // Nothing can be asked whether a second has passed; more than one has, after this.
        thread::sleep(Duration::from_millis(2_500));
        says(&lab.node(2)?.join_with(&token).run()?.fails_with(1)?, &["expired", "invite"])?;
        ensure!(lab.node(1)?.roster()?.nodes.len() == 1);
        Ok(())
    });
}

#[test]
fn no_more_machines_join_than_the_invite_allows() {
    scenario(5, |lab| {
        let n1 = lab.node(1)?;
        n1.init()?;
        let token = n1.invite(&Invite::default().uses(2))?;
        let results = at_once(&lab.nodes()[1..], |node| node.join_with(&token).run())?;
        let admitted = results.iter().filter(|d| d.code == Some(0)).count();
        ensure!(admitted == 2, "{admitted} were admitted: {results:?}");
        for done in results.into_iter().filter(|d| d.code != Some(0)) {
            says(&done.fails_with(1)?, &["use", "invite"])?;
        }
        ensure!(n1.roster()?.nodes.len() == 3);
        Ok(())
    });
}

#[test]
fn a_name_belongs_to_one_machine() {
    scenario(3, |lab| {
        lab.form(2, &Invite::default())?;
        let [n1, n3] = [lab.node(1)?, lab.node(3)?];
        let token = n1.invite(&Invite::default())?;
        let listen = n3.listen();
        let done = n3.cli(["join", &token, "--name", "n2", "--listen", &listen]).run()?;
        says(&done.fails_with(1)?, &["n2", "--name"])?;
        // The refused attempt has not used the token up.
        n3.join(&token)?;
        n3.sees_up(3, SOON)
    });
}

#[test]
fn a_token_outlives_the_machine_that_made_it() {
    scenario(4, |lab| {
        lab.form(3, &Invite::default())?;
        let token = lab.node(1)?.invite(&Invite::default())?;
        lab.node(1)?.kill()?;
        lab.node(4)?.join(&token)?;
        lab.node(4)?.sees_up(3, SOON)?;
        lab.node(3)?.sees_up(3, SOON)
    });
}

#[test]
fn a_token_of_another_cluster_is_told_apart() {
    scenario(4, |lab| {
        let [n1, n2, n3, n4] = [lab.node(1)?, lab.node(2)?, lab.node(3)?, lab.node(4)?];
        n1.init()?;
        n3.init_as("other").run()?.ok()?;
        n3.prepare_root()?;
        n3.start()?;
        n2.join(&n1.invite(&Invite::default())?)?;
        // A member of one cluster does not become a member of another by mistake.
        let other = n3.invite(&Invite::default())?;
        says(&n2.join_with(&other).run()?.fails_with(1)?, &["lab"])?;
        // The other cluster's token with an address of this one: the wrong door.
        let wrong = n3.invite(&Invite::default().with(&["--bootstrap", &n1.listen()]))?;
        says(&n4.join_with(&wrong).run()?.fails_with(1)?, &["another cluster"])?;
        ensure!(n1.roster()?.nodes.len() == 2 && n3.roster()?.nodes.len() == 1);
        Ok(())
    });
}

#[test]
fn nobody_answers_is_told_apart_from_a_refusal() {
    scenario(2, |lab| {
        lab.form(1, &Invite::default())?;
        let token = lab.node(1)?.invite(&Invite::default())?;
        lab.node(1)?.kill()?;
        let done = lab.node(2)?.join_with(&token).run()?.fails_with(3)?;
        says(&done, &["10.77.0.1"])?;
        // The same command again, when somebody is there.
        lab.node(1)?.start()?;
        lab.node(2)?.join(&token)
    });
}

#[test]
fn a_data_directory_has_one_daemon() {
    cluster(1, |lab| {
        let n1 = lab.node(1)?;
        let done = n1.daemon().limit(Duration::from_secs(15)).run()?;
        ensure!(done.code.is_some_and(|c| c != 0), "{done}");
        says(&done, &["already"])?;
        n1.ok(["node", "ls"])?;
        Ok(())
    });
}

#[test]
fn a_daemon_without_a_cluster_says_what_to_do() {
    scenario(1, |lab| {
        let n1 = lab.node(1)?;
        n1.prepare_root()?;
        let done = n1.daemon().limit(Duration::from_secs(15)).run()?;
        ensure!(done.code.is_some_and(|c| c != 0), "{done}");
        says(&done, &["p2pinst init", "p2pinst join"])
    });
}

#[test]
fn a_cluster_is_not_made_over_another() {
    cluster(1, |lab| {
        let before = lab.node(1)?.roster()?.nodes[0].id.clone();
        says(&lab.node(1)?.init_as("again").run()?.fails_with(1)?, &["lab"])?;
        eventually(SOON, "the node is as it was", || {
            ensure!(lab.node(1)?.roster()?.nodes[0].id == before);
            Ok(())
        })
    });
}

#[test]
fn machines_that_join_at_once_all_become_members() {
    scenario(8, |lab| lab.form(8, &Invite::label("gpu=true")));
}
