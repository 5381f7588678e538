//! The TOML of a graph, as it is written.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

/// `graph.toml` and its neighbours.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edges {
    #[serde(default)]
    pub(crate) appliances: BTreeMap<Spanned<String>, String>,
    #[serde(default)]
    pub(crate) attributes: BTreeMap<Spanned<String>, toml::Value>,
    #[serde(default)]
    pub(crate) edge: Vec<Edge>,
    #[serde(default)]
    pub(crate) order: Vec<Order>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edge {
    pub(crate) from: Spanned<String>,
    pub(crate) to: Targets,
    #[serde(default)]
    pub(crate) when: Option<Spanned<String>>,
}

/// One node, or several.
#[derive(Debug)]
pub(crate) struct Targets(pub(crate) Vec<Spanned<String>>);

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a node's name, or a list of them")]
        enum Either {
            One(String),
            Many(Vec<String>),
        }
        // names are found by their line; those of a list are reported at its beginning
        let either = Spanned::<Either>::deserialize(d)?;
        let span = either.span();
        let names = match either.into_inner() {
            Either::One(name) => vec![name],
            Either::Many(names) => names,
        };
        Ok(Self(names.into_iter().map(|name| Spanned::new(span.clone(), name)).collect()))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    pub(crate) first: Spanned<String>,
    pub(crate) then: Spanned<String>,
}

/// `nodes/NAME.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Node {
    #[serde(default)]
    pub(crate) description: String,
    #[serde(default)]
    pub(crate) packages: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) pre: Option<Spanned<Text>>,
    #[serde(default)]
    pub(crate) post: Option<Spanned<Text>>,
    #[serde(default)]
    pub(crate) files: Vec<Spanned<File>>,
    #[serde(default)]
    pub(crate) kickstart: Option<Sections>,
    #[serde(default)]
    pub(crate) preseed: Option<Sections>,
    #[serde(default)]
    pub(crate) autoinstall: Option<Sections>,
    #[serde(default)]
    pub(crate) user_data: Option<Sections>,
    #[serde(default)]
    pub(crate) meta_data: Option<Main>,
    #[serde(default)]
    pub(crate) network_config: Option<Main>,
}

/// What a node adds in one format.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sections {
    #[serde(default)]
    pub(crate) packages: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) main: Option<Spanned<Text>>,
    #[serde(default)]
    pub(crate) partitioning: Option<Spanned<Text>>,
    #[serde(default)]
    pub(crate) pre: Option<Spanned<Text>>,
    #[serde(default)]
    pub(crate) post: Option<Spanned<Text>>,
    #[serde(default)]
    pub(crate) files: Vec<Spanned<File>>,
}

/// What a node adds in a format that has nothing else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Main {
    pub(crate) main: Spanned<Text>,
}

/// A template: its text, or a file below `templates/`.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a text, or { file = \"a file below templates/\" }")]
pub(crate) enum Text {
    Inline(String),
    File(FileName),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileName {
    pub(crate) file: String,
}

/// A file of the installed system.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) mode: Option<String>,
    #[serde(default)]
    pub(crate) owner: Option<String>,
    pub(crate) content: Spanned<Text>,
}
