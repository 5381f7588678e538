//! From a graph and a machine to a file.

use std::collections::BTreeMap;

use p2pinst_types::name::Name;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use thiserror::Error;

use super::attributes::Attributes;
use super::engine::{Engine, TemplateError};
use super::format::{Clash, Document, File, Format, Part};
use super::graph::{Graph, NoAppliance, Node, Sections};

/// A file for an installer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendered {
    /// What the machine becomes by it.
    pub appliance: Name,
    /// Its text.
    pub text: String,
    /// The fragments that it is made of, in their order.
    pub nodes: Vec<Name>,
}

/// Why no file came of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RenderError {
    /// The graph knows nothing of the appliance.
    #[error(transparent)]
    Appliance(#[from] NoAppliance),
    /// A template failed for this machine.
    #[error("{template} (for {machine})")]
    Template {
        /// The machine.
        machine: Name,
        /// Where, and why.
        #[source]
        template: TemplateError,
    },
    /// The fragments do not make a file of the format.
    #[error("no {format} can be made for {machine}: {clash}")]
    Clash {
        /// The machine.
        machine: Name,
        /// The format.
        format: Format,
        /// What does not fit.
        #[source]
        clash: Clash,
    },
}

/// What templates see.
#[derive(Serialize)]
struct Context<'a> {
    #[serde(flatten)]
    machine: &'a Attributes,
    attributes: &'a BTreeMap<String, Json>,
    appliance: &'a Name,
    format: Format,
}

/// Renders a file of a format for a machine that is to become an appliance: equal input gives equal bytes.
///
/// # Errors
/// When there is no such appliance, a template fails, or the fragments do not fit together.
pub fn render(
    graph: &Graph,
    appliance: &Name,
    format: Format,
    attributes: &Attributes,
) -> Result<Rendered, RenderError> {
    let machine = attributes.name.clone();
    let nodes = graph.traverse(appliance, &attributes.facts(appliance, format))?;
    let context =
        Context { machine: attributes, attributes: graph.attributes(), appliance, format };
    let context = minijinja::Value::from_serialize(&context);
    let parts = || {
        let mut engine = Engine::new(graph.templates(), context)?;
        nodes.iter().map(|node| part(&mut engine, node, format)).collect()
    };
    let parts: Result<Vec<Part>, TemplateError> = parts();
    let parts =
        parts.map_err(|template| RenderError::Template { machine: machine.clone(), template })?;
    let instance = match &attributes.instance {
        Some(instance) => format!("{}-{machine}-{instance}", attributes.cluster),
        None => format!("{}-{machine}", attributes.cluster),
    };
    let document = Document {
        cluster: attributes.cluster.clone(),
        machine: machine.clone(),
        appliance: appliance.clone(),
        instance,
        macs: attributes.macs.clone(),
        parts,
    };
    let text =
        document.write(format).map_err(|clash| RenderError::Clash { machine, format, clash })?;
    let nodes = nodes.iter().map(|node| node.name.clone()).collect();
    Ok(Rendered { appliance: appliance.clone(), text, nodes })
}

/// What a node adds to a file of this format.
fn part(engine: &mut Engine<'_>, node: &Node, format: Format) -> Result<Part, TemplateError> {
    let common = format.installs().then_some(&node.common);
    let sections: Vec<&Sections> = common.into_iter().chain(node.own.get(&format)).collect();
    let mut part = Part {
        node: node.name.clone(),
        packages: Vec::new(),
        main: None,
        partitioning: None,
        pre: Vec::new(),
        post: Vec::new(),
        files: Vec::new(),
    };
    for section in sections {
        for package in &section.packages {
            part.packages.push(engine.render(package)?);
        }
        let mut text = |template: &Option<String>| {
            let text = template.as_deref().map(|t| engine.render(t)).transpose()?;
            // what a condition emptied is not there
            Ok(text.filter(|text| !text.trim().is_empty()))
        };
        part.main = text(&section.main)?.or(part.main);
        part.partitioning = text(&section.partitioning)?.or(part.partitioning);
        part.pre.extend(text(&section.pre)?);
        part.post.extend(text(&section.post)?);
        for file in &section.files {
            part.files.push(File {
                path: file.path.clone(),
                mode: file.mode.clone(),
                owner: file.owner.clone(),
                content: engine.render(&file.content)?,
            });
        }
    }
    Ok(part)
}

#[cfg(test)]
mod tests;
