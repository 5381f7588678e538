//! QEMU's Machine Protocol: JSON, a line each way, over a socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// QEMU answers within this time, however busy it is.
const ANSWER: Duration = Duration::from_secs(20);
/// Events that may come before an answer.
const EVENTS: usize = 1000;

/// Asks QEMU, and returns what it answers.
pub(super) fn ask(socket: &Path, command: &str, arguments: &Value) -> Result<Value> {
    let cannot = || format!("cannot ask QEMU for {command} at {}", socket.display());
    let stream = UnixStream::connect(socket).with_context(cannot)?;
    stream.set_read_timeout(Some(ANSWER)).with_context(cannot)?;
    let mut qmp = Qmp { lines: BufReader::new(stream) };
    qmp.next().with_context(cannot)?;
    qmp.execute("qmp_capabilities", &json!({})).with_context(cannot)?;
    qmp.execute(command, arguments).with_context(cannot)
}

struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut request = json!({ "execute": command, "arguments": arguments }).to_string();
        request.push('\n');
        self.lines.get_mut().write_all(request.as_bytes()).context("it does not listen")?;
        for _event in 0..EVENTS {
            let mut answer = self.next()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("it refuses: {error}");
            }
        }
        bail!("it answers by events alone")
    }

    fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line).context("it does not answer")?;
        serde_json::from_str(&line).with_context(|| format!("it answers `{line}`"))
    }
}
