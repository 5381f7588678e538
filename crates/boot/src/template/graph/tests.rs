use proptest::prelude::*;

use super::*;
use crate::template::attributes::Attributes;
use crate::template::files::Files;

pub(crate) fn files(texts: &[(&str, &str)]) -> Files {
    let mut files = Files::new();
    for (name, text) in texts {
        files.insert(name, (*text).to_owned()).unwrap();
    }
    files
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn machine(labels: &[&str]) -> Attributes {
    let mut machine = Attributes::new(name("lab"), name("node001"), name("pisa"));
    machine.labels = labels.iter().map(|l| p2pinst_types::name::parse_label(l).unwrap()).collect();
    machine.os = Some("debian-12".to_owned().try_into().unwrap());
    machine
}

fn order(graph: &Graph, appliance: &str, labels: &[&str]) -> Vec<String> {
    let (machine, appliance) = (machine(labels), name(appliance));
    let facts = machine.facts(&appliance, Format::Preseed);
    let nodes = graph.traverse(&appliance, &facts).unwrap();
    nodes.iter().map(|node| node.name.to_string()).collect()
}

fn problems(texts: &[(&str, &str)]) -> Vec<String> {
    let error = Graph::parse(&files(texts)).unwrap_err();
    error.problems.iter().map(ToString::to_string).collect()
}

const GRAPH: &str = r#"
[appliances]
compute = "computes"
login = "people log in"

[attributes]
timezone = "Europe/Rome"

[[edge]]
from = "compute"
to = ["slurm", "mpi"]

[[edge]]
from = "compute"
to = "gpu"
when = "gpu=true && os=debian-12"

[[edge]]
from = "login"
to = ["desktop", "slurm"]

[[edge]]
from = "slurm"
to = "base"

[[edge]]
from = "mpi"
to = "base"

[[edge]]
from = "gpu"
to = "base"

[[edge]]
from = "desktop"
to = "base"
when = "format!=kickstart"

[[order]]
first = "gpu"
then = "mpi"
"#;

fn graph() -> Graph {
    let nodes = ["base", "slurm", "mpi", "gpu", "desktop", "login"];
    let names = nodes.map(|n| format!("nodes/{n}.toml"));
    let mut texts: Vec<_> = names.iter().map(|n| (n.as_str(), "")).collect();
    texts.push(("graph.toml", GRAPH));
    Graph::parse(&files(&texts)).unwrap()
}

#[test]
fn parts_come_before_what_they_are_part_of() {
    let graph = graph();
    assert_eq!(order(&graph, "compute", &[]), ["base", "slurm", "mpi"]);
    // the order asks for no more than that gpu comes before mpi
    assert_eq!(order(&graph, "compute", &["gpu=true"]), ["base", "slurm", "gpu", "mpi"]);
    assert_eq!(order(&graph, "compute", &["gpu=false"]), ["base", "slurm", "mpi"]);
    assert_eq!(
        order(&graph, "login", &[]),
        ["base", "desktop", "slurm", "login"],
        "an appliance's own fragment is the last"
    );
    let machine = machine(&[]);
    let appliance = name("storage");
    let facts = machine.facts(&appliance, Format::Preseed);
    let error = graph.traverse(&appliance, &facts).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no appliance storage in the graph; it has: compute, login"
    );
}

#[test]
fn what_was_found_out_wins_over_labels() {
    let graph = graph();
    let labels = ["gpu=true", "os=plan-9", "format=kickstart"];
    assert_eq!(order(&graph, "compute", &labels), ["base", "slurm", "gpu", "mpi"]);
}

#[test]
fn all_problems_are_told_at_once() {
    let edges = "[appliances]\ncompute = \"\"\n\"a b\" = \"\"\n\n[attributes]\ntime-zone = 1\n\n\
        [[edge]]\nfrom = \"compute\"\nto = [\"base\", \"bse\"]\n\n\
        [[edge]]\nfrom = \"compute\"\nto = \"base\"\nwhen = \"gpu>1\"\n\n\
        [[order]]\nfirst = \"base\"\nthen = \"late\"\n";
    let base = "packages = [\"vim\", \"{{ x\"]\n\
        [pre]\nfile = \"no.sh\"\n\n[kickstart]\nmain = \"\"\"\nlang en\n{% if %}\n\"\"\"\n\n\
        [[files]]\npath = \"etc/motd\"\ncontent = \"\"\n\
        [[files]]\npath = \"/etc/motd\"\nmode = \"8\"\ncontent = \"\"\n";
    let found = problems(&[
        ("graph.toml", edges),
        ("more.toml", "[[edge]]\nform = \"x\"\n"),
        ("nodes/base.toml", base),
        ("nodes/meta.toml", "[meta-data]\npackages = []\n"),
        ("templates/a.sh", "line\n{{ 1 + }}\n"),
        ("README.md", "{{ not a template"),
    ]);
    let expected = [
        ("graph.toml:3: ", "\"a b\" is not a name"),
        ("graph.toml:6: ", "templates cannot name \"time-zone\""),
        ("graph.toml:10: ", "there is neither a node bse (nodes/bse.toml)"),
        ("graph.toml:15: ", "selector: \"gpu>1\""),
        ("graph.toml:19: ", "neither a node late"),
        ("more.toml:2: ", "unknown field `form`"),
        ("nodes/base.toml:1: ", "unexpected end of input"),
        ("nodes/base.toml:2: ", "there is no file templates/no.sh"),
        ("nodes/base.toml:8: ", "unexpected end of block"),
        ("nodes/base.toml:11: ", "\"etc/motd\" is no path"),
        ("nodes/base.toml:14: ", "\"8\" is no mode"),
        ("nodes/meta.toml:2: ", "unknown field `packages`"),
        ("templates/a.sh:2: ", "unexpected end of variable block"),
    ];
    for (problem, (place, reason)) in found.iter().zip(expected) {
        assert!(
            problem.starts_with(place) && problem.contains(reason),
            "{problem}, not {place}{reason}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn a_graph_needs_an_appliance() {
    assert_eq!(problems(&[]).len(), 1);
    assert!(problems(&[("graph.toml", "")])[0].contains("there is no appliance"));
    let two =
        problems(&[("a.toml", "[appliances]\nx = \"\"\n"), ("b.toml", "[appliances]\nx = \"\"\n")]);
    assert_eq!(two, ["b.toml:2: the appliance x is there twice"]);
}

#[test]
fn circles_are_named() {
    let edges = "[appliances]\na = \"\"\n[[edge]]\nfrom = \"a\"\nto = \"b\"\n\
        [[edge]]\nfrom = \"b\"\nto = \"c\"\nwhen = \"x\"\n[[edge]]\nfrom = \"c\"\nto = \"d\"\n";
    let closed = format!("{edges}[[edge]]\nfrom = \"d\"\nto = \"b\"\nwhen = \"!x\"\n");
    let nodes = ["b", "c", "d"].map(|n| format!("nodes/{n}.toml"));
    let with = |graph: &str| {
        let mut texts: Vec<_> = nodes.iter().map(|n| (n.as_str(), "")).collect();
        texts.push(("graph.toml", graph));
        problems(&texts)
    };
    let found = with(&closed);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("graph.toml:5: a circle"), "{found:?}");
    assert!(found[0].ends_with("b → c → d → b"), "{found:?}");
    let ordered = format!("{edges}[[order]]\nfirst = \"b\"\nthen = \"d\"\n");
    assert!(with(&ordered)[0].ends_with("b → c → d → b"));
    let own = format!("{edges}[[edge]]\nfrom = \"b\"\nto = \"b\"\n");
    assert!(with(&own)[0].ends_with(": b → b"));
}

type Pairs = Vec<(usize, usize)>;

/// A graph without circles: edges lead from smaller numbers to larger ones.
fn any_graph() -> impl Strategy<Value = (usize, Pairs, Pairs)> {
    (2usize..25).prop_flat_map(|n| {
        let pair = move || (0..n, 0..n).prop_filter("no circle", |(a, b)| a < b);
        (Just(n), prop::collection::vec(pair(), 0..60), prop::collection::vec(pair(), 0..10))
    })
}

proptest! {
    #[test]
    fn each_once_and_after_what_it_needs((n, edges, orders) in any_graph()) {
        let mut text = "[appliances]\nn0 = \"\"\n".to_owned();
        for (from, to) in &edges {
            text += &format!("[[edge]]\nfrom = \"n{from}\"\nto = \"n{to}\"\n");
        }
        for (then, first) in &orders {
            text += &format!("[[order]]\nfirst = \"n{first}\"\nthen = \"n{then}\"\n");
        }
        let names: Vec<_> = (0..n).map(|i| format!("nodes/n{i}.toml")).collect();
        let mut texts: Vec<_> = names.iter().map(|n| (n.as_str(), "")).collect();
        texts.push(("graph.toml", &text));
        let graph = Graph::parse(&files(&texts)).unwrap();
        let got = order(&graph, "n0", &[]);
        prop_assert_eq!(&got, &order(&Graph::parse(&files(&texts)).unwrap(), "n0", &[]));

        let mut reached = BTreeSet::from([0]);
        for _round in 0..n {
            reached.extend(edges.iter().filter(|(f, _)| reached.contains(f)).map(|(_, t)| *t).collect::<Vec<_>>());
        }
        let set: BTreeSet<_> = got.iter().cloned().collect();
        prop_assert_eq!(set.len(), got.len());
        prop_assert_eq!(set, reached.iter().map(|i| format!("n{i}")).collect::<BTreeSet<_>>());
        let at = |i: usize| got.iter().position(|n| *n == format!("n{i}"));
        for (then, first) in edges.iter().chain(&orders).filter(|(t, _)| reached.contains(t)) {
            if let (Some(first), Some(then)) = (at(*first), at(*then)) {
                prop_assert!(first < then);
            }
        }
    }

    #[test]
    fn any_text_is_read_or_refused(graph in "[a-z\\[\\]=\"{}.#\n ']{0,200}", node in "\\PC{0,200}") {
        let _read = Graph::parse(&files(&[("graph.toml", &graph), ("nodes/a.toml", &node), ("templates/t", &node)]));
    }
}
