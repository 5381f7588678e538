//! Where peers are, and who of a site asks other sites.

/// A site, as far as a fetch tells sites apart: a part of a hash of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteTag(pub u64);

/// Where a peer is, seen from this node; the nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In this node's rack.
    Rack,
    /// At this node's site, in another rack.
    Site,
    /// At another site.
    Far(SiteTag),
}

impl Place {
    /// Whether it is at this node's site.
    #[must_use]
    pub fn is_near(self) -> bool {
        !matches!(self, Self::Far(_))
    }
}

/// Members of a site that may ask other sites for pieces of one blob. Enough to fill any WAN, few
/// enough that everybody can compute whose turn it is.
pub const GATEWAYS: usize = 16;

/// Whether a member is one of its site's gateways for a blob, by its tag and those of the other
/// members that take part. All members that know of the same others say the same.
#[must_use]
pub fn is_gateway(own: u64, others: impl IntoIterator<Item = u64>) -> bool {
    others.into_iter().filter(|t| *t < own).take(GATEWAYS).count() < GATEWAYS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_are_gateways() {
        let tags: Vec<u64> = (0..100).rev().collect();
        let gateways = tags.iter().filter(|t| is_gateway(**t, tags.iter().copied()));
        assert_eq!(gateways.copied().collect::<Vec<_>>(), (0..16).rev().collect::<Vec<_>>());
        assert!(is_gateway(7, []));
    }

    #[test]
    fn near_is_before_far() {
        let far = Place::Far(SiteTag(0));
        assert!(Place::Rack < Place::Site && Place::Site < far);
        assert!(Place::Rack.is_near() && Place::Site.is_near() && !far.is_near());
    }
}
