//! Would installing a package be right? Pure: dpkg's own dry run does not see a missing
//! dependency, so everything is checked here before anything is unpacked.

use std::collections::HashMap;
use std::fmt;

use crate::deb::DebInfo;
use crate::relation::{Clause, Relation};
use crate::status::{Database, MultiArch, Package, State};

/// A package by name and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// How far it is.
    pub state: State,
}

impl Named {
    fn of(package: &Package) -> Self {
        Self { name: package.name.clone(), version: package.version.clone(), state: package.state }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// Something that speaks against installing. `Display` says it for people, as the end of a
/// sentence that begins with the package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The root takes no packages of this architecture.
    WrongArchitecture {
        /// The package's.
        architecture: String,
        /// The root's own, and those that were added to it.
        accepted: Vec<String>,
    },
    /// An administrator holds the package at its version.
    Held {
        /// What is installed.
        installed: Named,
    },
    /// Nothing that is installed meets a dependency.
    Missing {
        /// The dependency.
        needs: Clause,
        /// What has one of the names, in a version or state that will not do.
        found: Vec<Named>,
    },
    /// The package conflicts with an installed one.
    Conflict {
        /// What the package declares.
        relation: Relation,
        /// What it meets.
        with: Named,
    },
    /// An installed package conflicts with this one.
    ConflictOf {
        /// The installed package.
        declared_by: Named,
        /// What that one declares.
        relation: Relation,
    },
    /// An installed package needs the version that would be replaced.
    BreaksDependent {
        /// The installed package.
        dependent: Named,
        /// What it needs.
        needs: Clause,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongArchitecture { architecture, accepted } => {
                let accepted = accepted.join(", ");
                write!(f, "is for {architecture}, but only {accepted} and all can be installed")
            }
            Self::Held { installed } => write!(
                f,
                "is held at version {} (release it with apt-mark unhold {})",
                installed.version, installed.name
            ),
            Self::Missing { needs, found } => {
                write!(f, "needs {needs}, ")?;
                for (i, named) in found.iter().enumerate() {
                    let but = if i == 0 { "but" } else { " and" };
                    write!(f, "{but} {named} is {}", named.state)?;
                }
                if found.is_empty() { f.write_str("which is not installed") } else { Ok(()) }
            }
            Self::Conflict { relation, with } if relation.name == with.name => {
                write!(f, "conflicts with {relation}, but {with} is {}", with.state)
            }
            Self::Conflict { relation, with } => {
                write!(f, "conflicts with {relation}, which {with} provides")
            }
            Self::ConflictOf { declared_by, relation } => {
                write!(f, "cannot be together with {declared_by}, which conflicts with {relation}")
            }
            Self::BreaksDependent { dependent, needs } => {
                write!(f, "would break {dependent}, which needs {needs}")
            }
        }
    }
}

/// Everything that speaks against installing this package into a root with these packages.
#[must_use]
pub fn check(deb: &DebInfo, database: &Database) -> Vec<Problem> {
    let new = deb.as_installed();
    let present: Vec<_> = database.packages().filter(|p| p.state.is_present()).collect();
    let (replaced, others): (Vec<&Package>, Vec<&Package>) =
        present.iter().partition(|p| replaces(&new, p, database));
    let before = World::new(database, present.iter().copied());
    let after = World::new(database, others.iter().copied().chain([&new]));

    let mut problems = Vec::new();
    problems.extend(wrong_architecture(&new, database));
    let held = replaced.iter().filter(|p| p.held && p.version != new.version);
    problems.extend(held.map(|p| Problem::Held { installed: Named::of(p) }));
    for needs in &new.relations.pre_depends {
        // what must be there before unpacking cannot be this package itself
        if !after.meets(needs, &new, |offer| !std::ptr::eq(offer, &new)) {
            problems.push(Problem::Missing { needs: needs.clone(), found: before.named(needs) });
        }
    }
    for needs in &new.relations.depends {
        if !after.meets(needs, &new, |_| true) {
            problems.push(Problem::Missing { needs: needs.clone(), found: before.named(needs) });
        }
    }
    for relation in conflicts_of(&new) {
        for with in after.hit_by(relation).filter(|p| p.name != new.name) {
            problems.push(Problem::Conflict { relation: relation.clone(), with: Named::of(with) });
        }
    }
    let alone = World::new(database, [&new]);
    for other in others.iter().filter(|p| p.name != new.name) {
        for relation in conflicts_of(other).filter(|r| alone.hit_by(r).next().is_some()) {
            let declared_by = Named::of(other);
            problems.push(Problem::ConflictOf { declared_by, relation: relation.clone() });
        }
    }
    let gone = World::new(database, replaced.iter().copied());
    for other in others.iter().filter(|p| p.state.is_configured()) {
        let needs = other.relations.depends.iter().chain(&other.relations.pre_depends);
        for needs in needs.filter(|clause| gone.names_any(clause)) {
            if before.meets(needs, other, |_| true) && !after.meets(needs, other, |_| true) {
                let dependent = Named::of(other);
                problems.push(Problem::BreaksDependent { dependent, needs: needs.clone() });
            }
        }
    }
    problems
}

/// What installing the package would take the place of.
pub(crate) fn replaced<'a>(deb: &DebInfo, database: &'a Database) -> Option<&'a Package> {
    let new = deb.as_installed();
    let present = database.packages().filter(|p| p.state.is_present());
    present.filter(|p| replaces(&new, p, database)).max_by_key(|p| p.state)
}

fn conflicts_of(package: &Package) -> impl Iterator<Item = &Relation> {
    package.relations.conflicts.iter().chain(&package.relations.breaks)
}

/// Whether installing `new` takes the place of `old`: only packages that both say
/// `Multi-Arch: same` live side by side for several architectures.
fn replaces(new: &Package, old: &Package, database: &Database) -> bool {
    let side_by_side = new.multi_arch == MultiArch::Same
        && old.multi_arch == MultiArch::Same
        && database.effective(&new.architecture) != database.effective(&old.architecture);
    new.name == old.name && !side_by_side
}

fn wrong_architecture(new: &Package, database: &Database) -> Option<Problem> {
    let architecture = database.effective(&new.architecture);
    if architecture == database.native || database.foreign.iter().any(|a| a == architecture) {
        return None;
    }
    let accepted = [&database.native].into_iter().chain(&database.foreign).cloned().collect();
    Some(Problem::WrongArchitecture { architecture: new.architecture.clone(), accepted })
}

/// What a package offers under a name.
struct Offer<'a> {
    package: &'a Package,
    /// None: a virtual package without a version, which meets no condition on versions.
    version: Option<&'a str>,
}

impl Offer<'_> {
    fn accepted_by(&self, relation: &Relation) -> bool {
        match (&relation.constraint, self.version) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(constraint), Some(version)) => constraint.accepts(version),
        }
    }
}

/// Packages by everything that they offer.
struct World<'a> {
    database: &'a Database,
    offers: HashMap<&'a str, Vec<Offer<'a>>>,
}

impl<'a> World<'a> {
    fn new(database: &'a Database, packages: impl IntoIterator<Item = &'a Package>) -> Self {
        let mut offers: HashMap<&str, Vec<Offer<'_>>> = HashMap::new();
        for package in packages {
            let real = Offer { package, version: Some(&package.version) };
            offers.entry(&package.name).or_default().push(real);
            for provided in &package.relations.provides {
                let version = provided.constraint.as_ref().map(|c| c.version.as_str());
                offers.entry(&provided.name).or_default().push(Offer { package, version });
            }
        }
        Self { database, offers }
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &Offer<'a>> {
        self.offers.get(name).into_iter().flatten()
    }

    fn names_any(&self, clause: &Clause) -> bool {
        clause.0.iter().any(|r| self.offers.contains_key(r.name.as_str()))
    }

    /// Whether something configured (and allowed) meets the clause of `owner`.
    fn meets(
        &self,
        clause: &Clause,
        owner: &Package,
        allowed: impl Fn(&'a Package) -> bool,
    ) -> bool {
        clause.0.iter().any(|relation| {
            self.of(&relation.name).any(|offer| {
                offer.package.is_well()
                    && offer.accepted_by(relation)
                    && self.serves(offer.package, relation, owner)
                    && allowed(offer.package)
            })
        })
    }

    /// Whether a package serves the architecture that the relation asks for.
    fn serves(&self, package: &Package, relation: &Relation, owner: &Package) -> bool {
        let has = self.database.effective(&package.architecture);
        let same = has == self.database.effective(&owner.architecture);
        match relation.architecture.as_deref() {
            None => same || package.multi_arch == MultiArch::Foreign,
            Some("any") => {
                same || matches!(package.multi_arch, MultiArch::Allowed | MultiArch::Foreign)
            }
            Some("native") => has == self.database.native,
            Some(wanted) => has == wanted,
        }
    }

    /// The packages that a conflict hits, whatever their architecture unless it names one.
    fn hit_by(&self, relation: &Relation) -> impl Iterator<Item = &'a Package> {
        let asked = relation.architecture.as_deref().filter(|a| *a != "any");
        self.of(&relation.name)
            .filter(move |offer| {
                offer.accepted_by(relation)
                    && asked
                        .is_none_or(|a| self.database.effective(&offer.package.architecture) == a)
            })
            .map(|offer| offer.package)
    }

    /// What has one of the clause's names, to tell why it will not do.
    fn named(&self, clause: &Clause) -> Vec<Named> {
        let mut found: Vec<Named> = Vec::new();
        for offer in clause.0.iter().flat_map(|r| self.of(&r.name)) {
            let named = Named::of(offer.package);
            if !found.contains(&named) {
                found.push(named);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::record::install::{Manager, PackageId};

    use super::*;
    use crate::control::stanzas;
    use crate::relation::Relations;

    fn deb(name: &str, version: &str, architecture: &str, fields: &str) -> DebInfo {
        let text = format!("X: y\n{fields}");
        let stanza = stanzas(&text).next().unwrap();
        DebInfo {
            package: PackageId {
                manager: Manager::Dpkg,
                name: name.to_owned(),
                version: version.to_owned(),
                architecture: architecture.to_owned(),
            },
            relations: Relations::read(&stanza, architecture).unwrap(),
            essential: false,
            multi_arch: MultiArch::read(stanza.get("Multi-Arch").unwrap_or("")),
            installed_size: None,
        }
    }

    /// `name version state fields…`
    fn root(packages: &[(&str, &str, &str, &str)]) -> Database {
        let text: String = packages
            .iter()
            .map(|(name, version, state, fields)| {
                let architecture =
                    if fields.contains("Architecture") { "" } else { "Architecture: amd64\n" };
                let state = if state.contains(' ') { (*state).to_owned() } else { format!("install ok {state}") };
                format!("Package: {name}\nVersion: {version}\nStatus: {state}\n{architecture}{fields}\n\n")
            })
            .collect();
        Database::parse(&text, &[], "amd64", vec!["i386".to_owned()])
    }

    fn problems(deb: &DebInfo, database: &Database) -> Vec<String> {
        check(deb, database).iter().map(ToString::to_string).collect()
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn dependencies_are_met_by_what_is_configured() {
        let new = deb("new", "1", "amd64", "Depends: a (>= 2) | b, c\nPre-Depends: d");
        let all = [
            ("a", "2", "installed", ""),
            ("c", "1", "triggers-pending", ""),
            ("d", "1", "installed", ""),
        ];
        assert_eq!(problems(&new, &root(&all)), NONE);
        let old = [
            ("a", "1.9", "installed", ""),
            ("c", "1", "unpacked", ""),
            ("d", "1", "deinstall ok config-files", ""),
        ];
        assert_eq!(
            problems(&new, &root(&old)),
            [
                "needs d, which is not installed",
                "needs a (>= 2) | b, but a 1.9 is installed",
                "needs c, but c 1 is unpacked"
            ]
        );
    }

    #[test]
    fn virtual_packages() {
        let mail = [("exim", "4", "installed", "Provides: mta, smtpd (= 2)")];
        assert_eq!(
            problems(&deb("n", "1", "all", "Depends: mta, smtpd (>= 2)"), &root(&mail)),
            NONE
        );
        assert_eq!(
            problems(&deb("n", "1", "all", "Depends: mta (>= 1), smtpd (>= 3)"), &root(&mail)),
            [
                "needs mta (>= 1), but exim 4 is installed",
                "needs smtpd (>= 3), but exim 4 is installed"
            ]
        );
        // its own offers meet what it depends on, but not what it needs before unpacking
        assert_eq!(problems(&deb("n", "1", "all", "Provides: v\nDepends: v"), &root(&[])), NONE);
        assert_eq!(
            problems(&deb("n", "1", "all", "Provides: v\nPre-Depends: v"), &root(&[])),
            ["needs v, which is not installed"]
        );
    }

    #[test]
    fn conflicts_both_ways() {
        let new = deb("new", "2", "amd64", "Conflicts: mta\nProvides: mta\nBreaks: a (<< 3), z");
        let world = [
            ("exim", "4", "installed", "Provides: mta\nConflicts: mta"),
            ("a", "2", "installed", "Breaks: new (<< 3)"),
            ("b", "2", "unpacked", "Conflicts: new (<< 2)"),
            ("z", "1", "deinstall ok config-files", "Conflicts: new"),
            ("new", "1", "installed", "Provides: mta\nConflicts: mta"),
        ];
        assert_eq!(
            problems(&new, &root(&world)),
            [
                "conflicts with mta, which exim 4 provides",
                "conflicts with a (<< 3), but a 2 is installed",
                "cannot be together with a 2, which conflicts with new (<< 3)",
                "cannot be together with exim 4, which conflicts with mta",
            ]
        );
    }

    #[test]
    fn an_upgrade_breaks_no_dependent() {
        let world = [
            ("lib", "1", "installed", "Provides: abi-1"),
            ("tool", "1", "installed", "Depends: lib (= 1)"),
            ("user", "1", "installed", "Depends: abi-1"),
            ("loose", "1", "installed", "Depends: lib"),
            ("sad", "1", "installed", "Depends: lib (>= 9)"),
        ];
        assert_eq!(
            problems(&deb("lib", "2", "amd64", "Provides: abi-2"), &root(&world)),
            ["would break tool 1, which needs lib (= 1)", "would break user 1, which needs abi-1"]
        );
        assert_eq!(problems(&deb("lib", "1", "amd64", "Provides: abi-1"), &root(&world)), NONE);
    }

    #[test]
    fn architectures() {
        let empty = root(&[]);
        assert_eq!(problems(&deb("n", "1", "all", ""), &empty), NONE);
        assert_eq!(problems(&deb("n", "1", "i386", ""), &empty), NONE);
        assert_eq!(
            problems(&deb("n", "1", "arm64", ""), &empty),
            ["is for arm64, but only amd64, i386 and all can be installed"]
        );
        let libs = root(&[
            ("lib", "1", "installed", "Multi-Arch: same"),
            ("tool", "1", "installed", "Multi-Arch: foreign"),
            ("perl", "1", "installed", "Multi-Arch: allowed"),
        ]);
        let foreign = deb("n", "1", "i386", "Depends: lib, tool, perl, perl:any, lib:amd64");
        assert_eq!(
            problems(&foreign, &libs),
            ["needs lib, but lib 1 is installed", "needs perl, but perl 1 is installed"]
        );
        // side by side, so nothing is replaced and nobody breaks
        let user = [
            ("lib", "1", "installed", "Multi-Arch: same"),
            ("u", "1", "installed", "Depends: lib"),
        ];
        assert_eq!(problems(&deb("lib", "1", "i386", "Multi-Arch: same"), &root(&user)), NONE);
        assert_eq!(
            problems(&deb("lib", "1", "i386", ""), &root(&user)),
            ["would break u 1, which needs lib"]
        );
    }

    #[test]
    fn a_hold_is_respected() {
        let world = root(&[("n", "1", "hold ok installed", "")]);
        let held = problems(&deb("n", "2", "all", ""), &world);
        assert_eq!(held, ["is held at version 1 (release it with apt-mark unhold n)"]);
        assert_eq!(problems(&deb("n", "1", "amd64", ""), &world), NONE);
    }
}
