//! The YAML files: Subiquity's autoinstall and the three of cloud-init's NoCloud source.

use std::fmt::Write;

use super::yaml::Map;
use super::{Clash, Document, Part, line_ended, write_command};
use crate::template::quote::{self, yaml};

/// Autoinstall (Subiquity's reference), in the cloud-config that brings it to the installer.
pub(super) fn autoinstall(document: &Document) -> Result<String, Clash> {
    let ours = ["version", "storage", "packages", "early-commands", "late-commands"];
    let mut main = Map::new("  ", &ours);
    let mut storage = Map::new("    ", &[]);
    for part in &document.parts {
        add(&mut main, part, "main", part.main.as_deref())?;
        add(&mut storage, part, "partitioning", part.partitioning.as_deref())?;
    }
    let mut out = "#cloud-config\n".to_owned() + &document.heading("Autoinstall");
    out += "autoinstall:\n  version: 1\n";
    out += &main.finish();
    let storage = storage.finish();
    if !storage.is_empty() {
        out += "  storage:\n";
        out += &storage;
    }
    list(&mut out, "  ", "packages", document.words()?.into_iter().map(yaml));
    let early = document.parts.iter().flat_map(|p| &p.pre);
    list(&mut out, "  ", "early-commands", early.map(|script| command(&["sh", "-c"], script)));
    let in_target = ["curtin", "in-target", "--", "sh", "-c"];
    let files = document.files().map(write_command);
    let posts = document.parts.iter().flat_map(|p| &p.post).cloned();
    let late = files.chain(posts).map(|script| command(&in_target, &script));
    list(&mut out, "  ", "late-commands", late);
    Ok(out)
}

/// A cloud-config (cloud-init's module reference).
pub(super) fn user_data(document: &Document) -> Result<String, Clash> {
    let mut main = Map::new("", &["packages", "write_files", "bootcmd", "runcmd"]);
    for part in &document.parts {
        add(&mut main, part, "main", part.main.as_deref())?;
        add(&mut main, part, "partitioning", part.partitioning.as_deref())?;
    }
    let mut out = "#cloud-config\n".to_owned() + &document.heading("User data");
    out += &main.finish();
    list(&mut out, "", "packages", document.words()?.into_iter().map(yaml));
    let files = document.files().map(|file| {
        let fields = [
            ("path", yaml(&file.path)),
            ("content", yaml(&file.content)),
            ("permissions", yaml(&file.mode)),
            ("owner", yaml(&file.owner)),
            // users that the machine makes are there only after the first round of files
            ("defer", (file.owner != "root:root").to_string()),
        ];
        fields.map(|(key, value)| format!("{key}: {value}")).join("\n    ")
    });
    list(&mut out, "", "write_files", files);
    let script = |script: &String| command(&["sh", "-c"], script);
    list(&mut out, "", "bootcmd", document.parts.iter().flat_map(|p| &p.pre).map(script));
    list(&mut out, "", "runcmd", document.parts.iter().flat_map(|p| &p.post).map(script));
    Ok(out)
}

/// Instance data of the NoCloud source.
pub(super) fn meta_data(document: &Document) -> Result<String, Clash> {
    let mut main = Map::new("", &["instance-id", "local-hostname"]);
    for part in &document.parts {
        add(&mut main, part, "main", part.main.as_deref())?;
    }
    let (id, name) = (yaml(&document.instance), yaml(document.machine.as_str()));
    let mut out = document.heading("Meta data");
    push(&mut out, format_args!("instance-id: {id}\nlocal-hostname: {name}\n"));
    out += &main.finish();
    Ok(out)
}

/// Network configuration, version 2: DHCP on the machine's interfaces, or what the nodes say instead.
pub(super) fn network_config(document: &Document) -> Result<String, Clash> {
    let mut main = Map::new("", &["version"]);
    for part in &document.parts {
        add(&mut main, part, "main", part.main.as_deref())?;
    }
    let mut out = document.heading("Network configuration") + "version: 2\n";
    let main = main.finish();
    if !main.is_empty() {
        return Ok(out + &main);
    }
    out += "ethernets:\n";
    for (i, mac) in document.macs.iter().enumerate() {
        let mac = yaml(&mac.to_string());
        push(
            &mut out,
            format_args!("  nic{i}:\n    match:\n      macaddress: {mac}\n    dhcp4: true\n"),
        );
        // a cable may be missing
        if i > 0 {
            out += "    optional: true\n";
        }
    }
    if document.macs.is_empty() {
        out += "  all:\n    match:\n      name: \"e*\"\n    dhcp4: true\n";
    }
    Ok(out)
}

fn add(map: &mut Map, part: &Part, section: &'static str, text: Option<&str>) -> Result<(), Clash> {
    text.map_or(Ok(()), |text| map.add(part, section, text))
}

/// A key with a list in block style; nothing when the list is empty.
fn list(out: &mut String, indent: &str, key: &str, items: impl Iterator<Item = String>) {
    for (i, item) in items.enumerate() {
        if i == 0 {
            push(out, format_args!("{indent}{key}:\n"));
        }
        push(out, format_args!("{indent}  - {item}\n"));
    }
}

/// A command as a list of its words; the last is a script.
fn command(words: &[&str], script: &str) -> String {
    let words = words.iter().map(|w| (*w).to_owned()).chain([line_ended(script)]);
    quote::yaml_value(&words.collect())
}

fn push(out: &mut String, what: std::fmt::Arguments<'_>) {
    // writing to a string does not fail
    let _ok = out.write_fmt(what);
}
