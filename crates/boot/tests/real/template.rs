//! Rendered files before the programs that read them: pykickstart, debconf, cloud-init, PyYAML, a shell in a root of its own.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use p2pinst_boot::template::confined::{self, ConfinedError};
use p2pinst_boot::template::{
    Attributes, Files, Format, Graph, Mirror, Partition, Rendered, pack, render,
};
use p2pinst_command::{ask, ask_within, clean};
use p2pinst_types::name::{Name, parse_label};
use p2pinst_types::record::Inventory;
use serde_json::Value;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn machine() -> Attributes {
    let mut machine = Attributes::new(name("lab"), name("node001"), name("pisa"));
    machine.labels = [parse_label("gpu=true").unwrap()].into();
    machine.macs = vec!["52:54:00:00:00:01".parse().unwrap()];
    let inventory =
        r#"{"firmware":"uefi","arch":"x86_64","cpus":8,"memory":1024,"disks":[],"nics":[]}"#;
    let mut inventory: Inventory = serde_json::from_str(inventory).unwrap();
    inventory.product = Some("it's $(reboot) \"\\".to_owned());
    machine.inventory = Some(inventory);
    machine.partitions = vec![Partition {
        disk: "/dev/sda".to_owned(),
        serial: Some("S \"1\": #'é\n".to_owned()),
        device: "/dev/sda1".to_owned(),
        label: "root".to_owned(),
        size: 8 << 30,
        filesystem: Some("ext4".to_owned()),
        mount: Some("/".to_owned()),
    }];
    machine.mirrors = ["n1", "n2"]
        .map(|peer| Mirror {
            repository: name("debian"),
            peer: peer.to_owned(),
            url: format!("http://{peer}.lab:8080/debian"),
        })
        .into();
    machine
}

fn example() -> Files {
    Files::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/template/graph")).unwrap()
}

/// A rendered file of the example, on disk.
fn written(dir: &Path, appliance: &str, format: Format) -> (String, String) {
    let graph = Graph::parse(&example()).unwrap();
    let Rendered { text, .. } = render(&graph, &name(appliance), format, &machine()).unwrap();
    let path = dir.join(format!("{appliance}.{format}"));
    fs::write(&path, &text).unwrap();
    (path.to_str().unwrap().to_owned(), text)
}

/// A program, unless it is missing, which is said.
fn program(name: &str, from: &str) -> Option<Command> {
    let there = std::env::var("PATH").unwrap_or_default();
    let found = there
        .split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: {name} is missing ({from})");
    }
    found.map(|path| clean(path.to_str().unwrap()))
}

/// Whether a program takes a file, and what it says.
fn takes(mut command: Command, args: &[&str]) -> (bool, String) {
    command.args(args);
    let said = ask_within(command, b"", 1 << 20, Duration::from_secs(120)).unwrap();
    let out = String::from_utf8_lossy(&said.stdout).into_owned();
    (said.success, out + &said.stderr)
}

#[test]
fn pykickstart_takes_the_kickstart() {
    let validator = || program("ksvalidator", "pip install pykickstart");
    let dir = tempfile::tempdir().unwrap();
    for appliance in ["compute", "login"] {
        let Some(ksvalidator) = validator() else { return };
        let (path, text) = written(dir.path(), appliance, Format::Kickstart);
        let (taken, said) = takes(ksvalidator, &["-v", "RHEL9", &path]);
        assert!(taken, "{said}");
        fs::write(&path, text.replace("reboot\n", "rebooot\n")).unwrap();
        assert!(!takes(validator().unwrap(), &["-v", "RHEL9", &path]).0, "it takes anything");
    }
}

#[test]
fn debconf_takes_the_preseed() {
    let Some(debconf) = program("debconf-set-selections", "apt-get install debconf") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (path, text) = written(dir.path(), "compute", Format::Preseed);
    assert_eq!(takes(debconf, &["-c", &path]), (true, String::new()));
    fs::write(&path, text.replace(" string node001", " strnig node001")).unwrap();
    let debconf = program("debconf-set-selections", "apt-get install debconf").unwrap();
    assert!(takes(debconf, &["-c", &path]).1.contains("strnig"), "it takes anything");
}

#[test]
fn cloud_init_takes_the_user_data() {
    let dir = tempfile::tempdir().unwrap();
    for format in [Format::UserData, Format::Autoinstall] {
        let Some(schema) = program("cloud-init", "apt-get install cloud-init") else { return };
        let (path, _) = written(dir.path(), "compute", format);
        let (taken, said) = takes(schema, &["schema", "--config-file", &path]);
        assert!(taken, "{said}");
    }
    let Some(schema) = program("cloud-init", "apt-get install cloud-init") else { return };
    let (path, text) = written(dir.path(), "compute", Format::UserData);
    fs::write(&path, text.replace("write_files:", "write_files: 1\nx:")).unwrap();
    assert!(!takes(schema, &["schema", "--config-file", &path]).0, "it takes anything");
}

/// A YAML file as another reader understands it.
fn yaml(path: &str) -> Option<Value> {
    let read = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let mut python = clean("python3");
    python.args(["-c", read, path]);
    let said = ask(python, 1 << 20).unwrap();
    if said.stderr.contains("No module named") {
        eprintln!("SKIPPED: python3 has no yaml (apt-get install python3-yaml)");
        return None;
    }
    assert!(said.success, "{}", said.stderr);
    Some(serde_json::from_slice(&said.stdout).unwrap())
}

#[test]
fn another_reader_of_yaml_finds_what_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let read = |appliance, format| yaml(&written(dir.path(), appliance, format).0);
    let Some(install) = read("compute", Format::Autoinstall) else { return };
    let install = &install["autoinstall"];
    assert_eq!(install["version"], 1);
    assert_eq!(install["storage"]["layout"]["match"]["serial"], "S \"1\": #'é\n");
    assert_eq!(install["packages"][0], "openssh-server");
    let late = install["late-commands"].as_array().unwrap();
    assert_eq!(late.len(), 5);
    let last = late[4].as_array().unwrap();
    assert_eq!(&last[..5], ["curtin", "in-target", "--", "sh", "-c"]);
    let script = "set -e\necho 'it'\\''s $(reboot) \"\\' 1.0-1 >> /root/product\n";
    assert_eq!(last[5], script);

    let user = read("compute", Format::UserData).unwrap();
    let motd = "Welcome to node001, of lab at pisa.\nIt's \\ a compute.\n";
    assert_eq!(user["write_files"][0]["content"], motd);
    assert_eq!(user["write_files"][0]["permissions"], "0644", "a text, as cloud-init wants it");
    assert_eq!(user["runcmd"][2][2], script);
    let meta = read("login", Format::MetaData).unwrap();
    assert_eq!((&meta["local-hostname"], &meta["cluster"]), (&"node001".into(), &"lab".into()));
    let network = read("compute", Format::NetworkConfig).unwrap();
    assert_eq!(network["ethernets"]["nic0"]["match"]["macaddress"], "52:54:00:00:00:01");
}

/// debian-installer's world: busybox, a target that has one too, and `in-target`.
fn installer(root: &Path, busybox: &Path) {
    for dir in ["bin", "tmp", "target/bin", "target/root", "target/etc/chrony"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for system in [root.to_owned(), root.join("target")] {
        fs::copy(busybox, system.join("bin/busybox")).unwrap();
        for applet in ["sh", "mkdir", "chown", "chmod", "chroot", "cat", "rm"] {
            symlink("busybox", system.join("bin").join(applet)).unwrap();
        }
    }
    fs::create_dir_all(root.join("target/etc/modprobe.d")).unwrap();
    fs::write(root.join("target/etc/passwd"), "root:x:0:0::/:/bin/sh\nmunge:x:71:72::/:\n")
        .unwrap();
    fs::write(root.join("target/etc/group"), "root:x:0:\nmunge:x:72:\n").unwrap();
    let in_target = root.join("bin/in-target");
    fs::write(&in_target, "#!/bin/sh\nexec chroot /target \"$@\"\n").unwrap();
    fs::set_permissions(&in_target, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn the_commands_of_the_preseed_do_what_they_say() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root (chroot)");
        return;
    }
    let Some(busybox) = program("busybox", "apt-get install busybox-static") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (_, text) = written(dir.path(), "compute", Format::Preseed);
    let root = dir.path().join("root");
    installer(&root, Path::new(busybox.get_program()));
    for question in ["preseed/early_command", "preseed/late_command"] {
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("d-i {question} string ")));
        let mut chroot = clean("chroot");
        // as debian-installer runs them: the word is a script of its shell
        chroot.arg(&root).args(["/bin/sh", "-c", line.unwrap()]).env("PATH", "/bin");
        let said = ask_within(chroot, b"", 1 << 16, Duration::from_secs(60)).unwrap();
        assert!(said.success, "{question}: {}", said.stderr);
        if question.ends_with("early_command") {
            assert_eq!(said.stdout, b"installing node001\n");
        }
    }
    let read = |path: &str| fs::read_to_string(root.join("target").join(path)).unwrap();
    assert_eq!(read("etc/motd"), "Welcome to node001, of lab at pisa.\nIt's \\ a compute.\n");
    assert_eq!(read("etc/chrony/chrony.conf"), "server n1 iburst\nserver n2 iburst\n");
    assert_eq!(read("root/product"), "it's $(reboot) \"\\ 1.0-1\n");
    let key = fs::metadata(root.join("target/etc/slurm/munge.key")).unwrap();
    assert_eq!((key.uid(), key.gid(), key.mode() & 0o7777), (71, 72, 0o400));
    assert_eq!(fs::read_dir(root.join("target/root")).unwrap().count(), 1, "scripts are gone");
}

/// Set where this test binary is started as the process that renders.
const WORKER: &str = "P2PINST_TEST_RENDERS";

/// The process that renders, when the tests below start it; nothing otherwise.
#[test]
fn worker() {
    if std::env::var_os(WORKER).is_none() {
        return;
    }
    // the test runner's own words are on the standard output
    let answer = fs::File::options().write(true).open("/proc/self/fd/3").unwrap();
    confined::serve(std::io::stdin(), answer).unwrap();
    std::process::exit(0);
}

fn start_worker() -> Command {
    let mut command = clean("sh");
    let script = r#"exec 3>&1 >/dev/null; exec "$0" --exact template::worker --nocapture"#;
    command.args(["-c", script]).arg(std::env::current_exe().unwrap()).env(WORKER, "1");
    command
}

fn confined(post: &str) -> Result<Rendered, ConfinedError> {
    let mut files = Files::new();
    files.insert("graph.toml", "[appliances]\na = \"\"\n".to_owned()).unwrap();
    files.insert("nodes/a.toml", "post = { file = \"t\" }".to_owned()).unwrap();
    files.insert("templates/t", post.to_owned()).unwrap();
    let archive = pack(&files).unwrap();
    confined::render(start_worker(), &archive, None, Format::Kickstart, &machine())
}

#[test]
fn a_process_of_its_own_renders_the_same() {
    let archive = pack(&example()).unwrap();
    let graph = Graph::parse(&example()).unwrap();
    for format in Format::ALL {
        let compute = name("compute");
        let there = confined::render(start_worker(), &archive, Some(&compute), format, &machine());
        assert_eq!(there.unwrap(), render(&graph, &compute, format, &machine()).unwrap());
    }
    let refused = confined("{{ wrong }}").unwrap_err();
    assert!(matches!(refused, ConfinedError::Refused(_)), "{refused:?}");
    assert!(refused.to_string().contains("templates/t:1: wrong is undefined"), "{refused}");
    let compute = name("compute");
    let torn =
        confined::render(start_worker(), &[1; 700], Some(&compute), Format::Preseed, &machine());
    assert!(matches!(torn, Err(ConfinedError::Refused(_))), "{torn:?}");
}

#[test]
fn who_takes_all_memory_or_time_is_stopped_alone() {
    let doubling =
        "{% set a = 'x' * 90000000 %}{% set b = a ~ a %}{% set c = b ~ b %}{% set d = c ~ c %}";
    let busy =
        "{% for i in range(90000) %}{% if 'y' in (i | string) * 9000000 %}{% endif %}{% endfor %}";
    for hostile in [doubling, busy] {
        let started = Instant::now();
        let stopped = confined(hostile);
        let is_stopped = matches!(stopped, Err(ConfinedError::Stopped { .. }));
        assert!(is_stopped, "{hostile}: {stopped:?}");
        assert!(started.elapsed() < Duration::from_secs(61), "{:?}", started.elapsed());
    }
}
