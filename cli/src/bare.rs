//! What the commands of bare metal ask of the node: machines, images, sightings, page by page.

use p2pinst_api::Client;
use p2pinst_api::boot::{DeployView, ImageView, MachineView, SightingView};
use p2pinst_api::request::{Deploys, Images, Machines, Sightings};
use p2pinst_types::hostexpr::HostExpr;
use p2pinst_types::record::ImageKind;
use p2pinst_types::{Mac, Name};

use crate::context::Context;
use crate::error::CliError;

/// Which machines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Which {
    /// With these names; all when `None`.
    pub(crate) hosts: Option<HostExpr>,
    /// In this group; all when `None`.
    pub(crate) group: Option<Name>,
    /// With what they are made of.
    pub(crate) inventory: bool,
    /// With what was last said of their power.
    pub(crate) power: bool,
}

/// Machines by name.
pub(crate) async fn machines(
    client: &mut Client,
    which: &Which,
) -> Result<Vec<MachineView>, CliError> {
    let mut all: Vec<MachineView> = Vec::new();
    loop {
        let after = all.last().map(|m| m.id);
        let Which { hosts, group, inventory, power } = which.clone();
        let page = client.call(Machines { after, hosts, group, inventory, power }).await?;
        if page.is_empty() {
            all.sort_by(|a, b| a.known.name.cmp(&b.known.name));
            return Ok(all);
        }
        all.extend(page);
    }
}

/// The machine of a name or of an interface.
pub(crate) async fn machine(
    context: &Context,
    client: &mut Client,
    name: &str,
) -> Result<MachineView, CliError> {
    let mac: Option<Mac> = name.parse().ok();
    // an address of an interface is no host expression, and may be one of any machine
    let hosts = if mac.is_some() { None } else { name.parse().ok() };
    let which = Which { hosts, group: None, inventory: true, power: true };
    let mut all = machines(client, &which).await?;
    let is_it = |m: &MachineView| match mac {
        Some(mac) => m.known.macs.contains(&mac),
        None => m.known.name.as_str() == name,
    };
    all.retain(is_it);
    all.pop().ok_or_else(|| {
        CliError::failed(format!("there is no machine {name}"))
            .hint(format!("see them all: {}", context.command("machine ls")))
    })
}

/// Machines that were seen and that nobody has adopted.
pub(crate) async fn sightings(client: &mut Client) -> Result<Vec<SightingView>, CliError> {
    let mut all: Vec<SightingView> = Vec::new();
    loop {
        let after = all.last().map(|s| s.mac);
        let page = client.call(Sightings { after }).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// The images by name, the newest of each name first.
pub(crate) async fn images(client: &mut Client) -> Result<Vec<ImageView>, CliError> {
    let mut all: Vec<ImageView> = Vec::new();
    loop {
        let after = all.last().map(|i| i.id);
        let page = client.call(Images { after }).await?;
        if page.is_empty() {
            let key =
                |i: &ImageView| (i.image.name.clone(), i.replaced, std::cmp::Reverse(i.image.at));
            all.sort_by_key(key);
            return Ok(all);
        }
        all.extend(page);
    }
}

/// The newest image of a name.
pub(crate) fn image<'a>(
    context: &Context,
    images: &'a [ImageView],
    name: &Name,
) -> Result<&'a ImageView, CliError> {
    let newest = images.iter().find(|i| i.image.name == *name && !i.replaced);
    newest.ok_or_else(|| no_image(context, name))
}

/// That a name is free for something of a kind: of a name the newest counts, whatever it is.
pub(crate) fn check_name(
    images: &[ImageView],
    name: &Name,
    kind: ImageKind,
) -> Result<(), CliError> {
    let other = images.iter().find(|i| i.image.name == *name && !i.replaced);
    match other.filter(|i| i.image.kind != kind) {
        Some(other) => {
            let other = other.image.kind;
            Err(CliError::failed(format!("{name} is the name of a published image ({other})"))
                .hint("take another name: this would replace it"))
        }
        None => Ok(()),
    }
}

/// There is no image of this name.
pub(crate) fn no_image(context: &Context, name: &Name) -> CliError {
    CliError::failed(format!("there is no image {name}"))
        .hint(format!("see them all: {}", context.command("image ls")))
        .hint(format!(
            "publish one: {}",
            context.command(&format!("image publish FILE --name {name}"))
        ))
}

/// An order of bare metal with all its machines; `None`: there is none of that name.
pub(crate) async fn deploy(
    client: &mut Client,
    name: &str,
) -> Result<Option<DeployView>, CliError> {
    let mut whole: Option<DeployView> = None;
    loop {
        let after = whole.as_ref().and_then(|w| w.next.clone());
        let mut page = client.call(Deploys { name: Some(name.to_owned()), after }).await?;
        let Some(page) = page.pop() else { return Ok(whole) };
        match &mut whole {
            Some(whole) => {
                whole.next = page.next;
                whole.lines.extend(page.lines);
            }
            None => whole = Some(page),
        }
        if whole.as_ref().is_none_or(|w| w.next.is_none()) {
            return Ok(whole);
        }
    }
}
