//! What a document must keep whatever the machine is.

use std::collections::BTreeSet;

use p2pinst_types::Name;
use thiserror::Error;

use super::kind::{FileSystem, PartitionType};
use super::{
    ARGUMENTS_MAX, BootSetup, DISKS_MAX, DiskSetup, FILES_MAX, FileSetup, InstallerSetup,
    PARTITIONS_MAX, Setup, TableKind, VOLUMES_MAX,
};
use crate::setup::size::Extent;

/// Something in a document that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum Problem {
    #[error("there are {count} {what}, at most {max} are possible")]
    TooMany { what: &'static str, count: usize, max: usize },
    #[error("two partitions or volumes are called {0}: labels are unique in a setup")]
    DuplicateLabel(Name),
    #[error("two filesystems are mounted at {0}")]
    DuplicateMount(String),
    #[error(
        "{0:?} is no place to mount: write an absolute path without '.', '..' and spaces, like /var/lib"
    )]
    MountPath(String),
    #[error("the label {0} is longer than the 36 characters that a partition table keeps")]
    LongLabel(Name),
    #[error(
        "disk {disk} has an image and partitions: an image of a whole disk brings its own; remove one of both"
    )]
    ImageAndPartitions { disk: usize },
    #[error("disk {disk} has `{key}`, but no image of a whole disk")]
    NoImage { disk: usize, key: &'static str },
    #[error(
        "disk {disk} has neither an image nor partitions; add one of both, or remove the entry"
    )]
    Nothing { disk: usize },
    #[error("{label} has no filesystem to mount at {mount}: add filesystem = \"ext4\"")]
    MountNothing { label: Name, mount: String },
    #[error("two sizes of {of} are `rest`; give one of them a number")]
    TwoRests { of: String },
    #[error("{label}: the options {options:?} have a space or a control character")]
    Options { label: Name, options: String },
    #[error("{label} is of the type {kind}, which has no filesystem {filesystem}")]
    TypeFileSystem { label: Name, kind: PartitionType, filesystem: FileSystem },
    #[error("{label}: swap and partitions of the types bios-boot and lvm take no image")]
    ImageNowhere { label: Name },
    #[error("disk {disk} has a DOS partition table, which {why}; use table = \"gpt\"")]
    Dos { disk: usize, why: &'static str },
    #[error(
        "the group {group} names the partition {label}, which no disk has, or which has not the type lvm"
    )]
    GroupPartition { group: Name, label: Name },
    #[error("the partition {label} is in two groups, or twice in one")]
    PartitionOfTwoGroups { label: Name },
    #[error("the partition {label} has the type lvm, but is in no [[group]]")]
    PartitionOfNoGroup { label: Name },
    #[error("two groups are called {0}")]
    DuplicateGroup(Name),
    #[error(
        "{what:?} is no name for LVM: it has letters, digits, '_', '.' and '+' and no '-' at its ends"
    )]
    VolumeName { what: Name },
    #[error("the volume {volume} is in the group {group}, which is not described")]
    NoGroup { volume: Name, group: Name },
    #[error("{0:?} is no path of a file: write an absolute path without '.' and '..'")]
    FilePath(String),
    #[error("two files have the path {0}")]
    DuplicateFile(String),
    #[error("{path}: the mode {mode:?} is not one: write octal digits, like \"0644\"")]
    Mode { path: String, mode: String },
    #[error("{path} needs either content or a template")]
    FileContent { path: String },
    #[error(
        "{path}: say which file the templates make: format = \"user-data\" (or kickstart, preseed, autoinstall, meta-data, network-config)"
    )]
    FileFormat { path: String },
    #[error("{path} has a format or an appliance, but no template")]
    FileTemplate { path: String },
    #[error("{0:?} is no host name: write letters, digits and '-', or {{{{name}}}}")]
    Hostname(String),
    #[error(
        "there are mounts, files, a hostname or an agent, but no root filesystem for them: mount one at /, or use an image of a whole disk"
    )]
    NoRoot,
    #[error("{0} is the installer's to decide: say it in the file that it reads")]
    InstallersOwn(&'static str),
    #[error("{path}: files of an installer's root belong to root: remove owner and group")]
    InstallersFile { path: String },
    #[error("{path}: in the installer's root /p2pinst is what makes the new system a member")]
    InstallersPath { path: String },
    #[error(
        "the installer's arguments are one line of at most {ARGUMENTS_MAX} bytes without control characters"
    )]
    Arguments,
    #[error(
        "there are two images of whole disks with a root filesystem; say root = … for one of them only"
    )]
    TwoRoots,
}

impl Setup {
    /// Everything that contradicts itself.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_counts(&mut problems);
        for (number, disk) in (1..).zip(&self.disk) {
            disk.check(number, &mut problems);
        }
        self.check_groups(&mut problems);
        self.check_places(&mut problems);
        self.check_names(&mut problems);
        let mut paths = BTreeSet::new();
        for file in &self.file {
            file.check(&mut problems);
            if !paths.insert(file.path.as_str()) {
                problems.push(Problem::DuplicateFile(file.path.clone()));
            }
        }
        match &self.installer {
            Some(installer) => self.check_installer(installer, &mut problems),
            None => self.check_root(&mut problems),
        }
        problems
    }

    fn check_counts(&self, problems: &mut Vec<Problem>) {
        let partitions = self.disk.iter().map(|d| d.partition.len()).max().unwrap_or(0);
        for (what, count, max) in [
            ("disks", self.disk.len(), DISKS_MAX),
            ("partitions on a disk", partitions, PARTITIONS_MAX),
            ("groups", self.group.len(), VOLUMES_MAX),
            ("volumes", self.volume.len(), VOLUMES_MAX),
            ("files", self.file.len(), FILES_MAX),
        ] {
            if count > max {
                problems.push(Problem::TooMany { what, count, max });
            }
        }
    }

    fn check_groups(&self, problems: &mut Vec<Problem>) {
        let partitions = || self.disk.iter().flat_map(|d| &d.partition);
        let is_lvm = |label: &Name| {
            partitions().any(|p| p.label == *label && p.kind() == PartitionType::Lvm)
        };
        let (mut groups, mut used) = (BTreeSet::new(), BTreeSet::new());
        for group in &self.group {
            if !groups.insert(&group.name) {
                problems.push(Problem::DuplicateGroup(group.name.clone()));
            }
            if !is_volume_name(&group.name) {
                problems.push(Problem::VolumeName { what: group.name.clone() });
            }
            for label in &group.partitions {
                if !is_lvm(label) {
                    let (group, label) = (group.name.clone(), label.clone());
                    problems.push(Problem::GroupPartition { group, label });
                } else if !used.insert(label) {
                    problems.push(Problem::PartitionOfTwoGroups { label: label.clone() });
                }
            }
        }
        let lone =
            partitions().filter(|p| p.kind() == PartitionType::Lvm && !used.contains(&p.label));
        problems.extend(lone.map(|p| Problem::PartitionOfNoGroup { label: p.label.clone() }));
        let mut rests = BTreeSet::new();
        for volume in &self.volume {
            if !groups.contains(&volume.group) {
                let (volume, group) = (volume.name.clone(), volume.group.clone());
                problems.push(Problem::NoGroup { volume, group });
            }
            if volume.size == Extent::Rest && !rests.insert(&volume.group) {
                problems.push(Problem::TwoRests { of: format!("the group {}", volume.group) });
            }
            if !is_volume_name(&volume.name) {
                problems.push(Problem::VolumeName { what: volume.name.clone() });
            }
        }
    }

    /// Labels, mounts, options and images of whatever takes a filesystem.
    fn check_places(&self, problems: &mut Vec<Problem>) {
        let (mut labels, mut mounts) = (BTreeSet::new(), BTreeSet::new());
        let partitions = self.disk.iter().flat_map(|d| &d.partition);
        let partitions =
            partitions.map(|p| (&p.label, p.filesystem(), &p.mount, &p.options, &p.image));
        let volumes = self.volume.iter();
        let volumes = volumes.map(|v| {
            (&v.name, v.filesystem.unwrap_or(FileSystem::None), &v.mount, &v.options, &v.image)
        });
        for (label, filesystem, mount, options, image) in partitions.chain(volumes) {
            if !labels.insert(label) {
                problems.push(Problem::DuplicateLabel(label.clone()));
            }
            if let Some(mount) = mount {
                if !mounts.insert(mount) {
                    problems.push(Problem::DuplicateMount(mount.clone()));
                }
                if mount != "/" && !is_path(mount) || mount.chars().any(char::is_whitespace) {
                    problems.push(Problem::MountPath(mount.clone()));
                }
                if !filesystem.is_mountable() {
                    let (label, mount) = (label.clone(), mount.clone());
                    problems.push(Problem::MountNothing { label, mount });
                }
            }
            let bad = |text: &&String| {
                text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control())
            };
            if let Some(options) = options.as_ref().filter(bad) {
                let (label, options) = (label.clone(), options.clone());
                problems.push(Problem::Options { label, options });
            }
            if image.is_some() && filesystem == FileSystem::Swap {
                problems.push(Problem::ImageNowhere { label: label.clone() });
            }
        }
    }

    fn check_names(&self, problems: &mut Vec<Problem>) {
        let Some(hostname) = &self.hostname else { return };
        let plain = hostname.replace("{{name}}", "x").replace("{{ name }}", "x");
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let ends = |c: char| c == '-' || c == '.';
        if plain.is_empty()
            || plain.len() > 64
            || !plain.chars().all(allowed)
            || plain.starts_with(ends)
            || plain.ends_with(ends)
        {
            problems.push(Problem::Hostname(hostname.chars().take(80).collect()));
        }
    }

    fn check_installer(&self, installer: &InstallerSetup, problems: &mut Vec<Problem>) {
        let others = [
            ("what is on disks", !self.disk.is_empty()),
            ("volume groups", !self.group.is_empty()),
            ("volumes", !self.volume.is_empty()),
            ("the hostname", self.hostname.is_some()),
            ("how the machine starts", self.boot != BootSetup::default()),
        ];
        let said = others.into_iter().filter(|(_, is_said)| *is_said);
        problems.extend(said.map(|(what, _)| Problem::InstallersOwn(what)));
        for file in self.file.iter().filter(|f| (f.owner, f.group) != (0, 0)) {
            problems.push(Problem::InstallersFile { path: file.path.clone() });
        }
        let ours = |path: &str| {
            path.strip_prefix("/p2pinst")
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        for file in self.file.iter().filter(|f| ours(&f.path)) {
            problems.push(Problem::InstallersPath { path: file.path.clone() });
        }
        let arguments = &installer.arguments;
        if arguments.len() > ARGUMENTS_MAX || arguments.chars().any(char::is_control) {
            problems.push(Problem::Arguments);
        }
    }

    fn check_root(&self, problems: &mut Vec<Problem>) {
        let images: Vec<_> = self.disk.iter().filter(|d| d.image.is_some()).collect();
        let mounted = self.has_mounted_root();
        let mounts = self.disk.iter().flat_map(|d| &d.partition).any(|p| p.mount.is_some())
            || self.volume.iter().any(|v| v.mount.is_some());
        let wants = self.agent || self.hostname.is_some() || !self.file.is_empty() || mounts;
        if wants && !mounted && images.is_empty() {
            problems.push(Problem::NoRoot);
        }
        let said = images.iter().filter(|d| d.root.is_some()).count();
        if said + usize::from(mounted) > 1 || wants && !mounted && images.len() > 1 && said != 1 {
            problems.push(Problem::TwoRoots);
        }
    }

    /// Whether a described filesystem is the root of the new system.
    #[must_use]
    pub fn has_mounted_root(&self) -> bool {
        let is_root = |mount: &Option<String>| mount.as_deref() == Some("/");
        self.disk.iter().flat_map(|d| &d.partition).any(|p| is_root(&p.mount))
            || self.volume.iter().any(|v| is_root(&v.mount))
    }
}

impl DiskSetup {
    fn check(&self, disk: usize, problems: &mut Vec<Problem>) {
        match (&self.image, self.partition.is_empty()) {
            (Some(_), false) => problems.push(Problem::ImageAndPartitions { disk }),
            (None, true) => problems.push(Problem::Nothing { disk }),
            _ => {}
        }
        for (key, given) in [("grow", self.grow), ("root", self.root.is_some())] {
            if given && self.image.is_none() {
                problems.push(Problem::NoImage { disk, key });
            }
        }
        if self.partition.iter().filter(|p| p.size == Extent::Rest).count() > 1 {
            problems.push(Problem::TwoRests { of: format!("disk {disk}") });
        }
        for partition in &self.partition {
            let (label, kind, filesystem) =
                (partition.label.clone(), partition.kind(), partition.filesystem());
            if label.as_str().len() > 36 {
                problems.push(Problem::LongLabel(label.clone()));
            }
            let fits = match kind {
                PartitionType::Esp => filesystem == FileSystem::Vfat,
                PartitionType::Swap => filesystem == FileSystem::Swap,
                PartitionType::BiosBoot | PartitionType::Lvm => filesystem == FileSystem::None,
                PartitionType::Linux | PartitionType::Other(_) => filesystem != FileSystem::Swap,
            };
            if !fits {
                problems.push(Problem::TypeFileSystem { label: label.clone(), kind, filesystem });
            }
            if partition.image.is_some()
                && matches!(kind, PartitionType::BiosBoot | PartitionType::Lvm)
            {
                problems.push(Problem::ImageNowhere { label });
            }
        }
        if self.table == TableKind::Dos {
            if self.partition.len() > 4 {
                problems.push(Problem::Dos { disk, why: "has at most four partitions here" });
            }
            if self.partition.iter().any(|p| p.kind().dos().is_none()) {
                problems.push(Problem::Dos { disk, why: "has no such type of partitions" });
            }
        }
    }
}

impl FileSetup {
    fn check(&self, problems: &mut Vec<Problem>) {
        if !is_path(&self.path) {
            problems.push(Problem::FilePath(self.path.chars().take(200).collect()));
        }
        if self.mode().is_none() {
            problems.push(Problem::Mode { path: self.path.clone(), mode: self.mode.clone() });
        }
        if self.content.is_some() == self.template.is_some() {
            problems.push(Problem::FileContent { path: self.path.clone() });
        }
        if self.template.is_some() && self.rendering().is_none() {
            problems.push(Problem::FileFormat { path: self.path.clone() });
        }
        if self.template.is_none() && (self.format.is_some() || self.appliance.is_some()) {
            problems.push(Problem::FileTemplate { path: self.path.clone() });
        }
    }
}

/// An absolute path below `/`, of which no part is empty, `.` or `..`.
fn is_path(path: &str) -> bool {
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
    let clean = path.len() < 1024 && !path.chars().any(char::is_control);
    clean && path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(part))
}

fn is_volume_name(name: &Name) -> bool {
    // what device-mapper writes between group and volume is a '-', which it doubles in names
    !name.as_str().ends_with('-') && name.as_str() != "snapshot" && name.as_str() != "pvmove"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<Problem> {
        toml::from_str::<Setup>(&format!("name = \"t\"\n{text}")).unwrap().check()
    }

    fn disk(partitions: &str) -> Vec<Problem> {
        problems(&format!("[[disk]]\nmatch = {{}}\n{partitions}"))
    }

    fn part(rest: &str) -> String {
        format!("[[disk.partition]]\nsize = \"1GB\"\n{rest}\n")
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let root = part("label = \"a\"\nfilesystem = \"ext4\"\nmount = \"/\"");
        assert_eq!(disk(&root), []);
        let twice = disk(&format!("{root}{root}"));
        let label = "a".parse().unwrap();
        assert_eq!(twice, [Problem::DuplicateLabel(label), Problem::DuplicateMount("/".into())]);
        let both = disk(&format!("image = \"x\"\n{root}"));
        assert!(both.contains(&Problem::ImageAndPartitions { disk: 1 }), "{both:?}");
        assert_eq!(disk("grow = true").len(), 2);
        for (bad, said) in [
            ("label = \"a\"\nmount = \"/\"", "no filesystem"),
            ("label = \"a\"\nfilesystem = \"ext4\"\nmount = \"/a/../b\"", "no place to mount"),
            ("label = \"a\"\nfilesystem = \"ext4\"\nmount = \"a\"", "no place to mount"),
            ("label = \"a\"\nfilesystem = \"ext4\"\nmount = \"/a b\"", "no place to mount"),
            ("label = \"a\"\nfilesystem = \"swap\"\nmount = \"/a\"", "no filesystem"),
            ("label = \"a\"\nfilesystem = \"ext4\"\noptions = \"a b\"", "options"),
            ("label = \"a\"\ntype = \"esp\"\nfilesystem = \"ext4\"", "type esp"),
            ("label = \"a\"\ntype = \"lvm\"", "in no [[group]]"),
            ("label = \"a\"\ntype = \"bios-boot\"\nimage = \"x\"", "take no image"),
        ] {
            let found = disk(&part(bad));
            assert!(found[0].to_string().contains(said), "{bad}: {found:?}");
        }
    }

    #[test]
    fn files_and_hosts_are_checked() {
        let system = "[[disk]]\nmatch = {}\nimage = \"x\"\n";
        for (bad, said) in [
            ("path = \"/../x\"\ncontent = \"\"", "no path"),
            ("path = \"/\"\ncontent = \"\"", "no path"),
            ("path = \"x\"\ncontent = \"\"", "no path"),
            ("path = \"/x\"", "either content"),
            ("path = \"/x\"\ncontent = \"\"\ntemplate = \"t\"", "either content"),
            ("path = \"/x\"\ntemplate = \"t\"", "say which file"),
            ("path = \"/x\"\ncontent = \"\"\nformat = \"kickstart\"", "no template"),
            ("path = \"/x\"\ncontent = \"\"\nappliance = \"a\"", "no template"),
            ("path = \"/x\"\ncontent = \"\"\nmode = \"0888\"", "octal"),
            ("path = \"/x\"\ncontent = \"\"\nmode = \"+644\"", "octal"),
        ] {
            let found = problems(&format!("{system}[[file]]\n{bad}"));
            assert!(found[0].to_string().contains(said), "{bad}: {found:?}");
        }
        assert_eq!(problems(&format!("hostname = \"{{{{name}}}}.lab\"\n{system}")), []);
        assert_eq!(problems(&format!("hostname = \"a b\"\n{system}")).len(), 1);
        assert_eq!(problems("hostname = \"x\""), [Problem::NoRoot]);
        assert_eq!(problems(&format!("agent = true\n{system}{system}")), [Problem::TwoRoots]);
    }

    #[test]
    fn an_installer_decides_about_disks_alone() {
        let installer = "[installer]\nimage = \"d-i\"\narguments = \"auto=true\"\n";
        let file = "[[file]]\npath = \"/preseed.cfg\"\ncontent = \"\"\n";
        assert_eq!(problems(&format!("agent = true\n{installer}{file}")), []);
        for (bad, said) in [
            (format!("hostname = \"x\"\n{installer}"), "the hostname is the installer's"),
            (
                format!("{installer}[[disk]]\nmatch = {{}}\nimage = \"x\"\n"),
                "on disks is the installer's",
            ),
            (format!("{installer}[boot]\nnext = \"pxe\"\n"), "how the machine starts is"),
            (format!("{installer}{file}owner = 7\n"), "belong to root"),
            (format!("{installer}{}", file.replace("preseed.cfg", "p2pinst/join")), "a member"),
            (installer.replace("auto=true", "a\\nb"), "one line"),
            (installer.replace("auto=true", &"a".repeat(1025)), "one line"),
        ] {
            let found = problems(&bad);
            assert!(found[0].to_string().contains(said), "{bad}: {found:?}");
        }
    }

    #[test]
    fn groups_name_their_partitions() {
        let pv = part("label = \"pv\"\ntype = \"lvm\"");
        let group = "[[group]]\nname = \"vg\"\npartitions = [\"pv\"]\n";
        let volume = "[[volume]]\ngroup = \"vg\"\nname = \"lv\"\nsize = \"rest\"\n";
        assert_eq!(disk(&format!("{pv}{group}{volume}")), []);
        assert_eq!(disk(&format!("{pv}{group}{volume}{}", volume.replace("lv", "lw"))).len(), 1);
        assert_eq!(disk(&format!("{pv}{group}{}", volume.replace("vg", "wg"))).len(), 1);
        assert_eq!(
            disk(&format!("{pv}{}", group.replace("[\"pv\"]", "[\"pv\", \"pv\", \"x\"]"))).len(),
            2
        );
    }
}
