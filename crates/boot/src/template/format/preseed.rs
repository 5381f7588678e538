//! Preseed (Debian Installation Guide, appendix B): answers to debconf's questions, one on a line.
//!
//! Scripts and files travel as words of `printf %b`, because a line cannot hold a line break.

use super::{Clash, Document, Part, line_ended, write_command};
use crate::setup::installer::JOIN;
use crate::template::quote;

/// Questions that the skeleton answers, and the sections that nodes write instead.
const OURS: [(&str, &str); 3] = [
    ("pkgsel/include", "packages"),
    ("preseed/early_command", "pre"),
    ("preseed/late_command", "post"),
];

pub(super) fn write(document: &Document) -> Result<String, Clash> {
    // the first line is how debian-installer knows the file
    let mut out = "#_preseed_V1\n".to_owned() + &document.heading("Preseed");
    for part in &document.parts {
        for (section, text) in [("main", &part.main), ("partitioning", &part.partitioning)] {
            let Some(text) = text else { continue };
            refuse_ours(part, section, text)?;
            out += &format!("\n# {}: {section}\n{}", part.node, line_ended(text));
        }
    }
    out += "\n# packages, scripts and files of all nodes\n";
    let packages = document.words()?;
    if !packages.is_empty() {
        out += &format!("d-i pkgsel/include string {}\n", packages.join(" "));
    }
    let early: Vec<_> =
        document.parts.iter().flat_map(|p| &p.pre).enumerate().map(before).collect();
    if !early.is_empty() {
        out += &format!("d-i preseed/early_command string {}\n", early.join(" && "));
    }
    let mut late: Vec<_> = document
        .files()
        .map(|file| format!("in-target sh -c {}", quote::sh(&write_command(file))))
        .collect();
    late.extend(document.parts.iter().flat_map(|p| &p.post).enumerate().map(after));
    // there where a scout has started the installer
    late.push(format!("if [ -e {JOIN} ]; then sh {JOIN} /target; fi"));
    out += &format!("d-i preseed/late_command string {}\n", late.join(" && "));
    Ok(out)
}

fn before((i, script): (usize, &String)) -> String {
    let (content, file) = (quote::printf(script), format!("/tmp/p2pinst-pre-{i}"));
    format!("printf %b {content} > {file} && sh {file}")
}

fn after((i, script): (usize, &String)) -> String {
    let (content, file) = (quote::printf(script), format!("/root/p2pinst-post-{i}"));
    format!("printf %b {content} > /target{file} && in-target sh {file} && rm -f /target{file}")
}

fn refuse_ours(part: &Part, section: &'static str, text: &str) -> Result<(), Clash> {
    let asked = |question: &str| {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        lines.into_iter().any(|line| line.split_whitespace().nth(1) == Some(question))
    };
    match OURS.iter().find(|(question, _)| asked(question)) {
        Some((question, instead)) => {
            let reason =
                format!("it answers {question}, which only one can: use the section {instead}");
            Err(part.clash(section, reason))
        }
        None => Ok(()),
    }
}
