use std::path::{Path, PathBuf};

use p2pinst_types::record::hardware::{Firmware, Inventory};

use super::*;
use crate::template::attributes::{Mirror, Partition};
use crate::template::files::Files;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/template")
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn machine() -> Attributes {
    let mut machine = Attributes::new(name("lab"), name("node001"), name("pisa"));
    machine.labels = [p2pinst_types::name::parse_label("gpu=true").unwrap()].into();
    machine.macs = ["52:54:00:00:00:01", "52:54:00:00:00:02"].map(|m| m.parse().unwrap()).into();
    let inventory =
        r#"{"firmware":"uefi","arch":"x86_64","cpus":8,"memory":1024,"disks":[],"nics":[]}"#;
    let mut inventory: Inventory = serde_json::from_str(inventory).unwrap();
    assert_eq!(inventory.firmware, Firmware::Uefi);
    inventory.product = Some("it's".to_owned());
    machine.inventory = Some(inventory);
    let partition = |n: u8, filesystem: &str, mount: Option<&str>, mib: u64| Partition {
        disk: "/dev/sda".to_owned(),
        serial: Some("S1".to_owned()),
        device: format!("/dev/sda{n}"),
        label: filesystem.to_owned(),
        size: mib << 20,
        filesystem: Some(filesystem.to_owned()),
        mount: mount.map(str::to_owned),
    };
    machine.partitions = vec![
        partition(1, "efi", Some("/boot/efi"), 512),
        partition(2, "bios", None, 1),
        partition(3, "ext4", Some("/"), 8192),
    ];
    machine.mirrors = ["n1", "n2"]
        .map(|peer| Mirror {
            repository: name("debian"),
            peer: peer.to_owned(),
            url: format!("http://{peer}.lab:8080/debian"),
        })
        .into();
    machine
}

fn example(appliance: &str, format: Format) -> Rendered {
    let graph = Graph::parse(&Files::read(&dir().join("graph")).unwrap()).unwrap();
    render(&graph, &name(appliance), format, &machine()).unwrap()
}

/// Written anew with P2PINST_GOLDEN=write, to be read before it is believed.
#[test]
fn golden() {
    for appliance in ["compute", "login"] {
        for format in Format::ALL {
            let rendered = example(appliance, format);
            let path = dir().join(format!("golden/{appliance}.{format}"));
            if std::env::var_os("P2PINST_GOLDEN").is_some() {
                std::fs::write(&path, &rendered.text).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap();
            assert_eq!(rendered.text, golden, "{}", path.display());
        }
    }
}

#[test]
fn the_nodes_are_named_in_their_order() {
    let nodes = |appliance: &str| {
        let nodes = example(appliance, Format::Kickstart).nodes;
        nodes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(nodes("compute"), ["base", "ntp", "gpu", "slurm"]);
    assert_eq!(nodes("login"), ["base", "ntp", "login"]);
}

/// What becomes of one node with this text as its post script.
fn post(text: &str) -> Result<Rendered, RenderError> {
    let mut files = Files::new();
    let graph = "[appliances]\na = \"\"\n[attributes]\nempty = \"\"\n";
    files.insert("graph.toml", graph.to_owned()).unwrap();
    let node = "# two lines\n# before it\npost = { file = \"dir/post.sh\" }\n";
    files.insert("nodes/a.toml", node.to_owned()).unwrap();
    files.insert("templates/dir/post.sh", text.to_owned()).unwrap();
    files.insert("templates/inner", "ok\n{{ labels.rack }}\n".to_owned()).unwrap();
    files.insert("templates/loop", "{% include 'loop' %}".to_owned()).unwrap();
    let graph = Graph::parse(&files).unwrap();
    render(&graph, &name("a"), Format::Kickstart, &machine())
}

fn refused(text: &str) -> String {
    post(text).unwrap_err().to_string()
}

#[test]
fn what_is_undefined_is_named() {
    let place = "templates/dir/post.sh";
    for (text, said) in [
        ("a\nb {{ nmae }}\n", ":2: nmae is undefined"),
        ("{{ labels.rack }}", ":1: labels.rack is undefined"),
        ("\n\n{% for x in peers %}{% endfor %}", ":3: peers is undefined"),
        ("{{ inventory.serial | sh }}", ":1: inventory.serial"),
        ("{{ nmae | yaml }}", ":1: nmae"),
        ("{{ none }}", ":1: the value is none"),
        ("{{ none | sh }}", ":1: the value is none"),
        ("{{ debug() }}", ":1: "),
        ("{{ 1 + name }}", ":1: "),
        ("{{ name | no }}", ":1: "),
    ] {
        let refused = refused(text);
        assert!(refused.starts_with(&format!("{place}{said}")), "{text}: {refused}");
        assert!(refused.contains("(for node001)"), "{refused}");
    }
    let inner = refused("line\n{% include 'inner' %}");
    assert!(inner.starts_with("templates/inner:2: labels.rack is undefined"), "{inner}");
    for fine in ["{{ labels.rack | default('x') }}", "{% if labels.rack is defined %}{% endif %}"] {
        post(fine).unwrap();
    }
}

#[test]
fn sections_in_nodes_have_the_lines_of_their_file() {
    let mut files = Files::new();
    files.insert("graph.toml", "[appliances]\na = \"\"\n".to_owned()).unwrap();
    let node = "description = \"x\"\n\npost = \"\"\"\nfine\n{{ wrong }}\n\"\"\"\n";
    files.insert("nodes/a.toml", node.to_owned()).unwrap();
    let graph = Graph::parse(&files).unwrap();
    let refused = render(&graph, &name("a"), Format::Preseed, &machine()).unwrap_err();
    assert!(refused.to_string().starts_with("nodes/a.toml:5: wrong is undefined"), "{refused}");
}

#[test]
fn templates_see_no_other_files() {
    for outside in ["/etc/hostname", "../graph.toml", "graph.toml", "../../../etc/hostname"] {
        for how in ["include", "extends", "import"] {
            let text = match how {
                "import" => format!("{{% import '{outside}' as x %}}"),
                _ => format!("{{% {how} '{outside}' %}}"),
            };
            let refused = refused(&text);
            assert!(refused.contains(outside), "{text}: {refused}");
        }
    }
}

#[test]
fn hostile_templates_end() {
    for (text, said) in [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"),
        ("{% include 'loop' %}", "recursion"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ 'x' * 5000000 }}", "bytes"),
        ("{% for a in range(9999) %}{{ 'x' * 5000 }}{% endfor %}", "bytes"),
        ("{{ 'x' * 50000000000 }}", "large"),
        ("{% for a in range(9999999) %}{% endfor %}", "range"),
    ] {
        let started = std::time::Instant::now();
        let refused = refused(text);
        assert!(refused.contains(said), "{text}: {refused}");
        assert!(started.elapsed().as_secs() < 20, "{text}: {:?}", started.elapsed());
    }
}

#[test]
fn bounds_are_those_of_the_whole_file() {
    let mut files = Files::new();
    let mut graph = "[appliances]\na = \"\"\n".to_owned();
    for i in 0..20 {
        let node = "post = \"{% for a in range(90000) %}{% endfor %}\"";
        files.insert(&format!("nodes/n{i}.toml"), node.to_owned()).unwrap();
        graph += &format!("[[edge]]\nfrom = \"a\"\nto = \"n{i}\"\n");
    }
    files.insert("graph.toml", graph).unwrap();
    let graph = Graph::parse(&files).unwrap();
    let refused = render(&graph, &name("a"), Format::Kickstart, &machine()).unwrap_err();
    assert!(refused.to_string().contains("steps"), "{refused}");
}

#[test]
fn a_script_that_a_condition_empties_is_none() {
    let rendered = post("{% if site == 'rome' %}\nx\n{% endif %}\n").unwrap();
    assert!(!rendered.text.contains("%post"), "{}", rendered.text);
}

proptest::proptest! {
    #[test]
    fn any_template_ends(text in "[{}%a-z.()|'*~ 0-9\n]{0,120}") {
        let mut files = Files::new();
        files.insert("graph.toml", "[appliances]\na = \"\"\n".to_owned()).unwrap();
        files.insert("templates/t", text).unwrap();
        files.insert("nodes/a.toml", "post = { file = \"t\" }".to_owned()).unwrap();
        if let Ok(graph) = Graph::parse(&files) {
            let _rendered = render(&graph, &name("a"), Format::Preseed, &machine());
        }
    }
}

#[test]
fn an_appliance_is_asked_for_labelled_or_the_only_one() {
    let graph = |appliances: &str| {
        let mut files = Files::new();
        files.insert("graph.toml", format!("[appliances]\n{appliances}")).unwrap();
        Graph::parse(&files).unwrap()
    };
    let (one, two) = (graph("a = \"\"\n"), graph("a = \"\"\nb = \"\"\n"));
    let mut machine = machine();
    assert_eq!(one.choose(None, &machine).unwrap(), name("a"));
    let which = two.choose(None, &machine).unwrap_err().to_string();
    assert!(which.contains("node001 becomes") && which.ends_with("has: a, b"), "{which}");
    let label = p2pinst_types::name::parse_label("appliance=b").unwrap();
    machine.labels.extend([label]);
    assert_eq!(two.choose(None, &machine).unwrap(), name("b"));
    assert_eq!(two.choose(Some(&name("a")), &machine).unwrap(), name("a"));
    // what the graph does not have is found out by rendering, also where it has one alone
    assert_eq!(one.choose(None, &machine).unwrap(), name("b"));
    assert!(matches!(
        render(&one, &name("b"), Format::Kickstart, &machine),
        Err(RenderError::Appliance(_))
    ));
}

#[test]
fn mirrors_say_where_peers_hand_packages_out() {
    let at = |peer: &str| Mirror::at(&name("debian"), peer.parse().unwrap());
    assert_eq!(at("10.0.0.1:4080").url, "http://10.0.0.1:4080/boot/mirror/debian");
    assert_eq!(at("10.0.0.1:80").url, "http://10.0.0.1/boot/mirror/debian");
    assert_eq!(at("[2001:db8::1]:80").url, "http://[2001:db8::1]/boot/mirror/debian");
}
