//! The benchmark beside the rivals, small: that it measures, not what.

use std::time::Duration;

use p2pinst_testnet::bench::swarm::{Between, Method, Options, RIVALS, Report, measure};
use p2pinst_testnet::ready::why_no_namespaces;

use crate::harness::{Turn, skipped};

#[test]
fn a_small_file_goes_to_three_hosts_by_every_method() {
    if let Some(why) = why_no_namespaces() {
        return skipped(&why);
    }
    let missing = |method: &Method| {
        let why = method.missing();
        if let Some(why) = &why {
            skipped(why);
        }
        why.is_some()
    };
    let rivals: Vec<Method> = RIVALS.into_iter().filter(|m| !missing(m)).collect();
    let turn = Turn::take().expect("a turn");
    let report = measure(&Options {
        sizes: vec![2 << 20],
        nodes: vec![4],
        between: Between::Links { mbit: 100, wan: None },
        runs: 1,
        rivals: rivals.clone(),
        limit: Duration::from_secs(300),
        below: None,
    })
    .expect("a measurement");
    drop(turn);
    let text = report.markdown();
    let runs = &report.cases[0];
    assert_eq!(runs.records.len(), rivals.len() + 1, "{text}");
    for record in &runs.records {
        // Every copy was checked against the hash.
        let figures = record.figures.as_ref().unwrap_or_else(|| panic!("{text}"));
        let name = format!("{}: {figures:?}", record.method);
        let file = runs.case.bytes as f64;
        assert!(figures.last >= figures.median && figures.last > 0.0, "{name}");
        // No copy comes from nowhere, and none is free.
        let into: u64 = figures.wire.iter().flat_map(|w| &w.down).skip(1).map(|c| c.bytes).sum();
        assert!(into as f64 >= 3.0 * file, "{name}");
        assert!(figures.extra.is_some_and(|e| (-0.01..0.5).contains(&e)), "{name}");
        assert!(figures.peak > 0 && figures.cpu < 60.0, "{name}");
        let copies = figures.copies.expect("links are counted");
        let expected = match record.method {
            Method::Nginx | Method::Rsync => 2.9..3.5,
            _ => 0.95..4.0,
        };
        assert!(expected.contains(&copies), "{name}");
    }
    let ours = runs.figures(Method::P2pinst).next().expect("ours is measured");
    assert!(ours.first_fetch.is_some_and(|t| t > 0.0 && t <= ours.last), "{ours:?}");
    assert!(text.contains("T* =") && text.contains(" p2pinst |"), "{text}");
    let json = serde_json::to_string(&report).expect("JSON");
    let again: Report = serde_json::from_str(&json).expect("what was written is read");
    assert_eq!(again.cases.len(), 1);
}
