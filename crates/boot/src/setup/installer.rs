//! Starting a distribution's own installer in the scout's place: what the setup says is put into its initramfs, and the kernel
//! goes over to it (kexec).
//!
//! The installer finds the setup's files in its root, where it looks for its answers (`/preseed.cfg`). What makes the new system a member is
//! below [`DIR`] beside a script, [`JOIN`], which copies it into the system below the directory that it is given.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2pinst_command::{ask_within, clean};
use p2pinst_files::{Context as _, FileError};
use p2pinst_types::record::INSTALLER;
use thiserror::Error;

use super::apply::{Inject, Source};
use crate::cpio::{Archive, CpioError};

/// Where the installer finds what makes the new system a member.
pub const DIR: &str = "/p2pinst";
/// The script: `join /target`.
pub const JOIN: &str = "/p2pinst/join";
/// What loads a kernel.
pub const KEXEC: &str = "kexec";
/// The longest kernel, in bytes.
pub const KERNEL_MAX: u64 = 128 << 20;
/// The longest initrd, in bytes.
pub const INITRD_MAX: u64 = 1 << 30;
/// Directories of every initrd: some of them are links into `usr`, and have modes of their own.
const THERE: &[&str] = &[
    "bin", "dev", "etc", "lib", "lib64", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "usr",
    "usr/bin", "usr/lib", "usr/sbin", "var",
];
/// Archives after the first are looked for at multiples of this.
const ALIGN: u64 = 4;
/// For reading a kernel and an initrd into memory.
const LOAD: Duration = Duration::from_secs(120);
/// What the loader may say.
const SAID: u64 = 64 * 1024;

/// Why an installer is not started.
#[derive(Debug, Error)]
pub enum InstallerError {
    /// A file that cannot be in an initramfs.
    #[error("cannot put the setup's files into the installer's initrd: {0}")]
    Archive(#[from] CpioError),
    /// A file of the running system.
    #[error("cannot put the node into the installer's initrd: {0}")]
    File(#[from] FileError),
    /// Its files, as they are to be.
    #[error("cannot copy the installer's kernel and initrd: {0}")]
    Write(#[source] io::Error),
    /// The loader is not here, or hangs.
    #[error("cannot run kexec, which starts the installer: {0}")]
    Start(#[source] io::Error),
    /// The kernel does not take it.
    #[error("this machine's kernel does not take the installer's: kexec says: {0}")]
    Refused(String),
}

/// A file of the installer's root.
#[derive(Debug, Clone)]
pub struct RootFile {
    /// Where it is.
    pub path: String,
    /// What is in it.
    pub content: Vec<u8>,
    /// Its mode; it belongs to root.
    pub mode: u32,
}

/// What is put into an installer's initramfs, as an archive of its own.
///
/// # Errors
/// When a file cannot be read, or two have one path.
pub fn overlay(files: Vec<RootFile>, agent: &[Inject]) -> Result<Vec<u8>, InstallerError> {
    let mut archive = Archive::default();
    for RootFile { path, content, mode } in files {
        archive.file_of_mode(&path, mode, content)?;
    }
    if !agent.is_empty() {
        for (number, inject) in agent.iter().enumerate() {
            let content = match &inject.source {
                Source::Bytes(bytes) => bytes.clone(),
                Source::File(path) => fs::read(path).context("read", path)?,
                Source::Link(_) => continue,
            };
            archive.file_of_mode(&format!("{DIR}/{number}"), 0o600, content)?;
        }
        archive.file(JOIN, true, join(agent).into_bytes())?;
    }
    Ok(archive.over(THERE).write(0))
}

/// The script that makes the system below `$1` a member. What is injected has paths of our own, without quotes.
fn join(agent: &[Inject]) -> String {
    let mut script =
        "#!/bin/sh\n# Makes the new system below $1 a member of the cluster.\nset -e\n\
        test -d \"$1/etc\" || { echo \"$0: $1 is no new system\" >&2; exit 1; }\n"
            .to_owned();
    for (number, Inject { path, source, mode }) in agent.iter().enumerate() {
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        let done = match source {
            Source::Link(to) => writeln!(
                script,
                "mkdir -p \"$1{above}\" && rm -f \"$1{path}\" && ln -s '{to}' \"$1{path}\""
            ),
            Source::Bytes(_) | Source::File(_) => writeln!(
                script,
                "mkdir -p \"$1{above}\" && (umask 077 && cp {DIR}/{number} \"$1{path}\") && chmod {mode:o} \"$1{path}\""
            ),
        };
        debug_assert!(done.is_ok(), "writing to a string cannot fail");
    }
    script
}

/// Whether this machine can start another kernel: who cannot needs no other order, but another scout.
#[must_use]
pub fn can_start() -> bool {
    p2pinst_command::has(KEXEC)
}

/// Copies a file, with an archive behind it: of an initrd the kernel unpacks that over what is before.
fn append(initrd: &Path, overlay: &[u8], to: &Path) -> Result<(), InstallerError> {
    let write = || -> io::Result<()> {
        let mut from = File::open(initrd)?;
        let mut out = OpenOptions::new().create(true).truncate(true).write(true).open(to)?;
        let len = io::copy(&mut from, &mut out)?;
        if overlay.is_empty() {
            return Ok(());
        }
        out.seek(io::SeekFrom::Start(len.next_multiple_of(ALIGN)))?;
        out.write_all(overlay)
    };
    write().map_err(InstallerError::Write)
}

/// Loads a kernel, and its initrd with an archive behind it: the next restart by `RebootCommand::Kexec` starts it. Copies are
/// made in `work`, which are not needed any more afterwards: the kernel reads no file that somebody has open to be written.
///
/// # Errors
/// When a file cannot be copied, kexec cannot be run, or the running kernel refuses.
pub fn load(
    (kernel, initrd): (&Path, &Path),
    overlay: &[u8],
    arguments: &str,
    work: &Path,
) -> Result<(), InstallerError> {
    let copies = [INSTALLER.0, INSTALLER.1].map(|name| work.join(name));
    let load = |[to_kernel, to_initrd]: &[PathBuf; 2]| {
        append(kernel, &[], to_kernel)?;
        append(initrd, overlay, to_initrd)?;
        let mut command = clean(KEXEC);
        command.args(["--kexec-file-syscall", "--load"]).arg(to_kernel);
        command.arg(option("--initrd=", to_initrd)).arg(format!("--command-line={arguments}"));
        let said = ask_within(command, &[], SAID, LOAD).map_err(InstallerError::Start)?;
        if said.success { Ok(()) } else { Err(InstallerError::Refused(said.stderr)) }
    };
    let loaded = load(&copies);
    for copy in copies {
        let _gone = fs::remove_file(copy);
    }
    loaded
}

fn option(name: &str, value: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(value);
    option
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use p2pinst_command::ask;

    use super::*;

    fn agent(dir: &Path) -> Vec<Inject> {
        let program = dir.join("program");
        fs::write(&program, b"#!/bin/sh\n").unwrap();
        let at = |path: &str, source, mode| Inject { path: path.to_owned(), source, mode };
        vec![
            at("/usr/sbin/p2pinstd", Source::File(program), 0o755),
            at("/var/lib/p2pinst/node.key", Source::Bytes(b"secret".to_vec()), 0o600),
            at("/etc/wants/p2pinstd.service", Source::Link("/etc/p2pinstd.service".into()), 0o777),
        ]
    }

    /// Unpacks an archive, as the kernel would; false where that cannot be tried.
    fn unpack(archive: &[u8], to: &Path) -> bool {
        fs::create_dir_all(to).unwrap();
        let mut cpio = clean("busybox");
        cpio.args(["cpio", "-id"]).current_dir(to);
        let Ok(said) = ask_within(cpio, archive, 4096, Duration::from_secs(20)) else {
            eprintln!("SKIPPED: needs busybox");
            return false;
        };
        assert!(said.success, "{}", said.stderr);
        true
    }

    #[test]
    fn the_installer_finds_files_and_makes_the_new_system_a_member() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Archive::default();
        first.file("/init", true, b"first".to_vec()).unwrap();
        first.file("/preseed.cfg", false, b"old".to_vec()).unwrap();
        let initrd = dir.path().join("initrd");
        let mut bytes = first.write(0);
        bytes.extend(b"\0\0"); // not where an archive may begin
        fs::write(&initrd, bytes).unwrap();
        let answers = RootFile {
            path: "/preseed.cfg".to_owned(),
            content: b"d-i x string y\n".to_vec(),
            mode: 0o600,
        };
        // the base has a link there
        let program =
            RootFile { path: "/sbin/tool".to_owned(), content: b"tool".to_vec(), mode: 0o755 };
        let all = overlay(vec![answers, program], &agent(dir.path())).unwrap();
        let out = dir.path().join("out");
        append(&initrd, &all, &out).unwrap();
        let whole = fs::read(&out).unwrap();
        assert_eq!(whole.len() % 4, 0);
        assert!(whole.ends_with(&all), "the second archive is as it was made");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("usr/sbin")).unwrap();
        std::os::unix::fs::symlink("usr/sbin", root.join("sbin")).unwrap();
        if !unpack(&all, &root) {
            return;
        }
        assert_eq!(fs::read(root.join("preseed.cfg")).unwrap(), b"d-i x string y\n");
        assert_eq!(fs::read(root.join("usr/sbin/tool")).unwrap(), b"tool");
        let mode = |path: &str| root.join(path).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("preseed.cfg"), mode("p2pinst/1")), (0o600, 0o600));
        // the script names the installer's own root
        let script = fs::read_to_string(root.join("p2pinst/join")).unwrap();
        let script = script.replace("cp /p2pinst/", &format!("cp {}/p2pinst/", root.display()));
        let run = |target: &Path| {
            let mut sh = clean("sh");
            sh.args(["-c", &script, "join"]).arg(target);
            ask(sh, 4096).unwrap()
        };
        let target = dir.path().join("target");
        assert!(!run(&target).success, "there is no system there");
        fs::create_dir_all(target.join("etc")).unwrap();
        for _ in 0..2 {
            let said = run(&target);
            assert!(said.success, "{}", said.stderr);
        }
        let mode = |path: &str| target.join(path).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("usr/sbin/p2pinstd"), 0o755);
        assert_eq!(mode("var/lib/p2pinst/node.key"), 0o600);
        assert_eq!(fs::read(target.join("var/lib/p2pinst/node.key")).unwrap(), b"secret");
        let link = fs::read_link(target.join("etc/wants/p2pinstd.service")).unwrap();
        assert_eq!(link, PathBuf::from("/etc/p2pinstd.service"));
    }

    #[test]
    fn what_cannot_be_a_file_is_refused() {
        let at = |path: &str| RootFile { path: path.to_owned(), content: Vec::new(), mode: 0o644 };
        assert!(overlay(vec![at("/a/../b")], &[]).is_err());
        assert!(overlay(vec![at("/a"), at("/a/b")], &[]).is_err());
        let gone = Inject { path: "/x".into(), source: Source::File("/nowhere".into()), mode: 0 };
        let error = overlay(Vec::new(), &[gone]).unwrap_err().to_string();
        assert!(error.contains("/nowhere"), "{error}");
    }
}
