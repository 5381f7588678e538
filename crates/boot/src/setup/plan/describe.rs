//! Plans for people.

use std::fmt::{self, Write};

use super::{Goal, Place, Plan, Step};
use crate::setup::size::Bytes;

impl Plan {
    /// What shall be and what is to be done, for people: disks with serial numbers, partitions with their places.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::new();
        // writing to a string cannot fail
        let _done = self.write(&mut text);
        text
    }

    fn write(&self, f: &mut String) -> fmt::Result {
        let goal = &self.goal;
        let subject = &goal.subject;
        writeln!(
            f,
            "setup {} for {}, assignment {}",
            goal.setup_name, subject.name, subject.epoch.0
        )?;
        writeln!(f, "plan {}", self.hash())?;
        for (number, disk) in (1..).zip(&goal.disks) {
            writeln!(f, "disk {number}: {}", disk.identity)?;
            match &disk.image {
                Some((image, size)) => writeln!(f, "  image {image}, {}", Bytes(*size).rounded())?,
                None => writeln!(f, "  table {:?} {}", disk.table, disk.id)?,
            }
            let sector = u64::from(disk.sector.max(1));
            for part in &disk.partitions {
                let content = &part.content;
                let (first, last) = (part.start / sector, (part.start + part.size) / sector - 1);
                write!(
                    f,
                    "  {} {:<12} {:>10}",
                    part.number,
                    content.label,
                    Bytes(part.size).rounded()
                )?;
                write!(f, "  sectors {first}-{last}  {} {}", part.kind, content.filesystem)?;
                if let Some((image, _)) = &content.image {
                    write!(f, "  image {image}")?;
                }
                let mount = goal.mounts.iter().find(|m| goal.content(m.place) == Some(content));
                writeln!(
                    f,
                    "{}",
                    mount
                        .and_then(|m| m.path.clone())
                        .map_or(String::new(), |p| format!("  at {p}"))
                )?;
            }
        }
        for volume in &goal.volumes {
            let content = &volume.content;
            writeln!(
                f,
                "volume {}/{} {} {}",
                volume.group, content.label, volume.size, content.filesystem
            )?;
        }
        if self.steps.is_empty() {
            return writeln!(f, "nothing is to be done");
        }
        f.push_str("to be done:\n");
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "  {number}. {}", self.goal.tell(step))?;
        }
        Ok(())
    }
}

impl Goal {
    /// A step, for people.
    #[must_use]
    pub fn tell(&self, step: &Step) -> String {
        let disk = |index: &usize| {
            self.disks
                .get(*index)
                .map_or_else(|| format!("disk {}", index + 1), |disk| disk.identity.to_string())
        };
        match step {
            Step::Wipe { disk: d, found } => format!("ERASE {}: {found}", disk(d)),
            Step::Table { disk: d } => format!("divide {}", disk(d)),
            Step::WriteDisk { disk: d, image } => format!("write the image {image} to {}", disk(d)),
            Step::Grow { disk: d } => format!("enlarge the last partition of {}", disk(d)),
            Step::Group { name } => format!("make the volume group {name}"),
            Step::Volume { group, name } => format!("make the volume {group}/{name}"),
            Step::Format { place, label } => {
                let filesystem =
                    self.content(*place).map_or("nothing", |content| content.filesystem.as_str());
                format!("make {filesystem} on {label} ({})", self.tell_place(*place))
            }
            Step::Write { label, image, .. } => format!("write the image {image} to {label}"),
            Step::Extract { label, image, .. } => format!("extract the image {image} into {label}"),
            Step::System { .. } => "make the new system this machine's own".to_owned(),
            Step::Start { disk: d } => format!("let machines start from {}", disk(d)),
            Step::Bootloader => "install the boot loader".to_owned(),
            Step::BootOrder => format!("start next from: {:?}", self.boot.next).to_lowercase(),
        }
    }

    fn tell_place(&self, place: Place) -> String {
        match place {
            Place::Partition(d, p) => {
                let name = self.disks.get(d).map_or("?", |disk| disk.identity.name.as_str());
                format!("partition {} of {name}", p + 1)
            }
            Place::Volume(_) => "a volume".to_owned(),
        }
    }
}
