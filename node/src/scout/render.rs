//! Files that are made of templates, on the machine that they are for.
//!
//! The templates may be anybody's who may publish: they run in a process of their own (`boot::template::confined`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use dht_store::Views;
use p2pinst_boot::setup::apply::Cause;
use p2pinst_boot::setup::document::{FileSetup, Rendering};
use p2pinst_boot::template::confined::{self, ConfinedError};
use p2pinst_boot::template::{Attributes, Mirror};
use p2pinst_types::record::{Assignment, ImageKind, Inventory};
use p2pinst_types::{AssignmentId, MachineId, Name};
use thiserror::Error;

/// Peers that are named as mirrors: more are no help to an installer.
const MIRRORS: usize = 8;

/// Why a file was not made.
#[derive(Debug, Error)]
pub(super) enum RenderError {
    /// The order does not name the templates.
    #[error("the setup wants the templates {0}, which the order does not name: order anew")]
    Missing(Name),
    /// They failed.
    #[error("{path} cannot be made of the templates {templates}: {source}")]
    File {
        /// The file.
        path: String,
        /// The templates.
        templates: Name,
        /// Why.
        source: ConfinedError,
    },
    /// They could not be run.
    #[error(transparent)]
    Confined(ConfinedError),
}

/// Files that are made.
#[derive(Debug, Default)]
pub(super) struct Rendered(BTreeMap<Rendering, String>);

impl Rendered {
    /// What a setup wants of templates, and the first file that it is for.
    pub(super) fn wanted(files: &[FileSetup]) -> BTreeMap<Rendering, String> {
        let of = |file: &FileSetup| Some((file.rendering()?, file.path.clone()));
        files.iter().rev().filter_map(of).collect()
    }

    /// Makes all of them. Blocking.
    pub(super) fn of(
        wanted: &BTreeMap<Rendering, String>,
        archives: &BTreeMap<Name, Vec<u8>>,
        machine: &Attributes,
    ) -> Result<Self, RenderError> {
        let mut rendered = BTreeMap::new();
        for (rendering, path) in wanted {
            let Rendering { templates, format, appliance } = rendering;
            let archive =
                archives.get(templates).ok_or_else(|| RenderError::Missing(templates.clone()))?;
            let command = confined::itself().map_err(RenderError::Confined)?;
            let done = confined::render(command, archive, appliance.as_ref(), *format, machine);
            let done = done.map_err(|source| match source {
                error @ ConfinedError::Start(_) => RenderError::Confined(error),
                source => {
                    let (path, templates) = (path.clone(), templates.clone());
                    RenderError::File { path, templates, source }
                }
            })?;
            rendered.insert(rendering.clone(), done.text);
        }
        Ok(Self(rendered))
    }

    /// One of them.
    pub(super) fn text(&self, wanted: &Rendering) -> Result<String, Cause> {
        let text = self.0.get(wanted).cloned();
        text.ok_or_else(|| format!("{} was not made", wanted.format).into())
    }
}

/// What templates see of the machine of an order.
///
/// # Errors
/// When the cluster's name is none that templates take.
pub(super) fn attributes(
    views: &Views,
    machine: &MachineId,
    (assignment, order): (AssignmentId, &Assignment),
    inventory: &Inventory,
    peers: &[SocketAddr],
) -> Result<Attributes, String> {
    let cluster = views.roots.cluster_name();
    let cluster = cluster.parse().map_err(|_| format!("the cluster's name is {cluster:?}"))?;
    let mut seen = Attributes::new(cluster, order.name.clone(), order.site.clone());
    seen.labels.clone_from(&order.labels);
    seen.macs.clone_from(&order.macs);
    seen.groups = views.groups_of(machine);
    seen.instance = Some(assignment.to_string());
    seen.inventory = Some(inventory.clone());
    let newest = |(id, p): &(&_, &dht_store::view::Published)| {
        p.image.kind == ImageKind::Repository
            && views.image_named(&p.image.name).is_some_and(|(newest, _)| newest == *id)
    };
    let repositories: BTreeSet<&Name> =
        views.images.iter().filter(newest).map(|(_, p)| &p.image.name).collect();
    let at = |name| peers.iter().take(MIRRORS).map(move |peer| Mirror::at(name, *peer));
    seen.mirrors = repositories.into_iter().flat_map(at).collect();
    Ok(seen)
}
