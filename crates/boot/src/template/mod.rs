//! Files for installers (kickstart, preseed, autoinstall, cloud-init), rendered from a graph of fragments.
//!
//! An administrator's directory ([`Files`]) holds fragments and says which appliance is made of which of them, under which
//! conditions ([`Graph`]). The machine that is installed walks the graph from its appliance, renders the fragments with
//! what is known of it ([`Attributes`]), and puts them into the skeleton of its installer's format ([`render()`]). The
//! directory travels as one archive ([`pack()`], [`unpack()`]).
//!
//! Nothing here asks the network, and nothing but [`Files::read`] and [`confined`] touches the system. A template sees the
//! files of its own graph and nothing else. Its instructions and its output are bounded; what it may pile up in memory
//! between the two is bounded where it runs in a process of its own ([`confined`]), which is where strangers' graphs belong.

mod attributes;
pub mod confined;
mod engine;
mod files;
mod format;
mod graph;
mod pack;
mod quote;
mod render;

pub use attributes::{Attributes, Mirror, Partition};
pub use engine::TemplateError;
pub use files::{Files, FilesError};
pub use format::{Clash, Format, NoFormat};
pub use graph::{Graph, GraphError, NoAppliance, Node, Problem, WhichAppliance};
pub use pack::{ARCHIVE_MAX, UnpackError, pack, unpack};
pub use render::{RenderError, Rendered, render};
