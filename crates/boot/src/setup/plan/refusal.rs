//! What speaks against a plan.

use std::fmt;

use p2pinst_types::Name;
use thiserror::Error;

use super::ImageKind;
use crate::setup::document::Problem;
use crate::setup::size::Bytes;

/// Something that speaks against a plan. Disks are counted from 1, in the order of the document.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum Refusal {
    #[error("{0}")]
    Document(#[from] Problem),
    #[error("disk {disk}: no disk of this machine matches {wanted}; it has {}", list(has))]
    NoMatch { disk: usize, wanted: String, has: Vec<String> },
    #[error(
        "disk {disk}: {} match; name one by its serial number, or say pick = \"smallest\", \"largest\" or \"first\"",
        list(which)
    )]
    Ambiguous { disk: usize, which: Vec<String> },
    #[error(
        "disk {disk}: {which} can be taken out by hand; it is used only where the match has its serial number or wwn"
    )]
    Removable { disk: usize, which: String },
    #[error("disks {first} and {second} are both {which}; make their matches narrower")]
    SameDisk { first: usize, second: usize, which: String },
    #[error("disk {disk}: it is not known what is on {which}; look at it first")]
    NotLooked { disk: usize, which: String },
    #[error("disk {disk}: {which} is too small: {what} needs {}, there are {}", Bytes(*needs).rounded(), Bytes(*has).rounded())]
    TooSmall { disk: usize, which: String, what: String, needs: u64, has: u64 },
    #[error(
        "disk {disk}: {which} has data ({found}), and wipe = \"never\" keeps it; say wipe = \"once\" to lose it"
    )]
    HasData { disk: usize, which: String, found: String },
    #[error("the volume {volume} is too small: what is put into it needs {}, it has {}", Bytes(*needs).rounded(), Bytes(*has).rounded())]
    SmallVolume { volume: Name, needs: u64, has: u64 },
    #[error(
        "disk {disk}: the image {image} fills {which}: nothing can be noted there, and after a power cut it would look like data that wipe = \"never\" keeps; say wipe = \"once\" (deploy --wipe)"
    )]
    NoRoomForStamp { disk: usize, which: String, image: Name },
    #[error("disk {disk}: {which} is in use: {}", list(users))]
    InUse { disk: usize, which: String, users: Vec<String> },
    #[error(
        "disk {disk}: {which} was already wiped for this assignment, and has {found}, which the setup does not describe; assign it anew to wipe it again"
    )]
    Changed { disk: usize, which: String, found: String },
    #[error(
        "{label} on {which} shall have {wanted}, but has {has}; nothing is made there again for this assignment"
    )]
    OtherContent { label: Name, which: String, wanted: String, has: String },
    #[error(
        "a BIOS cannot start from a GPT disk without a partition of the type bios-boot: add one of 1MiB, or say table = \"dos\", or bootloader = \"none\""
    )]
    NoBiosBoot,
    #[error(
        "UEFI needs a partition of the type esp, mounted at /boot/efi, /efi or /boot: add one of 512MiB, or say bootloader = \"none\""
    )]
    NoEsp,
    #[error("{user} wants the image {image}, which is not known here; see p2pinst image ls")]
    UnknownImage { user: String, image: Name },
    #[error("{user} wants the image {image}, which is of {}, not of {wanted}", kind(*is))]
    WrongImage { user: String, image: Name, is: ImageKind, wanted: &'static str },
    #[error("{label} extracts {image}: give it a filesystem and a mount")]
    TarNowhere { label: Name, image: Name },
    #[error(
        "{path} wants the template {template}, which is not published, or is an image of another kind (p2pinst template ls)"
    )]
    UnknownTemplate { path: String, template: Name },
    #[error(
        "the volume group {group} is on disks of which some are made anew and some are kept; give them the same wipe"
    )]
    MixedGroup { group: Name },
    #[error(
        "the volume group {group} is already on a disk of this machine that is not set up here"
    )]
    ForeignGroup { group: Name },
}

fn list(items: &[String]) -> String {
    match items {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

fn kind(kind: ImageKind) -> &'static str {
    match kind {
        ImageKind::Disk => "a whole disk",
        ImageKind::Partition => "a partition",
        ImageKind::Tar => "a tree of files",
    }
}

/// Everything that speaks against a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusals(pub Vec<Refusal>);

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the disks cannot be set up:")?;
        self.0.iter().try_for_each(|refusal| write!(f, "\n  {refusal}"))
    }
}

impl std::error::Error for Refusals {}
