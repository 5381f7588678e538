//! Kickstart (pykickstart's documentation of the syntax): commands, then sections that end with `%end`.

use super::{Clash, Document, Part, line_ended, write_command};

pub(super) fn write(document: &Document) -> Result<String, Clash> {
    let mut out = document.heading("Kickstart");
    for part in &document.parts {
        for (section, text) in [("main", &part.main), ("partitioning", &part.partitioning)] {
            let Some(text) = text else { continue };
            refuse_packages(part, section, text)?;
            out += &format!("\n# {}: {section}\n{}", part.node, line_ended(text));
        }
    }
    // without the section the installer stops and asks
    out += "\n%packages\n";
    for package in document.packages()? {
        if package.starts_with(['%', '#']) {
            let part =
                document.parts.iter().find(|p| p.packages.iter().any(|l| l.trim() == package));
            if let Some(part) = part {
                let reason = format!("{package:?} is no package");
                return Err(part.clash("packages", reason));
            }
        }
        out += &format!("{package}\n");
    }
    out += "%end\n";
    for part in &document.parts {
        for script in &part.pre {
            out += &section("%pre", part, "pre", script)?;
        }
    }
    for part in document.parts.iter().filter(|part| !part.files.is_empty()) {
        let commands: Vec<_> = part.files.iter().map(write_command).collect();
        let script = format!("set -e\n{}\n", commands.join("\n"));
        out += &section("%post", part, "files", &script)?;
    }
    for part in &document.parts {
        for script in &part.post {
            out += &section("%post", part, "post", script)?;
        }
    }
    Ok(out)
}

fn section(kind: &str, part: &Part, what: &'static str, script: &str) -> Result<String, Clash> {
    if script.lines().any(|line| line.trim_start().starts_with("%end")) {
        let reason = "a line begins with %end, which would end the script there";
        return Err(part.clash(what, reason));
    }
    Ok(format!("\n{kind} --erroronfail\n# {}: {what}\n{}%end\n", part.node, line_ended(script)))
}

fn refuse_packages(part: &Part, section: &'static str, text: &str) -> Result<(), Clash> {
    if text.lines().any(|line| line.trim_start().starts_with("%packages")) {
        let reason = "it has a %packages section of its own: list them as packages = [...]";
        return Err(part.clash(section, reason));
    }
    Ok(())
}
