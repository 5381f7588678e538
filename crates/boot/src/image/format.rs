//! What a file is, by its first bytes; never by its name.

use std::io;

use super::source::{Numbers as _, ReadAt};

/// How a file holds what is to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Compressed with zstd (RFC 8878), perhaps seekable.
    Zstd,
    /// Compressed with gzip (RFC 1952).
    Gzip,
    /// Compressed with xz.
    Xz,
    /// A disk of QEMU.
    Qcow2,
    /// A disk of VMware.
    Vmdk,
    /// A disk of VirtualBox.
    Vdi,
    /// A disk of Hyper-V.
    Vhdx,
    /// An archive.
    Tar,
    /// A compression that p2pinst does not read.
    Foreign(&'static str),
    /// A disk, a filesystem, or something unknown.
    Plain,
}

/// Tells the format.
///
/// # Errors
/// When the first bytes cannot be read.
pub fn of<S: ReadAt + ?Sized>(file: &S) -> io::Result<Format> {
    let mut head = [0; 512];
    let n = file.read_at(0, &mut head)?;
    let head = head.get(..n).unwrap_or_default();
    // zstd files may begin with a frame that is skipped
    let skippable = head.le32(0).is_some_and(|magic| magic & !0xF == 0x184D_2A50);
    Ok(match head {
        [0x28, 0xB5, 0x2F, 0xFD, ..] => Format::Zstd,
        _ if skippable => Format::Zstd,
        [0x1F, 0x8B, ..] => Format::Gzip,
        [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Format::Xz,
        [b'Q', b'F', b'I', 0xFB, ..] => Format::Qcow2,
        [b'K', b'D', b'M', b'V', ..] | [b'C', b'O', b'W', b'D', ..] => Format::Vmdk,
        [b'v', b'h', b'd', b'x', b'f', b'i', b'l', b'e', ..] => Format::Vhdx,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Format::Foreign("bzip2"),
        [0x04, 0x22, 0x4D, 0x18, ..] => Format::Foreign("lz4"),
        [b'P', b'K', 3, 4, ..] => Format::Foreign("zip"),
        [b'7', b'z', 0xBC, 0xAF, ..] => Format::Foreign("7z"),
        [b'L', b'R', b'Z', b'I', ..] => Format::Foreign("lrzip"),
        [b'L', b'Z', b'I', b'P', ..] => Format::Foreign("lzip"),
        _ if head.starts_with(b"# Disk DescriptorFile") => Format::Vmdk,
        _ if head.le32(64) == Some(0xBEDA_107F) => Format::Vdi,
        _ if is_tar(head) => Format::Tar,
        _ => Format::Plain,
    })
}

/// A header with the mark of POSIX or GNU, and the right checksum. Archives older than both are not recognised.
fn is_tar(head: &[u8]) -> bool {
    if head.get(257..262) != Some(b"ustar") {
        return false;
    }
    let Ok(block) = <&[u8; 512]>::try_from(head) else { return false };
    let header = tar::Header::from_byte_slice(block);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let own: u32 = header.as_old().cksum.iter().map(|byte| u32::from(*byte)).sum();
    header.cksum().is_ok_and(|said| said == sum - own + 8 * u32::from(b' '))
}

/// Why a virtual machine's disk is not handed to qemu-img.
///
/// qemu-img opens what the file names: another file below it, one beside it with its data, parts elsewhere. So whoever
/// made the file could have others of this machine published.
///
/// # Errors
/// When the header cannot be read.
pub fn refusal<S: ReadAt + ?Sized>(file: &S, format: Format) -> io::Result<Option<&'static str>> {
    match format {
        Format::Qcow2 => qcow2(file),
        Format::Vmdk => vmdk(file),
        Format::Vdi => vdi(file),
        Format::Vhdx => {
            Ok(Some("VHDX disks are not read; convert it yourself: qemu-img convert -O raw"))
        }
        _ => Ok(None),
    }
}

const CUT: &str = "its header is cut off";

/// docs/interop/qcow2.txt of QEMU.
fn qcow2<S: ReadAt + ?Sized>(file: &S) -> io::Result<Option<&'static str>> {
    let mut header = [0; 104];
    let n = file.read_at(0, &mut header)?;
    let header = header.get(..n).unwrap_or_default();
    let (Some(version), Some(backing), Some(method)) =
        (header.be32(4), header.be64(8), header.be32(32))
    else {
        return Ok(Some(CUT));
    };
    let features = if version >= 3 { header.be64(72) } else { Some(0) };
    Ok(match (version, features) {
        (2 | 3, Some(features)) => {
            if backing != 0 {
                Some(
                    "it is only the difference to a backing file; publish a whole image: qemu-img convert -O qcow2",
                )
            } else if method != 0 {
                Some("it is encrypted; publish what it holds")
            } else if features & 4 != 0 {
                Some(
                    "its data are in another file; publish a whole image: qemu-img convert -O qcow2",
                )
            } else if features & 2 != 0 {
                Some("it is marked as corrupt: qemu-img check -r all")
            } else {
                None
            }
        }
        (2 | 3, None) => Some(CUT),
        _ => Some("its version is unknown"),
    })
}

/// VMware's "Virtual Disk Format 5.0": only a sparse extent that describes itself.
fn vmdk<S: ReadAt + ?Sized>(file: &S) -> io::Result<Option<&'static str>> {
    const PARTS: &str =
        "its data are in other files; publish a whole image: qemu-img convert -O qcow2";
    let Some(header) = file.array::<512>(0)? else { return Ok(Some(PARTS)) };
    if !header.starts_with(b"KDMV") || header.le64(12).is_none_or(|capacity| capacity == 0) {
        return Ok(Some(PARTS));
    }
    let (at, sectors) = (header.le64(28).unwrap_or(0), header.le64(36).unwrap_or(0));
    if at == 0 {
        return Ok(None);
    }
    // 20 sectors are usual
    if sectors > 128 {
        return Ok(Some("its descriptor is too long"));
    }
    let mut text = vec![0; usize::try_from(sectors * 512).unwrap_or(0)];
    let n = file.read_at(at.saturating_mul(512), &mut text)?;
    text.truncate(n);
    let text = String::from_utf8_lossy(&text).to_ascii_lowercase();
    let value = |key: &str| {
        text.lines().find_map(|line| line.trim().strip_prefix(key)?.trim().strip_prefix('='))
    };
    let has_parent = value("parentcid").is_some_and(|id| id.trim() != "ffffffff")
        || text.contains("parentfilenamehint");
    let kind = value("createtype").map(|v| v.trim().trim_matches(['"', '\0']).to_owned());
    Ok(match kind.as_deref() {
        _ if has_parent => Some("it is only the difference to another image"),
        Some("monolithicsparse" | "streamoptimized") => None,
        _ => Some(PARTS),
    })
}

/// VDICore.h of VirtualBox: 1 is dynamic, 2 fixed, 4 a difference.
fn vdi<S: ReadAt + ?Sized>(file: &S) -> io::Result<Option<&'static str>> {
    let kind = file.array::<4>(76)?.map(u32::from_le_bytes);
    Ok(match kind {
        Some(1 | 2) => None,
        _ => Some("it is only the difference to another image"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_do_not_matter() {
        assert_eq!(of(&b"QFI\xfb"[..]).unwrap(), Format::Qcow2);
        assert_eq!(of(&b"BZh9"[..]).unwrap(), Format::Foreign("bzip2"));
        assert_eq!(of(&[0x5E, 0x2A, 0x4D, 0x18, 0, 0][..]).unwrap(), Format::Zstd);
        assert_eq!(of(&b""[..]).unwrap(), Format::Plain);
        let mut like_a_tar = vec![0; 1024];
        like_a_tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(of(&like_a_tar[..]).unwrap(), Format::Plain, "without a checksum");
    }

    #[test]
    fn what_names_other_files_is_refused() {
        let mut header = vec![0; 200];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        assert_eq!(refusal(&header[..], Format::Qcow2).unwrap(), None);
        for (at, said) in [(15, "backing file"), (35, "encrypted")] {
            let mut bad = header.clone();
            bad[at] = 1;
            assert!(refusal(&bad[..], Format::Qcow2).unwrap().unwrap().contains(said));
        }
        header[79] = 4;
        assert!(refusal(&header[..], Format::Qcow2).unwrap().unwrap().contains("another file"));
        assert_eq!(refusal(&header[..50], Format::Qcow2).unwrap(), Some(CUT));
        let text = b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/shadow\" 0";
        assert_eq!(of(&text[..]).unwrap(), Format::Vmdk);
        assert!(refusal(&text[..], Format::Vmdk).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn any_header_is_told(mut bytes in prop::collection::vec(any::<u8>(), 0..2000), magic in 0usize..4) {
            let magic: &[u8] = [&b"QFI\xfb\0\0\0\x03"[..], b"KDMV", b"COWD", b""][magic];
            if bytes.len() > 8 {
                bytes[..magic.len()].copy_from_slice(magic);
            }
            let format = of(&bytes[..]).unwrap();
            let _refusal = refusal(&bytes[..], format).unwrap();
        }
    }
}
