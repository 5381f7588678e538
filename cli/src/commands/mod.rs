//! The commands, one file each: its arguments, and what it does with them.

use crate::context::Context;
use crate::error::CliError;

mod boot;
mod debug;
mod deploy;
mod deploys;
mod doctor;
mod fetch;
mod grant;
mod group;
mod history;
mod image;
mod init;
mod invite;
mod join;
mod key;
mod leave;
mod limits;
mod machine;
mod node;
mod power;
mod preheat;
mod publish;
mod render;
mod repository;
mod retire;
mod revoke;
mod root;
mod roster;
mod rotate;
mod scout;
mod seed;
mod setup;
mod status;
mod store;
mod swarm;
mod template;
mod version;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Init(init::InitArgs),
    Invite(invite::InviteArgs),
    Join(join::JoinArgs),
    Leave(leave::LeaveArgs),
    #[command(subcommand)]
    Key(key::KeyCommand),
    Grant(grant::GrantArgs),
    Revoke(revoke::RevokeArgs),
    #[command(subcommand)]
    Node(node::NodeCommand),
    #[command(subcommand)]
    Group(group::GroupCommand),
    #[command(subcommand)]
    Power(power::PowerCommand),
    Publish(publish::PublishArgs),
    Preheat(preheat::PreheatArgs),
    #[command(subcommand)]
    Machine(machine::MachineCommand),
    #[command(subcommand)]
    Image(image::ImageCommand),
    #[command(subcommand)]
    Scout(scout::ScoutCommand),
    #[command(subcommand)]
    Template(template::TemplateCommand),
    Render(render::RenderArgs),
    #[command(subcommand)]
    Repository(repository::RepositoryCommand),
    #[command(subcommand)]
    Setup(setup::SetupCommand),
    Deploy(deploy::DeployArgs),
    #[command(subcommand)]
    Boot(boot::BootCommand),
    Retire(retire::RetireArgs),
    Status(status::StatusArgs),
    Swarm(swarm::SwarmArgs),
    History(history::HistoryArgs),
    Seed(seed::SeedArgs),
    Fetch(fetch::FetchArgs),
    #[command(subcommand)]
    Store(store::StoreCommand),
    #[command(subcommand)]
    Limits(limits::LimitsCommand),
    Doctor(doctor::DoctorArgs),
    #[command(subcommand)]
    Debug(debug::DebugCommand),
    #[command(subcommand)]
    Root(root::RootCommand),
    Version(version::VersionArgs),
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Init(args) => init::run(context, args),
            Self::Invite(args) => invite::run(context, args).await,
            Self::Join(args) => join::run(context, args).await,
            Self::Leave(args) => leave::run(context, args).await,
            Self::Key(command) => key::run(context, command).await,
            Self::Grant(args) => grant::run(context, args).await,
            Self::Revoke(args) => revoke::run(context, args).await,
            Self::Node(command) => node::run(context, command).await,
            Self::Group(command) => group::run(context, command).await,
            Self::Power(command) => power::run(context, command).await,
            Self::Publish(args) => publish::run(context, args).await,
            Self::Preheat(args) => preheat::run(context, args).await,
            Self::Machine(command) => machine::run(context, command).await,
            Self::Image(command) => image::run(context, command).await,
            Self::Scout(command) => scout::run(context, command).await,
            Self::Template(command) => template::run(context, command).await,
            Self::Render(args) => render::run(context, args).await,
            Self::Repository(command) => repository::run(context, command).await,
            Self::Setup(command) => setup::run(context, command).await,
            Self::Deploy(args) => deploy::run(context, args).await,
            Self::Boot(command) => boot::run(context, command).await,
            Self::Retire(args) => retire::run(context, args).await,
            Self::Status(args) => status::run(context, args).await,
            Self::Swarm(args) => swarm::run(context, args).await,
            Self::History(args) => history::run(context, args).await,
            Self::Seed(args) => seed::run(context, args).await,
            Self::Fetch(args) => fetch::run(context, args).await,
            Self::Store(command) => store::run(context, command).await,
            Self::Limits(command) => limits::run(context, command).await,
            Self::Root(command) => root::run(context, command).await,
            Self::Doctor(args) => doctor::run(context, args).await,
            Self::Debug(command) => debug::run(context, command).await,
            Self::Version(args) => version::run(context, &args),
        }
    }
}
