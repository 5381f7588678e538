//! Packages built by the real dpkg-deb, and roots of their own to install them into.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use p2pinst_install::root::prepare_skeleton;
use p2pinst_install::{
    DebInfo, Dpkg, InstallError, InstallOptions, InstallReport, Patience, inspect,
};
use tempfile::TempDir;

/// A package to be built.
pub struct Deb {
    name: String,
    version: String,
    architecture: String,
    fields: String,
    compression: &'static str,
    scripts: Vec<(String, String)>,
}

impl Deb {
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: "all".to_owned(),
            fields: String::new(),
            compression: "gzip",
            scripts: Vec::new(),
        }
    }

    pub fn architecture(mut self, architecture: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        self
    }

    /// A further line of the control file.
    pub fn field(mut self, line: &str) -> Self {
        self.fields += &format!("{line}\n");
        self
    }

    pub fn compression(mut self, compression: &'static str) -> Self {
        self.compression = compression;
        self
    }

    pub fn script(mut self, name: &str, body: &str) -> Self {
        self.scripts.push((name.to_owned(), format!("#!/bin/sh\n{body}\n")));
        self
    }

    /// Another file of the control part.
    pub fn control_file(mut self, name: &str, content: &str) -> Self {
        self.scripts.push((name.to_owned(), content.to_owned()));
        self
    }

    /// Builds it in a directory, with one file that holds the version.
    pub fn build(&self, dir: &Path) -> PathBuf {
        let (name, version) = (&self.name, &self.version);
        let tree = dir.join(format!("{name}-{version}.tree"));
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: {}\nMaintainer: Test <test@example.org>\n\
             {}Description: a test\n",
            self.architecture, self.fields
        );
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        fs::create_dir_all(tree.join("opt")).unwrap();
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        fs::write(tree.join("opt").join(name), version).unwrap();
        // something to compress, the same every time
        let noise: String =
            (0u32..2000).map(|i| format!("{:x}", i.wrapping_mul(2_654_435_761))).collect();
        fs::write(tree.join("opt").join(format!("{name}.data")), noise).unwrap();
        for (script, body) in &self.scripts {
            let path = tree.join("DEBIAN").join(script);
            fs::write(&path, body).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = dir.join(format!("{name}_{version}_{}.deb", self.compression));
        let built = Command::new("dpkg-deb")
            .args(["--root-owner-group", &format!("-Z{}", self.compression), "--build"])
            .args([&tree, &path])
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        fs::remove_dir_all(&tree).unwrap();
        path
    }
}

/// A root in a directory of its own, with room for packages beside it.
pub struct Root {
    pub dir: TempDir,
    pub dpkg: Dpkg,
}

impl Root {
    /// An empty database.
    pub fn skeleton() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = dir.path().join("root");
        prepare_skeleton(&root).unwrap();
        let dpkg = Dpkg::open(&root, &dir.path().join("dpkg.log")).unwrap();
        Self { dir, dpkg }
    }

    /// An empty database, and this machine's shell with its libraries.
    pub fn with_shell() -> Self {
        let root = Self::skeleton();
        let listed = Command::new("ldd").arg("/bin/sh").output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
        for file in ["/bin/sh"].into_iter().chain(libraries) {
            let to = root.path(file.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(file, &to).unwrap();
        }
        root
    }

    /// A path within the root.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dpkg.root().join(path)
    }

    pub fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    /// Builds, inspects and installs.
    pub fn install(
        &self,
        deb: &Deb,
        options: &InstallOptions,
    ) -> Result<InstallReport, InstallError> {
        let (path, info) = self.built(deb);
        self.dpkg.install(&path, &info, options)
    }

    pub fn built(&self, deb: &Deb) -> (PathBuf, DebInfo) {
        let path = deb.build(self.dir.path());
        let info = inspect(&path).unwrap();
        (path, info)
    }

    /// What stands in the package's file.
    pub fn content(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path("opt").join(name)).ok()
    }

    pub fn installed(&self, name: &str) -> Option<String> {
        self.dpkg.installed(name).unwrap()
    }

    /// What the real dpkg says of a package: `install ok installed 1.0`.
    pub fn query(&self, name: &str) -> String {
        let said = Command::new("dpkg-query")
            .arg(format!("--root={}", self.dpkg.root().display()))
            .args(["--show", "--showformat=${Status} ${Version}", name])
            .output()
            .unwrap();
        String::from_utf8(said.stdout).unwrap()
    }
}

/// Ready to wait, as long as the slowest machine needs.
pub fn patient() -> InstallOptions {
    let minute = Duration::from_secs(120);
    InstallOptions {
        allow_downgrade: false,
        patience: Patience { locks: minute, run: Some(minute) },
    }
}

/// Whether this is root; says otherwise that a test is not run.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED {test}: only root can run package scripts in a root of its own");
    }
    root
}
