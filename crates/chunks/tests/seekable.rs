//! Compressed images and the tool that everybody has.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::process::{Command, Stdio};

use p2pinst_chunks::seekable;

#[test]
fn the_usual_tool_reads_an_image() {
    let mut content: Vec<u8> =
        b"all work and no play ".iter().copied().cycle().take(3 << 20).collect();
    content.extend(vec![0; 3_000_000]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.zst");
    let mut image = Vec::new();
    seekable::write(&mut content.as_slice(), &mut image, seekable::LEVEL).unwrap();
    std::fs::write(&path, &image).unwrap();
    let unpacked = Command::new("zstd").arg("-dc").arg(&path).stderr(Stdio::inherit()).output();
    let Ok(out) = unpacked else { return };
    assert!(out.status.success() && out.stdout == content);
}
