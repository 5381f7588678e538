//! Circles among what must come before what.

use std::collections::{BTreeMap, BTreeSet};

use p2pinst_types::name::Name;

/// A circle: each comes after the next, and the last after the first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Circle(pub(crate) Vec<Name>);

impl std::fmt::Display for Circle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for name in &self.0 {
            write!(f, "{name} → ")?;
        }
        self.0.first().map_or(Ok(()), |first| write!(f, "{first}"))
    }
}

/// A circle for each edge that closes one, in a fixed order; none when there is no circle.
pub(crate) fn circles(before: &BTreeMap<&Name, BTreeSet<&Name>>) -> Vec<Circle> {
    let next = |name: &Name| before.get(name).into_iter().flatten().copied();
    let mut done = BTreeSet::new();
    let mut found = Vec::new();
    for &start in before.keys() {
        if done.contains(start) {
            continue;
        }
        let mut path = vec![(start, next(start).collect::<Vec<_>>().into_iter())];
        let mut on_path = BTreeMap::from([(start, 0)]);
        while let Some((name, left)) = path.last_mut() {
            let name = *name;
            match left.next() {
                Some(to) => {
                    if let Some(&at) = on_path.get(to) {
                        let names = path.iter().skip(at).map(|(n, _)| (*n).clone()).collect();
                        found.push(Circle(names));
                    } else if !done.contains(to) {
                        on_path.insert(to, path.len());
                        path.push((to, next(to).collect::<Vec<_>>().into_iter()));
                    }
                }
                None => {
                    done.insert(name);
                    on_path.remove(name);
                    path.pop();
                }
            }
        }
    }
    found
}
