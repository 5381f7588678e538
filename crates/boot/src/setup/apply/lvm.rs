//! Volume groups and volumes. LVM is shown the devices that it is for and no other, whatever is on the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use p2pinst_types::Name;
use serde::Deserialize;

use super::ApplyError;
use super::tool::Tool;
use crate::setup::size::Extent;

#[derive(Deserialize)]
struct Report {
    report: Vec<Section>,
}

#[derive(Deserialize)]
struct Section {
    #[serde(default)]
    lv: Vec<Row>,
    #[serde(default)]
    vg: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    vg_name: String,
    #[serde(default)]
    lv_name: String,
}

/// The volume groups of the machine with their volumes; none where there is no LVM.
pub(in crate::setup) fn groups() -> BTreeMap<String, BTreeSet<String>> {
    let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (program, fields) in [("vgs", "vg_name"), ("lvs", "vg_name,lv_name")] {
        let tool = Tool::new(program, "list volume groups");
        let said = tool.args(["--reportformat", "json", "-o", fields]).run().unwrap_or_default();
        let Ok(report) = serde_json::from_str::<Report>(&said) else { continue };
        for row in
            report.report.into_iter().flat_map(|section| section.vg.into_iter().chain(section.lv))
        {
            let volumes = groups.entry(row.vg_name).or_default();
            if !row.lv_name.is_empty() {
                volumes.insert(row.lv_name);
            }
        }
    }
    groups
}

fn on(tool: Tool, devices: &[&Path]) -> Tool {
    let list: Vec<String> = devices.iter().map(|device| device.display().to_string()).collect();
    tool.arg("--devices").arg(list.join(","))
}

/// Makes a volume group of these devices. Whatever of it an interrupted run has left there is erased.
pub(super) fn make_group(name: &Name, devices: &[&Path]) -> Result<(), ApplyError> {
    let what = format!("make the volume group {name}");
    let _inactive =
        on(Tool::new("vgchange", what.clone()).args(["-an", name.as_str()]), devices).succeeds();
    for device in devices {
        Tool::new("wipefs", format!("erase {}", device.display()))
            .args(["-a", "-f", "-q"])
            .arg(device)
            .run()?;
    }
    let make = on(Tool::new("pvcreate", what.clone()).args(["-q", "-ff", "-y"]), devices);
    make.args(devices).run()?;
    on(Tool::new("vgcreate", what).args(["-q", "-y", name.as_str()]), devices)
        .args(devices)
        .run()?;
    Ok(())
}

/// Makes a volume, and takes away one that an interrupted run has left.
pub(super) fn make_volume(
    group: &Name,
    name: &Name,
    size: Extent,
    devices: &[&Path],
) -> Result<(), ApplyError> {
    let what = format!("make the volume {group}/{name}");
    let full = format!("{group}/{name}");
    let _removed =
        on(Tool::new("lvremove", what.clone()).args(["-f", "-y", &full]), devices).succeeds();
    let size = match size {
        Extent::Bytes(bytes) => ["-L".to_owned(), format!("{}b", bytes.0.next_multiple_of(512))],
        Extent::Percent(percent) => ["-l".to_owned(), format!("{percent}%VG")],
        Extent::Rest => ["-l".to_owned(), "100%FREE".to_owned()],
    };
    let make = Tool::new("lvcreate", what).args(["-q", "-y", "-Wy", "-n", name.as_str()]);
    on(make.args(size), devices).arg(group.as_str()).run()?;
    Ok(())
}

/// The device of a volume, which is made active for that.
pub(super) fn activate(
    group: &Name,
    name: &Name,
    devices: &[&Path],
) -> Result<PathBuf, ApplyError> {
    let full = format!("{group}/{name}");
    let what = format!("reach the volume {full}");
    on(Tool::new("lvchange", what.clone()).args(["-ay", "-y", &full]), devices).run()?;
    let _nodes = Tool::new("vgmknodes", what.clone()).arg(group.as_str()).succeeds();
    let path = Path::new("/dev").join(group.as_str()).join(name.as_str());
    if path.exists() {
        Ok(path)
    } else {
        Err(ApplyError::NoNode { what, why: format!("there is no {}", path.display()) })
    }
}

/// Makes the volumes of a group inactive, so that nothing of it stays in use.
pub(super) fn deactivate(group: &Name) {
    let _inactive =
        Tool::new("vgchange", format!("release {group}")).args(["-an", group.as_str()]).succeeds();
}
