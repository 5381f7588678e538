//! `p2pinstd`: the daemon, one per machine, in the foreground.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use p2pinst_api::{DataDir, paths};
use p2pinst_boot::setup::inventory::Roots;
use p2pinst_boot::template::confined;
use p2pinst_node::daemon::{self, Options};
use p2pinst_node::scout::{self, Then};
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
    #[command(subcommand)]
    role: Option<Role>,
}

/// What else the program can be.
#[derive(Debug, Clone, Subcommand)]
enum Role {
    /// Install this machine: the daemon of the system that bare machines boot
    ///
    /// Started by the scout's first process. It finds a peer, waits for an order, carries it out, and starts the machine from
    /// its disk.
    Scout(ScoutArgs),
    /// The process that answers machines that boot over the network; started by the daemon
    #[command(name = p2pinst_node::boot::SUBCOMMAND, hide = true)]
    BootService,
    /// The process that runs templates, for they may be anybody's; started by a scout
    #[command(name = confined::SUBCOMMAND, hide = true)]
    RenderTemplates,
}

/// How a scout is started.
#[derive(Debug, Clone, clap::Args)]
struct ScoutArgs {
    /// Where it keeps what it needs, in memory
    #[arg(long, default_value = "/run/p2pinst", value_name = "DIR")]
    dir: PathBuf,
    /// The file that says of which cluster it is
    #[arg(long, default_value = "/etc/p2pinst/cluster.cbor", value_name = "FILE")]
    cluster: PathBuf,
    /// Where its first process has noted what it found
    #[arg(long, default_value = p2pinst_boot::scout::RUN_DIR, value_name = "DIR")]
    run_dir: PathBuf,
    /// Where it listens
    #[arg(long, default_value = p2pinst_node::config::LISTEN, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// Boot services to ask first
    #[arg(long = "peer", value_name = "ADDR:PORT")]
    peers: Vec<SocketAddr>,
    /// Use these disks and no others; also devices that are no disks of a machine (loop0)
    #[arg(long = "disk", value_name = "NAME")]
    disks: Vec<String>,
    /// Also an interface that is no device of a machine (one of a network namespace)
    #[arg(long = "nic", value_name = "NAME")]
    nics: Vec<String>,
    /// Ask here for the code of the order [default: at all consoles of the kernel]
    #[arg(long = "console", value_name = "TTY")]
    consoles: Vec<PathBuf>,
    /// End when the machine is installed, and do not start it anew
    #[arg(long)]
    stay: bool,
}

impl ScoutArgs {
    fn options(self) -> scout::Options {
        let Self { dir, cluster, run_dir, listen, peers, disks: only, nics, consoles, stay } = self;
        let roots = Roots { also: only.clone(), nics, ..Roots::default() };
        let then = if stay { Then::Exit } else { Then::Reboot };
        scout::Options { dir, cluster, run_dir, listen, peers, roots, only, consoles, then }
    }
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
    // before there are other threads: privileges and memory are given up by all of a process
    match args.role {
        Some(Role::BootService) => {
            return ended(p2pinst_boot::service::main(std::io::stdin(), std::io::stdout()));
        }
        Some(Role::RenderTemplates) => {
            return ended(confined::serve(std::io::stdin(), std::io::stdout()));
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .max_blocking_threads(32)
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(args));
            // what blocks for long (a scout that writes a disk) is not waited for
            runtime.shutdown_background();
            result
        }
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

fn ended<E: std::fmt::Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = shutdown.clone();
    let node = async move {
        if let Some(Role::Scout(scout)) = args.role {
            return scout::run(scout.options(), token).await;
        }
        let options = Options { dir: DataDir::new(args.data_dir), root: args.root };
        daemon::run(options, token).await
    };
    tokio::pin!(node);
    loop {
        tokio::select! {
            ended = &mut node => return ended,
            _ = term.recv() => shutdown.cancel(),
            _ = int.recv() => shutdown.cancel(),
        }
    }
}
