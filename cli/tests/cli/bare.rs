//! Bare metal, with a node that answers from a script.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use p2pinst_api::boot::{BootEvent, SightingView};
use p2pinst_api::store::StoredView;
use p2pinst_boot::power::credentials::Credentials;
use p2pinst_trust::SecretKey;
use p2pinst_trust::sealed::{self, Place};
use p2pinst_types::record::{
    Adoption, Assignment, Controller, Disarmament, Disk, Ended, Firmware, Grant, Image, ImageKind,
    ImageRemoval, Inventory, Nic, Role, Setup, Task,
};
use p2pinst_types::{Cell, Kind, Mac, MachineId, Millis, PublicKey, codec};

use crate::fake::{Fake, NOW, name};
use crate::fakebare::assignments;
use crate::online::cluster;
use crate::run::{run, temp};
use crate::store::blob;

fn mac(last: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, last])
}

fn made(content: Option<&str>) -> Inventory {
    let disk = Disk {
        name: "vda".to_owned(),
        path: None,
        size: 8 << 30,
        sector: 512,
        wwn: None,
        serial: Some("S1".to_owned()),
        model: None,
        rotational: false,
        removable: false,
        content: content.map(str::to_owned),
    };
    let nic = |last| Nic {
        name: format!("eth{last}"),
        mac: mac(last),
        driver: None,
        link: true,
        mbit: None,
    };
    Inventory {
        uuid: None,
        vendor: Some("QEMU".to_owned()),
        product: None,
        serial: None,
        firmware: Firmware::Uefi,
        arch: "x86_64".to_owned(),
        cpu: None,
        cpus: 2,
        memory: 1 << 30,
        disks: vec![disk],
        nics: vec![nic(1), nic(9)],
        controller: None,
    }
}

fn sighting(last: u8, inventory: Option<Inventory>) -> SightingView {
    SightingView { mac: mac(last), at: NOW, site: Some(name("s1")), inventory }
}

/// A raw disk with an empty DOS partition table.
fn disk(dir: &Path) {
    let mut bytes = vec![0; 1 << 20];
    bytes[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0x83, 0, 0, 0, 8, 0, 0, 0, 0, 4, 0, 0]);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(dir.join("disk.raw"), bytes).unwrap();
}

/// The fake has the image's file, pinned.
fn stored(fake: &Fake, image: &Image) {
    let root = image.files.values().next().unwrap().root;
    fake.with(|s| s.blobs = vec![StoredView { root, ..blob(1, true) }]);
}

/// A cluster with an image, a node that boots, and two machines that were adopted: n5 and n6.
fn lab(dir: &Path) -> Fake {
    let fake = cluster(dir);
    fake.grant(&PublicKey([1; 32]).to_string(), "n1", &[Role::Boot]);
    disk(dir);
    run(dir, &["image", "publish", "disk.raw", "--name", "debian", "--arch", "x86_64"]).ok();
    fs::write(dir.join("list.csv"), "mac,name,site\n525400000005,n5,pisa\n525400000006,n6,pisa\n")
        .unwrap();
    run(dir, &["machine", "import", "list.csv"]).ok();
    fake
}

#[test]
fn a_machine_is_granted_power_by_its_name() {
    let dir = temp();
    let fake = cluster(dir.path());
    let granted =
        run(dir.path(), &["grant", "n2", "--role", "boot", "--role", "power", "--json"]).json();
    assert_eq!(granted["name"], "n2");
    let grant: Grant = fake.cells(Kind::GRANT)[0].record().unwrap();
    assert_eq!((grant.key.0, grant.roles), ([2; 32], BTreeSet::from([Role::Boot, Role::Power])));
    assert!(run(dir.path(), &["grant", "n9", "--role", "boot"]).failed(1).contains("public key"));
}

#[test]
fn images_are_published_listed_and_looked_into() {
    let dir = temp();
    let fake = cluster(dir.path());
    disk(dir.path());
    let args =
        ["image", "publish", "disk.raw", "--name", "debian", "--about", "bookworm", "--json"];
    let published = run(dir.path(), &args).json();
    assert_eq!((&published["kind"], &published["size"]), (&"disk".into(), &(1 << 20).into()));
    let image: Image = fake.cells(Kind::IMAGE)[0].record().unwrap();
    assert_eq!((image.kind, image.about.as_str()), (ImageKind::Disk, "bookworm"));
    assert!(run(dir.path(), &["image", "ls"]).ok().contains("debian"));
    assert!(run(dir.path(), &["image", "inspect", "disk.raw"]).ok().contains("disk, 1 MiB"));
    assert!(run(dir.path(), &["image", "rm", "nope"]).failed(1).contains("image ls"));
    stored(&fake, &image);
    run(dir.path(), &["image", "rm", "debian", "--here"]).ok();
    assert!(fake.cells(Kind::IMAGE_REMOVAL).is_empty() && !fake.with(|s| s.blobs[0].pinned));
    fs::write(dir.path().join("text"), "no image at all, but a text\n").unwrap();
    let text = run(dir.path(), &["image", "publish", "text", "--name", "x"]);
    assert!(text.failed(1).contains("no partition table"), "{}", text.stderr);
}

#[test]
fn an_installer_is_published_and_ordered_with_what_it_reads() {
    let dir = temp();
    let fake = lab(dir.path());
    for (file, text) in [("linux", "kernel"), ("initrd.gz", "files")] {
        fs::write(dir.path().join(file), text).unwrap();
    }
    let publish = ["image", "publish", "linux", "--initrd", "initrd.gz", "--name", "d-i"];
    let published = run(dir.path(), &[&publish[..], &["--json"]].concat()).json();
    assert_eq!(published["kind"], "installer");
    let image: Image = fake.cells(Kind::IMAGE).last().unwrap().record().unwrap();
    let lens: Vec<_> = image.files.iter().map(|(name, blob)| (name.as_str(), blob.len())).collect();
    assert_eq!(lens, [("initrd", 5), ("vmlinuz", 6)]);
    let setup = |name: &str, image: &str| {
        let text = format!("name = \"x\"\n[installer]\nimage = \"{image}\"\n");
        fs::write(dir.path().join(name), text).unwrap();
    };
    setup("good.toml", "d-i");
    setup("bad.toml", "debian");
    let checked = run(dir.path(), &["setup", "check", "good.toml"]);
    assert!(checked.ok().contains("in the scout's place, the images d-i"), "{}", checked.stdout);
    let deploy = |file, more: &[&str]| {
        let args = ["deploy", "--setup", file, "--nodes", "n5"];
        run(dir.path(), &[&args[..], more].concat())
    };
    let bad = deploy("bad.toml", &["--yes"]);
    assert!(bad.failed(1).contains("debian is no installer"), "{}", bad.stderr);
    let unasked = deploy("good.toml", &[]);
    assert!(
        unasked.code == Some(2) && unasked.stderr.contains("may be lost"),
        "{}",
        unasked.stderr
    );
    // also where its disks were empty when somebody looked
    fake.with(|s| s.made.insert(name("n5"), made(None)));
    assert!(deploy("good.toml", &[]).stderr.contains("may be lost"));
    let text = "name = \"x\"\n[installer]\nimage = \"d-i\"\n[[file]]\npath = \"/preseed.cfg\"\ntemplate = \"debian\"\nformat = \"preseed\"\n";
    fs::write(dir.path().join("odd.toml"), text).unwrap();
    let odd = deploy("odd.toml", &["--yes"]);
    assert!(odd.failed(1).contains("debian is no graph of templates"), "{}", odd.stderr);
    deploy("good.toml", &["--yes"]).ok();
    let orders = fake.with(|s| assignments(s));
    let Task::Install { plan, images, .. } = &orders[0].1.task else { panic!() };
    assert_eq!((plan, images.len()), (&None, 1));
    assert!(run(dir.path(), &["deploy", "d-i", "--nodes", "n6"]).failed(1).contains("--setup"));
    let plan = run(dir.path(), &["setup", "plan", "good.toml", "--node", "n5"]);
    assert!(plan.failed(1).contains("for the installer d-i to decide"), "{}", plan.stderr);
}

#[test]
fn an_image_is_removed_for_all_unless_an_order_needs_it() {
    let dir = temp();
    let fake = lab(dir.path());
    run(dir.path(), &["deploy", "debian", "--nodes", "n5"]).ok();
    let needed = run(dir.path(), &["image", "rm", "debian"]);
    assert!(needed.failed(1).contains("boot disarm n5"), "{}", needed.stderr);
    assert!(fake.cells(Kind::IMAGE_REMOVAL).is_empty());
    run(dir.path(), &["boot", "disarm", "n5"]).ok();
    stored(&fake, &fake.cells(Kind::IMAGE)[0].record().unwrap());
    let removed = run(dir.path(), &["image", "rm", "debian", "--reason", "old", "--json"]).json();
    assert_eq!((&removed["unpinned"], fake.with(|s| s.blobs[0].pinned)), (&1.into(), false));
    let cell = &fake.cells(Kind::IMAGE_REMOVAL)[0];
    let record: ImageRemoval = cell.record().unwrap();
    assert_eq!(
        (record.image, record.reason.as_str()),
        (Image::id(fake.cells(Kind::IMAGE)[0].payload()), "old")
    );
    assert_eq!(cell.id.subject, record.image.0.0);
    assert_eq!(removed["removed"].as_array().unwrap().len(), 1);
    assert!(run(dir.path(), &["image", "ls"]).stderr.contains("No image"));
    assert!(
        run(dir.path(), &["deploy", "debian", "--nodes", "n6"])
            .failed(1)
            .contains("no image debian")
    );
}

#[test]
fn strangers_are_shown_and_adopted_with_all_their_interfaces() {
    let dir = temp();
    let fake = cluster(dir.path());
    let seen = sighting(1, Some(made(None)));
    fake.with(|s| s.seen = vec![seen]);
    let ls = run(dir.path(), &["machine", "ls"]);
    assert!(ls.ok().contains("stranger") && ls.ok().contains("QEMU, 2 processors"), "{}", ls.ok());
    assert!(ls.stderr.contains("machine adopt 52:54:00:00:00:01"), "{}", ls.stderr);
    let stranger = run(dir.path(), &["machine", "show", "52:54:00:00:00:01"]);
    assert!(stranger.ok().contains("vda, 8.0 GiB, empty"), "{}", stranger.ok());
    let adopt = ["machine", "adopt", "525400000001", "--name", "n5", "--label", "gpu=true"];
    run(dir.path(), &adopt).ok();
    let adoption: Adoption = fake.cells(Kind::ADOPTION)[0].record().unwrap();
    assert_eq!(adoption.macs, [mac(1), mac(9)]);
    assert_eq!(fake.cells(Kind::ADOPTION)[0].id.subject, Adoption::machine(mac(1)).as_bytes());
    // what is not said anew stays
    run(dir.path(), &["machine", "adopt", "n5", "--site", "pisa"]).ok();
    let again: Adoption = fake.cells(Kind::ADOPTION)[1].record().unwrap();
    assert_eq!((again.labels, again.site.as_str()), (adoption.labels, "pisa"));
    assert!(
        run(dir.path(), &["machine", "adopt", "525400000003", "--name", "n5"])
            .failed(1)
            .contains("is called n5")
    );
    assert!(
        run(dir.path(), &["machine", "adopt", "525400000003"]).failed(2).contains("needs a name")
    );
    assert!(run(dir.path(), &["machine", "adopt", "n2"]).failed(1).contains("--mac"));
    let group = ["machine", "adopt", "525400000003", "--name", "n6", "--group", "nope"];
    assert!(run(dir.path(), &group).failed(1).contains("no group nope"));
    assert_eq!(fake.cells(Kind::ADOPTION).len(), 2);
    run(dir.path(), &["machine", "rm", "n5"]).ok();
    assert!(run(dir.path(), &["machine", "rm", "n5"]).failed(1).contains("no machine n5"));
}

/// A setup that may wipe, in a file.
fn setup(dir: &Path) {
    let text = "name = \"s\"\n[[disk]]\nmatch = {}\nwipe = \"once\"\nimage = \"debian\"\n";
    fs::write(dir.join("s.toml"), text).unwrap();
}

#[test]
fn a_machine_is_adopted_and_installed_in_one_breath() {
    let dir = temp();
    let fake = lab(dir.path());
    setup(dir.path());
    run(dir.path(), &["group", "create", "rack1", "--hosts", "x1"]).ok();
    fake.with(|s| s.seen = vec![sighting(1, Some(made(Some("gpt"))))]);
    let adopt = |args: &[&str]| {
        let adopt = ["machine", "adopt", "525400000001", "--setup", "s.toml"];
        run(dir.path(), &[&adopt, args].concat())
    };
    let before = fake.cells(Kind::ADOPTION).len();
    let asked = adopt(&["--name", "b1"]);
    assert!(
        asked.code == Some(2) && asked.stderr.contains("vda (8.0 GiB, gpt)"),
        "{}",
        asked.stderr
    );
    let power = adopt(&["--name", "b1", "--yes", "--power", "cycle"]);
    assert!(power.failed(1).contains("--role power"));
    let none = ["machine", "adopt", "525400000001", "--name", "b1", "--yes"];
    assert!(run(dir.path(), &none).failed(2).contains("--setup"));
    assert_eq!((fake.cells(Kind::ADOPTION).len(), fake.cells(Kind::ASSIGNMENT).len()), (before, 0));

    let args = ["--name", "b1", "--label", "gpu=true", "--group", "rack1", "--yes", "--ttl", "1h"];
    assert_eq!(adopt(&args).ok(), "alice-42\n");
    let adoption: Adoption = fake.cells(Kind::ADOPTION)[before].record().unwrap();
    assert_eq!((adoption.macs, adoption.site.as_str()), (vec![mac(1), mac(9)], "s1"));
    let orders = fake.with(|s| assignments(s));
    let order = &orders[0].1;
    assert_eq!(
        (&order.name, &order.macs, order.power),
        (&name("b1"), &vec![mac(1), mac(9)], false)
    );
    assert_eq!((&order.labels, order.not_after.0), (&adoption.labels, NOW.0 + 3_600_000));
    let Task::Install { plan, .. } = &order.task else { panic!() };
    assert!(plan.is_some(), "its disks are known");
    assert_eq!(fake.cells(Kind::GROUP_EDIT).len(), 1);
    // it counts as adopted before it is ordered
    let hlc = |kind| fake.cells(kind).last().unwrap().hlc;
    assert!(hlc(Kind::ADOPTION) < hlc(Kind::ASSIGNMENT));

    // one that nobody has seen: the setup alone decides; what was said before stays
    let unseen = [
        "machine",
        "adopt",
        "525400000077",
        "--name",
        "b2",
        "--setup",
        "s.toml",
        "--yes",
        "--json",
    ];
    let document = run(dir.path(), &unseen).json();
    assert_eq!(
        (&document["order"]["name"], &document["site"]),
        (&"alice-43".into(), &"default".into())
    );
    assert_eq!(document["order"]["machines"][0]["plan"], serde_json::Value::Null);
    let again = ["machine", "adopt", "b1", "--setup", "s.toml", "--yes", "--json"];
    let document = run(dir.path(), &again).json();
    assert_eq!((&document["name"], &document["labels"]["gpu"]), (&"b1".into(), &"true".into()));
}

/// Six strangers; of the third it is not known what it is made of, the fourth is the second's other interface.
fn strangers() -> Vec<SightingView> {
    let made = |last: u8, vendor: &str| {
        let mut made = made(None);
        made.vendor = Some(vendor.to_owned());
        made.nics.truncate(1);
        made.nics[0].mac = mac(last);
        made
    };
    let mut two = made(2, "Dell Inc.");
    two.nics.push(Nic { mac: mac(4), ..two.nics[0].clone() });
    vec![
        sighting(1, Some(made(1, "QEMU"))),
        sighting(2, Some(two)),
        sighting(3, None),
        sighting(4, None),
        // its other interface is that of n5
        sighting(
            7,
            Some(Inventory {
                nics: vec![Nic { mac: mac(5), ..made(7, "x").nics[0].clone() }],
                ..made(7, "Dell")
            }),
        ),
        sighting(8, Some(made(8, "Dell Inc."))),
    ]
}

#[test]
fn machines_are_adopted_by_what_they_are_made_of() {
    let dir = temp();
    let fake = cluster(dir.path());
    fs::write(dir.path().join("list.csv"), "mac,name\n525400000005,n5\n").unwrap();
    run(dir.path(), &["machine", "import", "list.csv"]).ok();
    fake.with(|s| s.seen = strangers());
    let adopt = |args: &[&str]| {
        let adopt =
            ["machine", "adopt", "--where", "vendor=Dell*,memory>=1GiB,site=s1", "--name", "n{nn}"];
        run(dir.path(), &[&adopt, args].concat())
    };
    let dry = adopt(&["--dry-run", "--json"]).json();
    let names = |document: &serde_json::Value| {
        let machines = document["machines"].as_array().unwrap();
        machines
            .iter()
            .map(|m| (m["name"].as_str().unwrap().to_owned(), m["macs"].to_string()))
            .collect::<Vec<_>>()
    };
    let two = [
        ("n06".to_owned(), r#"["52:54:00:00:00:02","52:54:00:00:00:04"]"#.to_owned()),
        ("n07".to_owned(), r#"["52:54:00:00:00:08"]"#.to_owned()),
    ];
    assert_eq!((names(&dry), &dry["dry_run"]), (two.to_vec(), &true.into()));
    let told = adopt(&["--dry-run"]);
    assert!(
        told.ok().is_empty()
            && told.stderr.contains("00:07 is left alone: 52:54:00:00:00:05 is an interface of n5"),
        "{}",
        told.stderr
    );
    assert_eq!(fake.cells(Kind::ADOPTION).len(), 1);
    let done = adopt(&["--label", "rack=3", "--json"]).json();
    assert_eq!((names(&done), &done["order"]), (two.to_vec(), &serde_json::Value::Null));
    let last: Adoption = fake.cells(Kind::ADOPTION)[2].record().unwrap();
    assert_eq!((last.site.as_str(), last.labels.len()), ("s1", 1));
    // a node does not show them any more; what is left gets other numbers
    fake.with(|s| s.seen.retain(|seen| [mac(1), mac(3)].contains(&seen.mac)));
    let none = adopt(&["--json"]).json();
    assert_eq!(names(&none), []);
    let by_mac = ["machine", "adopt", "--where", "mac=52:54", "--name", "n{nn}", "--json"];
    let named: Vec<String> =
        names(&run(dir.path(), &by_mac).json()).into_iter().map(|n| n.0).collect();
    assert_eq!(named, ["n08", "n09"]);
    for (args, why) in [
        (["--where", "vendor>x", "--name", "n{n}"], "is no number"),
        (["--where", "vendor", "--name", "n1"], "{n}"),
        (["--where", "vendor", "--name", "n{x}"], "{n}"),
        (["--where", "vendor", "--site", "s1"], "--name"),
    ] {
        let wrong = run(dir.path(), &[&["machine", "adopt"], args.as_slice()].concat());
        assert!(wrong.failed(2).contains(why), "{}", wrong.stderr);
    }
    let one = run(dir.path(), &["machine", "adopt", "525400000009", "--name", "n{n}"]);
    assert!(one.failed(2).contains("--where"), "{}", one.stderr);
}

#[test]
fn a_rule_goes_on_with_machines_that_appear() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let dir = temp();
    let fake = lab(dir.path());
    setup(dir.path());
    let adopt =
        ["machine", "adopt", "--where", "vendor", "--name", "b{n}", "--setup", "s.toml", "--watch"];
    let asks = run(dir.path(), &adopt);
    assert!(asks.failed(2).contains("--yes"), "{}", asks.stderr);
    let mut command = crate::run::p2pinst(dir.path());
    command.args(adopt).args(["--yes", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next =
        || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let mut seen = strangers();
    let small = |seen: &mut SightingView| seen.inventory.as_mut().unwrap().disks[0].size = 1 << 10;
    // one that is too small keeps nobody waiting
    small(&mut seen[5]);
    fake.with(|s| s.seen = seen.clone());
    let first = next();
    assert_eq!(first["machines"].as_array().unwrap().len(), 2, "{first}");
    assert_eq!(
        (&first["machines"][0]["name"], &first["order"]["name"]),
        (&"b1".into(), &"alice-42".into())
    );
    // it gets a larger disk
    fake.with(|s| s.seen = vec![strangers().remove(5)]);
    let second = next();
    assert_eq!(
        (&second["machines"][0]["name"], &second["order"]["name"]),
        (&"b3".into(), &"alice-43".into())
    );
    assert_eq!(second["machines"].as_array().unwrap().len(), 1);
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    assert!(child.wait().unwrap().success(), "interrupted, as it is meant to be");
    let orders = fake.with(|s| assignments(s));
    let names: Vec<String> = orders.iter().map(|(_, o)| o.name.to_string()).collect();
    assert_eq!(names, ["b1", "b2", "b3"]);
}

#[test]
fn of_a_wrong_list_nothing_is_adopted() {
    let dir = temp();
    let fake = cluster(dir.path());
    fs::write(dir.path().join("bad.csv"), "mac,name\nxx,n5\n525400000005,n6\n525400000006,n1\n")
        .unwrap();
    let bad = run(dir.path(), &["machine", "import", "bad.csv"]);
    assert!(bad.failed(1).contains("line 2: ") && !bad.stderr.contains("line 3"), "{}", bad.stderr);
    fs::write(dir.path().join("bad.csv"), "mac,name\n525400000005,n6\n525400000006,n1\n").unwrap();
    let bad = run(dir.path(), &["machine", "import", "bad.csv"]);
    assert!(bad.failed(1).contains("line 3: another machine"), "{}", bad.stderr);
    assert!(fake.cells(Kind::ADOPTION).is_empty());
}

#[test]
fn controllers_come_with_the_list_and_their_passwords_from_elsewhere() {
    let dir = temp();
    let fake = cluster(dir.path());
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        p2pinst_files::write(&path, text.as_bytes(), p2pinst_files::Access::Private).unwrap();
    };
    let list = "mac,name,controller,user\n525400000005,n5,ipmi://10.0.0.5,\n\
        525400000006,n6,wol://,\n525400000007,n7,,\n525400000008,n8,ipmi://10.0.0.8,root\n";
    write("list.csv", list);
    write("all", "for all\n");
    write("env", "n8=for n8\n");
    let import =
        |args: &[&str]| run(dir.path(), &[&["machine", "import", "list.csv"], args].concat());
    let missing = import(&["--user", "admin", "--env-file", "env"]);
    assert!(missing.failed(1).contains("line 2: the password of admin"), "{}", missing.stderr);
    assert!(!missing.stderr.contains("line 5"), "{}", missing.stderr);
    let whole = ["--user", "admin", "--password-file", "all", "--env-file", "env"];
    let nobody = import(&whole);
    assert!(nobody.failed(1).contains("--role power"), "{}", nobody.stderr);
    let secret = list.replace("user", "password");
    write("list.csv", &secret);
    assert!(import(&whole).failed(1).contains("line 1: passwords do not belong"));
    write("list.csv", list);
    assert!(fake.cells(Kind::ADOPTION).is_empty() && fake.cells(Kind::CONTROLLER).is_empty());

    let node = SecretKey::generate().unwrap();
    fake.grant(&node.public().to_string(), "n1", &[Role::Power]);
    let imported = import(&[whole.as_slice(), &["--json"]].concat()).json();
    assert_eq!(imported["machines"][0]["controller"], "ipmi://10.0.0.5");
    assert_eq!(imported["machines"][2]["controller"], serde_json::Value::Null);
    let opened = |cell: &Cell| {
        let record: Controller = cell.record().unwrap();
        let machine = MachineId::from_slice(&cell.id.subject).unwrap();
        let cluster = fake.with(|s| *s.roots.cluster());
        let place = Place { cluster: &cluster, machine: &machine, controller: &record.line };
        let secret = record.sealed.map(|s| sealed::open(&place, &s, &node).unwrap());
        let both = secret.map(|s| codec::decode::<Credentials>(&s).unwrap());
        (machine, record.line, both)
    };
    let both = |user: &str, word: &str| Credentials::new(user.into(), word.into()).ok();
    let filed: Vec<_> = fake.cells(Kind::CONTROLLER).iter().map(opened).collect();
    assert_eq!(
        filed,
        [
            (Adoption::machine(mac(5)), "ipmi://10.0.0.5".to_owned(), both("admin", "for all")),
            (Adoption::machine(mac(6)), "wol://".to_owned(), None),
            (Adoption::machine(mac(8)), "ipmi://10.0.0.8".to_owned(), both("root", "for n8")),
        ]
    );

    // the same command under two names
    for group in ["machine", "power"] {
        let set = if group == "machine" { "set-power" } else { "set" };
        let args = [group, set, "n7", "ipmi://10.0.0.7", "--user", "u", "--password-file", "all"];
        assert!(run(dir.path(), &args).ok().is_empty());
        let cells = fake.cells(Kind::CONTROLLER);
        let (machine, line, credentials) = opened(cells.last().unwrap());
        assert_eq!((machine, line.as_str()), (Adoption::machine(mac(7)), "ipmi://10.0.0.7"));
        assert_eq!(credentials, both("u", "for all"));
    }
}

#[test]
fn machines_are_listed_with_what_was_said_of_their_power() {
    let dir = temp();
    let fake = lab(dir.path());
    fake.with(|s| {
        s.on = [(Adoption::machine(mac(5)), true), (Adoption::machine(mac(6)), false)].into()
    });
    let power = |name: &str| {
        let ls = run(dir.path(), &["machine", "ls"]).ok().to_owned();
        let line = ls.lines().find(|l| l.split_whitespace().next() == Some(name)).unwrap();
        line.split_whitespace().nth(2).unwrap().to_owned()
    };
    assert_eq!(["n5", "n6", "n1"].map(power), ["on", "off", "-"]);
    let json = run(dir.path(), &["machine", "show", "n6", "--json"]).json();
    assert_eq!(json["power"], false);
    let json = run(dir.path(), &["machine", "ls", "--json"]).json();
    let all = json["machines"].as_array().unwrap();
    let of = |name: &str| &all.iter().find(|m| m["known"]["name"] == name).unwrap()["power"];
    assert_eq!((of("n5"), of("n1")), (&true.into(), &serde_json::Value::Null));
}

#[test]
fn a_deployment_is_one_assignment_for_each_machine() {
    let dir = temp();
    let fake = lab(dir.path());
    fake.with(|s| s.made.insert(name("n5"), made(None)));
    let deployed = run(
        dir.path(),
        &["deploy", "debian", "--nodes", "n[5-6]", "--waves", "2", "--ttl", "1h", "--json"],
    )
    .json();
    assert_eq!(
        (&deployed["name"], deployed["machines"].as_array().unwrap().len()),
        (&"alice-42".into(), 2)
    );
    let orders = fake.with(|s| assignments(s));
    let waves: BTreeSet<u16> = orders.iter().map(|(_, o)| o.wave).collect();
    assert_eq!(waves, BTreeSet::from([0, 1]));
    for (_, order) in &orders {
        assert_eq!((order.number, order.gate, order.power, order.code), (42, 90, false, None));
        assert_eq!(order.not_after.0, NOW.0 + 3_600_000);
        let Task::Install { setup, images, plan } = &order.task else { panic!() };
        assert_eq!(images.len(), 1);
        assert_eq!(plan.is_some(), order.name == name("n5"), "planned where the disks are known");
        let record: Setup = fake.cells(Kind::SETUP)[0].record().unwrap();
        assert_eq!(Setup::id(fake.cells(Kind::SETUP)[0].payload()), *setup);
        assert!(record.text.contains("wipe = \"never\""));
    }
    let status = run(dir.path(), &["status", "alice-42"]);
    assert!(
        status.ok().contains("n5  wave") && status.ok().contains("0/2 healthy, 2 armed"),
        "{}",
        status.ok()
    );
    assert_eq!(
        run(dir.path(), &["status", "alice-42", "--json"]).json()["lines"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert!(run(dir.path(), &["status"]).ok().contains("alice-42"));
    assert!(run(dir.path(), &["boot", "ls"]).ok().contains("install debian"));
}

#[test]
fn what_would_lose_data_is_refused_or_asked_for() {
    let dir = temp();
    let fake = lab(dir.path());
    fake.with(|s| s.made.insert(name("n5"), made(Some("gpt"))));
    let deploy = |args: &[&str]| run(dir.path(), &[&["deploy", "debian"], args].concat());
    let refused = deploy(&["--nodes", "n[5-6]"]);
    assert!(
        refused.failed(1).contains("n5: ") && refused.stderr.contains("has data"),
        "{}",
        refused.stderr
    );
    let unasked = deploy(&["--nodes", "n5", "--wipe"]);
    // stdin is no terminal
    assert!(
        unasked.code == Some(2) && unasked.stderr.contains("vda (8.0 GiB, gpt)"),
        "{}",
        unasked.stderr
    );
    assert!(fake.cells(Kind::ASSIGNMENT).is_empty() && fake.cells(Kind::SETUP).is_empty());
    deploy(&["--nodes", "n5", "--wipe", "--yes"]).ok();
    assert_eq!(fake.cells(Kind::ASSIGNMENT).len(), 1);
    assert!(deploy(&["--nodes", "n9"]).failed(1).contains("n9"));
    assert!(deploy(&["--nodes", "n2"]).failed(1).contains("interfaces are not known"));
    assert!(deploy(&["--nodes", "n6", "--power", "cycle"]).failed(1).contains("--role power"));
    let wrong = made(None);
    fake.with(|s| s.made.insert(name("n6"), Inventory { arch: "aarch64".to_owned(), ..wrong }));
    assert!(deploy(&["--nodes", "n6"]).failed(1).contains("the machine is aarch64"));
}

#[test]
fn orders_are_taken_back_and_given_again() {
    let dir = temp();
    let fake = lab(dir.path());
    assert!(run(dir.path(), &["boot", "arm", "n5"]).failed(1).contains("--inspect"));
    assert!(run(dir.path(), &["boot", "disarm", "n5"]).failed(1).contains("no order is in force"));
    let code = dir.path().join("code");
    fs::write(&code, "12345\n").unwrap();
    let file = code.to_str().unwrap();
    let deploy = ["deploy", "debian", "--nodes", "n5", "--code-file", file];
    assert!(run(dir.path(), &deploy).failed(1).contains("chmod 600"));
    fs::set_permissions(&code, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(run(dir.path(), &deploy).failed(2).contains("6 bytes at least"));
    fs::write(&code, "123456\n").unwrap();
    // a group that asks for one gets it: no other order is signed
    let asks = ["group", "policy", "all", "--console-code"];
    let asked = run(dir.path(), &[&asks[..], &["wanted"]].concat());
    assert!(asked.ok().is_empty() && asked.stderr.contains("with a code only"), "{}", asked.stderr);
    assert!(run(dir.path(), &["group", "show", "all"]).ok().contains("console code  wanted"));
    let none = run(dir.path(), &["deploy", "debian", "--nodes", "n5"]);
    assert!(none.failed(1).contains("the group all asks for a code"), "{}", none.stderr);
    let none = run(dir.path(), &["boot", "arm", "n5", "--inspect"]);
    assert!(none.failed(1).contains("the group all asks for a code"), "{}", none.stderr);
    fs::write(dir.path().join("s.toml"), "name = \"x\"\n").unwrap();
    let adopt = ["machine", "adopt", "525400000078", "--name", "b9"];
    let none = run(dir.path(), &[&adopt[..], &["--setup", "s.toml"]].concat());
    assert!(none.failed(1).contains("the group all asks for a code"), "{}", none.stderr);
    let none = run(dir.path(), &[&adopt[..], &["--code-file", file]].concat());
    assert!(none.failed(2).contains("a code is for a machine that is installed"));
    assert!(fake.cells(Kind::ASSIGNMENT).is_empty() && fake.cells(Kind::GROUP_POLICY).len() == 1);
    run(dir.path(), &deploy).ok();
    run(dir.path(), &[&asks[..], &["free"]].concat()).ok();
    assert!(run(dir.path(), &["machine", "rm", "n5"]).failed(1).contains("boot disarm n5"));
    run(dir.path(), &["boot", "disarm", "n5", "--reason", "wrong rack"]).ok();
    let over: Disarmament = fake.cells(Kind::DISARMAMENT)[0].record().unwrap();
    assert_eq!((over.ended, over.reason.as_str()), (Ended::Cancelled, "wrong rack"));
    assert_eq!(fake.cells(Kind::DISARMAMENT)[0].id.slot, over.assignment.as_bytes());
    assert_eq!(run(dir.path(), &["boot", "arm", "n5"]).ok(), "alice-43\n");
    assert_eq!(run(dir.path(), &["boot", "arm", "525400000006", "--inspect"]).ok(), "alice-44\n");
    let orders = fake.with(|s| assignments(s));
    let tasks: Vec<&Assignment> = orders.iter().map(|(_, o)| o).collect();
    assert_eq!(tasks[0].task, tasks[1].task);
    assert!(tasks[0].code.is_some() && tasks[1].code == tasks[0].code, "{:?}", tasks[1].code);
    assert_eq!(tasks[2].task, Task::Inspect);
    assert!(run(dir.path(), &["boot", "show", "n5"]).ok().contains("console code    wanted"));
    assert!(
        run(dir.path(), &["boot", "ls", "--json"]).json()["machines"].as_array().unwrap().len()
            == 2
    );
}

#[test]
fn the_log_of_a_node_is_read_to_its_end() {
    let dir = temp();
    let fake = lab(dir.path());
    let event = |number, last| BootEvent {
        number,
        at: Millis(NOW.0),
        mac: Some(mac(last)),
        what: format!("event {number}\x1b"),
    };
    fake.with(|s| s.events = vec![event(1, 5), event(2, 6), event(3, 5)]);
    let log = run(dir.path(), &["boot", "log"]);
    assert_eq!(log.ok().lines().count(), 3);
    assert!(log.ok().contains("event 2?") && log.stderr.contains("br0"), "{}", log.ok());
    assert_eq!(run(dir.path(), &["boot", "log", "n5"]).ok().lines().count(), 2);
    let json = run(dir.path(), &["boot", "log", "--json"]).json();
    assert_eq!(json["events"].as_array().unwrap().len(), 3);
}

#[test]
fn setups_are_checked_and_planned() {
    let dir = temp();
    let fake = lab(dir.path());
    let write = |text: &str| fs::write(dir.path().join("s.toml"), text).unwrap();
    write("name = \"s\"\n[[disk]]\nmatch = {}\nwipe = \"once\"\nimage = \"debian\"\n");
    assert!(run(dir.path(), &["setup", "check", "s.toml"]).ok().contains("s: 1 disk"));
    let plan = ["setup", "plan", "s.toml", "--node", "n5"];
    assert!(run(dir.path(), &plan).failed(1).contains("--inspect"));
    fake.with(|s| s.made.insert(name("n5"), made(Some("gpt"))));
    assert!(run(dir.path(), &plan).ok().contains("ERASE"));
    write("name = \"s\"\n[[disk]]\nmatch = {}\nwype = 1\n");
    assert!(
        run(dir.path(), &["setup", "check", "s.toml"]).failed(1).contains("did you mean `wipe`")
    );
}
