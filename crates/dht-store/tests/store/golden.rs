//! Wire and disk formats, frozen: a change here is a change that other versions do not understand.

use std::collections::BTreeMap;

use dht_store::coverage::Ranges;
use dht_store::repair::Holding;
use dht_store::shelf::Subject;
use dht_store::sync::{LogState, Part};
use dht_store::wire::{CellBytes, Request, Response, StatusSubject};
use dht_store::{Outcome, Summary};
use p2pinst_trust::fixture::name;
use p2pinst_types::record::{
    Action, Admission, Adoption, Assignment, BootFrom, BootState, BootStatus, BootUse, ByDistance,
    ConsoleCode, Controller, Deployment, Disarmament, Disk, Ended, Firmware, Grant, Group,
    GroupEdit, GroupPolicy, Guise, HistoryEntry, HistorySegment, Image, ImageKind, ImageRemoval,
    Inventory, Invite, LabelEdit, MachineName, Manager, Mode, Nic, NodeCert, NodeRecord, PackageId,
    PowerAction, PowerCause, PowerOrder, PowerOutcome, PowerStatus, Progress, Release, Resealed,
    Retirement, Revocation, Role, RootDoc, Sealed, Setup, Sighting, SignedCert, SignedRoot, Speed,
    Speeds, Standing, State, Status, Task, Transfer,
};
use p2pinst_types::{
    AssignmentId, BlobRef, DeploymentId, Hash, Hlc, ImageId, Kind, Mac, MachineId, Millis, NodeId,
    PowerOrderId, PublicKey, Rate, ReleaseId, SetupId, Signature, Version, codec,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

const KEY: PublicKey = PublicKey([1; 32]);

/// How many bytes there are, and the first sixteen digits of their hash: enough to notice a change.
fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    failures: &mut Vec<String>,
    what: &str,
    value: &T,
    golden: &str,
) {
    let bytes = codec::encode(value).unwrap();
    assert_eq!(&codec::decode::<T>(&bytes).unwrap(), value, "{what}");
    let is = format!("{}:{}", bytes.len(), &Hash::of(&bytes).to_string()[..16]);
    if is != golden {
        failures.push(format!("{what}: {is} (was {golden})"));
    }
}

#[test]
fn golden_records_of_bare_metal() {
    let mut f = Vec::new();
    let mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    let (site, labels) = (name("hall"), p2pinst_types::Labels::default());
    let macs = vec![mac];
    check(
        &mut f,
        "adoption",
        &Adoption {
            name: name("b1"),
            macs: macs.clone(),
            site: site.clone(),
            labels,
            removed: false,
        },
        "40:bc1dee688d6cc64d",
    );
    let blob = BlobRef::with_piece_log2(Hash([2; 32]), 100_000, 16).unwrap();
    check(
        &mut f,
        "image",
        &Image {
            name: name("debian"),
            kind: ImageKind::Disk,
            arch: "x86_64".to_owned(),
            files: [("disk.raw".to_owned(), blob)].into(),
            about: "Debian 12".to_owned(),
            at: Millis(5),
        },
        "132:9d63c9d934c14fc1",
    );
    check(
        &mut f,
        "setup",
        &Setup { name: name("compute"), text: "x = 1".to_owned() },
        "25:1091339205d51763",
    );
    let order = Assignment {
        number: 7,
        task: Task::Install {
            setup: SetupId(Hash([3; 32])),
            images: [(name("debian"), ImageId(Hash([4; 32])))].into(),
            plan: Some(Hash([5; 32])),
        },
        name: name("b1"),
        site,
        labels: p2pinst_types::Labels::default(),
        macs,
        power: true,
        wave: 1,
        gate: 90,
        code: Some(ConsoleCode { salt: [5; 16], key: PublicKey([6; 32]) }),
        not_after: Millis(9),
    };
    check(&mut f, "assignment", &order, "288:482ec30cca76f78e");
    check(&mut f, "task inspect", &Task::Inspect, "8:8380ff2ae40c03f3");
    let assignment = AssignmentId([7; 16]);
    let reason = "done".to_owned();
    check(
        &mut f,
        "disarmament",
        &Disarmament { assignment, ended: Ended::Installed, reason },
        "57:7be5c6b29e409cbb",
    );
    check(&mut f, "boot use", &BootUse { assignment, guise: Guise::System }, "42:fd4de2d4da5453f5");
    let status = BootStatus {
        assignment,
        state: BootState::Writing,
        since: Millis(5),
        done: (1, 2),
        detail: String::new(),
    };
    check(&mut f, "boot status", &status, "66:15bbbfc797e87475");
    let disk = Disk {
        name: "vda".to_owned(),
        path: Some("pci-0000:00:04.0".to_owned()),
        size: 1 << 30,
        sector: 512,
        wwn: None,
        serial: Some("d1".to_owned()),
        model: None,
        rotational: false,
        removable: false,
        content: Some("gpt".to_owned()),
    };
    let nic = Nic { name: "eth0".to_owned(), mac, driver: None, link: true, mbit: Some(1000) };
    let inventory = Inventory {
        uuid: Some("x".to_owned()),
        vendor: None,
        product: None,
        serial: None,
        firmware: Firmware::Uefi,
        arch: "x86_64".to_owned(),
        cpu: None,
        cpus: 4,
        memory: 1 << 30,
        disks: vec![disk],
        nics: vec![nic],
        controller: None,
    };
    check(
        &mut f,
        "sighting",
        &Sighting { mac, at: Millis(5), inventory: Some(inventory.clone()) },
        "214:3e84d8e988cd34ba",
    );
    let mut large = inventory;
    large.disks.iter_mut().for_each(|disk| disk.sector = 4096);
    check(&mut f, "inventory with large sectors", &large, "198:df856002ab25fe21");
    let image = ImageId(Hash([6; 32]));
    check(
        &mut f,
        "image removal",
        &ImageRemoval { image, reason: "old".to_owned() },
        "52:7addb123185a1145",
    );
    check(&mut f, "group policy", &GroupPolicy { console_code: true }, "15:859823d64941b9e8");
    assert!(f.is_empty(), "{f:#?}");
}

#[test]
fn golden_records_of_power() {
    let mut f = Vec::new();
    let sealed = Sealed {
        ephemeral: PublicKey([2; 32]),
        keys: [(KEY, vec![3; 48].into())].into(),
        text: vec![4; 144].into(),
    };
    let line = "ipmi://10.0.0.5".to_owned();
    check(
        &mut f,
        "controller",
        &Controller { line: line.clone(), sealed: Some(sealed.clone()) },
        "315:e94d0b2116902b4e",
    );
    check(
        &mut f,
        "controller without a secret",
        &Controller { line, sealed: None },
        "22:4d8a211f6a873832",
    );
    check(&mut f, "resealed", &Resealed { of: Hash([5; 32]), sealed }, "331:60c3d8b67014d9bd");
    let order = PowerOrder {
        number: 7,
        action: Some(PowerAction::Cycle),
        boot: Some(BootFrom::UefiHttp),
        forced: true,
        not_after: Millis(9),
    };
    check(&mut f, "power order", &order, "56:cf80436bc04d5cd3");
    let next = PowerOrder { action: None, boot: Some(BootFrom::Disk), ..order };
    check(&mut f, "boot order", &next, "38:a11ccf3e7c09f869");
    let status = PowerStatus {
        cause: Some(PowerCause::Order(PowerOrderId([7; 16]))),
        attempt: 2,
        lease: Some(Millis(8)),
        outcome: Some(PowerOutcome::Failed),
        on: Some(false),
        detail: "why".to_owned(),
        at: Millis(5),
    };
    check(&mut f, "power status", &status, "81:bd6581db7b6eb384");
    let cause = Some(PowerCause::Assignment(AssignmentId([8; 16])));
    let look = PowerStatus { cause, lease: None, outcome: None, on: None, ..status };
    check(&mut f, "power status of an assignment", &look, "60:3a5a465618e22d77");
    assert!(f.is_empty(), "{f:#?}");
}

#[test]
fn golden_records() {
    let mut f = Vec::new();
    let package = PackageId {
        manager: Manager::Dpkg,
        name: "hello".to_owned(),
        version: "2.10-3".to_owned(),
        architecture: "amd64".to_owned(),
    };
    let blob = BlobRef::with_piece_log2(Hash([2; 32]), 100_000, 16).unwrap();
    let signed = SignedCert { cert: vec![1, 2, 3], signature: Signature([3; 64]) };
    check(
        &mut f,
        "root",
        &RootDoc {
            version: 1,
            cluster: name("lab"),
            keys: [KEY].into(),
            threshold: 1,
            nonce: 9,
            standing: None,
        },
        "80:35ff5b253a6771cb",
    );
    check(
        &mut f,
        "root 2",
        &RootDoc {
            version: 2,
            cluster: name("lab"),
            keys: [KEY].into(),
            threshold: 1,
            nonce: 9,
            standing: Some(Hash([4; 32])),
        },
        "123:00bffea2b9b76aad",
    );
    check(
        &mut f,
        "standing",
        &Standing { grants: [Hash([4; 32])].into(), ..Standing::default() },
        "43:5839904e4bcca55b",
    );
    check(
        &mut f,
        "signed root",
        &SignedRoot { doc: vec![1], signatures: vec![(KEY, Signature([2; 64]))] },
        "120:a448f0889afdacf0",
    );
    check(
        &mut f,
        "grant",
        &Grant {
            key: KEY,
            name: name("alice"),
            roles: [Role::Operator, Role::Publisher].into(),
            not_after: Some(Millis(5)),
            cosigned: vec![(KEY, Signature([2; 64]))],
        },
        "198:aa0f20d8d0dd0eaa",
    );
    check(
        &mut f,
        "invite",
        &Invite {
            key: KEY,
            site: name("hall"),
            labels: [(name("gpu"), "true".to_owned().try_into().unwrap())].into(),
            uses: 2,
            not_after: Millis(5),
            replaces: Some(MachineId([5; 16])),
            boot: None,
        },
        "109:e2c48072b9c5aa2d",
    );
    check(
        &mut f,
        "certificate",
        &NodeCert {
            node: KEY,
            name: name("n1"),
            site: name("hall"),
            labels: BTreeMap::new(),
            addrs: vec!["/ip4/10.0.0.1/tcp/4001".to_owned()],
            invite: PublicKey([4; 32]),
            replaces: None,
        },
        "137:1bfd22db8dfc78f6",
    );
    check(
        &mut f,
        "certificate that replaces",
        &NodeCert {
            node: KEY,
            name: name("n1"),
            site: name("hall"),
            labels: BTreeMap::new(),
            addrs: vec![],
            invite: PublicKey([4; 32]),
            replaces: Some(MachineId([5; 16])),
        },
        "140:aa97ed0b6ca32f31",
    );
    check(
        &mut f,
        "admission",
        &Admission { machine: MachineId([5; 16]), cert: signed },
        "117:0a317f6465727dbd",
    );
    let last_good = Some(Version { incarnation: 1, seq: 2 });
    check(
        &mut f,
        "revocation",
        &Revocation { key: KEY, last_good, reason: "lost".to_owned() },
        "80:e44f922ad5db1a40",
    );
    check(
        &mut f,
        "group",
        &Group {
            description: "all with a card".to_owned(),
            hosts: Some("n[1-3]".parse().unwrap()),
            select: Some("gpu=true".parse().unwrap()),
            removed: false,
            after: Hlc(3),
            floor: Hlc(2),
        },
        "81:7d619717316decee",
    );
    check(
        &mut f,
        "group edit",
        &GroupEdit { hosts: "n[1-3]".parse().unwrap(), present: true },
        "23:46fed12718811995",
    );
    let value = Some("true".to_owned().try_into().unwrap());
    check(&mut f, "label", &LabelEdit { key: name("gpu"), value }, "20:ccfbcfa39fb52d9d");
    check(&mut f, "machine name", &MachineName { name: name("n2") }, "9:2d50a947515e5d09");
    check(
        &mut f,
        "retirement",
        &Retirement { deployment: DeploymentId([7; 16]), reason: "old".to_owned() },
        "40:9b9ba89222722711",
    );
    check(
        &mut f,
        "release",
        &Release { package: package.clone(), file: "hello.deb".to_owned(), blob },
        "149:3acc50ab0f3f4848",
    );
    let release = ReleaseId(Hash([6; 32]));
    check(
        &mut f,
        "deployment",
        &Deployment {
            number: 42,
            release,
            group: name("gpu"),
            mode: Mode::LoadAware,
            allow_downgrade: true,
            holders: vec![NodeId(KEY)],
            shards: 4,
            preheat: false,
            limit: Some(Rate::nearest(2_500_000)),
        },
        "157:9aece2c1fcfef5eb",
    );
    check(
        &mut f,
        "node record",
        &NodeRecord {
            addrs: vec!["/ip4/10.0.0.1/tcp/4001".to_owned()],
            version: "0.1.0".to_owned(),
            started: Millis(7),
            architecture: "amd64".to_owned(),
            needs: Some("0.9".to_owned()),
            macs: vec![],
        },
        "83:753ddb8f95dbfa9e",
    );
    let reached = State::ALL.iter().map(|s| (*s, Millis(8))).collect();
    check(
        &mut f,
        "status",
        &Status {
            state: State::Failed,
            attempt: 2,
            detail: "no".to_owned(),
            reached,
            transfer: None,
        },
        "128:55bfb6f7d0e30b3f",
    );
    let transfer = Some(transfer());
    let reached = vec![(State::Verified, Millis(8))];
    check(
        &mut f,
        "status with a transfer",
        &Status { state: State::Verified, attempt: 1, detail: String::new(), reached, transfer },
        "279:a6aa96e5ca770101",
    );
    let entry = |action| HistoryEntry {
        at: Millis(9),
        deployment: DeploymentId([7; 16]),
        release,
        package: package.clone(),
        action,
        old_version: Some("2.9".to_owned()),
        outcome: State::Installed,
        exit_code: Some(0),
        millis: 10,
        log: "done".to_owned(),
    };
    let actions = [Action::Install, Action::Upgrade, Action::Downgrade, Action::Reinstall];
    let entries = actions.into_iter().map(entry).collect();
    check(
        &mut f,
        "history",
        &HistorySegment { previous: Some(Hash([8; 32])), entries },
        "933:daeffce416365e60",
    );
    assert!(f.is_empty(), "{f:#?}");
}

fn speeds() -> Speeds {
    let speed = |rate, known| Some(Speed { rate, known });
    Speeds { up: speed(1, true), down: speed(2, false), wan_in: None, disk: speed(3, false) }
}

fn progress() -> Progress {
    Progress {
        blob: BlobRef::with_piece_log2(Hash([4; 32]), 300_000, 16).unwrap(),
        pieces: 2,
        held: 131_072,
        fetching: true,
        begun: Some(Millis(5)),
        ended: None,
        received: ByDistance { rack: 1, site: 2, wan: 3 },
        duplicate: 4,
        bad: 5,
        sent: ByDistance { rack: 6, site: 7, wan: 8 },
        sent_pieces: 9,
        rate_in: 10,
        rate_out: 11,
        sources: 12,
        takers: 13,
        refused: [14, 15],
        banned: 17,
        speeds: speeds(),
    }
}

fn transfer() -> Transfer {
    Transfer {
        len: 1,
        holder: true,
        order_ms: 2,
        fetch_ms: 3,
        waited_ms: 4,
        before: 5,
        received: ByDistance { rack: 6, site: 7, wan: 8 },
        from_holders: 9,
        holders_ms: 10,
        duplicate: 11,
        bad: 12,
        sent: ByDistance { rack: 13, site: 14, wan: 15 },
        sources: 16,
        speeds: speeds(),
    }
}

#[test]
fn golden_messages() {
    let mut f = Vec::new();
    let part = Part { author: KEY, incarnation: 2, ranges: Ranges::up_to(3) };
    let cells = vec![CellBytes(vec![0xc1, 2])];
    let log =
        LogState { author: KEY, lives: [(2, Ranges::up_to(3))].into(), digest: Hash([9; 32]) };
    let clock = Millis(5);
    let root = Hash([1; 32]);
    let parts = vec![part.clone()];
    for (what, request, golden) in [
        ("heads", Request::Heads { digest: root, roots: 2, clock }, "63:a975748eb6833faa"),
        ("logs", Request::Logs { buckets: vec![1, 2] }, "18:b9f4684fec0bc62e"),
        ("roots", Request::Roots, "6:54d5fdb2092e5f76"),
        ("compare", Request::Compare { digest: root }, "51:47097ed26f5f896e"),
        ("list", Request::List { buckets: vec![1, 2] }, "18:9d48936caa707b3d"),
        ("pull", Request::Pull { parts: parts.clone() }, "80:58d9e7a17077faaa"),
        (
            "push",
            Request::Push { cells: cells.clone(), covered: parts.clone() },
            "92:621cfba64dec9480",
        ),
        ("put", Request::Put { cells: cells.clone() }, "16:55d1badd86cd9200"),
        (
            "get",
            Request::Get { kind: Kind::STATUS, subject: vec![7], after: Some((vec![8], KEY)) },
            "67:0b2b7115aeeb4edb",
        ),
        (
            "summaries",
            Request::Summaries { subjects: vec![StatusSubject(vec![7])] },
            "24:cc2d66c7fd10a1d2",
        ),
        ("watch", Request::Watch { subjects: vec![StatusSubject(vec![7])] }, "20:67f19ff6f1406e23"),
        ("changed", Request::Changed { cells: cells.clone() }, "20:f15b9d1191ab8c12"),
        ("holds", Request::Holds { root }, "47:2db0013546329136"),
        ("swarm", Request::Swarm { roots: vec![root] }, "49:0fc00231894e3d31"),
    ] {
        check(&mut f, what, &request, golden);
    }
    let holding = Holding { subject: Subject { kind: Kind::STATUS, id: vec![7] }, digest: root };
    let summary = Summary {
        counts: [1, 2, 3, 4, 5, 6, 7, 64],
        unread: 1,
        machines: [2; 16],
        oldest: Hlc::at(Millis(1_800_000_000_000)),
        newest: Hlc::at(Millis(1_800_000_000_001)),
        digest: Hash([3; 32]),
    };
    let outcomes = vec![
        Outcome::Accepted,
        Outcome::Known,
        Outcome::Newer,
        Outcome::Held("x".to_owned()),
        Outcome::Rejected("y".to_owned()),
    ];
    for (what, response, golden) in [
        ("same", Response::Same { roots: 2, clock }, "21:1230192d25d80cf1"),
        (
            "buckets",
            Response::Buckets { digests: vec![(1, 2)], roots: 2, clock },
            "36:fe6305d2dd5c2002",
        ),
        ("logs", Response::Logs { logs: vec![log.clone()] }, "108:ef8137cf5de0f143"),
        ("roots", Response::Roots { roots: vec![] }, "15:f95ba0ecaeebe944"),
        ("equal", Response::Equal, "6:a665d77cfc1e45e2"),
        ("differ", Response::Differ { digests: vec![(1, 2)] }, "21:ddd17a81d72b520c"),
        ("holdings", Response::Holdings(vec![holding]), "75:c9b012a3b183912e"),
        ("heads", Response::Heads { logs: vec![log], roots: 2, clock }, "123:43854c79ea8e9636"),
        ("cells", Response::Cells { cells: cells.clone(), covered: parts }, "93:f3692fe314a34622"),
        ("outcomes", Response::Outcomes(outcomes), "52:1c81fa40f82cf8f5"),
        ("data", Response::Data { cells, more: true }, "23:de3aa6069b023270"),
        ("summaries", Response::Summaries(vec![Some(summary), None]), "138:ac4229f3ab003894"),
        ("watching", Response::Watching(3), "11:078669bbe9c38dd6"),
        ("noted", Response::Noted, "6:8a25193744e3e157"),
        ("holds", Response::Holds(true), "8:9003fa9d5381db0c"),
        ("swarm", Response::Swarm(vec![progress()]), "314:5012bcc1567d91a4"),
        ("refused", Response::Refused("no".to_owned()), "12:3124a57fafe45ece"),
    ] {
        check(&mut f, what, &response, golden);
    }
    assert!(f.is_empty(), "{f:#?}");
}
