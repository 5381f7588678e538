//! Whoever is no member gets a closed connection, and both sides note why.

use std::time::Duration;

use anyhow::{Result, ensure};
use p2pinst_testnet::{Invite, Node, eventually};

use crate::harness::{SOON, cluster, deb, publish_to_all, scenario};

fn logs(node: &Node, words: &[&str]) -> Result<()> {
    eventually(SOON, &format!("{} notes {words:?}", node.name()), || {
        let log = node.log_text().to_lowercase();
        let found = log.lines().any(|l| words.iter().all(|w| l.contains(w)));
        ensure!(found, "no line of the log has {words:?}");
        Ok(())
    })
}

#[test]
fn a_node_of_another_cluster_is_refused_and_both_note_why() {
    scenario(3, |lab| {
        let [n1, n2, n3] = [lab.node(1)?, lab.node(2)?, lab.node(3)?];
        n1.init()?;
        n2.init_as("other").run()?.ok()?;
        n2.prepare_root()?;
        n2.start()?;
        // n3 is of the cluster of n2, but knows an address of the cluster of n1 as well.
        let doors = [n1.listen(), n2.listen()];
        let doors = Invite::default().with(&["--bootstrap", &doors[0], "--bootstrap", &doors[1]]);
        n3.join(&n2.invite(&doors)?)?;
        n3.sees_up(2, SOON)?;
        logs(n1, &["cluster", "refused"])?;
        logs(n3, &["cluster", "refused"])?;
        ensure!(n1.roster()?.nodes.len() == 1, "n1 has let somebody in");
        Ok(())
    });
}

#[test]
fn noise_on_the_port_does_no_harm() {
    cluster(2, |lab| {
        let [n1, n2] = [lab.node(1)?, lab.node(2)?];
        let target = n1.host().ip.to_string();
        for noise in ["", "GET / HTTP/1.0\\r\\n\\r\\n", "\\x13/multistream/1.0.0\\n"] {
            // Sends, and reads until the other side closes.
            let script = format!(
                "exec 3<>/dev/tcp/{target}/4001; printf '{noise}' >&3; head -c 4096 /dev/urandom \
                 >&3 2>/dev/null; timeout 20 cat <&3 >/dev/null"
            );
            let limit = Duration::from_secs(30);
            let done = n2.host().exec("bash").args(["-c", &script]).limit(limit).run()?;
            ensure!(done.code != Some(124), "the connection was not closed in 20 s: {done}");
        }
        publish_to_all(n1, &deb(lab, "unmoved", "1.0")?, &["--wait"]).run()?.ok()?;
        n2.installs("unmoved", "1.0", SOON)
    });
}
