//! Running the program.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The program, with a clean environment and the data directory `data` below `dir`.
pub(crate) fn p2pinst(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pinst"));
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    command.current_dir(dir).env("P2PINST_DATA_DIR", dir.join("data"));
    command
}

/// How it ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Self { code: output.status.code(), stdout, stderr }
    }

    /// Checks that it failed in this way, and returns what it said.
    pub(crate) fn failed(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert_eq!(self.stdout, "", "an error is no data");
        assert!(self.stderr.starts_with("error: "), "{}", self.stderr);
        &self.stderr
    }

    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        &self.stdout
    }

    /// The error of a command with `--json`.
    pub(crate) fn json_error(&self, code: i32) -> serde_json::Value {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{}", self.stderr);
        serde_json::from_str(&self.stderr).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.ok()).unwrap()
    }
}

pub(crate) fn run(dir: &Path, args: &[&str]) -> Ended {
    Ended::of(&p2pinst(dir).args(args).output().unwrap())
}

pub(crate) fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
