//! Rendering in a process of its own, for graphs from elsewhere.
//!
//! The language has values that grow (`a ~ a`), which no count of instructions bounds. So the process that runs templates
//! first gives up memory and time beyond a limit; when a template takes more, that process ends and nobody else does.
//!
//! [`serve`] is the hidden subcommand of the program that starts itself, [`render`] starts it. A request is a line of JSON
//! and the archive; the answer is JSON.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::Command;
use std::time::Duration;

use p2pinst_types::name::Name;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::attributes::Attributes;
use super::format::Format;
use super::graph::Graph;
use super::pack::{ARCHIVE_MAX, unpack};
use super::render::Rendered;

/// The hidden subcommand of the programs that render: it calls [`serve`] with its standard input and output.
pub const SUBCOMMAND: &str = "render-templates";

/// Memory of the process: its program and stacks, an archive, and many times the longest output.
const MEMORY: u64 = 512 * 1024 * 1024;
/// Processor time of the process, in seconds.
const CPU: u64 = 10;
/// After this it is ended, however busy the machine is.
const TIME: Duration = Duration::from_secs(60);
/// The line before the archive: an inventory is some kilobytes.
const REQUEST: u64 = 4 * 1024 * 1024;
/// The answer: the output, with every character escaped at worst.
const ANSWER: u64 = 64 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    appliance: Option<Name>,
    format: Format,
    attributes: Attributes,
}

/// Why there is no file.
#[derive(Debug, Error)]
pub enum ConfinedError {
    /// The process could not be started, or did not end well.
    #[error("cannot run the templates: {0}")]
    Start(#[source] io::Error),
    /// It took more memory or time than it may.
    #[error(
        "the templates were stopped: they take more than {} MiB of memory or {CPU} s ({said})",
        MEMORY >> 20
    )]
    Stopped {
        /// The process's last words.
        said: String,
    },
    /// The graph or a template is wrong.
    #[error("{0}")]
    Refused(String),
    /// The answer is none.
    #[error("the process that runs the templates answered nonsense: {0}")]
    Nonsense(#[source] serde_json::Error),
}

/// The program that runs, as the process that renders.
///
/// # Errors
/// When it does not know where it is.
pub fn itself() -> Result<Command, ConfinedError> {
    let program = std::env::current_exe().map_err(ConfinedError::Start)?;
    let mut command = Command::new(program);
    command.arg(SUBCOMMAND).env_clear().current_dir("/");
    Ok(command)
}

/// Renders in the process that this command starts, which must call [`serve`]. Without an appliance, the one that
/// [`Graph::choose`] takes.
///
/// # Errors
/// When the process fails, is stopped, or refuses.
pub fn render(
    command: Command,
    archive: &[u8],
    appliance: Option<&Name>,
    format: Format,
    attributes: &Attributes,
) -> Result<Rendered, ConfinedError> {
    let request = Request { appliance: appliance.cloned(), format, attributes: attributes.clone() };
    let mut input = serde_json::to_vec(&request).map_err(ConfinedError::Nonsense)?;
    input.push(b'\n');
    input.extend_from_slice(archive);
    let said = p2pinst_command::ask_within(command, &input, ANSWER, TIME);
    let said = match said {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(ConfinedError::Stopped { said: error.to_string() });
        }
        said => said.map_err(ConfinedError::Start)?,
    };
    if !said.success {
        return Err(ConfinedError::Stopped { said: said.stderr });
    }
    let answer: Result<Rendered, String> =
        serde_json::from_slice(&said.stdout).map_err(ConfinedError::Nonsense)?;
    answer.map_err(ConfinedError::Refused)
}

/// Gives up what templates shall not have, reads one request, and answers it.
///
/// # Errors
/// When the limits cannot be set, the request cannot be read, or the answer cannot be written.
pub fn serve(input: impl Read, mut output: impl Write) -> io::Result<()> {
    for (resource, limit) in
        [(Resource::As, MEMORY), (Resource::Cpu, CPU), (Resource::Core, 0), (Resource::Fsize, 0)]
    {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    input.by_ref().take(REQUEST).read_until(b'\n', &mut line)?;
    let request: Request = serde_json::from_slice(&line).map_err(io::Error::other)?;
    let mut archive = Vec::new();
    input.take(ARCHIVE_MAX + 1).read_to_end(&mut archive)?;
    serde_json::to_writer(&mut output, &answer(&request, &archive)).map_err(io::Error::other)?;
    output.flush()
}

fn answer(request: &Request, archive: &[u8]) -> Result<Rendered, String> {
    let files = unpack(archive).map_err(|e| e.to_string())?;
    let graph = Graph::parse(&files).map_err(|e| e.to_string())?;
    let Request { appliance, format, attributes } = request;
    let appliance = graph.choose(appliance.as_ref(), attributes).map_err(|e| e.to_string())?;
    super::render(&graph, &appliance, *format, attributes).map_err(|e| e.to_string())
}
