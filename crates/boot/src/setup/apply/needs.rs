//! Which of the system's programs a plan is carried out with.

use std::collections::BTreeSet;

use crate::setup::document::FileSystem;
use crate::setup::plan::{Plan, Step};

/// What every plan is carried out with.
const ALWAYS: &[&str] = &["blkid", "losetup", "sfdisk", "wipefs"];
/// What volumes are made with.
const VOLUMES: &[&str] =
    &["lvchange", "lvcreate", "lvremove", "lvs", "pvcreate", "vgchange", "vgcreate", "vgs"];

/// The programs that a plan needs and that are not here, sorted: it cannot be carried out, however often that is tried.
#[must_use]
pub fn missing(plan: &Plan) -> Vec<&'static str> {
    needed(plan).into_iter().filter(|program| !p2pinst_command::has(program)).collect()
}

fn needed(plan: &Plan) -> BTreeSet<&'static str> {
    let mut programs = BTreeSet::new();
    for step in &plan.steps {
        programs.extend(ALWAYS);
        match step {
            Step::Format { place, .. } => {
                programs.extend(plan.goal.content(*place).and_then(|c| maker(c.filesystem)));
            }
            Step::Extract { .. } => {
                programs.insert("tar");
            }
            _ => {}
        }
        if !plan.goal.groups.is_empty() {
            programs.extend(VOLUMES);
        }
    }
    programs
}

/// What makes a filesystem.
fn maker(filesystem: FileSystem) -> Option<&'static str> {
    match filesystem {
        FileSystem::None => None,
        FileSystem::Ext4 => Some("mkfs.ext4"),
        FileSystem::Xfs => Some("mkfs.xfs"),
        FileSystem::Btrfs => Some("mkfs.btrfs"),
        FileSystem::Vfat => Some("mkfs.vfat"),
        FileSystem::Swap => Some("mkswap"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::document::Setup;
    use crate::setup::plan::tests::{blank, planned};

    #[test]
    fn volumes_need_lvm_and_nothing_else_does() {
        let document = |partition: &str| {
            let text = format!(
                "name = \"t\"\n[[disk]]\nmatch = {{ serial = \"S0\" }}\n[[disk.partition]]\nlabel = \"a\"\nsize = \"rest\"\n{partition}"
            );
            planned(&Setup::parse(&text).unwrap(), &blank(1), 1).unwrap()
        };
        let plain = needed(&document("filesystem = \"xfs\"\n"));
        assert_eq!(plain, ["blkid", "losetup", "mkfs.xfs", "sfdisk", "wipefs"].into());
        let volumes = "type = \"lvm\"\n[[group]]\nname = \"vg\"\npartitions = [\"a\"]\n\
            [[volume]]\ngroup = \"vg\"\nname = \"b\"\nsize = \"rest\"\nfilesystem = \"swap\"\n";
        let volumes = needed(&document(volumes));
        assert!(VOLUMES.iter().all(|program| volumes.contains(program)), "{volumes:?}");
        assert!(volumes.contains("mkswap"));
        assert!(p2pinst_command::has("sh") && !p2pinst_command::has("no-such-program"));
    }
}
