//! The layers of the workspace: who may use whom, and which foreign things live where.
//! `ARCHITECTURE.md` has the picture; a failure here names the edge that breaks it.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed, which is what it is for"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each crate may use of the others.
const EDGES: [(&str, &[&str]); 12] = [
    ("p2pinst-types", &[]),
    ("p2pinst-files", &[]),
    ("p2pinst-trust", &["p2pinst-types"]),
    ("dht-store", &["p2pinst-types", "p2pinst-trust"]),
    ("p2pinst-chunks", &["p2pinst-types", "p2pinst-files"]),
    ("p2pinst-command", &[]),
    ("p2pinst-install", &["p2pinst-types", "p2pinst-files", "p2pinst-command"]),
    ("p2pinst-boot", &["p2pinst-types", "p2pinst-files", "p2pinst-command"]),
    ("p2pinst-api", &["p2pinst-types", "p2pinst-files"]),
    (
        "p2pinst-node",
        &[
            "p2pinst-types",
            "p2pinst-files",
            "p2pinst-trust",
            "dht-store",
            "p2pinst-chunks",
            "p2pinst-install",
            "p2pinst-boot",
            "p2pinst-api",
        ],
    ),
    (
        // It compresses images before it hands them over.
        "p2pinst-cli",
        &[
            "p2pinst-types",
            "p2pinst-files",
            "p2pinst-trust",
            "p2pinst-chunks",
            "p2pinst-install",
            "p2pinst-boot",
            "p2pinst-api",
            "p2pinst-node",
        ],
    ),
    (
        // The simulator runs the database's machines; the tests alone sign what a newer version
        // would, and are a member that lies.
        "p2pinst-testnet",
        &[
            "p2pinst-types",
            "p2pinst-trust",
            "dht-store",
            "p2pinst-chunks",
            "p2pinst-api",
            "p2pinst-node",
        ],
    ),
];

/// Foreign crates that have one home.
const FOREIGN: [(&str, &[&str]); 2] =
    [("libp2p", &["p2pinst-node"]), ("redb", &["dht-store", "p2pinst-chunks"])];

/// Words that together in one line of code have one home: below these paths of the workspace.
const WORDS: [(&[&str], &[&str]); 3] = [
    (&["libp2p::"], &["node/src/net", "node/src/join"]),
    (&["redb::"], &["crates/dht-store", "crates/chunks"]),
    (&["process::", "Command"], &["crates/command", "crates/install", "crates/boot", "testnet"]),
];

/// The longest that a file may be, its tests aside.
const LINES: usize = 800;

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Each crate with the names of all that its manifest names, for whatever purpose.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |v: &Value| v["name"].as_str().expect("a name").to_owned();
    packages
        .iter()
        .map(|p| {
            let dependencies = p["dependencies"].as_array().expect("dependencies");
            (name(p), dependencies.iter().map(name).collect())
        })
        .collect()
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("testnet is in the workspace").into()
}

/// Every Rust file of the workspace by its path in it, without its tests.
fn sources() -> Vec<(PathBuf, String)> {
    let root = workspace();
    let mut dirs = vec![root.join("cli"), root.join("node"), root.join("testnet")];
    dirs.push(root.join("crates"));
    let mut found = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a readable directory") {
            let path = entry.expect("a readable directory").path();
            if path.is_dir() && !path.ends_with("tests") {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).expect("a readable file");
                let text = text.split("\n#[cfg(test)]\n").next().unwrap_or_default().to_owned();
                let path = path.strip_prefix(&root).expect("below the workspace").to_path_buf();
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn dependencies_point_downwards() {
    let allowed: BTreeMap<&str, &[&str]> = EDGES.into_iter().collect();
    let crates = dependencies();
    let mut broken = Vec::new();
    for (name, uses) in &crates {
        let Some(may) = allowed.get(name.as_str()) else {
            broken.push(format!("{name} is in no layer: give it one in testnet/tests/layering.rs"));
            continue;
        };
        let ours = uses.iter().filter(|u| crates.contains_key(*u));
        broken.extend(
            ours.filter(|u| !may.contains(&u.as_str()) && *u != name)
                .map(|u| format!("{name} -> {u} points the wrong way")),
        );
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn foreign_crates_stay_where_they_belong() {
    let mut broken = Vec::new();
    for (name, uses) in dependencies() {
        for (foreign, homes) in FOREIGN {
            if uses.contains(foreign) && !homes.contains(&name.as_str()) {
                broken.push(format!("{name} -> {foreign}: only {} may", homes.join(", ")));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn foreign_words_stay_where_they_belong() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let code = !line.trim_start().starts_with("//");
            for (words, homes) in WORDS {
                let found = code && words.iter().all(|w| line.contains(w));
                if found && !homes.iter().any(|h| path.to_string_lossy().starts_with(h)) {
                    let (at, number, words) = (path.display(), number + 1, words.join(""));
                    broken.push(format!("{at}:{number} has `{words}`: only {homes:?} may"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn files_are_short_enough_to_read() {
    let long = |(path, text): (PathBuf, String)| {
        let lines = text.lines().count();
        (lines > LINES).then(|| format!("{} has {lines} lines, more than {LINES}", path.display()))
    };
    let broken: Vec<String> = sources().into_iter().filter_map(long).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn lints_and_versions_come_from_the_workspace() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let manifest = package["manifest_path"].as_str().expect("a path");
        let text = fs::read_to_string(manifest).expect("a readable manifest");
        assert!(text.contains("[lints]\nworkspace = true"), "{manifest}: lints of its own");
        let mut section = "";
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let names_a_crate = section.ends_with("dependencies]") && line.contains('=');
            assert!(
                !names_a_crate || line.contains("workspace = true"),
                "{manifest}: `{line}` has a version of its own"
            );
        }
    }
}
