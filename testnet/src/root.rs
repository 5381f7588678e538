//! What is inside a root: asked of the real dpkg.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::exec::{Exec, run};

/// The status line and version that dpkg has of a package: `install ok installed 1.0`.
///
/// # Errors
/// When dpkg knows no such package.
pub fn dpkg_status(root: &Path, package: &str) -> Result<String> {
    let done = Exec::new("dpkg-query")
        .arg(format!("--admindir={}", root.join("var/lib/dpkg").display()))
        .args(["-W", "-f", "${Status} ${Version}", package])
        .run()?
        .ok()?;
    Ok(done.stdout.trim().to_owned())
}

/// Checks that exactly this version is installed, all of it.
///
/// # Errors
/// When it is not, with what is there instead.
pub fn expect_installed(root: &Path, package: &str, version: &str) -> Result<()> {
    let status = dpkg_status(root, package)?;
    ensure!(
        status == format!("install ok installed {version}"),
        "{package} {version} is not installed in {}: dpkg says `{status}`",
        root.display()
    );
    Ok(())
}

/// Checks that nothing is half done: what `dpkg --audit` finds.
///
/// # Errors
/// When something is, with dpkg's words.
pub fn expect_whole(root: &Path) -> Result<()> {
    let said = run("dpkg", [format!("--root={}", root.display()), "--audit".to_owned()])?;
    if said.trim().is_empty() {
        return Ok(());
    }
    bail!("dpkg finds something half done in {}: {said}", root.display())
}

/// Puts a shell into a skeleton, so that packages can run scripts there.
///
/// # Errors
/// When busybox is missing, or the root cannot be written.
pub fn add_shell(root: &Path) -> Result<()> {
    let bin = root.join("bin");
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let from = busybox.into_iter().find(|f| f.exists());
    let from = from.context("there is no busybox: apt-get install busybox-static")?;
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    for applet in ["sh", "sleep", "touch", "test", "cat", "rm"] {
        let to = bin.join(applet);
        fs::copy(from, &to)
            .and_then(|_| fs::set_permissions(&to, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}
