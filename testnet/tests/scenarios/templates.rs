//! Templates: published on one node, shown on another, and rendered by a scout into the system that it installs.

use std::fs;

use anyhow::{Context as _, ensure};
use p2pinst_testnet::wait::eventually;
use p2pinst_testnet::{Invite, Node};
use serde::Deserialize;

use crate::blank::{Blank, SETUP, cluster_file, lacks_disks, tree};
use crate::harness::{LATER, scenario};
use crate::repository::arm;

const GRAPH: &str = r#"
[appliances]
compute = "computes"
login = "people"

[[edge]]
from = "compute"
to = "gpu"
when = "gpu=true"
"#;
const COMPUTE: &str = r#"
[user-data]
main = """
hostname: {{ name }}
final_message: "{{ site }} {{ labels.gpu }} {{ macs[0] }} {{ groups | join(',') }} {{ partitions[0].mount }} {{ appliance }}"
"""
"#;
const GPU: &str = "packages = [\"nvidia-driver\"]\n";
/// What is rendered into the system besides.
const FILE: &str = r#"
[[file]]
path = "/var/lib/cloud/seed/nocloud/user-data"
template = "site"
appliance = "compute"
"#;

#[derive(Debug, Deserialize)]
struct Rendered {
    appliance: String,
    nodes: Vec<String>,
    text: String,
}

#[test]
fn a_scout_renders_what_the_setup_wants() {
    if lacks_disks() {
        return;
    }
    scenario(3, |lab| {
        lab.form(2, &Invite::default())?;
        let (n1, n2) = (lab.node(1)?, lab.node(2)?);
        n1.ok(["grant", "n2", "--role", "boot"])?;
        arm(n2)?;
        let site = lab.dir().join("site");
        fs::create_dir_all(site.join("nodes")).context("cannot make a directory")?;
        let write =
            |name: &str, text: &str| fs::write(site.join(name), text).context("cannot write");
        write("graph.toml", GRAPH)?;
        write("nodes/compute.toml", COMPUTE)?;
        write("nodes/gpu.toml", GPU)?;
        let site = site.to_str().context("no text")?;
        n1.ok(["template", "publish", site, "--name", "site"])?;
        let tar = tree(lab, "tree", &[])?;
        n1.cli(["image", "publish"]).arg(&tar).args(["--name", "tree"]).limit(LATER).run()?.ok()?;

        // the machine: a namespace with a disk
        let blank = Blank::new(lab, lab.node(3)?)?;
        let mac = blank.mac()?;
        n1.ok(["machine", "adopt", &mac, "--name", "b1", "--label", "gpu=true"])?;
        let setup = lab.dir().join("setup.toml");
        let ordered = |n: &Node, text: &str| {
            fs::write(&setup, text).context("cannot write")?;
            let deploy = n.cli(["deploy", "--setup"]).arg(&setup);
            deploy.args(["--nodes", "b1", "--power", "none", "--yes"]).run()
        };
        let document = format!("{SETUP}{FILE}");
        let missing = ordered(n1, &document.replace("\"site\"", "\"none\""))?.fails_with(1)?;
        ensure!(missing.stderr.contains("none"), "{missing}");
        ordered(n1, &document)?.ok()?;

        blank.scout(&cluster_file(lab, n1)?, &[n2], LATER)?.installed()?;
        let text = blank.read("var/lib/cloud/seed/nocloud/user-data")?;
        let text = String::from_utf8_lossy(&text);
        ensure!(text.contains("hostname: b1"), "{text}");
        ensure!(text.contains(&format!("true {mac} all")), "{text}");
        ensure!(text.contains("/ compute") && text.contains("nvidia-driver"), "{text}");
        // shown by a node that did not publish it, from what the scout has told
        let shown: Rendered = eventually(LATER, "it is rendered", || {
            let render = n2.cli(["render", "b1", "user-data", "--appliance", "compute", "--json"]);
            render.arg("--setup").arg(&setup).run()?.ok()?.json()
        })?;
        ensure!((shown.appliance.as_str(), shown.nodes.len()) == ("compute", 2), "{shown:?}");
        ensure!(shown.text.trim() == text.trim(), "{}\n{text}", shown.text);
        let which = n2.refused(1, ["render", "b1", "user-data"])?;
        ensure!(which.stderr.contains("compute, login"), "{which}");
        Ok(())
    });
}
