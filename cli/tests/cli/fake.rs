//! A node that speaks the control API and answers from a script: it checks what the command line
//! signs, as a real one would.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use p2pinst_api::boot::{BootEvent, SightingView};
use p2pinst_api::inspect::{CellPage, Check, KeyPage, PeerView};
use p2pinst_api::power::PowerView;
use p2pinst_api::request::{
    ApiError, CellBytes, ErrorKind, Head, Holders, InviteMaterial, Left, LimitsChange, PublishPlan,
    Request, Roots, SubmitRoots, Submitted,
};
use p2pinst_api::store::{FetchView, PinView, StoredView};
use p2pinst_api::swarm::SwarmView;
use p2pinst_api::view::{
    DeploymentView, GrantView, GroupDefinition, GroupEditView, GroupState, GroupView, HistoryView,
    InviteView, LimitsView, MachineStatus, NodeInfo, NodeView, RemovalView, SettingView,
    StatusView,
};
use p2pinst_api::{DataDir, frame};
use p2pinst_trust::key::verify_cell;
use p2pinst_trust::{RootChain, SecretKey, keytext};
use p2pinst_types::cell::Draft;
use p2pinst_types::record::{
    self, Deployment, Grant, Group, GroupEdit, GroupPolicy, Invite, LabelEdit, MachineName,
    Release, Role, RootDoc, Standing,
};
use p2pinst_types::{
    BlobRef, Cell, CellId, DeploymentId, Hash, Hlc, Kind, MachineId, Millis, Name, NodeId,
    PublicKey, Rates, Version, codec,
};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};

/// The cluster time of the fake: near the tests' own clock.
pub(crate) const NOW: Millis = Millis(1_800_000_000_000);

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn machine(text: &str, state: &str) -> MachineStatus {
    MachineStatus {
        name: name(text),
        state: state.to_owned(),
        detail: format!("{text} is {state}"),
        attempt: 1,
        reached: vec![],
        transfer: None,
        up: true,
        since_ms: 0,
    }
}

/// What the fake knows and what it was given.
pub(crate) struct State {
    pub(crate) root: SecretKey,
    pub(crate) roots: RootChain,
    pub(crate) grants: Vec<(Grant, Vec<u8>)>,
    pub(crate) groups: Vec<GroupView>,
    /// Groups that were removed, and by whom.
    gone: BTreeMap<Name, GroupDefinition>,
    /// The definition and the edits of each group that were handed over, oldest first.
    defined: BTreeMap<Name, (Hlc, Group)>,
    edited: Vec<(Name, Hlc, GroupEdit)>,
    pub(crate) heads: BTreeMap<PublicKey, Version>,
    pub(crate) cells: Vec<Cell>,
    /// Answers to one request of the status after the other; the last one stays.
    pub(crate) progress: Vec<Vec<MachineStatus>>,
    /// Answers to one count of holders after the other; the last one stays.
    pub(crate) holders: Vec<Vec<Name>>,
    pub(crate) newer: Option<(String, Release)>,
    pub(crate) asked_for_status: bool,
    /// How often it answers that it knows of no deployment, before it shows one.
    pub(crate) slow: usize,
    pub(crate) generation: u64,
    pub(crate) checks: Vec<Check>,
    pub(crate) lies_about_blobs: bool,
    pub(crate) refuses_cells: bool,
    /// No other node can be asked.
    pub(crate) isolated: bool,
    pub(crate) removed: Option<RemovalView>,
    pub(crate) blobs: Vec<StoredView>,
    /// Answers to one look at a fetch after the other; the last one stays.
    pub(crate) fetches: Vec<FetchView>,
    /// Machines that were seen.
    pub(crate) seen: Vec<SightingView>,
    /// What happened on its segments.
    pub(crate) events: Vec<BootEvent>,
    /// What machines are made of, by name.
    pub(crate) made: BTreeMap<Name, record::Inventory>,
    /// Whether machines were on, as was said last.
    pub(crate) on: BTreeMap<MachineId, bool>,
    limits: Rates,
    socket: std::path::PathBuf,
    /// What the machines are called and labelled by now.
    pub(crate) nodes: Vec<NodeView>,
}

/// A running fake.
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
}

impl Fake {
    /// Runs on the data directory `data` below `dir`, which gets the root key.
    pub(crate) fn start(dir: &Path) -> Self {
        let data = DataDir::new(dir.join("data"));
        let root = SecretKey::generate().unwrap();
        let keys = [root.public()].into();
        let doc = RootDoc {
            version: 1,
            cluster: name("lab"),
            keys,
            threshold: 1,
            nonce: 1,
            standing: None,
        };
        let roots = RootChain::found(&doc, &[&root]).unwrap();
        p2pinst_files::make_private_dir(&data.keys()).unwrap();
        fs::write(data.identity(), "").unwrap();
        let text = keytext::write(&name("root"), &root);
        let path = data.keys().join("root.key");
        p2pinst_files::write(&path, text.as_bytes(), p2pinst_files::Access::Private).unwrap();
        let all = GroupView {
            name: Name::all(),
            description: "every machine".to_owned(),
            hosts: None,
            select: None,
            author: None,
            at: None,
            edits: vec![],
            concurrent: vec![],
            members: vec![name("n1"), name("n2"), name("n3")],
            console_code: false,
        };
        let state = Arc::new(Mutex::new(State {
            root,
            roots,
            grants: vec![],
            groups: vec![all],
            gone: BTreeMap::new(),
            defined: BTreeMap::new(),
            edited: vec![],
            heads: BTreeMap::new(),
            cells: vec![],
            progress: vec![],
            holders: vec![vec![]],
            newer: None,
            asked_for_status: false,
            slow: 0,
            generation: 0,
            checks: vec![],
            lies_about_blobs: false,
            refuses_cells: false,
            isolated: false,
            removed: None,
            blobs: vec![],
            fetches: vec![],
            seen: vec![],
            events: vec![],
            made: BTreeMap::new(),
            on: BTreeMap::new(),
            limits: Rates::default(),
            socket: data.socket(),
            nodes: nodes(),
        }));
        let shared = state.clone();
        let (ready, listening) = std::sync::mpsc::sync_channel(1);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = UnixListener::bind(data.socket()).unwrap();
                ready.send(()).unwrap();
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections.spawn(serve(shared.clone(), stream));
                }
            });
        });
        listening.recv().unwrap();
        Self { state }
    }

    /// Looks at, or changes, what the fake knows.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// The cells of a kind that were handed over.
    pub(crate) fn cells(&self, kind: Kind) -> Vec<Cell> {
        self.with(|s| s.cells.iter().filter(|c| c.id.kind == kind).cloned().collect())
    }

    /// Gives a key its power, as the root does.
    pub(crate) fn grant(&self, key: &str, known_as: &str, roles: &[Role]) {
        let key: PublicKey = key.trim().parse().unwrap();
        let (name, roles) = (name(known_as), roles.iter().copied().collect());
        let grant = Grant { key, name, roles, not_after: None, cosigned: vec![] };
        self.with(|s| {
            let author = s.root.public();
            let subject = key.as_bytes().to_vec();
            let id = CellId { kind: Kind::GRANT, subject, slot: vec![], author };
            let version = Version { incarnation: 1, seq: 1 };
            let payload = codec::encode(&grant).unwrap();
            let draft = Draft { id, version, hlc: Hlc::at(NOW), payload };
            let cell = draft.sign(s.roots.cluster(), |m| s.root.sign(m)).unwrap();
            s.grants.push((grant, cell.bytes().to_vec()));
        });
    }
}

async fn serve(shared: Arc<Mutex<State>>, mut stream: UnixStream) {
    while let Ok(Some(body)) = frame::read(&mut stream).await {
        let request: Request = codec::decode(&body).unwrap();
        let answer = match request {
            Request::PutBlob(put) => {
                let mut bytes = vec![0; usize::try_from(put.len).unwrap()];
                if stream.read_exact(&mut bytes).await.is_err() {
                    return;
                }
                if shared.lock().unwrap().lies_about_blobs {
                    bytes.push(0);
                }
                let root = Hash::of(&bytes);
                shared.lock().unwrap().keep(root, &bytes);
                say(Ok(BlobRef::new(root, put.len).unwrap()))
            }
            other => shared.lock().unwrap().answer(other),
        };
        if frame::write(&mut stream, &answer).await.is_err() {
            return;
        }
    }
}

fn say<T: Serialize>(reply: Result<T, ApiError>) -> Vec<u8> {
    codec::encode(&reply).unwrap()
}

impl State {
    fn answer(&mut self, request: Request) -> Vec<u8> {
        match request {
            Request::Info(_) => say(Ok(self.info())),
            Request::Nodes(ask) => {
                let behind = |n: &&NodeView| ask.after.as_ref().is_none_or(|a| n.name > *a);
                let mut page: Vec<NodeView> = self.nodes.iter().filter(behind).cloned().collect();
                page.sort_by(|a, b| a.name.cmp(&b.name));
                page.truncate(2);
                say(Ok(page))
            }
            Request::Groups(ask) => say(Ok(self.page(ask.after.as_ref()))),
            Request::OneGroup(ask) => say(Ok(self.state(&ask.name))),
            Request::Grants(_) => say(Ok(self.grants())),
            Request::ReadHead(ask) => {
                let version = self.heads.get(&ask.author).copied().unwrap_or_default();
                let fresh = !self.isolated;
                say(Ok(Head { version, hlc: Hlc::at(NOW), now: NOW, fresh }))
            }
            Request::Submit(ask) => say(self.submit(&ask.cells)),
            Request::PrepareInvite(ask) => {
                let grant = self.grants.iter().find(|(g, _)| g.key == ask.operator).unwrap();
                let roots = self.roots.signed().to_vec();
                let grant = CellBytes(grant.1.clone());
                let bootstrap = vec!["/ip4/10.77.0.1/tcp/4001".to_owned()];
                say(Ok(InviteMaterial { roots, grant, bootstrap }))
            }
            Request::PreparePublish(ask) => say(self.plan(&ask.group, &ask.author)),
            Request::CountHolders(_) => {
                let complete = next(&mut self.holders);
                say(Ok(Holders { asked: complete.len(), complete }))
            }
            Request::Status(ask) if self.slow > 0 => {
                self.slow -= 1;
                let what = ask.deployment.unwrap();
                say::<StatusView>(Err(ApiError::new(ErrorKind::Invalid, format!("no {what}"))))
            }
            Request::Status(ask) => {
                let lines = ask.lines;
                let mut view = self.status();
                if let (Some(lines), [one]) = (lines, view.deployments.as_mut_slice()) {
                    let state =
                        |name: &str| record::State::ALL.into_iter().find(|s| s.as_str() == name);
                    let goal = one.goal();
                    one.machines.retain(|m| lines.shows(state(&m.state), goal));
                    one.signed = ask.signed;
                }
                say(Ok(view))
            }
            // every look may show something new
            Request::Watch(ask) if self.slow > 0 => {
                self.slow -= 1;
                let what = ask.deployment.unwrap();
                say::<u64>(Err(ApiError::new(ErrorKind::Invalid, format!("no {what}"))))
            }
            Request::Watch(_) => {
                self.generation += 1;
                say(Ok(self.generation))
            }
            Request::Limits(ask) => {
                match ask.change {
                    Some(LimitsChange::Set { rates, .. } | LimitsChange::Keep { rates }) => {
                        self.limits = rates.or(self.limits);
                    }
                    Some(LimitsChange::Reset) => self.limits = Rates::default(),
                    None => {}
                }
                say(Ok(LimitsView {
                    now: self.limits,
                    always: Rates::default(),
                    windows: vec![],
                    set: vec![SettingView { rates: self.limits, left_ms: None }],
                    busy: false,
                    busy_up: None,
                    upload_slots: 16,
                    deployments: vec![],
                }))
            }
            // what switches machines is tried in the scenarios, with real controllers
            Request::PreparePower(ask) => say(Ok(crate::fakebare::power_plan(self, &ask))),
            Request::Power(_) => say(Ok(Vec::<PowerView>::new())),
            Request::Swarm(ask) => {
                let reason = format!("nothing is at work: {:?}", ask.what);
                say::<SwarmView>(Err(ApiError::new(ErrorKind::Invalid, reason)))
            }
            Request::Doctor(_) => say(Ok(self.checks.clone())),
            Request::DebugCells(ask) => {
                let cells = self.cells.iter().take(ask.limit);
                let cells = cells.map(|c| CellBytes(c.bytes().to_vec())).collect();
                say(Ok(CellPage { cells, next: Some(vec![0x80, 3]) }))
            }
            Request::DebugPeers(_) => say(Ok(Vec::<PeerView>::new())),
            Request::DebugKeys(_) => say(Ok(KeyPage { keys: vec![], more: 3 })),
            Request::History(ask) => {
                let machine = ask.machine.unwrap_or_else(|| name("n1"));
                let checksum = Hash([7; 32]);
                let (answered, replicas) = (0, 3);
                say(Ok(HistoryView {
                    machine,
                    as_of: None,
                    answered,
                    replicas,
                    behind: vec![],
                    checksum,
                    entries: vec![],
                }))
            }
            Request::Invites(ask) => {
                let mut invites = self.invites();
                invites.sort_by_key(|i| i.invite);
                invites.retain(|i| ask.after.is_none_or(|after| i.invite > after));
                invites.truncate(1);
                say(Ok(invites))
            }
            Request::ReadRoots(_) => {
                let grants = self.grants.iter().map(|(_, cell)| CellBytes(cell.clone()));
                let chain = self.roots.signed().to_vec();
                say(Ok(Roots {
                    in_force: chain.len() as u64,
                    chain,
                    grants: grants.collect(),
                    revocations: self.root_revocations(),
                }))
            }
            Request::SubmitRoots(ask) => say(self.replace_root(&ask)),
            Request::Leave(_) => {
                fs::remove_file(&self.socket).unwrap();
                say(Ok(Left { name: name("n1"), told: 2 }))
            }
            Request::ListStore(ask) => say(Ok(crate::store::page(&self.blobs, ask.after))),
            Request::CleanStore(ask) => say(Ok(crate::store::clean(&mut self.blobs, &ask))),
            Request::CheckBlob(ask) => say(Ok(crate::store::check(ask))),
            Request::PinBlob(ask) => say(crate::store::pin(&mut self.blobs, &ask)),
            Request::SeedBlob(ask) => {
                say(Ok(PinView { root: ask.root, pinned: true, changed: true }))
            }
            Request::FindRelease(ask) => say(crate::store::find(self, &ask.what)),
            Request::FetchBlob(_) => say(Ok(next(&mut self.fetches))),
            Request::Machines(ask) => say(Ok(crate::fakebare::machines(self, &ask))),
            Request::Sightings(ask) => say(Ok(crate::fakebare::sightings(self, ask.after))),
            Request::Images(ask) => say(Ok(crate::fakebare::images(self, ask.after))),
            Request::OneSetup(ask) => say(Ok(crate::fakebare::setup(self, ask.id))),
            Request::AskingGroup(_) => say(Ok(crate::fakebare::asking(self))),
            Request::PrepareDeploy(_) => say(Ok(crate::fakebare::plan(self))),
            Request::Deploys(ask) => say(Ok(crate::fakebare::deploys(self, &ask))),
            Request::BootLog(ask) => say(Ok(crate::fakebare::log(self, &ask))),
            Request::PutBlob(_) => unreachable!(),
        }
    }

    /// Files of its store, as a real node has them.
    fn keep(&self, root: Hash, bytes: &[u8]) {
        let blobs = DataDir::new(self.socket.parent().unwrap()).blobs();
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{root}.blob")), bytes).unwrap();
    }

    fn root_revocations(&self) -> Vec<CellBytes> {
        let cells = self
            .cells
            .iter()
            .filter(|c| c.id.kind == Kind::REVOCATION && self.roots.has_key(&c.id.author));
        cells.map(|c| CellBytes(c.bytes().to_vec())).collect()
    }

    fn invites(&self) -> Vec<InviteView> {
        let cells = self.cells.iter().filter(|c| c.id.kind == Kind::INVITE);
        let invites = cells.map(|c| c.record::<Invite>().unwrap());
        invites
            .map(|i| InviteView {
                invite: i.key,
                site: i.site,
                labels: i.labels,
                uses: i.uses,
                used: 0,
                not_after: i.not_after,
                by: Some(name("alice")),
                revoked: false,
                open: i.uses < 9,
            })
            .collect()
    }

    /// Takes a new root as a real node does: it continues the chain and names its list of grants.
    fn replace_root(&mut self, ask: &SubmitRoots) -> Result<Submitted, ApiError> {
        let standing = Cell::parse(ask.standing.0.clone()).unwrap();
        assert!(self.roots.has_key(&standing.id.author), "by a key of the present root");
        assert!(self.roots.extend(&ask.roots).unwrap());
        let named = self.roots.current().unwrap().standing.unwrap();
        assert_eq!(Standing::id(standing.payload()), named);
        let list: Standing = standing.record().unwrap();
        let hash = |bytes: &Vec<u8>| Cell::parse(bytes.clone()).unwrap().hash();
        assert!(self.grants.iter().all(|(_, cell)| list.grants.contains(&hash(cell))));
        let revoked = self.root_revocations();
        assert!(revoked.iter().all(|cell| list.revocations.contains(&hash(&cell.0))));
        self.submit(std::slice::from_ref(&ask.standing))
    }

    fn info(&self) -> NodeInfo {
        NodeInfo {
            cluster: *self.roots.cluster(),
            cluster_name: "lab".to_owned(),
            name: name("n1"),
            id: NodeId(PublicKey([1; 32])),
            machine: MachineId([1; 16]),
            version: "0.1.0".to_owned(),
            peers: 2,
            machines: 3,
            unknown_cells: 0,
            needs: None,
            clock_ahead_ms: 0,
            root: "/".to_owned(),
            removed: self.removed.clone(),
            isolated_since: None,
            refused: None,
        }
    }

    fn grants(&self) -> Vec<GrantView> {
        let view = |(g, _): &(Grant, Vec<u8>)| GrantView {
            name: g.name.clone(),
            key: g.key,
            roles: g.roles.iter().copied().collect(),
            not_after: g.not_after,
            revoked: false,
        };
        self.grants.iter().map(view).collect()
    }

    /// Takes cells as a real node does: signed for this cluster, the next in their author's log.
    fn submit(&mut self, cells: &[CellBytes]) -> Result<Submitted, ApiError> {
        if self.refuses_cells {
            return Err(ApiError::new(ErrorKind::Internal, "the disk is full").hint("make room"));
        }
        for cell in cells {
            let cell = Cell::parse(cell.0.clone()).unwrap();
            assert!(verify_cell(self.roots.cluster(), &cell), "not signed by its author");
            let head = self.heads.entry(cell.id.author).or_default();
            assert!(cell.version > *head, "{:?} after {head:?}", cell.version);
            assert!(cell.version.incarnation > head.incarnation || cell.version.seq > head.seq);
            *head = cell.version;
            self.apply(&cell);
            self.cells.push(cell);
        }
        Ok(Submitted { peers: 2 })
    }

    fn apply(&mut self, cell: &Cell) {
        match cell.id.kind {
            Kind::GROUP => {
                let name = subject(cell);
                let group: Group = cell.record().unwrap();
                let known = self.state(&name);
                assert_eq!(group.after, known.after, "it knew the one before");
                assert!(cell.hlc > known.after && cell.hlc > known.clean, "the newest counts");
                self.defined.insert(name.clone(), (cell.hlc, group));
                self.show_group(&name);
            }
            Kind::GROUP_POLICY => {
                let (name, policy) = (subject(cell), cell.record::<GroupPolicy>().unwrap());
                let group = self.groups.iter_mut().find(|g| g.name == name).unwrap();
                group.console_code = policy.console_code;
            }
            Kind::GROUP_EDIT => {
                let edit: GroupEdit = cell.record().unwrap();
                assert_eq!(cell.id.slot, GroupEdit::slot(&edit.hosts));
                assert_eq!(edit.hosts.terms().count(), 1);
                let name = subject(cell);
                self.edited.push((name.clone(), cell.hlc, edit));
                self.show_group(&name);
            }
            Kind::GRANT => {
                let grant: Grant = cell.record().unwrap();
                assert_eq!(cell.id.subject, grant.key.as_bytes());
                p2pinst_trust::policy::check_grant_from(
                    &self.roots,
                    self.roots.signed().len() as u64,
                    cell,
                    &grant,
                )
                .unwrap();
                self.grants.push((grant, cell.bytes().to_vec()));
            }
            Kind::LABEL => {
                let edit: LabelEdit = cell.record().unwrap();
                assert_eq!(cell.id.slot, LabelEdit::slot(&edit.key));
                let labels = &mut self.machine(cell).labels;
                match edit.value {
                    Some(value) => drop(labels.insert(edit.key, value)),
                    None => drop(labels.remove(&edit.key)),
                }
            }
            Kind::MACHINE_NAME => {
                let record: MachineName = cell.record().unwrap();
                assert_eq!(cell.id.slot, cell.hlc.0.to_be_bytes());
                self.machine(cell).name = record.name;
            }
            _ => {}
        }
    }

    /// Two groups a page, so that every list has several.
    fn page(&self, after: Option<&Name>) -> Vec<GroupView> {
        let skip = after.map_or(0, |a| self.groups.iter().position(|g| g.name == *a).unwrap() + 1);
        self.groups.iter().skip(skip).take(2).cloned().collect()
    }

    fn state(&self, name: &Name) -> GroupState {
        let (after, floor) =
            self.defined.get(name).map(|(hlc, group)| (*hlc, group.floor)).unwrap_or_default();
        let newest = self.edited.iter().filter(|(n, ..)| n == name).map(|(_, hlc, _)| *hlc).max();
        let gone = self.gone.get(name).cloned();
        let newest = newest.unwrap_or_default();
        let clean = if gone.is_some() { after.max(newest) } else { floor.max(newest) };
        GroupState {
            group: self.groups.iter().find(|g| g.name == *name).cloned(),
            concurrent: vec![],
            after,
            floor: if gone.is_some() { clean } else { floor },
            clean,
            removed: gone,
        }
    }

    /// Works out a group anew, as a real node does: machines by label are n1 and n2.
    fn show_group(&mut self, group: &Name) {
        self.groups.retain(|g| g.name != *group);
        self.gone.remove(group);
        let (hlc, defined) = self.defined[group].clone();
        let (hosts, select) = (
            defined.hosts.as_ref().map(ToString::to_string),
            defined.select.as_ref().map(ToString::to_string),
        );
        let (alice, at) = (Some(name("alice")), hlc.millis());
        if defined.removed {
            let (removed, description) = (true, defined.description);
            let author = alice;
            let gone = GroupDefinition { author, at, removed, description, hosts, select };
            self.gone.insert(group.clone(), gone);
            return;
        }
        let mut edits: Vec<&(Name, Hlc, GroupEdit)> =
            self.edited.iter().filter(|(n, hlc, _)| n == group && *hlc > defined.floor).collect();
        edits.reverse();
        let mut seen = std::collections::BTreeSet::new();
        edits.retain(|(.., e)| seen.insert(e.hosts.to_string()));
        let is_in = |n: &Name| match edits.iter().find(|(.., e)| e.hosts.contains(n.as_str(), &[]))
        {
            Some((.., edit)) => edit.present,
            None => {
                defined.hosts.as_ref().is_some_and(|h| h.contains(n.as_str(), &[]))
                    || (select.is_some() && n.as_str() != "n3")
            }
        };
        let members = ["n1", "n2", "n3"].map(name).into_iter().filter(is_in).collect();
        let edits = edits.iter().map(|(_, hlc, e)| GroupEditView {
            hosts: e.hosts.to_string(),
            present: e.present,
            author: alice.clone(),
            at: hlc.millis(),
        });
        self.groups.push(GroupView {
            name: group.clone(),
            description: defined.description.clone(),
            edits: edits.collect(),
            concurrent: vec![],
            author: alice.clone(),
            at: Some(at),
            hosts,
            select,
            members,
            console_code: false,
        });
    }

    fn machine(&mut self, cell: &Cell) -> &mut NodeView {
        let id = MachineId::from_slice(&cell.id.subject).unwrap();
        self.nodes.iter_mut().find(|n| n.machine == id).unwrap()
    }

    fn plan(&self, group: &Name, author: &PublicKey) -> Result<PublishPlan, ApiError> {
        let group = self.groups.iter().find(|g| g.name == *group).ok_or_else(|| {
            ApiError::new(ErrorKind::Invalid, format!("there is no group {group}")).hint("make it")
        })?;
        let roles = self.grants.iter().find(|(g, _)| g.key == *author);
        Ok(PublishPlan {
            members: group.members.clone(),
            number: 42,
            newer: self.newer.clone(),
            node: NodeId(PublicKey([1; 32])),
            roles: roles.map(|(g, _)| g.roles.iter().copied().collect()).unwrap_or_default(),
        })
    }

    fn status(&mut self) -> StatusView {
        self.asked_for_status = true;
        let cell = |kind| self.cells.iter().rev().find(|c| c.id.kind == kind).cloned();
        let (Some(order), Some(manifest)) = (cell(Kind::DEPLOYMENT), cell(Kind::RELEASE)) else {
            return StatusView { deployments: vec![], needs: vec![] };
        };
        let deployment: Deployment = order.record().unwrap();
        let release: Release = manifest.record().unwrap();
        let machines = next(&mut self.progress);
        let mut counts = BTreeMap::new();
        for machine in &machines {
            *counts.entry(machine.state.clone()).or_default() += 1;
        }
        let view = DeploymentView {
            id: DeploymentId::from_slice(&order.id.subject).unwrap(),
            name: format!("alice-{}", deployment.number),
            author: name("alice"),
            at: NOW,
            release: deployment.release,
            package: release.package,
            size: release.blob.len(),
            group: deployment.group,
            mode: deployment.mode,
            preheat: deployment.preheat,
            limit: None,
            ordered: machines.len(),
            counts,
            signed: true,
            oldest: Some(NOW),
            newest: Some(NOW),
            shards: 1,
            silent: 0,
            transfer: None,
            machines,
            next: None,
        };
        StatusView { deployments: vec![view], needs: vec![] }
    }
}

fn subject(cell: &Cell) -> Name {
    name(std::str::from_utf8(&cell.id.subject).unwrap())
}

fn next<T: Clone>(script: &mut Vec<T>) -> T {
    if script.len() > 1 { script.remove(0) } else { script[0].clone() }
}

fn nodes() -> Vec<NodeView> {
    let node = |text: &str, byte| NodeView {
        name: name(text),
        id: NodeId(PublicKey([byte; 32])),
        machine: MachineId([byte; 16]),
        site: name("default"),
        labels: BTreeMap::new(),
        addrs: vec![format!("/ip4/10.77.0.{byte}/tcp/4001")],
        up: byte == 1,
        since: (byte == 1).then_some(NOW),
        state: if byte == 1 { "up" } else { "unknown" }.to_owned(),
        seen_by: None,
        incarnation: None,
        version: (byte == 1).then(|| "0.1.0".to_owned()),
        started: None,
        admitted: NOW,
        needs: None,
        cloned: None,
    };
    vec![node("n1", 1), node("n2", 2)]
}
