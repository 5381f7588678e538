//! From a lab to a cluster: init, invite, join, and the views that every test asks for.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::exec::{Done, Exec};
use crate::lab::Lab;
use crate::net::site_name;
use crate::node::Node;
use crate::root::expect_installed;
use crate::view::{Deployment, Keys, Nodes, Published, Status};
use crate::wait::eventually;

/// How long a cluster may take until all know each other.
const MEET: Duration = Duration::from_secs(30);

/// What an invite allows.
#[derive(Debug, Clone, Default)]
pub struct Invite {
    args: Vec<String>,
}

impl Invite {
    /// An invite with a label for the machine that joins.
    #[must_use]
    pub fn label(label: &str) -> Self {
        Self::default().with(&["--label", label])
    }

    /// The same with more arguments.
    #[must_use]
    pub fn with(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|a| (*a).to_owned()));
        self
    }

    /// The same for so many machines.
    #[must_use]
    pub fn uses(self, uses: usize) -> Self {
        self.with(&["--uses", &uses.to_string()])
    }
}

impl Node {
    /// Makes the cluster on this node, and starts its daemon.
    ///
    /// # Errors
    /// When a command fails.
    pub fn init(&self) -> Result<()> {
        self.init_as("lab").run()?.ok()?;
        self.prepare_root()?;
        self.start()
    }

    /// The command that makes a cluster of that name on this node.
    #[must_use]
    pub fn init_as(&self, cluster: &str) -> Exec {
        let listen = self.listen();
        let words = ["init", "--name", cluster, "--node-name", self.name(), "--listen", &listen];
        let site = self.host().site.map(|site| ["--site".to_owned(), site_name(site)]);
        self.cli(words).args(site.iter().flatten())
    }

    /// Makes a token.
    ///
    /// # Errors
    /// When the command fails, or prints anything but one token.
    pub fn invite(&self, invite: &Invite) -> Result<String> {
        let done = self.cli(["invite"]).args(&invite.args).run()?.ok()?;
        let token = done.stdout.trim();
        ensure!(
            !token.is_empty() && !token.contains(char::is_whitespace),
            "stdout of invite is to be the token and nothing else: {done}"
        );
        Ok(token.to_owned())
    }

    /// The command that joins with a token.
    #[must_use]
    pub fn join_with(&self, token: &str) -> Exec {
        let listen = self.listen();
        self.cli(["join", token, "--name", self.name(), "--listen", &listen])
    }

    /// Joins with a token, and starts the daemon.
    ///
    /// # Errors
    /// When a command fails.
    pub fn join(&self, token: &str) -> Result<()> {
        self.join_with(token).run()?.ok()?;
        self.prepare_root()?;
        self.start()
    }

    /// Makes a key on this node, and returns its public half.
    ///
    /// # Errors
    /// When the command fails.
    pub fn new_key(&self) -> Result<String> {
        Ok(self.ok(["key", "new"])?.trim().to_owned())
    }

    /// Gives power to a key that is on another node, and waits until that node has heard of it.
    ///
    /// # Errors
    /// When the command fails, or the other node does not hear of it.
    pub fn grant(&self, key: &str, to: &Self, roles: &[&str]) -> Result<()> {
        let args = roles.iter().flat_map(|r| ["--role", r]);
        self.ok(["grant", key].into_iter().chain(args))?;
        eventually(MEET, &format!("{} hears of its power", to.name()), || {
            let keys: Keys = to.json(["key", "ls"])?;
            let it = keys.keys.iter().find(|k| k.key == key).context("it has no such key")?;
            let heard = it.roles.as_ref().is_some_and(|r| r.len() == roles.len());
            ensure!(heard, "it knows of {:?}", it.roles);
            Ok(())
        })
    }

    /// Makes another node's administrator a second operator and publisher.
    ///
    /// # Errors
    /// When a command fails.
    pub fn share_power(&self, with: &Self) -> Result<()> {
        self.grant(&with.new_key()?, with, &["operator", "publisher"])
    }

    /// The roster as this node sees it.
    ///
    /// # Errors
    /// When the command fails.
    pub fn roster(&self) -> Result<Nodes> {
        self.json(["node", "ls"])
    }

    /// The status as this node sees it.
    ///
    /// # Errors
    /// When the command fails.
    pub fn status(&self) -> Result<Status> {
        self.json(["status"])
    }

    /// One deployment as this node sees it.
    ///
    /// # Errors
    /// When the command fails, or there is no such deployment.
    pub fn deployment(&self, id: &str) -> Result<Deployment> {
        Ok(self.status()?.deployment(id)?.clone())
    }

    /// Publishes a file with these further arguments.
    ///
    /// # Errors
    /// When the command fails.
    pub fn publish(&self, file: &std::path::Path, args: &[&str]) -> Result<Published> {
        let exec = self.cli(["publish"]).arg(file).args(args).arg("--json");
        exec.limit(Duration::from_secs(120)).run()?.ok()?.json()
    }

    /// Waits until this node's root has that version.
    ///
    /// # Errors
    /// When it has not in time.
    pub fn installs(&self, package: &str, version: &str, within: Duration) -> Result<()> {
        eventually(within, &format!("{} has {package} {version}", self.name()), || {
            expect_installed(&self.root(), package, version)
        })
    }

    /// Waits until this node sees that many machines up.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn sees_up(&self, count: usize, within: Duration) -> Result<()> {
        eventually(within, &format!("{} sees {count} machines up", self.name()), || {
            let up = self.roster()?.up();
            ensure!(up == count, "it sees {up}");
            Ok(())
        })
    }

    /// Waits until a machine is in a state, as this node sees it.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn sees_state(
        &self,
        deployment: &str,
        machine: &str,
        state: &str,
        within: Duration,
    ) -> Result<Deployment> {
        eventually(within, &format!("{} sees {machine} {state}", self.name()), || {
            let d = self.deployment(deployment)?;
            ensure!(d.machine(machine)?.state == state, "it sees {}", d.line());
            Ok(d)
        })
    }
}

impl Lab {
    /// Makes a cluster of the first `count` nodes, all with the same invite (one for each site,
    /// if the lab has sites), and waits until every one of them sees all others up.
    ///
    /// # Errors
    /// When a command fails, or they do not meet.
    pub fn form(&self, count: usize, invite: &Invite) -> Result<()> {
        let first = self.node(1)?;
        first.init()?;
        let others = self.nodes().get(1..count).context("the lab has too few nodes")?;
        for of_a_site in others.chunk_by(|a, b| a.host().site == b.host().site) {
            let site = of_a_site.first().and_then(|n| n.host().site).map(site_name);
            let invite = invite.clone().uses(of_a_site.len());
            let invite = site.map_or(invite.clone(), |site| invite.with(&["--site", &site]));
            let token = first.invite(&invite)?;
            at_once(of_a_site, |node| node.join(&token))?;
        }
        self.meet(count)
    }

    /// Waits until each of the first `count` nodes sees that many machines up.
    ///
    /// # Errors
    /// When one does not.
    pub fn meet(&self, count: usize) -> Result<()> {
        self.nodes().iter().take(count).try_for_each(|n| n.sees_up(count, MEET))
    }
}

/// Does the same on several nodes at once, and returns the first error.
///
/// # Errors
/// When it fails on one of them.
pub fn at_once<T: Send>(
    nodes: &[Node],
    work: impl Fn(&Node) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = nodes.iter().map(|n| scope.spawn(|| work(n))).collect();
        let results = threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err(anyhow!("a thread of the testnet panicked"))));
        // All are waited for, so that nothing still runs when the lab is removed.
        results.collect::<Vec<Result<T>>>().into_iter().collect()
    })
}

/// Checks that a refusal explains itself: each of these words is in what was said.
///
/// # Errors
/// When one is not.
pub fn says(done: &Done, words: &[&str]) -> Result<()> {
    let said = done.stderr.to_lowercase();
    for word in words {
        ensure!(said.contains(&word.to_lowercase()), "`{word}` is not in what it says: {done}");
    }
    Ok(())
}
