//! How a file spreads: seen while it does, on a node that did not publish it; and how it went, kept
//! with the statuses.

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::{Deb, Invite, Lab, Node, eventually};
use serde_json::Value;

use crate::harness::{LATER, SOON, scenario};

/// Two sites of n1, n2 and n3, n4, n5, on slow cables.
fn two_sites(lab: &Lab) -> Result<()> {
    let n1 = lab.node(1)?;
    n1.init()?;
    let home = n1.invite(&Invite::default())?;
    let away = n1.invite(&Invite::default().with(&["--site", "away"]).uses(3))?;
    for host in 2..=5 {
        lab.node(host)?.join(if host == 2 { &home } else { &away })?;
    }
    lab.meet(5)?;
    (1..=5).try_for_each(|host| lab.network().switch()?.limit(host, "20mbit"))
}

/// The only exchange that a node shows.
fn swarm(node: &Node, name: &str) -> Result<Value> {
    let view: Value = node.json(["swarm", name])?;
    let swarms = view["swarms"].as_array().context("swarms")?;
    ensure!(swarms.len() == 1, "one file has one swarm: {view}");
    Ok(swarms[0].clone())
}

fn deployment(node: &Node, name: &str) -> Result<Value> {
    let view: Value = node.json(["status", name])?;
    Ok(view["deployments"][0].clone())
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("no number: {value}"))
}

#[test]
fn what_spreads_is_seen_everywhere_and_how_it_went_is_kept() {
    scenario(5, |lab| {
        two_sites(lab)?;
        let (n1, n4) = (lab.node(1)?, lab.node(4)?);
        ensure!(n4.refused(1, ["swarm", "nobody-1"])?.stderr.contains("no deployment nobody-1"));
        ensure!(n4.refused(1, ["swarm"])?.stderr.contains("nothing is at work"));
        let deb = Deb::new("wide", "1.0").payload(16_000_000).build(lab.dir())?;
        let name = n1.publish(&deb, &["--group", "all", "--urgent"])?.name;
        eventually(SOON, "n4 sees how far all are", || {
            let seen = swarm(n4, &name)?;
            let done = number(&seen["done"])?;
            ensure!(done > 0.0 && done < 1.0 && seen["answered"] == 5, "{seen}");
            ensure!(seen["fetching"].as_u64() > Some(0) && seen["members"][0]["name"] == "n1");
            ensure!(seen["members"][1]["progress"]["rate_in"].as_u64() > Some(0), "{seen}");
            ensure!(seen["left_ms"].is_u64() && seen["efficiency"].is_f64(), "{seen}");
            // without a name: what this node itself is at
            let all: Value = n4.json(["swarm"])?;
            ensure!(all["swarms"][0]["deployments"][0] == name.as_str(), "{all}");
            let peers = all["swarms"][0]["peers"].as_array().context("peers")?;
            ensure!(peers.iter().any(|p| p["received"].as_u64() > Some(0)), "{peers:?}");
            Ok(())
        })?;
        let report = eventually(LATER, "all four report", || {
            let seen = deployment(n4, &name)?;
            ensure!(seen["counts"]["installed"] == 5, "{seen}");
            // the publisher tells of itself when nobody has asked for more for a while
            ensure!(seen["machines"][0]["transfer"]["holder"] == true, "{seen}");
            Ok(seen["transfer"].clone())
        })?;
        went_well(&report).with_context(|| report.to_string())?;
        // of a file that has spread the swarm tells what it was
        let over = swarm(n1, &name)?;
        ensure!(
            over["complete"] == 5 && over["done"] == 1.0 && over["left_ms"].is_null(),
            "{over}"
        );
        let blob = over["blob"].as_str().context("a root")?.get(..12).context("a root")?;
        ensure!(swarm(n4, blob)?["blob"] == over["blob"], "a root names it too");
        for node in lab.nodes() {
            node.stop()?;
        }
        for node in lab.nodes() {
            node.start()?;
        }
        lab.meet(5)?;
        eventually(SOON, "the report has survived", || {
            let seen = deployment(lab.node(3)?, &name)?;
            ensure!(seen["transfer"] == report, "{} is not {report}", seen["transfer"]);
            Ok(())
        })
    });
}

/// What every distribution that went well reports.
fn went_well(report: &Value) -> Result<()> {
    ensure!(report["machines"] == 4);
    let efficiency = number(&report["efficiency"])?;
    ensure!((0.3..=1.05).contains(&efficiency), "efficiency {efficiency}");
    // T* of 16 MB on 20 Mbit/s is 6.4 s, 6.7 s with headers; longer on a machine too busy to fill the links
    let (bound, took) = (number(&report["bound"]["ms"])?, number(&report["fetch_ms"]["p100"])?);
    ensure!(bound >= 5_000.0, "T* {bound} ms");
    ensure!((bound / took - efficiency).abs() < 0.01, "{bound} of {took} ms are {efficiency}");
    // one to its own site and one to the other
    let copies = number(&report["publisher_copies"])?;
    ensure!((0.9..=2.3).contains(&copies), "publisher copies {copies}");
    ensure!(number(&report["duplicate_share"])? <= 0.05, "duplicates");
    let sites = report["sites"].as_array().context("sites")?;
    ensure!(sites.len() == 1 && sites[0]["site"] == "away" && sites[0]["machines"] == 3);
    let wan = number(&sites[0]["copies"])?;
    ensure!((0.9..=1.2).contains(&wan), "WAN copies {wan}");
    let (all, fetch) = (&report["order_ms"]["p100"], &report["fetch_ms"]["p100"]);
    ensure!(number(all)? + 1_000.0 >= number(fetch)? && number(fetch)? > 4_000.0);
    Ok(())
}
