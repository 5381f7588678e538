//! Groups that several people change, also while the network is cut.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::cluster::says;
use p2pinst_testnet::root::dpkg_status;
use p2pinst_testnet::view::{Group, Groups};
use p2pinst_testnet::{Lab, Node, eventually};

use crate::harness::{LATER, SOON, cluster, deb};

/// Figure 4 of the Clumpt paper.
const FIGURE_4: &str = "group{
    name = \"LSC\"
    description = \"Room 214 - CT/UFSM\"
    machines = {
        host01,
        host02
    }
}
group{
    name = \"PAPLE\"
    description = \"PAPLE Cluster\"
    machines = {10.77.0.1-3}
}
";

fn show(node: &Node, group: &str) -> Result<Group> {
    node.json(["group", "show", group])
}

fn members(group: &Group) -> String {
    group.members.join(" ")
}

/// Waits until every node shows the same group, as it should be.
fn all_show(lab: &Lab, group: &str, right: impl Fn(&Group) -> Result<()>) -> Result<()> {
    for node in lab.nodes() {
        eventually(LATER, &format!("{} shows {group}", node.name()), || {
            right(&show(node, group)?)
        })?;
    }
    let shown = lab.nodes().iter().map(|n| n.ok(["group", "show", group, "--json"]));
    let shown: BTreeSet<String> = shown.collect::<Result<_>>()?;
    ensure!(shown.len() == 1, "they show different groups: {shown:#?}");
    Ok(())
}

#[test]
fn eventually_edits_on_both_sides_of_a_cut_network_are_kept() {
    cluster(6, |lab| {
        let [n1, n4] = [lab.node(1)?, lab.node(4)?];
        n1.share_power(n4)?;
        n1.ok(["group", "create", "gpu", "--hosts", "n[1-2],n4", "--description", "cards"])?;
        all_show(lab, "gpu", |g| {
            ensure!(members(g) == "n1 n2 n4", "members: {:?}", g.members);
            Ok(())
        })?;

        let switch = lab.network().switch()?;
        switch.split(&[4, 5, 6])?;
        for node in lab.nodes() {
            node.sees_up(3, LATER)?;
        }
        // different machines, and one that both have a word on: the later counts
        n1.ok(["group", "add", "gpu", "n3,n6"])?;
        n1.ok(["group", "remove", "gpu", "n4"])?;
        n1.ok(["group", "describe", "gpu", "cards of the left"])?;
        n4.ok(["group", "add", "gpu", "n5"])?;
        n4.ok(["group", "remove", "gpu", "n[1,6]"])?;
        n4.ok(["group", "describe", "gpu", "cards of the right"])?;
        ensure!(members(&show(n1, "gpu")?) == "n1 n2 n3 n6", "the left side");
        ensure!(members(&show(n4, "gpu")?) == "n2 n4 n5", "the right side");
        ensure!(show(n4, "gpu")?.concurrent.is_empty(), "it knows of nothing else yet");

        switch.join(&[4, 5, 6])?;
        all_show(lab, "gpu", |g| {
            ensure!(members(g) == "n2 n3 n5", "members: {:?}", g.members);
            ensure!(g.description == "cards of the right", "the later: {}", g.description);
            let [other] = g.concurrent.as_slice() else {
                anyhow::bail!("one definition was written at the same time: {:?}", g.concurrent)
            };
            ensure!(other.description == "cards of the left", "kept: {}", other.description);
            Ok(())
        })?;
        let shown = lab.node(6)?.ok(["group", "show", "gpu"])?;
        ensure!(shown.contains("at the same time") && shown.contains("cards of the left"));

        // either settles it, and what was published reaches the members, no other
        n1.ok(["group", "describe", "gpu", "cards"])?;
        all_show(lab, "gpu", |g| {
            ensure!(g.description == "cards" && g.concurrent.is_empty(), "not settled: {g:?}");
            Ok(())
        })?;
        let file = deb(lab, "card", "1.0")?;
        n1.publish(&file, &["--group", "gpu", "--urgent", "--wait"])?;
        for node in lab.nodes() {
            let member = ["n2", "n3", "n5"].contains(&node.name());
            ensure!(dpkg_status(&node.root(), "card").is_ok() == member, "{}", node.name());
        }
        Ok(())
    });
}

#[test]
fn a_removed_group_gets_nothing_more_and_keeps_what_it_has() {
    cluster(3, |lab| {
        let [n1, n2] = [lab.node(1)?, lab.node(2)?];
        n1.ok(["group", "create", "gpu", "--hosts", "n2"])?;
        n1.publish(&deb(lab, "stays", "1.0")?, &["--group", "gpu", "--urgent", "--wait"])?;
        n1.ok(["group", "rm", "gpu"])?;
        let gone = |node: &Node| {
            eventually(SOON, "the group is gone", || {
                node.refused(1, ["group", "show", "gpu"]).map(drop)
            })
        };
        lab.nodes().iter().try_for_each(gone)?;
        ensure!(dpkg_status(&n2.root(), "stays").is_ok(), "nothing is uninstalled");
        let file = deb(lab, "more", "1.0")?;
        let done = n1.cli(["publish"]).arg(&file).args(["--group", "gpu"]).run()?;
        says(&done.fails_with(1)?, &["there is no group gpu"])?;
        for args in [["group", "rm", "gpu"], ["group", "rm", "nope"], ["group", "rm", "all"]] {
            n1.refused(1, args)?;
        }
        // made anew, it is another group: the package of old goes to whom it has now
        n1.ok(["group", "create", "gpu", "--hosts", "n3"])?;
        lab.node(3)?.installs("stays", "1.0", SOON)
    });
}

#[test]
fn a_group_file_goes_in_and_out() {
    cluster(3, |lab| {
        let n1 = lab.node(1)?;
        let path = lab.dir().join("groups.conf");
        let path = path.to_str().context("a path of text")?;
        fs::write(path, FIGURE_4)?;
        let import = |args: &[&str]| n1.ok([&["group", "import", path], args].concat());
        ensure!(import(&["--dry-run"])? == "made  LSC\nmade  PAPLE\n");
        n1.refused(1, ["group", "show", "PAPLE"])?;
        ensure!(import(&[])? == "made  LSC\nmade  PAPLE\n");
        all_show(lab, "PAPLE", |g| {
            ensure!(members(g) == "n1 n2 n3" && g.description == "PAPLE Cluster", "{g:?}");
            Ok(())
        })?;
        ensure!(show(n1, "LSC")?.description == "Room 214 - CT/UFSM");
        // out on one node and in on the same again: nothing is to do
        let out = lab.node(3)?.ok(["group", "export"])?;
        fs::write(path, &out)?;
        ensure!(import(&[])? == "same  LSC\nsame  PAPLE\n", "what was exported:\n{out}");

        fs::write(path, "group { name = new machines = { n1 } }\ngroup {\n  nmae = \"x\"\n}\n")?;
        let done = n1.refused(1, ["group", "import", path])?;
        says(&done, &["line 3, column 3", "nmae = \"x\"\n    ^", "nothing was changed"])?;
        let groups: Groups = n1.json(["group", "ls"])?;
        let names: Vec<&str> = groups.groups.iter().map(|g| g.name.as_str()).collect();
        ensure!(names == ["all", "LSC", "PAPLE"], "{names:?}");
        Ok(())
    });
}

#[test]
fn more_groups_than_one_answer_holds() {
    cluster(1, |lab| {
        let n1 = lab.node(1)?;
        let path = lab.dir().join("many.conf");
        let path = path.to_str().context("a path of text")?;
        let one =
            |i: usize| format!("group {{ name = g{i:04} machines = {{ n[1-{}] }} }}\n", i + 1);
        fs::write(path, (0..3000).map(one).collect::<String>())?;
        let import = || n1.cli(["group", "import", path]).limit(LATER).run()?.ok();
        ensure!(import()?.stdout.lines().all(|l| l.starts_with("made")));
        let groups: Groups = n1.json(["group", "ls"])?;
        ensure!(groups.groups.len() == 3001, "{} groups", groups.groups.len());
        ensure!(groups.groups.iter().all(|g| members(g) == "n1"));
        fs::write(path, n1.ok(["group", "export"])?)?;
        ensure!(import()?.stderr.contains("0 made, 0 changed, 3000 the same"));
        Ok(())
    });
}

#[test]
fn bad_expressions_are_pointed_at() {
    cluster(1, |lab| {
        let n1 = lab.node(1)?;
        n1.ok(["group", "create", "gpu", "--hosts", "n1"])?;
        for (args, caret) in [
            (["add", "gpu", "n[01-16],b!d"], "  n[01-16],b!d\n            ^"),
            (["remove", "gpu", "10.0.0.9-3"], "  10.0.0.9-3\n           ^"),
            (["create", "x", "--select=a=b && c d"], "  a=b && c d\n          ^"),
        ] {
            let done = n1.refused(2, ["group"].into_iter().chain(args))?;
            ensure!(done.stderr.contains(caret), "{done}");
        }
        ensure!(members(&show(n1, "gpu")?) == "n1");
        Ok(())
    });
}
