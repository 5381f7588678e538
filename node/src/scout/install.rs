//! Carrying out the order: plan, write, make the system a member, say so, end.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use dht_store::Views;
use dht_store::view::Assigned;
use dht_store::wire::{Request, Response};
use p2pinst_boot::setup::apply::{self, Cause, Context, Inject, Nodes};
use p2pinst_boot::setup::document::{FileSetup, InstallerSetup, Setup};
use p2pinst_boot::setup::installer::{
    self, INITRD_MAX, InstallerError, KERNEL_MAX, KEXEC, RootFile,
};
use p2pinst_boot::setup::plan::{
    Epoch, Goal, ImageFacts, ImageKind as Kind, Request as Wanted, Subject, plan,
};
use p2pinst_boot::setup::probe;
use p2pinst_boot::template::ARCHIVE_MAX;
use p2pinst_boot::template::confined::ConfinedError;
use p2pinst_trust::{SecretKey, Welcome};
use p2pinst_types::record::{BootState, Guise, INSTALLER, ImageKind, Inventory, Role, Task};
use p2pinst_types::{BlobRef, Hash, Hlc, Name, NodeId};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::core::Core;
use super::images::{FromSwarm, Progress};
use super::render::{RenderError, Rendered, attributes};
use super::report::Reporter;
use super::system::{self, Next};
use super::{Options, Then};
use crate::rpc;

/// How a scout ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The machine is installed, or its installer is to take over.
    Installed(Next),
    /// It was told to.
    Stopped,
}

/// How long it may take until a scout knows its order; then it looks for another peer.
const ORDERED: Duration = Duration::from_secs(180);
/// Between two reports while a disk is written.
const REPORT: Duration = Duration::from_secs(2);
/// First and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Between two rounds of questions to those who have the boot role.
const ASK: Duration = Duration::from_secs(2);
/// How long the last report may take to leave.
const LEAVE: Duration = Duration::from_secs(2);

/// Why a machine is not installed.
#[derive(Debug)]
enum Stuck {
    /// Nothing helps but another order.
    Refused(String),
    /// Another attempt may.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Stuck {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Installs the machine as its order says; goes on until it is.
pub(super) async fn install(
    core: &Core,
    options: &Arc<Options>,
    inventory: Inventory,
) -> anyhow::Result<Ended> {
    let assigned = tokio::time::timeout(ORDERED, ordered(core)).await;
    let assigned = assigned.map_err(|_| {
        anyhow!("no member of the cluster was reached that knows this scout's order")
    })?;
    let reporter = Reporter::new(core);
    reporter.show(inventory.clone()).await;
    if assigned.order.task == Task::Inspect {
        reporter.say(BootState::Scouting, (0, 0), "it was looked at, and waits for an order").await;
        std::future::pending::<()>().await;
    }
    reporter.say(BootState::Scouting, (0, 0), "the scout runs").await;
    let key = SecretKey::generate()?;
    let mut pause = PAUSE.0;
    loop {
        let attempt =
            Attempt { core, options, reporter: &reporter, assigned: &assigned, key: &key };
        match attempt.run(&inventory).await {
            Ok((what, next)) => {
                finish(core, &reporter, what).await;
                return Ok(Ended::Installed(next));
            }
            Err(Stuck::Refused(reason)) => {
                warn!(%reason, "the order is not carried out; another order is needed");
                reporter.say(BootState::Failed, (0, 0), reason).await;
                std::future::pending::<()>().await;
            }
            Err(Stuck::Failed(error)) => {
                warn!("not installed: {error:#}; again in {} s", pause.as_secs());
                reporter.say(BootState::Failed, (0, 0), format!("{error:#}")).await;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// The order, once it and this scout are known here.
async fn ordered(core: &Core) -> Assigned {
    let mut views = core.store.watch();
    loop {
        let now = views.borrow_and_update().clone();
        if now.scout_machine(&core.own.node.0).is_some()
            && let Some(assigned) = now.assignments.get(&core.assignment)
        {
            return assigned.clone();
        }
        if views.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

struct Attempt<'a> {
    core: &'a Core,
    options: &'a Arc<Options>,
    reporter: &'a Reporter<'a>,
    assigned: &'a Assigned,
    key: &'a SecretKey,
}

/// What an order asks for, as the views have it.
struct Material {
    setup: Setup,
    facts: BTreeMap<Name, ImageFacts>,
    blobs: Blobs,
    templates: Blobs,
    plan: Option<Hash>,
}

type Blobs = BTreeMap<Name, BlobRef>;

fn material(views: &Views, assigned: &Assigned) -> Result<Material, String> {
    let Task::Install { setup, images, plan } = &assigned.order.task else {
        return Err("the order installs nothing".to_owned());
    };
    let record = views.setups.get(setup).ok_or("the order's setup is not here (yet)")?;
    let setup =
        Setup::parse(&record.text).map_err(|e| format!("the setup {}: {e}", record.name))?;
    let mut facts = BTreeMap::new();
    let (mut blobs, mut templates) = (Blobs::new(), Blobs::new());
    for (name, id) in images {
        let published = views.images.get(id);
        let image = &published.ok_or_else(|| format!("the image {name} is not here (yet)"))?.image;
        let file = image.files.values().next();
        let blob = *file.ok_or_else(|| format!("the image {name} has no file"))?;
        let kind = match image.kind {
            ImageKind::Disk => Kind::Disk,
            ImageKind::Partition => Kind::Partition,
            ImageKind::Rootfs => Kind::Tar,
            ImageKind::Templates => {
                templates.insert(name.clone(), blob);
                continue;
            }
            ImageKind::Installer => {
                let files = image.files.iter();
                blobs.extend(files.filter_map(|(name, blob)| Some((name.parse().ok()?, *blob))));
                continue;
            }
            other @ (ImageKind::Scout | ImageKind::Repository) => {
                return Err(format!("the image {name} is a {other}, which no disk is made of"));
            }
        };
        facts.insert(name.clone(), ImageFacts { kind, size: blob.len() });
        blobs.insert(name.clone(), blob);
    }
    Ok(Material { setup, facts, blobs, templates, plan: *plan })
}

impl Attempt<'_> {
    /// Says what was done, and what comes next.
    async fn run(&self, inventory: &Inventory) -> Result<(String, Next), Stuck> {
        let material = material(&self.core.store.views(), self.assigned).map_err(|e| anyhow!(e))?;
        let work = system::work_dir(&self.options.dir);
        p2pinst_files::make_private_dir(&work)?;
        if let Some(installer) = &material.setup.installer {
            let done = self.load(installer, &material, work, inventory).await?;
            return Ok((done, Next::Installer));
        }
        let subject = Subject {
            machine: self.core.machine,
            name: self.core.name.clone(),
            epoch: Epoch(self.assigned.hlc.0),
        };
        let planned = {
            let (work, roots) = (work.clone(), self.options.roots.clone());
            let (inventory, setup) = (inventory.clone(), material.setup.clone());
            let (facts, templates) = (material.facts.clone(), material.templates.keys().cloned());
            let templates: BTreeSet<Name> = templates.collect();
            spawn_blocking(move || {
                apply::release(&work).context("cannot release what an attempt before has left")?;
                let found = probe::read(&roots, &inventory.disks)?;
                Ok::<_, anyhow::Error>(plan(&Wanted {
                    setup: &setup,
                    subject: &subject,
                    inventory: &inventory,
                    found: &found,
                    images: &facts,
                    templates: &templates,
                }))
            })
            .await??
        };
        let planned = planned.map_err(|refusals| Stuck::Refused(refusals.to_string()))?;
        if material.plan.is_some_and(|wanted| wanted != planned.hash()) {
            return Err(Stuck::Refused(format!(
                "the machine is not what it was when the order was given: the plan would be another\n{}",
                planned.describe()
            )));
        }
        if let Some(reason) = lacking(&apply::missing(&planned)) {
            return Err(Stuck::Refused(reason));
        }
        info!("the plan:\n{}", planned.describe());
        let rendered = self.render(&material, Some(&planned.goal), inventory).await?;
        let agent = self.agent(&material.setup).await?;
        let progress = Arc::new(Progress::default());
        let images = self.images(material.blobs, Arc::clone(&progress));
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = StopOnDrop(Arc::clone(&stop));
        let roots = self.options.roots.clone();
        let job = spawn_blocking(move || {
            let context = Context {
                roots,
                work: &work,
                nodes: Nodes::Auto,
                images: &images,
                templates: &|wanted| rendered.text(wanted),
                agent: &agent,
                watch: &|_| match stop.load(Ordering::Relaxed) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                },
            };
            apply::apply(&planned, &context)
        });
        let applied = self.telling(&progress, BootState::Writing, job).await??;
        drop(stopping);
        let (received, saved) = progress.moved();
        for remark in &applied.remarks {
            warn!("{remark}");
        }
        let done = format!("{} steps, {received} bytes received, {saved} were here", applied.steps);
        Ok((done, Next::Firmware))
    }

    /// The files that the setup wants of templates: before anything is written, for they may fail.
    async fn render(
        &self,
        material: &Material,
        goal: Option<&Goal>,
        inventory: &Inventory,
    ) -> Result<Rendered, Stuck> {
        let wanted = Rendered::wanted(&material.setup.file);
        if wanted.is_empty() {
            return Ok(Rendered::default());
        }
        let names: BTreeSet<&Name> = wanted.keys().map(|w| &w.templates).collect();
        let reason = format!(
            "the templates {}",
            names.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", ")
        );
        self.reporter.say(BootState::Scouting, (0, 0), reason).await;
        let images = self.images(material.templates.clone(), Arc::default());
        let mut archives = BTreeMap::new();
        for name in names {
            let archive = images.small(name, ARCHIVE_MAX).await.map_err(|e| anyhow!(e))?;
            archives.insert(name.clone(), archive);
        }
        let views = self.core.store.views();
        let order = (self.core.assignment, &self.assigned.order);
        let machine = attributes(&views, &self.core.machine, order, inventory, &self.core.peers);
        let mut machine = machine.map_err(Stuck::Refused)?;
        goal.into_iter().for_each(|goal| machine.set_partitions(goal));
        let rendered = spawn_blocking(move || Rendered::of(&wanted, &archives, &machine)).await?;
        rendered.map_err(|error| match error {
            RenderError::Confined(ConfinedError::Start(_)) => Stuck::Failed(error.into()),
            error => Stuck::Refused(error.to_string()),
        })
    }

    fn images(&self, blobs: Blobs, progress: Arc<Progress>) -> FromSwarm {
        FromSwarm {
            own: self.core.own.node,
            net: self.core.net.clone(),
            exchange: self.core.exchange.clone(),
            blobs,
            progress,
            runtime: Handle::current(),
            written: Mutex::default(),
        }
    }

    /// Loads an installer's kernel, which takes the scout's place when the machine starts anew; says what was done.
    async fn load(
        &self,
        installer: &InstallerSetup,
        material: &Material,
        work: PathBuf,
        inventory: &Inventory,
    ) -> Result<String, Stuck> {
        if self.options.then == Then::Exit || !self.options.only.is_empty() {
            let reason =
                "this scout may not give its machine, and all of its disks, to an installer";
            return Err(Stuck::Refused(reason.to_owned()));
        }
        if let Some(reason) = lacking(if installer::can_start() { &[] } else { &[KEXEC] }) {
            return Err(Stuck::Refused(reason));
        }
        let rendered = self.render(material, None, inventory).await?;
        let files = material.setup.file.iter().map(|file| root_file(file, &rendered));
        let files: Vec<RootFile> = files.collect::<Result<_, _>>().map_err(|e| anyhow!(e))?;
        let agent = self.agent(&material.setup).await?;
        let progress = Arc::new(Progress::default());
        let images = self.images(material.blobs.clone(), Arc::clone(&progress));
        let bring = async |file: &str, most| {
            let name: Name = file.parse()?;
            images.kept(&name, most).await.map_err(|e| anyhow!(e))
        };
        let both = async {
            anyhow::Ok((
                bring(INSTALLER.0, KERNEL_MAX).await?,
                bring(INSTALLER.1, INITRD_MAX).await?,
            ))
        };
        let (kernel, initrd) = self.telling(&progress, BootState::Scouting, both).await?;
        let arguments = installer.arguments(&self.core.name);
        let said = format!("the installer {}", installer.image);
        self.reporter.say(BootState::Finishing, (0, 0), said).await;
        let loaded = spawn_blocking(move || {
            let overlay = installer::overlay(files, &agent)?;
            installer::load((&kernel, &initrd), &overlay, &arguments, &work)
        });
        loaded.await?.map_err(|error| match error {
            // the same setup comes to the same again
            InstallerError::Archive(_) => Stuck::Refused(error.to_string()),
            error => Stuck::Failed(error.into()),
        })?;
        Ok(format!("the installer {} has taken over", installer.image))
    }

    /// Reports while images come, and whatever is done with them.
    async fn telling<T>(
        &self,
        progress: &Progress,
        state: BootState,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        let mut tick = tokio::time::interval(REPORT);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = tick.tick() => {
                    let Some((image, blob)) = progress.current() else {
                        let said = match state {
                            BootState::Writing => "disks are set up",
                            _ => "the scout runs",
                        };
                        self.reporter.say(state, (0, 0), said).await;
                        continue;
                    };
                    let status = self.core.exchange.blobs().status(&blob.root);
                    let pieces = status.map_or(0, |s| u64::from(s.have.count()));
                    let done = pieces.saturating_mul(blob.piece_len()).min(blob.len());
                    let detail = progress.trouble().unwrap_or_else(|| format!("the image {image}"));
                    self.reporter.say(state, (done, blob.len()), detail).await;
                }
            }
        }
    }

    /// A certificate for the system that is installed, and the files that go with it, where the setup wants them.
    async fn agent(&self, setup: &Setup) -> Result<Vec<Inject>, Stuck> {
        if !setup.agent {
            return Ok(Vec::new());
        }
        let key = self.key.public();
        let welcome: Welcome = loop {
            let request = Request::Certify { node: key };
            match ask_booters(self.core, &request).await {
                Some(Response::Certified(welcome)) => break *welcome,
                Some(Response::Refused(why)) => {
                    return Err(anyhow!("the new system gets no certificate: {why}").into());
                }
                _ => tokio::time::sleep(ASK).await,
            }
        };
        let roots = self.core.store.views().roots.clone();
        let welcomed = welcome.verify(&roots, &key, Guise::System);
        let welcomed = welcomed.context("the certificate of the new system is worth nothing")?;
        if welcomed.assignment != self.core.assignment {
            return Err(anyhow!("the certificate of the new system is of another order").into());
        }
        Ok(system::agent(self.key, self.core.machine, &welcome, &welcomed)?)
    }
}

/// A file of the setup, as the installer finds it.
fn root_file(file: &FileSetup, rendered: &Rendered) -> Result<RootFile, Cause> {
    let content = match (&file.content, file.rendering()) {
        (Some(content), _) => content.clone(),
        (None, Some(rendering)) => rendered.text(&rendering)?,
        (None, None) => return Err("a file has neither content nor template".into()),
    };
    let mode = file.mode().ok_or("a file has no mode")?;
    Ok(RootFile { path: file.path.clone(), content: content.into_bytes(), mode })
}

/// Why a plan cannot be carried out here, where these programs are missing.
fn lacking(programs: &[&str]) -> Option<String> {
    if programs.is_empty() {
        return None;
    }
    let volumes = programs.iter().any(|program| program.starts_with("lv"));
    let how = if volumes { "with --lvm " } else { "" };
    Some(format!(
        "the setup needs {}, which this scout has not: build another {how}(p2pinst scout build), publish it, and give the order again",
        programs.join(", ")
    ))
}

/// The blocking work stops at its next step when nobody waits for it.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks those who have the boot role, one after the other, until one answers.
async fn ask_booters(core: &Core, request: &Request) -> Option<Response> {
    let views = core.store.views();
    let now = Hlc::at(core.store.clock().now());
    let peers = core.net.peers();
    let nodes = views.machines.values().map(|m| (m.node, m.addrs.clone()));
    let mut able: Vec<(NodeId, Vec<String>)> =
        nodes.filter(|(n, _)| views.roles(&n.0, now).contains(&Role::Boot)).collect();
    able.sort_by_key(|(n, _)| !peers.get(n).connected);
    let mut refused = None;
    for (node, addrs) in able {
        let known = [peers.addrs_of(&node), addrs].concat();
        match rpc::ask(&core.net, node, &known, request).await {
            // another may know more
            Ok(Response::Refused(why)) => refused = Some(Response::Refused(why)),
            Ok(response) => return Some(response),
            Err(error) => warn!(%node, %error, "a node with the boot role does not answer"),
        }
    }
    refused
}

/// Tells the cluster that the machine starts from its disk from now on; not before somebody has heard it may it start anew.
async fn finish(core: &Core, reporter: &Reporter<'_>, what: String) {
    reporter.say(BootState::Finishing, (0, 0), what.clone()).await;
    loop {
        let request = Request::Installed { what: what.clone() };
        match ask_booters(core, &request).await {
            Some(Response::Noted) => break,
            other => {
                warn!(?other, "nobody notes that this machine is installed; again");
                tokio::time::sleep(ASK).await;
            }
        }
    }
    reporter.say(BootState::Rebooting, (0, 0), what).await;
    tokio::time::sleep(LEAVE).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scout_without_a_program_says_which_and_what_to_do() {
        assert_eq!(lacking(&[]), None);
        let said = lacking(&["lvcreate", "vgcreate"]).unwrap();
        assert!(said.contains("needs lvcreate, vgcreate") && said.contains("--lvm"), "{said}");
        assert!(!lacking(&["mkfs.xfs"]).unwrap().contains("--lvm"));
    }
}
