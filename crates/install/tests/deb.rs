//! Files that are packages, and files that are not.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use p2pinst_install::{InspectError, inspect};

use crate::common::Deb;

#[test]
fn a_package_tells_who_it_is() {
    let dir = tempfile::tempdir().unwrap();
    for compression in ["gzip", "xz", "none"] {
        let path = Deb::new("hello", "1:2.0-1~x")
            .architecture("amd64")
            .field("Depends: libc6 (>= 2.14), a | b")
            .field("Provides: greeter (= 1)")
            .field("Multi-Arch: foreign")
            .compression(compression)
            .build(dir.path());
        let info = inspect(&path).unwrap();
        assert_eq!(info.package.to_string(), "hello 1:2.0-1~x amd64");
        let depends: Vec<_> = info.relations.depends.iter().map(ToString::to_string).collect();
        assert_eq!(depends, ["libc6 (>= 2.14)", "a | b"]);
        assert_eq!(info.relations.provides.len(), 1);
    }
}

#[test]
fn a_package_with_a_name_like_an_option() {
    let dir = tempfile::tempdir().unwrap();
    let path = Deb::new("hello", "1").build(dir.path());
    // relative names are resolved in a process of their own, which may have its own directory
    let odd = dir.path().join("--help");
    fs::rename(path, &odd).unwrap();
    assert_eq!(inspect(&odd).unwrap().package.name, "hello");
}

/// The error's text for a file with this content.
fn refused(dir: &Path, content: &[u8]) -> InspectError {
    let path = dir.join("x.deb");
    fs::write(&path, content).unwrap();
    let error = inspect(&path).unwrap_err();
    assert!(error.to_string().contains("x.deb"), "{error}");
    error
}

#[test]
fn a_truncated_package_is_refused_wherever_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    for compression in ["gzip", "xz", "none"] {
        let path = Deb::new("hello", "1").compression(compression).build(dir.path());
        let whole = fs::read(&path).unwrap();
        // the last byte may be padding, which nobody misses
        let ends =
            (1..8).chain((8..whole.len() - 1).step_by(whole.len() / 24)).chain([whole.len() - 2]);
        for end in ends {
            let error = refused(dir.path(), &whole[..end]);
            assert!(matches!(error, InspectError::Damaged { .. }), "{compression} {end}: {error}");
        }
    }
}

#[test]
fn a_spoilt_package_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for compression in ["gzip", "xz"] {
        let mut bytes =
            fs::read(Deb::new("hello", "1").compression(compression).build(dir.path())).unwrap();
        let at = bytes.len() * 3 / 4;
        bytes[at] ^= 0x55;
        let error = refused(dir.path(), &bytes);
        assert!(error.to_string().contains("truncated or damaged"), "{compression}: {error}");
    }
}

#[test]
fn what_is_no_package_is_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(refused(dir.path(), b""), InspectError::Empty { .. }));
    assert!(matches!(
        refused(dir.path(), b"hello, world, this is text"),
        InspectError::NotAPackage { .. }
    ));
    assert!(matches!(
        refused(dir.path(), b"!<arch>\nother.o/      "),
        InspectError::NotAPackage { .. }
    ));
    assert!(matches!(refused(dir.path(), b"\x7fELF"), InspectError::NotAPackage { .. }));
    let missing = inspect(&dir.path().join("no.deb")).unwrap_err().to_string();
    assert!(missing.contains("no.deb") && missing.contains("No such file"), "{missing}");
    assert!(matches!(inspect(dir.path()).unwrap_err(), InspectError::NotAFile { .. }));
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(matches!(inspect(&fifo).unwrap_err(), InspectError::NotAFile { .. }));
}

/// dpkg-deb builds what its own checks let through; the policy is stricter.
#[test]
fn unlawful_fields_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = Deb::new("hello", "1").architecture("linux-any").build(dir.path());
    let error = inspect(&path).unwrap_err().to_string();
    assert!(error.contains("Architecture has the unlawful value \"linux-any\""), "{error}");
}
