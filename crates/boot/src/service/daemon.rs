//! The daemon's side: starts the boot service, tells it what to serve, hears what happened, and starts another when it dies.
//!
//! One task owns the child. The child is killed when [`Service`] is dropped. What it says is bounded, and its words are made fit for people here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use p2pinst_command::text;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::config::Config;
use super::tables::Tables;
use super::wire::{self, FromService, Hello, Ready, ServedFile, ToService, WireError};
use crate::dhcp::event::Event;
use crate::http;

/// Messages that the daemon has not taken yet; the service drops what comes after them.
const MESSAGES: usize = 256;
/// Answers that have not been sent yet.
const ANSWERS: usize = 16;
/// Until a service that died is started again: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A service that has lived for this long was well.
const WELL: Duration = Duration::from_secs(60);
/// Until a service that was asked to end is killed.
const GRACE: Duration = Duration::from_secs(5);
/// The longest text that is taken from a service.
const WORDS: usize = 1024;

/// Why there is no boot service.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// The path cannot be told to the system.
    #[error("cannot start {} as the boot service: the path is no UTF-8", .0.display())]
    Path(PathBuf),
    /// The start message does not fit.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Which `/hello` an answer is for: of which child, and which of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HelloId {
    life: u64,
    id: u64,
}

/// What the boot service says, and what becomes of it.
#[derive(Debug)]
pub enum Message {
    /// It has dropped its privileges and listens.
    Ready(Ready),
    /// Something happened on a segment.
    Event(Event),
    /// A machine introduces itself, and waits for [`Service::answer`].
    Hello {
        /// What its answer is called.
        id: HelloId,
        /// Where it called from, and what it said.
        hello: Hello,
    },
    /// A file left, or a part of it.
    ServedFile(ServedFile),
    /// Something does not work; the rest goes on.
    Failed {
        /// What was attempted, on what, and why it failed.
        what: String,
    },
    /// It has ended and is started again; it has its tables again when it is [`Message::Ready`].
    Restarted {
        /// Why.
        why: String,
        /// After how long.
        after: Duration,
    },
}

#[derive(Debug)]
enum Ask {
    Answer { id: HelloId, status: u16, body: Vec<u8> },
    Stop,
}

/// A boot service that is kept alive.
#[derive(Debug)]
pub struct Service {
    asks: mpsc::Sender<Ask>,
    tables: watch::Sender<Option<Arc<[u8]>>>,
    messages: mpsc::Receiver<Message>,
    tasks: JoinSet<()>,
}

impl Service {
    /// Starts `program`, which is to run [`super::main`] on its standard input and output, now and whenever it ends.
    ///
    /// # Errors
    /// When it can never be started. What fails later comes as [`Message::Restarted`].
    pub fn spawn(program: &Path, args: &[OsString], config: Config) -> Result<Self, SpawnError> {
        let path = program.to_str().ok_or_else(|| SpawnError::Path(program.to_owned()))?;
        let start = wire::frame(&ToService::Start(config))?;
        let (asks, asked) = mpsc::channel(ANSWERS);
        let (tables, changed) = watch::channel(None);
        let (says, messages) = mpsc::channel(MESSAGES);
        let (program, args) = (path.to_owned(), args.to_vec());
        let keeper =
            Keeper { program, args, start, tables: changed, asks: asked, messages: says, life: 0 };
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.run());
        Ok(Self { asks, tables, messages, tasks })
    }

    /// This is served from now on, also after the service was started again.
    ///
    /// # Errors
    /// When it is too long for a message.
    pub fn set_tables(&self, tables: Tables) -> Result<(), WireError> {
        let frame = wire::frame(&ToService::Tables(tables))?;
        self.tables.send_replace(Some(frame.into()));
        Ok(())
    }

    /// Answers a machine; of one that does not wait any more nothing is heard.
    pub async fn answer(&self, id: HelloId, status: u16, body: Vec<u8>) {
        // the service has ended, and with it whoever waits
        let _ended = self.asks.send(Ask::Answer { id, status, body }).await;
    }

    /// What happened next; none when the service was stopped.
    pub async fn next(&mut self) -> Option<Message> {
        self.messages.recv().await
    }

    /// Ends the service, and waits until it is gone.
    pub async fn stop(mut self) {
        let _ended = self.asks.send(Ask::Stop).await;
        self.messages.close();
        let _late = timeout(2 * GRACE, self.tasks.join_next()).await;
        self.tasks.shutdown().await;
    }
}

/// How a child's life ends.
enum End {
    /// It was to.
    Stopped,
    /// It wants new sockets.
    NewInterfaces,
    /// Nobody listens to what it says.
    Unheard,
    /// It has closed its pipe, or says something wrong.
    Broken(Option<WireError>),
}

/// Keeps one child alive.
struct Keeper {
    program: String,
    args: Vec<OsString>,
    start: Vec<u8>,
    tables: watch::Receiver<Option<Arc<[u8]>>>,
    asks: mpsc::Receiver<Ask>,
    messages: mpsc::Sender<Message>,
    life: u64,
}

impl Keeper {
    async fn run(mut self) {
        let (first, longest) = AGAIN;
        let mut pause = first;
        loop {
            let began = Instant::now();
            self.life += 1;
            let (why, after) = match self.live().await {
                Ok(None) => return,
                Ok(Some(why)) if why == NEW => (why, Duration::ZERO),
                Ok(Some(why)) => (why, pause),
                Err(error) => (format!("cannot start {}: {error}", self.program), pause),
            };
            let after = if began.elapsed() >= WELL { after.min(first) } else { after };
            pause = if began.elapsed() >= WELL { first } else { (pause * 2).min(longest) };
            if self.messages.send(Message::Restarted { why, after }).await.is_err() {
                return;
            }
            sleep(after).await;
        }
    }

    /// One child, from its start to its end; says why another is needed.
    async fn live(&mut self) -> std::io::Result<Option<String>> {
        let mut command = Command::from(p2pinst_command::clean(&self.program));
        command.args(&self.args).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        };
        let reads = read(stdout, &self.messages, self.life);
        let writes = write(stdin, &self.start, &mut self.tables, &mut self.asks, self.life);
        let end = tokio::select! {
            end = reads => end,
            end = writes => end,
        };
        let status = finish(&mut child).await?;
        Ok(match end {
            End::Stopped | End::Unheard => None,
            End::NewInterfaces => Some(NEW.to_owned()),
            End::Broken(None) => Some(format!("the boot service has ended ({status})")),
            End::Broken(Some(error)) => Some(format!("{error} ({status})")),
        })
    }
}

/// Why a service is started again at once.
const NEW: &str = "there are new interfaces or addresses";

/// Waits for a child whose pipes are closed, and kills it when it does not end.
async fn finish(child: &mut Child) -> std::io::Result<ExitStatus> {
    if let Ok(status) = timeout(GRACE, child.wait()).await {
        return status;
    }
    child.start_kill()?;
    child.wait().await
}

/// Takes what the child says, until it says no more.
async fn read(mut stdout: ChildStdout, messages: &mpsc::Sender<Message>, life: u64) -> End {
    loop {
        let message = match wire::receive(&mut stdout).await {
            Ok(Some(FromService::NewInterfaces)) => return End::NewInterfaces,
            Ok(Some(message)) => checked(message, life),
            Ok(None) => return End::Broken(None),
            Err(error) => return End::Broken(Some(error)),
        };
        if let Some(message) = message
            && messages.send(message).await.is_err()
        {
            return End::Unheard;
        }
    }
}

/// A message within its bounds: whoever takes the service over from the segment says what it likes.
fn checked(message: FromService, life: u64) -> Option<Message> {
    Some(match message {
        FromService::Ready(mut ready) => {
            for (name, _) in &mut ready.interfaces {
                *name = words(name);
            }
            Message::Ready(ready)
        }
        FromService::Event(event) => Message::Event(event),
        FromService::Hello(hello) if hello.body.len() <= http::HELLO => {
            Message::Hello { id: HelloId { life, id: hello.id }, hello }
        }
        FromService::ServedFile(file) => {
            Message::ServedFile(ServedFile { name: words(&file.name), ..file })
        }
        FromService::Failed { what } => Message::Failed { what: words(&what) },
        FromService::Hello(_) | FromService::NewInterfaces => return None,
    })
}

fn words(said: &str) -> String {
    text(said.as_bytes()).chars().take(WORDS).collect()
}

/// Tells the child what it is to know. When its pipe breaks, reading says why.
async fn write(
    mut stdin: ChildStdin,
    start: &[u8],
    tables: &mut watch::Receiver<Option<Arc<[u8]>>>,
    asks: &mut mpsc::Receiver<Ask>,
    life: u64,
) -> End {
    tables.mark_changed();
    let mut frame: Vec<u8> = start.to_vec();
    loop {
        if stdin.write_all(&frame).await.is_err() {
            return std::future::pending().await;
        }
        frame.clear();
        tokio::select! {
            ask = asks.recv() => match ask {
                Some(Ask::Answer { id, status, body }) if id.life == life => {
                    let answer = ToService::HelloAnswer { id: id.id, status, body };
                    // one that is too long is not sent: the machine hears that nobody answers
                    frame = wire::frame(&answer).unwrap_or_default();
                }
                Some(Ask::Answer { .. }) => {}
                Some(Ask::Stop) | None => return End::Stopped,
            },
            Ok(()) = tables.changed() => {
                frame.extend(tables.borrow_and_update().iter().flat_map(|t| t.iter()));
            }
        }
    }
}
