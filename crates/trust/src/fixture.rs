//! A whole cluster of keys and cells, made in memory: for tests only (feature `fixture`).
//!
//! Every key comes from a seed and every clock reading from a counter, so that a failing test can
//! be run again.

#![allow(clippy::unwrap_used, reason = "a fixture that cannot be built is a failed test")]

use std::collections::BTreeMap;
use std::time::Duration;

use p2pinst_types::cell::Draft;
use p2pinst_types::record::{
    Admission, Deployment, Grant, Group, GroupEdit, Invite, LabelEdit, MachineName, Manager, Mode,
    NodeCert, PackageId, Release, Revocation, Role, RootDoc, SignedCert, Standing,
};
use p2pinst_types::{
    BlobRef, Cell, CellId, ClusterId, Hash, Hlc, Kind, MachineId, Millis, Name, PublicKey,
    ReleaseId, Version, codec,
};
use serde::Serialize;

use crate::hello::Hello;
use crate::policy;
use crate::{RootChain, SecretKey};

/// When the fixture's clock starts: 2027-01-15 08:00:00Z.
pub const START: Millis = Millis(1_800_000_000_000);
/// The life in which its authors write.
pub const LIFE: u64 = 7;

/// The key of a small number.
#[must_use]
pub fn key(n: u16) -> SecretKey {
    let mut seed = [0x5a; 32];
    for (to, from) in seed.iter_mut().zip(n.to_be_bytes()) {
        *to = from;
    }
    SecretKey::from_seed(&seed)
}

/// A name.
#[must_use]
pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A cluster with one root key, one operator and one publisher; writes cells for anybody.
#[derive(Debug, Clone)]
pub struct Lab {
    /// The chain of roots.
    pub roots: RootChain,
    /// Its key.
    pub root: SecretKey,
    /// An administrator: operator.
    pub operator: SecretKey,
    /// Another: publisher.
    pub publisher: SecretKey,
    /// The cell that gives the operator its power.
    pub operator_grant: Cell,
    /// The cell that gives the publisher its power.
    pub publisher_grant: Cell,
    /// Its clock: every cell is a second later than the one before.
    pub clock: Millis,
    heads: BTreeMap<PublicKey, u64>,
}

/// An invite with its private key.
#[derive(Debug, Clone)]
pub struct Invited {
    /// The invite's key.
    pub key: SecretKey,
    /// The invite.
    pub invite: Invite,
    /// Its cell.
    pub cell: Cell,
}

/// A machine with its certificate.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its key.
    pub key: SecretKey,
    /// Its certificate.
    pub cert: NodeCert,
    /// The same, signed by its invite.
    pub signed: SignedCert,
}

impl Node {
    /// Its public key.
    #[must_use]
    pub fn id(&self) -> PublicKey {
        self.key.public()
    }

    /// Its machine.
    #[must_use]
    pub fn machine(&self) -> MachineId {
        policy::machine_id(&self.signed)
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Lab {
    /// The cluster of a number: two numbers are two clusters, with other keys.
    #[must_use]
    pub fn new(n: u16) -> Self {
        let [root, operator, publisher] = [1, 2, 3].map(|k| key(n * 1000 + k));
        let doc = RootDoc {
            version: 1,
            cluster: name("lab"),
            keys: [root.public()].into(),
            threshold: 1,
            nonce: u64::from(n),
            standing: None,
        };
        let roots = RootChain::found(&doc, &[&root]).unwrap();
        let mut lab = Self {
            roots,
            operator_grant: Self::placeholder(&root),
            publisher_grant: Self::placeholder(&root),
            root,
            operator,
            publisher,
            clock: START,
            heads: BTreeMap::new(),
        };
        let (operator, publisher) = (lab.operator.public(), lab.publisher.public());
        lab.operator_grant = lab.grant(operator, "alice", &[Role::Operator]);
        lab.publisher_grant = lab.grant(publisher, "bob", &[Role::Publisher]);
        lab
    }

    fn placeholder(key: &SecretKey) -> Cell {
        let author = key.public();
        let id = CellId { kind: Kind::GRANT, subject: vec![], slot: vec![], author };
        let draft = Draft { id, version: Version::default(), hlc: Hlc::default(), payload: vec![] };
        draft.sign(&ClusterId(Hash([0; 32])), |m| key.sign(m)).unwrap()
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        self.roots.cluster()
    }

    /// The next version of an author.
    pub fn next(&mut self, author: &PublicKey) -> Version {
        let seq = self.heads.entry(*author).or_default();
        *seq += 1;
        Version { incarnation: LIFE, seq: *seq }
    }

    /// The next reading of the clock.
    pub fn tick(&mut self) -> Hlc {
        self.clock = self.clock.after(Duration::from_secs(1));
        Hlc::at(self.clock)
    }

    /// Signs a cell with everything given.
    #[must_use]
    pub fn sign(
        &self,
        by: &SecretKey,
        (kind, subject): (Kind, &[u8]),
        (version, hlc): (Version, Hlc),
        payload: Vec<u8>,
    ) -> Cell {
        let id = CellId { kind, subject: subject.to_vec(), slot: Vec::new(), author: by.public() };
        Draft { id, version, hlc, payload }.sign(self.cluster(), |m| by.sign(m)).unwrap()
    }

    /// Signs a record as the author's next cell.
    pub fn write<T: Serialize>(
        &mut self,
        by: &SecretKey,
        kind: Kind,
        subject: &[u8],
        record: &T,
    ) -> Cell {
        let at = (self.next(&by.public()), self.tick());
        self.sign(by, (kind, subject), at, codec::encode(record).unwrap())
    }

    /// The same cell in a payload format that does not exist yet.
    #[must_use]
    pub fn in_format(&self, by: &SecretKey, cell: &Cell, format: u8) -> Cell {
        let mut bytes = cell.bytes().to_vec();
        if let Some(byte) = bytes.get_mut(1) {
            *byte = format;
        }
        let unsigned = Cell::parse(bytes.clone()).unwrap();
        let signature = by.sign(&unsigned.signed_message(self.cluster()));
        bytes.truncate(bytes.len() - signature.0.len());
        bytes.extend_from_slice(&signature.0);
        Cell::parse(bytes).unwrap()
    }

    /// The root gives power to a key.
    pub fn grant(&mut self, key: PublicKey, named: &str, roles: &[Role]) -> Cell {
        self.grant_until(key, named, roles, None)
    }

    /// The same, until a time.
    pub fn grant_until(
        &mut self,
        key: PublicKey,
        named: &str,
        roles: &[Role],
        not_after: Option<Millis>,
    ) -> Cell {
        let roles = roles.iter().copied().collect();
        let grant = Grant { key, name: name(named), roles, not_after, cosigned: Vec::new() };
        let root = self.root.clone();
        self.write(&root, Kind::GRANT, key.as_bytes(), &grant)
    }

    /// The root grants again to a key that has a grant: beside the earlier one, as the command line
    /// does.
    pub fn regrant(&mut self, key: PublicKey, named: &str, roles: &[Role]) -> Cell {
        let roles = roles.iter().copied().collect();
        let grant = Grant { key, name: name(named), roles, not_after: None, cosigned: Vec::new() };
        let root = self.root.clone();
        self.write_in(&root, (Kind::GRANT, key.as_bytes(), None), &grant)
    }

    /// Signs a record as the author's next cell in a slot: `None`: that of its time.
    pub fn write_in<T: Serialize>(
        &mut self,
        by: &SecretKey,
        (kind, subject, slot): (Kind, &[u8], Option<Vec<u8>>),
        record: &T,
    ) -> Cell {
        let (version, hlc) = (self.next(&by.public()), self.tick());
        let slot = slot.unwrap_or_else(|| hlc.0.to_be_bytes().to_vec());
        let id = CellId { kind, subject: subject.to_vec(), slot, author: by.public() };
        let payload = codec::encode(record).unwrap();
        Draft { id, version, hlc, payload }.sign(self.cluster(), |m| by.sign(m)).unwrap()
    }

    /// A label of a machine; without a value it is taken away.
    pub fn label(
        &mut self,
        by: &SecretKey,
        machine: &MachineId,
        label: &str,
        value: Option<&str>,
    ) -> Cell {
        let value = value.map(|v| v.to_owned().try_into().unwrap());
        let edit = LabelEdit { key: name(label), value };
        let slot = LabelEdit::slot(&edit.key);
        self.write_in(by, (Kind::LABEL, machine.as_bytes(), Some(slot)), &edit)
    }

    /// Another name for a machine.
    pub fn rename(&mut self, by: &SecretKey, machine: &MachineId, named: &str) -> Cell {
        let record = MachineName { name: name(named) };
        self.write_in(by, (Kind::MACHINE_NAME, machine.as_bytes(), None), &record)
    }

    /// A new root with the key of a number, which takes over these grants and revocations. Returns
    /// the list.
    pub fn rotate(&mut self, n: u16, standing: &[&Cell]) -> Cell {
        let (old, new) = (self.root.clone(), key(n));
        let hashes =
            |kind| standing.iter().filter(|c| c.id.kind == kind).map(|c| c.hash()).collect();
        let list = Standing { grants: hashes(Kind::GRANT), revocations: hashes(Kind::REVOCATION) };
        let id = Standing::id(&codec::encode(&list).unwrap());
        let last = self.roots.current().unwrap();
        let doc = RootDoc {
            version: last.version + 1,
            keys: [new.public()].into(),
            standing: Some(id),
            ..last.clone()
        };
        self.roots = self.roots.rotate(&doc, &[&old, &new]).unwrap();
        self.root = new.clone();
        self.write(&new, Kind::STANDING, id.0.as_slice(), &list)
    }

    /// An invite of the operator: a day, the site `lab`, no labels.
    pub fn invite(&mut self, n: u16, uses: u32) -> Invited {
        let operator = self.operator.clone();
        self.invite_by(&operator, n, uses)
    }

    /// The same, of anybody.
    pub fn invite_by(&mut self, by: &SecretKey, n: u16, uses: u32) -> Invited {
        let invite_key = key(n);
        let invite = Invite {
            key: invite_key.public(),
            site: name("lab"),
            labels: p2pinst_types::Labels::default(),
            uses,
            not_after: self.clock.after(Duration::from_secs(24 * 3600)),
            replaces: None,
            boot: None,
        };
        let cell = self.write(by, Kind::INVITE, invite.key.as_bytes(), &invite);
        Invited { key: invite_key, invite, cell }
    }

    /// An invite of the operator to take a machine's place.
    pub fn invite_replacing(&mut self, n: u16, machine: MachineId) -> Invited {
        let invited = self.invite(n, 1);
        let invite = Invite { replaces: Some(machine), ..invited.invite };
        let operator = self.operator.clone();
        let cell = self.write(&operator, Kind::INVITE, invite.key.as_bytes(), &invite);
        Invited { invite, cell, ..invited }
    }

    /// A machine with a certificate of an invite.
    #[must_use]
    pub fn node(&self, invited: &Invited, n: u16, named: &str) -> Node {
        let node_key = key(n);
        let cert = NodeCert {
            node: node_key.public(),
            name: name(named),
            site: invited.invite.site.clone(),
            labels: invited.invite.labels.clone(),
            addrs: vec![format!("/ip4/10.77.0.{}/tcp/4001", n % 250)],
            invite: invited.invite.key,
            replaces: invited.invite.replaces,
        };
        let signed = policy::sign_cert(&self.roots, &invited.key, &cert).unwrap();
        Node { key: node_key, cert, signed }
    }

    /// An admission of a machine.
    pub fn admit(&mut self, by: &SecretKey, node: &Node) -> Cell {
        let admission =
            Admission { machine: policy::machine_id(&node.signed), cert: node.signed.clone() };
        self.write(by, Kind::ADMISSION, node.id().as_bytes(), &admission)
    }

    /// A group by host expression.
    pub fn group(&mut self, by: &SecretKey, named: &str, hosts: &str) -> Cell {
        let group = Group::new(String::new(), Some(hosts.parse().unwrap()), None);
        self.write(by, Kind::GROUP, named.as_bytes(), &group)
    }

    /// Machines added to a group, or taken out of it.
    pub fn group_edit(&mut self, by: &SecretKey, named: &str, hosts: &str, present: bool) -> Cell {
        let edit = GroupEdit { hosts: hosts.parse().unwrap(), present };
        let slot = GroupEdit::slot(&edit.hosts);
        let (version, hlc) = (self.next(&by.public()), self.tick());
        let (kind, subject) = (Kind::GROUP_EDIT, named.as_bytes().to_vec());
        let id = CellId { kind, subject, slot, author: by.public() };
        let payload = codec::encode(&edit).unwrap();
        Draft { id, version, hlc, payload }.sign(self.cluster(), |m| by.sign(m)).unwrap()
    }

    /// A release of `hello`.
    pub fn release(&mut self, by: &SecretKey, version: &str) -> (ReleaseId, Cell) {
        let release = Release {
            package: PackageId {
                manager: Manager::Dpkg,
                name: "hello".to_owned(),
                version: version.to_owned(),
                architecture: "all".to_owned(),
            },
            file: format!("hello_{version}_all.deb"),
            blob: BlobRef::new(Hash::of(version.as_bytes()), 1000).unwrap(),
        };
        let manifest = codec::encode(&release).unwrap();
        let id = Release::id(&manifest);
        (id, self.write(by, Kind::RELEASE, id.0.as_bytes(), &release))
    }

    /// An order of a release to a group.
    pub fn deploy(&mut self, by: &SecretKey, release: ReleaseId, group: &str) -> Cell {
        self.deploy_in(by, release, group, 1)
    }

    /// An order whose statuses are divided into shards.
    pub fn deploy_in(
        &mut self,
        by: &SecretKey,
        release: ReleaseId,
        group: &str,
        shards: u16,
    ) -> Cell {
        let number = self.heads.get(&by.public()).copied().unwrap_or_default() + 1;
        let order = Deployment {
            number,
            release,
            group: name(group),
            mode: Mode::Urgent,
            allow_downgrade: false,
            holders: Vec::new(),
            shards,
            preheat: false,
            limit: None,
        };
        let payload = codec::encode(&order).unwrap();
        let id = Deployment::id(&by.public(), &payload);
        self.write(by, Kind::DEPLOYMENT, id.as_bytes(), &order)
    }

    /// A revocation.
    pub fn revoke(&mut self, by: &SecretKey, key: PublicKey, last_good: Option<Version>) -> Cell {
        let record = Revocation { key, last_good, reason: "test".to_owned() };
        self.write(by, Kind::REVOCATION, key.as_bytes(), &record)
    }

    /// What a node shows.
    #[must_use]
    pub fn hello(&self, invited: &Invited, node: &Node, admission: Option<&Cell>) -> Hello {
        Hello {
            roots: self.roots.signed().to_vec(),
            grant: self.operator_grant.bytes().to_vec(),
            invite: invited.cell.bytes().to_vec(),
            cert: node.signed.clone(),
            admission: admission.map(|c| c.bytes().to_vec()).unwrap_or_default(),
            incarnation: LIFE,
            clock: self.clock,
            addrs: node.cert.addrs.clone(),
            version: "0.1.0".to_owned(),
        }
    }
}
