//! Reading a graph, and finding everything that is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use p2pinst_types::name::Name;
use p2pinst_types::selector::Selector;
use serde::de::DeserializeOwned;
use serde_json::Value;
use toml::Spanned;

use super::cycle::circles;
use super::{Edge, Graph, GraphError, Node, PROBLEMS, Problem, Sections, TextFile, raw};
use crate::template::engine::{self, Template};
use crate::template::files::Files;
use crate::template::format::Format;

/// Edges of one graph.
const EDGES: usize = 10_000;
/// The directory of the fragments.
const NODES: &str = "nodes/";
/// The directory of the files that templates are in.
const TEMPLATES: &str = "templates/";

impl Graph {
    /// Reads a graph and checks all of it.
    ///
    /// # Errors
    /// When anything is wrong: all problems at once.
    pub fn parse(files: &Files) -> Result<Self, GraphError> {
        let mut reader = Reader::new(files);
        for (file, text) in files.iter().filter(|(name, _)| name.ends_with(".toml")) {
            if let Some(name) = file.strip_prefix(NODES) {
                reader.node(file, name.trim_end_matches(".toml"), text);
            } else if !file.contains('/') {
                reader.edges(file, text);
            }
        }
        reader.finish()
    }
}

/// A file and its text: where problems are.
#[derive(Clone, Copy)]
struct Place<'a> {
    file: &'a str,
    text: &'a str,
}

impl Place<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|b| **b == b'\n').count()
    }

    /// The line where the content of a string begins: below the quotes where a line break follows them.
    fn first_line(&self, span: &Range<usize>) -> usize {
        let quoted = self.text.get(span.start..).unwrap_or_default();
        let below = ["\"\"\"\n", "\"\"\"\r\n", "'''\n", "'''\r\n"];
        self.line(span) + usize::from(below.iter().any(|b| quoted.starts_with(b)))
    }
}

/// A name that must be one of something, and where it is written.
struct Mention {
    name: Name,
    file: String,
    line: usize,
}

struct Reader<'a> {
    files: &'a Files,
    graph: Graph,
    mentions: Vec<Mention>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn new(files: &'a Files) -> Self {
        let graph = Graph {
            appliances: BTreeMap::new(),
            attributes: BTreeMap::new(),
            nodes: BTreeMap::new(),
            edges: BTreeMap::new(),
            before: BTreeMap::new(),
            templates: BTreeMap::new(),
        };
        let mut reader = Self { files, graph, mentions: Vec::new(), problems: Vec::new() };
        for (file, text) in files.iter().filter(|(name, _)| name.starts_with(TEMPLATES)) {
            let name = file.trim_start_matches(TEMPLATES);
            reader.template(name, file, 1, text.to_owned());
        }
        reader
    }

    fn problem(&mut self, file: &str, line: usize, reason: impl Into<String>) {
        self.problems.push(Problem { file: file.to_owned(), line, reason: reason.into() });
    }

    fn toml<T: DeserializeOwned>(&mut self, place: Place<'_>) -> Option<T> {
        match toml::from_str(place.text) {
            Ok(read) => Some(read),
            Err(error) => {
                let line = error.span().map_or(1, |span| place.line(&span));
                self.problem(place.file, line, error.message());
                None
            }
        }
    }

    fn name(&mut self, place: Place<'_>, text: &Spanned<String>) -> Option<Name> {
        match text.get_ref().parse() {
            Ok(name) => Some(name),
            Err(error) => {
                self.problem(place.file, place.line(&text.span()), error.to_string());
                None
            }
        }
    }

    /// A name of something that must be there, which is known once all files are read.
    fn mention(&mut self, place: Place<'_>, text: &Spanned<String>) -> Option<Name> {
        let name = self.name(place, text)?;
        let line = place.line(&text.span());
        self.mentions.push(Mention { name: name.clone(), file: place.file.to_owned(), line });
        Some(name)
    }

    fn edges(&mut self, file: &str, text: &str) {
        let place = Place { file, text };
        let Some(raw) = self.toml::<raw::Edges>(place) else { return };
        for (name, description) in raw.appliances {
            let Some(known) = self.name(place, &name) else { continue };
            if self.graph.appliances.insert(known, description).is_some() {
                let reason = format!("the appliance {} is there twice", name.get_ref());
                self.problem(file, place.line(&name.span()), reason);
            }
        }
        for (name, value) in raw.attributes {
            let (line, name) = (place.line(&name.span()), name.into_inner());
            if !is_identifier(&name) {
                let reason =
                    format!("templates cannot name {name:?}: use letters, digits and _ only");
                self.problem(file, line, reason);
            } else if self.graph.attributes.insert(name.clone(), json(value)).is_some() {
                self.problem(file, line, format!("the attribute {name} is there twice"));
            }
        }
        for edge in raw.edge {
            self.edge(place, edge);
        }
        for order in raw.order {
            let first = self.mention(place, &order.first);
            let then = self.mention(place, &order.then);
            if let (Some(first), Some(then)) = (first, then) {
                self.graph.before.entry(then).or_default().insert(first);
            }
        }
    }

    fn edge(&mut self, place: Place<'_>, edge: raw::Edge) {
        let from = self.mention(place, &edge.from);
        let when = match &edge.when {
            Some(text) => match text.get_ref().parse::<Selector>() {
                Ok(when) => Some(when),
                Err(error) => {
                    let line = place.line(&text.span());
                    return self.problem(place.file, line, error.to_string());
                }
            },
            None => None,
        };
        for target in &edge.to.0 {
            let to = self.mention(place, target);
            if let (Some(from), Some(to)) = (&from, to) {
                let edge = Edge { to, when: when.clone() };
                self.graph.edges.entry(from.clone()).or_default().push(edge);
            }
        }
    }

    fn node(&mut self, file: &str, name: &str, text: &str) {
        let place = Place { file, text };
        let name: Name = match name.parse() {
            Ok(name) => name,
            Err(error) => return self.problem(file, 1, error.to_string()),
        };
        let Some(raw) = self.toml::<raw::Node>(place) else { return };
        let common = raw::Sections {
            packages: raw.packages,
            pre: raw.pre,
            post: raw.post,
            files: raw.files,
            ..raw::Sections::default()
        };
        let common = self.sections(place, "", common);
        let main = |main: raw::Main| raw::Sections { main: Some(main.main), ..Default::default() };
        let own = [
            (Format::Kickstart, raw.kickstart),
            (Format::Preseed, raw.preseed),
            (Format::Autoinstall, raw.autoinstall),
            (Format::UserData, raw.user_data),
            (Format::MetaData, raw.meta_data.map(main)),
            (Format::NetworkConfig, raw.network_config.map(main)),
        ];
        let own = own
            .into_iter()
            .filter_map(|(format, raw)| Some((format, raw?)))
            .map(|(format, raw)| (format, self.sections(place, format.as_str(), raw)))
            .collect();
        let node = Node { name: name.clone(), description: raw.description, common, own };
        self.graph.nodes.insert(name, node);
    }

    fn sections(&mut self, place: Place<'_>, table: &str, raw: raw::Sections) -> Sections {
        let mut text = |what: &str, text: Option<Spanned<raw::Text>>| {
            text.and_then(|text| self.text(place, &format!("{table}.{what}"), text))
        };
        let main = text("main", raw.main);
        let partitioning = text("partitioning", raw.partitioning);
        let pre = text("pre", raw.pre);
        let post = text("post", raw.post);
        let packages = raw.packages.into_iter().enumerate().map(|(i, package)| {
            let line = place.first_line(&package.span());
            let name = format!("{}#{table}.packages.{i}", place.file);
            self.template(&name, place.file, line, package.into_inner())
        });
        let packages = packages.collect();
        let files = raw.files.into_iter().enumerate();
        let files =
            files.filter_map(|(i, file)| self.file(place, &format!("{table}.files.{i}"), file));
        Sections { main, partitioning, pre, post, packages, files: files.collect() }
    }

    fn file(&mut self, place: Place<'_>, what: &str, raw: Spanned<raw::File>) -> Option<TextFile> {
        let line = place.line(&raw.span());
        let raw = raw.into_inner();
        let mode = raw.mode.unwrap_or_else(|| "0644".to_owned());
        let owner = raw.owner.unwrap_or_else(|| "root:root".to_owned());
        if let Err(reason) = check_file(&raw.path, &mode, &owner) {
            self.problem(place.file, line, reason);
            return None;
        }
        let content = self.text(place, what, raw.content)?;
        Some(TextFile { path: raw.path, mode: format!("{mode:0>4}"), owner, content })
    }

    /// The name of a template that is written here or in a file.
    fn text(&mut self, place: Place<'_>, what: &str, text: Spanned<raw::Text>) -> Option<String> {
        let span = text.span();
        match text.into_inner() {
            raw::Text::Inline(text) => {
                let name = format!("{}#{what}", place.file);
                Some(self.template(&name, place.file, place.first_line(&span), text))
            }
            raw::Text::File(raw::FileName { file }) => {
                if self.files.get(&format!("{TEMPLATES}{file}")).is_some() {
                    return Some(file);
                }
                let reason = format!("there is no file {TEMPLATES}{file}");
                self.problem(place.file, place.line(&span), reason);
                None
            }
        }
    }

    fn template(&mut self, name: &str, file: &str, line: usize, source: String) -> String {
        let template = Template { name: name.to_owned(), file: file.to_owned(), line, source };
        self.graph.templates.insert(name.to_owned(), template);
        name.to_owned()
    }

    fn finish(mut self) -> Result<Graph, GraphError> {
        let graph = &self.graph;
        let is_known = |n: &Name| graph.nodes.contains_key(n) || graph.appliances.contains_key(n);
        let unknown = self.mentions.iter().filter(|m| !is_known(&m.name)).map(|m| Problem {
            file: m.file.clone(),
            line: m.line,
            reason: format!(
                "there is neither a node {0} ({NODES}{0}.toml) nor an appliance of that name",
                m.name
            ),
        });
        let mut problems: Vec<_> = unknown.collect();
        problems.extend(self.circles());
        problems.extend(engine::check(self.graph.templates()).into_iter().map(|e| Problem {
            file: e.file,
            line: e.line,
            reason: e.reason,
        }));
        if self.graph.edges.values().map(Vec::len).sum::<usize>() > EDGES {
            self.problem("graph.toml", 1, format!("there are more than {EDGES} edges"));
        }
        if self.graph.appliances.is_empty() && self.problems.is_empty() {
            let reason = "there is no appliance: name one in [appliances], with what it is for";
            self.problem("graph.toml", 1, reason);
        }
        problems.append(&mut self.problems);
        problems.sort();
        problems.dedup();
        problems.truncate(PROBLEMS);
        if problems.is_empty() { Ok(self.graph) } else { Err(GraphError { problems }) }
    }

    /// Circles among edges and orders, whatever their conditions say: which hold together nobody can see.
    fn circles(&self) -> Vec<Problem> {
        let mut before: BTreeMap<&Name, BTreeSet<&Name>> = BTreeMap::new();
        for (from, edges) in &self.graph.edges {
            before.entry(from).or_default().extend(edges.iter().map(|e| &e.to));
        }
        for (then, first) in &self.graph.before {
            before.entry(then).or_default().extend(first);
        }
        let problem = |circle: super::cycle::Circle| {
            let written = self.mentions.iter().find(|m| circle.0.contains(&m.name))?;
            let reason = format!("a circle, where each needs the next before it: {circle}");
            Some(Problem { file: written.file.clone(), line: written.line, reason })
        };
        circles(&before).into_iter().take(PROBLEMS).filter_map(problem).collect()
    }
}

fn is_identifier(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A value as templates see it; dates are texts.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(yes) => yes.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(json).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(k, v)| (k, json(v))).collect(),
    }
}

/// What is wrong with a file of the installed system.
fn check_file(path: &str, mode: &str, owner: &str) -> Result<(), String> {
    let parts = || path.split('/').skip(1);
    let is_path = path.starts_with('/')
        && path.len() <= 1024
        && !path.chars().any(char::is_control)
        && parts().all(|part| !matches!(part, "" | "." | ".."));
    if !is_path {
        return Err(format!("{path:?} is no path of a file: write it whole, as /etc/motd"));
    }
    let is_mode = matches!(mode.len(), 3 | 4) && mode.bytes().all(|b| (b'0'..=b'7').contains(&b));
    if !is_mode {
        return Err(format!("{mode:?} is no mode: write three or four octal digits, as \"0644\""));
    }
    let is_user = |name: &str| {
        (1..=32).contains(&name.len())
            && !name.starts_with('-')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let is_owner = owner.split_once(':').is_some_and(|(u, g)| is_user(u) && is_user(g));
    if !is_owner {
        return Err(format!("{owner:?} is no owner: write user and group, as \"root:root\""));
    }
    Ok(())
}
