//! The configuration graph: fragments ("nodes"), and edges which say what an appliance is made of (after Rocks' Avalanche).
//!
//! A graph is a directory:
//!
//! - `graph.toml`, and any other `*.toml` beside it: `[appliances]` (name = description), `[attributes]` (what templates
//!   see as `attributes`), `[[edge]]` (`from`, `to`, `when`) and `[[order]]` (`first`, `then`);
//! - `nodes/NAME.toml`: the fragments, each with sections for all formats or for one;
//! - `templates/`: files that sections name (`file = "post/ntp.sh"`), or that other templates include.
//!
//! An edge says that what it leads to is a part of where it comes from, where its condition holds. An appliance may have a
//! fragment of its own name. Everything is checked at once when the graph is read, so that what remains for a machine's
//! installation to fail on is what only the machine knows.

mod cycle;
mod parse;
mod raw;

use std::collections::{BTreeMap, BTreeSet};

use p2pinst_types::name::Name;
use p2pinst_types::selector::Selector;
use serde_json::Value;
use thiserror::Error;

use super::attributes::{Attributes, Facts};
use super::engine::Template;
use super::format::Format;

/// Problems that are listed; a directory that is no graph at all has thousands.
const PROBLEMS: usize = 100;

/// Something that is wrong with a graph.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

/// Why files are no graph.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the graph has problems:\n{}", lines(problems))]
pub struct GraphError {
    /// All of them (a hundred at most), by file and line.
    pub problems: Vec<Problem>,
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n")
}

/// An appliance that the graph does not have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no appliance {appliance} in the graph; it has: {}", join(known))]
pub struct NoAppliance {
    /// What was asked for.
    pub appliance: Name,
    /// What there is.
    pub known: Vec<Name>,
}

/// Nobody said which appliance a machine becomes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "it is not said which appliance {machine} becomes: name one (--appliance, `appliance =` in a setup), or give the machine a label appliance=…; the graph has: {}",
    join(known)
)]
pub struct WhichAppliance {
    /// The machine.
    pub machine: Name,
    /// What there is.
    pub known: Vec<Name>,
}

fn join(names: &[Name]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// A text file that is written to the installed system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TextFile {
    /// Where: an absolute path.
    pub(crate) path: String,
    /// Its permissions: four octal digits.
    pub(crate) mode: String,
    /// Its owner and group: `root:root`.
    pub(crate) owner: String,
    /// Its content: the name of a template.
    pub(crate) content: String,
}

/// What a node adds to a file of an installer; texts are names of templates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sections {
    /// Packages, each a template.
    pub(crate) packages: Vec<String>,
    /// Commands or settings in the format's own language.
    pub(crate) main: Option<String>,
    /// Partitioning in the format's own language.
    pub(crate) partitioning: Option<String>,
    /// A shell script that runs before.
    pub(crate) pre: Option<String>,
    /// A shell script that runs in the installed system.
    pub(crate) post: Option<String>,
    /// Files of the installed system.
    pub(crate) files: Vec<TextFile>,
}

/// A fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Name,
    /// What it is for.
    pub description: String,
    /// What it adds in each format, before what it adds in one.
    pub(crate) common: Sections,
    /// What it adds in one format.
    pub(crate) own: BTreeMap<Format, Sections>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Edge {
    to: Name,
    when: Option<Selector>,
}

/// A checked graph.
#[derive(Debug, Clone)]
pub struct Graph {
    appliances: BTreeMap<Name, String>,
    attributes: BTreeMap<String, Value>,
    nodes: BTreeMap<Name, Node>,
    /// By where they come from, as they are written.
    edges: BTreeMap<Name, Vec<Edge>>,
    /// What else must come before a node, by the node.
    before: BTreeMap<Name, BTreeSet<Name>>,
    templates: BTreeMap<String, Template>,
}

impl Graph {
    /// The appliances and their descriptions.
    pub fn appliances(&self) -> impl Iterator<Item = (&Name, &str)> {
        self.appliances.iter().map(|(name, what)| (name, what.as_str()))
    }

    /// The appliance that a machine becomes: the one that is asked for, the one that its label `appliance` names, or the only one.
    ///
    /// # Errors
    /// When none of these says it.
    pub fn choose(
        &self,
        asked: Option<&Name>,
        machine: &Attributes,
    ) -> Result<Name, WhichAppliance> {
        if let Some(asked) = asked.cloned().or_else(|| machine.appliance()) {
            return Ok(asked);
        }
        let mut known = self.appliances.keys();
        match (known.next(), known.next()) {
            (Some(only), None) => Ok(only.clone()),
            _ => Err(WhichAppliance {
                machine: machine.name.clone(),
                known: self.appliances.keys().cloned().collect(),
            }),
        }
    }

    /// The formats for which any fragment has a section of its own.
    #[must_use]
    pub fn formats(&self) -> BTreeSet<Format> {
        self.nodes.values().flat_map(|node| node.own.keys().copied()).collect()
    }

    /// All fragments, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    pub(crate) fn attributes(&self) -> &BTreeMap<String, Value> {
        &self.attributes
    }

    pub(crate) fn templates(&self) -> impl Iterator<Item = &Template> {
        self.templates.values()
    }

    /// The fragments of an appliance, each once and after all that it needs; otherwise as the edges are written.
    ///
    /// # Errors
    /// When there is no such appliance.
    pub(crate) fn traverse(
        &self,
        appliance: &Name,
        facts: &Facts<'_>,
    ) -> Result<Vec<&Node>, NoAppliance> {
        if !self.appliances.contains_key(appliance) {
            let known = self.appliances.keys().cloned().collect();
            return Err(NoAppliance { appliance: appliance.clone(), known });
        }
        let met = self.depth_first(appliance, facts);
        let order = self.in_order(&met);
        Ok(order.into_iter().filter_map(|name| self.nodes.get(name)).collect())
    }

    /// What an appliance reaches, parts before what they are a part of.
    fn depth_first<'a>(&'a self, appliance: &'a Name, facts: &Facts<'_>) -> Vec<&'a Name> {
        let edges = |name| self.edges.get(name).map(Vec::as_slice).unwrap_or_default().iter();
        let mut seen = BTreeSet::from([appliance]);
        let mut path = vec![(appliance, edges(appliance))];
        let mut met = Vec::new();
        while let Some((name, left)) = path.last_mut() {
            match left.next() {
                Some(edge) => {
                    let taken = edge.when.as_ref().is_none_or(|when| facts.meet(when));
                    if taken && seen.insert(&edge.to) {
                        path.push((&edge.to, edges(&edge.to)));
                    }
                }
                None => {
                    met.push(*name);
                    path.pop();
                }
            }
        }
        met
    }

    /// The same, moved as little as `[[order]]` asks for: always the first whose predecessors have all come.
    fn in_order<'a>(&'a self, met: &[&'a Name]) -> Vec<&'a Name> {
        let index: BTreeMap<&Name, usize> = met.iter().enumerate().map(|(i, n)| (*n, i)).collect();
        let mut after: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut missing: BTreeMap<usize, usize> = BTreeMap::new();
        for (&name, &own) in &index {
            let parts = self.edges.get(name).into_iter().flatten().map(|e| &e.to);
            let before: BTreeSet<usize> = parts
                .chain(self.before.get(name).into_iter().flatten())
                .filter_map(|n| index.get(n).copied())
                .collect();
            missing.insert(own, before.len());
            for first in before {
                after.entry(first).or_default().push(own);
            }
        }
        let mut ready: BTreeSet<usize> =
            missing.iter().filter(|(_, n)| **n == 0).map(|(i, _)| *i).collect();
        let mut order = Vec::with_capacity(met.len());
        while let Some(next) = ready.pop_first() {
            order.extend(met.get(next));
            for then in after.get(&next).into_iter().flatten() {
                if let Some(left) = missing.get_mut(then) {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        ready.insert(*then);
                    }
                }
            }
        }
        order
    }
}

#[cfg(test)]
mod tests;
