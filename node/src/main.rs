//! `p2pinstd`: the daemon, one per machine, in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use p2pinst_api::{DataDir, paths};
use p2pinst_node::daemon::{self, Options};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The p2pinst node: installs what is ordered for this machine, and serves what it has to others
///
/// Runs in the foreground and logs to stderr; P2PINST_LOG sets the level (error, warn, info,
/// debug, or per part: info,p2pinst_node::mesh=debug). Ends on SIGTERM or SIGINT, after a package
/// manager that is at work has finished.
///
/// Example: p2pinstd --data-dir /var/lib/p2pinst --root /
#[derive(Debug, Parser)]
#[command(name = "p2pinstd", version)]
struct Args {
    /// The node's data directory, made by `p2pinst init` or `p2pinst join`
    #[arg(long, env = "P2PINST_DATA_DIR", default_value = paths::DEFAULT, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where packages are installed: any directory with a dpkg database
    #[arg(long, default_value = "/", value_name = "DIR")]
    root: PathBuf,
}

/// Threads for what does not block: half of the processors, for the machine has work of its own; no more
/// than four. One alone moves some 4 Gbit/s. With one more than is needed nearly every message wakes it up: a fifth more
/// of the processors' time on links of up to 1 Gbit/s.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get() / 2).clamp(1, 4)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("P2PINST_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,libp2p_kad=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .max_blocking_threads(32)
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(args)),
        Err(e) => Err(e.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let options = Options { dir: DataDir::new(args.data_dir), root: args.root };
    let node = daemon::run(options, shutdown.clone());
    tokio::pin!(node);
    loop {
        tokio::select! {
            ended = &mut node => return ended,
            _ = term.recv() => shutdown.cancel(),
            _ = int.recv() => shutdown.cancel(),
        }
    }
}
