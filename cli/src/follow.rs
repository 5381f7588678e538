//! Following a deployment after it was ordered: until enough nodes hold it, until every machine
//! that can be reached is done.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use p2pinst_api::request::{Call, CountHolders, Holders, Status, Watch};
use p2pinst_api::view::{DeploymentView, FEW, Lines, StatusView};
use p2pinst_api::{Client, ClientError, ErrorKind};
use p2pinst_types::{BlobRef, DeploymentId, Name};

use crate::context::Context;
use crate::error::CliError;
use crate::format;
use crate::handover;
use crate::progress::{self, Tally};

/// How often the node is asked: a small package is everywhere within a second.
const POLL: Duration = Duration::from_millis(150);
/// How often it is asked once it has taken longer than [`HASTE`].
const POLL_LATER: Duration = Duration::from_secs(1);
/// How long it is asked often.
const HASTE: Duration = Duration::from_secs(15);
/// How long one wait for a change lasts: who is down is given up by the clock, too.
const PATIENT: Duration = Duration::from_secs(1);
/// How long a node may take until it shows what it has just been given.
const GRACE: Duration = Duration::from_secs(5);
/// How long a node that went away is waited for: it may be restarted by its supervisor.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that outlives a restart of the node.
#[derive(Debug)]
pub(crate) struct Link<'a> {
    context: &'a Context,
    client: Option<Client>,
    begun: Instant,
}

impl<'a> Link<'a> {
    /// Goes on with a connection.
    pub(crate) fn new(context: &'a Context, client: Client) -> Self {
        Self { context, client: Some(client), begun: Instant::now() }
    }

    /// Since when there is something to follow.
    pub(crate) fn waited(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Asks; connects again when the connection breaks.
    pub(crate) async fn call<C: Call + Clone>(&mut self, call: C) -> Result<C::Reply, ClientError> {
        let mut broken: Option<Instant> = None;
        loop {
            let patient = broken.is_none_or(|at| at.elapsed() < PATIENCE);
            let mut client = match self.client.take() {
                Some(client) => client,
                None => match Client::connect(&self.context.dir).await {
                    Ok(client) => client,
                    Err(ClientError::NotRunning { .. }) if patient => {
                        broken.get_or_insert_with(Instant::now);
                        tokio::time::sleep(POLL).await;
                        continue;
                    }
                    Err(e) => return Err(e),
                },
            };
            match client.call(call.clone()).await {
                Ok(reply) => {
                    self.client = Some(client);
                    return Ok(reply);
                }
                Err(ClientError::Broken(_)) if patient => {
                    broken.get_or_insert_with(Instant::now);
                    tokio::time::sleep(POLL).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits before asking again.
    pub(crate) async fn pause(&self) {
        tokio::time::sleep(if self.waited() < HASTE { POLL } else { POLL_LATER }).await;
    }

    /// Waits until this many other nodes hold all of a blob.
    pub(crate) async fn held_by(
        &mut self,
        blob: BlobRef,
        wanted: usize,
    ) -> Result<Vec<Name>, CliError> {
        const TEMPLATE: &str = "{msg} [{bar:30}] {pos}/{len}";
        let bar = handover::bar(self.context, wanted as u64, TEMPLATE, "other nodes that hold it");
        loop {
            let Holders { complete, .. } = self.call(CountHolders { blob }).await?;
            bar.set_position(complete.len() as u64);
            if complete.len() >= wanted {
                bar.finish_and_clear();
                return Ok(complete);
            }
            self.pause().await;
        }
    }

    /// Waits until every machine of a deployment is done, or down and not expected back. Judges
    /// signed records, and looks again only when something has changed.
    pub(crate) async fn finished(&mut self, id: DeploymentId) -> Result<DeploymentView, CliError> {
        const TEMPLATE: &str = "{msg} [{bar:30}] {pos}/{len}";
        let bar = handover::bar(self.context, 0, TEMPLATE, "waiting");
        let mut last = String::new();
        loop {
            // first of all, so that no change after the look is missed
            let Some(mut known) = self.generation(id).await? else {
                self.pause().await;
                continue;
            };
            let Some(mut view) = self.deployment(id).await? else {
                self.pause().await;
                continue;
            };
            let mut looked = Instant::now();
            loop {
                let tally = Tally::of(&view, self.waited());
                if tally.is_finished() {
                    bar.finish_and_clear();
                    return Ok(view);
                }
                self.show(&bar, &view, &tally, &mut last);
                let wait_ms = PATIENT.as_millis().try_into().unwrap_or(1000);
                let deployment = Some(id.to_string());
                let now = self.call(Watch { deployment, after: Some(known), wait_ms }).await?;
                if now != std::mem::replace(&mut known, now) {
                    break;
                }
                // nothing is new but that time has passed: who is down is so for longer
                let passed = u64::try_from(looked.elapsed().as_millis()).unwrap_or(u64::MAX);
                looked = Instant::now();
                for machine in &mut view.machines {
                    machine.since_ms = machine.since_ms.saturating_add(passed);
                }
            }
            if view.ordered > FEW {
                tokio::time::sleep(PATIENT).await; // changes of many machines are looked at together
            }
        }
    }

    /// The generation of a deployment's status; `None` when the node does not show it yet.
    async fn generation(&mut self, id: DeploymentId) -> Result<Option<u64>, CliError> {
        let ask = Watch { deployment: Some(id.to_string()), after: None, wait_ms: 0 };
        match self.call(ask).await {
            Ok(generation) => Ok(Some(generation)),
            Err(ClientError::Api(e)) if e.kind == ErrorKind::Invalid && self.waited() < GRACE => {
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Asks for the status of deployments; of one that is named, every page.
    pub(crate) async fn status(&mut self, ask: Status) -> Result<StatusView, ClientError> {
        let mut view = self.call(ask.clone()).await?;
        let named = ask.deployment.is_some();
        let Some(first) = view.deployments.first_mut().filter(|_| named) else { return Ok(view) };
        while let Some(next) = first.next.take() {
            let page = self.call(Status { from: Some(next), report: false, ..ask.clone() }).await?;
            let Some(page) = page.deployments.into_iter().next() else { break };
            if page.machines.is_empty() {
                break;
            }
            first.machines.extend(page.machines);
            first.next = page.next;
        }
        Ok(view)
    }

    fn show(&self, bar: &ProgressBar, view: &DeploymentView, tally: &Tally<'_>, last: &mut String) {
        let line = progress::line(view);
        if !self.context.watched() && *last != line {
            self.context.tell(&line);
        }
        bar.set_length(view.ordered as u64);
        bar.set_position((tally.done + tally.failed.len()) as u64);
        bar.set_message(line.clone());
        *last = line;
    }

    /// How far a deployment is; `None` when the node does not show it yet.
    async fn deployment(&mut self, id: DeploymentId) -> Result<Option<DeploymentView>, CliError> {
        let deployment = Some(id.to_string());
        let all = Status { deployment, lines: None, signed: true, from: None, report: false };
        let error = match self.status(all.clone()).await {
            Ok(StatusView { deployments, .. }) => {
                match deployments.into_iter().find(|d| d.id == id) {
                    Some(view) if view.ordered > FEW => {
                        let open = Status { lines: Some(Lines::OPEN), ..all };
                        return Ok(self.status(open).await?.deployments.into_iter().next());
                    }
                    Some(view) => return Ok(Some(view)),
                    None => CliError::failed(format!("the node does not know of {}", id.short())),
                }
            }
            Err(ClientError::Api(e)) if e.kind == ErrorKind::Invalid => e.into(),
            Err(e) => return Err(e.into()),
        };
        if self.waited() < GRACE { Ok(None) } else { Err(error) }
    }
}

/// What became of a deployment, for people; an error when it failed somewhere.
pub(crate) fn verdict(
    context: &Context,
    view: &DeploymentView,
    waited: Duration,
) -> Result<(), CliError> {
    let tally = Tally::of(view, waited);
    context.tell(progress::line(view));
    let mut table = format::Table::bare();
    for machine in &tally.failed {
        table.row([machine.name.to_string(), "failed".to_owned(), format::brief(&machine.detail)]);
    }
    for machine in &tally.unreachable {
        let down = format!("down {}", format::age(Duration::from_millis(machine.since_ms)));
        table.row([machine.name.to_string(), "not reachable".to_owned(), down]);
    }
    let lines = table.text("  ");
    if !lines.is_empty() {
        context.tell(lines.trim_end());
    }
    if !tally.unreachable.is_empty() {
        let those = match (tally.unreachable.len(), view.preheat) {
            (1, false) => "It installs",
            (_, false) => "They install",
            (1, true) => "It fetches",
            (_, true) => "They fetch",
        };
        context.tell(format_args!("{those} the package when up again."));
    }
    if tally.failed.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = tally.failed.iter().map(|m| &m.name).collect();
    let failed = format::count(names.len(), "machine");
    let error = format!(
        "{} failed on {failed} of {}: {}",
        view.name,
        view.ordered,
        format::names(&names, 20)
    );
    let mut error = CliError::failed(error);
    if let Some(machine) = tally.failed.first() {
        let history = context.command(&format!("history {}", machine.name));
        error = error.hint(format!("see what the package manager said: {history}"));
    }
    Err(error)
}
