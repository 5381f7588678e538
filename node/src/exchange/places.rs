//! Where other nodes are, seen from this one: the one answer that sources, limits and counters share.

use std::fmt;
use std::sync::Arc;

use p2pinst_chunks::fetch::place::{Place, SiteTag};
use p2pinst_types::record::Distance;
use p2pinst_types::{Hash, Labels, Name, NodeId};

use crate::store::StoreHandle;

/// Where any node is, seen from this one. Cheap to clone.
#[derive(Clone)]
pub struct Places(Arc<dyn Fn(&NodeId) -> Place + Send + Sync>);

impl Places {
    /// As the roster says.
    #[must_use]
    pub fn of_roster(store: StoreHandle, own: NodeId) -> Self {
        Self::from_fn(move |node| {
            let views = store.views();
            place(views.place_of(&own.0), views.place_of(&node.0))
        })
    }

    /// As a function says.
    #[must_use]
    pub fn from_fn(place: impl Fn(&NodeId) -> Place + Send + Sync + 'static) -> Self {
        Self(Arc::new(place))
    }

    /// Where a node is.
    #[must_use]
    pub fn of(&self, node: &NodeId) -> Place {
        (self.0)(node)
    }

    /// The same without the site, as records have it.
    #[must_use]
    pub fn distance(&self, node: &NodeId) -> Distance {
        match self.of(node) {
            Place::Rack => Distance::Rack,
            Place::Site => Distance::Site,
            Place::Far(_) => Distance::Wan,
        }
    }
}

impl Default for Places {
    /// All are at one site.
    fn default() -> Self {
        Self::from_fn(|_| Place::Site)
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Places")
    }
}

/// A node's site and labels.
pub(super) type At<'a> = Option<(&'a Name, &'a Labels)>;

/// Where a machine is, seen from another. One that is not known counts as far, at a site of its own.
pub(super) fn place(here: At<'_>, there: At<'_>) -> Place {
    let (Some((here, ours)), Some((there, theirs))) = (here, there) else {
        return Place::Far(SiteTag(0));
    };
    if here != there {
        return Place::Far(tag(there));
    }
    let rack =
        |labels: &Labels| labels.iter().find(|(k, _)| k.as_str() == "rack").map(|(_, v)| v.clone());
    if rack(ours).is_some_and(|r| rack(theirs) == Some(r)) { Place::Rack } else { Place::Site }
}

fn tag(site: &Name) -> SiteTag {
    SiteTag(number(&Hash::of_parts("p2pinst/site/1", &[site.as_str().as_bytes()])))
}

/// The first 8 bytes of a hash.
pub(super) fn number(hash: &Hash) -> u64 {
    hash.0.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
}
