//! Bounds on everything that comes from outside. One place, so that they can be read together.

use std::time::Duration;

/// Payload of one cell: gossip carries whole cells, and a message is bounded by 16 KiB.
pub const CELL_PAYLOAD: usize = 8 * 1024;
/// Subject of a cell: the longest is a group name.
pub const CELL_SUBJECT: usize = 64;
/// Slot of a cell.
pub const CELL_SLOT: usize = 32;
/// One frame of the store protocol and of the control socket (not of bulk bytes).
pub const FRAME: usize = 1024 * 1024;
/// What a node shows of itself in the handshake: chain of roots, grant, invite, certificate,
/// admission.
pub const HELLO: usize = 64 * 1024;
/// Time for the whole certificate handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Roots a chain may have: one rotation a month for ten years.
pub const ROOTS: usize = 128;
/// Keys in one root document.
pub const ROOT_KEYS: usize = 16;
/// Grants and revocations that one list of standing grants names: it fits into one cell.
pub const STANDING: usize = 200;
/// A cell may be this far ahead of cluster time before it is set aside (quarantined). A day: the
/// first machines of a cluster have no majority that corrects them, and what they wrote with a
/// wrong time zone must not lock out those that join later; the hybrid clock absorbs it.
pub const FUTURE: Duration = Duration::from_secs(24 * 3600);
/// Labels of one machine.
pub const LABELS: usize = 32;
/// Bootstrap addresses in a token, and listen addresses of a node.
pub const ADDRS: usize = 16;
/// Replicas of a data-plane cell.
pub const REPLICAS: usize = 8;
/// Length of a host expression or a selector.
pub const EXPR: usize = 4096;
/// Names that one host expression may stand for.
pub const EXPR_NAMES: u64 = 65_536;
/// Description of a group, in bytes.
pub const DESCRIPTION: usize = 1024;
/// A group file, in bytes.
pub const GROUP_FILE: usize = 1024 * 1024;
/// Groups in one group file.
pub const GROUPS: usize = 10_000;
/// One blob: 16 TiB would be 4 Mi pieces; the piece layer stays below 128 MiB.
pub const BLOB: u64 = 16 << 40;
/// Shards of one deployment's statuses: one for each 64 of as many machines as an expression names.
pub const SHARDS: u16 = 1024;
/// Chunks that the recipe of one blob names: a recipe is then below 40 MiB. At the usual 256 KiB a chunk, blobs
/// above 256 GiB have none.
pub const RECIPE_CHUNKS: u32 = 1 << 20;
/// A text of a machine's inventory: the longest model names of disks have 40 characters.
pub const HARDWARE_TEXT: usize = 96;
/// Disks of an inventory: with 200 bytes each it fits into a cell.
pub const HARDWARE_DISKS: usize = 24;
/// Network interfaces of an inventory.
pub const HARDWARE_NICS: usize = 16;
/// Files of one image: a scout has six.
pub const IMAGE_FILES: usize = 16;
/// The text of a host setup: it fits into a cell.
pub const SETUP: usize = 7 * 1024;
/// The line that names a controller.
pub const CONTROLLER: usize = 512;
/// Nodes that one secret is sealed to: with 100 bytes each they fit into a cell.
pub const SEALED_KEYS: usize = 64;
/// A content key that is sealed to one node: 32 bytes and a tag.
pub const SEALED_KEY: usize = 48;
/// A sealed secret: a user and a password of 128 bytes each, with room for their encoding.
pub const SEALED: usize = 512;
/// Unknown machines that one node remembers to have seen.
pub const SIGHTINGS: u16 = 256;
/// What a scout shows of itself: an inventory, some addresses, a signature.
pub const SCOUT_HELLO: usize = 16 * 1024;
/// A machine that is seen again and again is noted this often.
pub const SIGHTED: Duration = Duration::from_secs(300);
