//! Blobs and pieces on disk; the exchange scheduler.
//!
//! Parts that share the words of [`layer`] and [`bitmap`]:
//!
//! - [`store`]: a directory of blobs, complete and partial. Blocking; call it from threads that may
//!   block. Only verified bytes go in, only verified bytes come out.
//! - [`recipe`]: of what chunks blobs are made, and what of a new one is here already.
//! - [`seekable`]: compressed images of which any part can be read.
//! - [`quota`]: which blobs go when there is no room. Pure.
//! - [`wire`], [`fetch`], [`serve`]: the exchange protocol and its two policies, sans-IO. Time and
//!   randomness are parameters; nothing here opens a socket.
//! - [`rates`], [`throttle`]: how fast that may be, and who waits for whom; sans-IO as well.
//!
//! Beside them [`bound`]: how fast a distribution can be at best.
//!
//! What a crash loses: pieces written since the last [`BlobStore::sync`], never more; they are
//! fetched again.

pub mod bitmap;
pub mod bound;
pub mod fetch;
pub mod layer;
pub mod news;
pub mod quota;
pub mod rates;
pub mod recipe;
pub mod seekable;
pub mod serve;
pub mod store;
pub mod throttle;
pub mod wire;

pub use bitmap::Bitmap;
pub use fetch::Fetch;
pub use layer::{LayerBuilder, LayerPages, PieceLayer};
pub use serve::Serve;
pub use store::{BlobStatus, BlobStore, Put};
