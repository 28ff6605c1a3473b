//! The grants of a scope map, to be looked up: what covers one, and what lies inside one, costs as
//! many steps as its name has parts, however many grants there are.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{ConnectedRegistryName, GatewayAction, Grant, RepositoryAction};
use crate::types::{RepositoryName, RepositoryPattern};

/// How a pattern is looked up.
type Key<'a> = (RepositoryAction, Reach, &'a str);

/// What kind of pattern it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    All,
    Under,
    One,
}

/// Some grants.
pub(super) struct Granted<'a> {
    patterns: BTreeMap<Key<'a>, &'a Grant>,
    gateways: BTreeSet<(&'a ConnectedRegistryName, GatewayAction)>,
}

impl<'a> Granted<'a> {
    /// These, in any order.
    pub(super) fn of(grants: &'a [Grant]) -> Granted<'a> {
        let (mut patterns, mut gateways) = (BTreeMap::new(), BTreeSet::new());
        for grant in grants {
            match grant {
                Grant::Repository(pattern, action) => {
                    let (reach, text) = key(pattern);
                    patterns.insert((*action, reach, text), grant);
                }
                Grant::Gateway(name, action) => {
                    gateways.insert((name, *action));
                }
            }
        }
        Granted { patterns, gateways }
    }

    /// Whether one of them covers `wanted`.
    pub(super) fn cover(&self, wanted: &Grant) -> bool {
        match wanted {
            Grant::Repository(pattern, action) => self.cover_pattern(pattern, *action),
            Grant::Gateway(name, action) => self.gateways.contains(&(name, *action)),
        }
    }

    /// Whether one of them covers this action on these repositories.
    pub(super) fn cover_pattern(
        &self,
        pattern: &RepositoryPattern,
        action: RepositoryAction,
    ) -> bool {
        let (reach, text) = key(pattern);
        let has = |reach, text| self.patterns.contains_key(&(action, reach, text));
        has(Reach::All, "") || has(reach, text) || above(text).any(|part| has(Reach::Under, part))
    }

    /// Those for this action whose repositories are among these.
    pub(super) fn inside(
        &self,
        pattern: &RepositoryPattern,
        action: RepositoryAction,
    ) -> impl Iterator<Item = &'a Grant> {
        let (own, start) = match pattern {
            RepositoryPattern::All => (Reach::All, String::new()),
            RepositoryPattern::Under(prefix) => (Reach::Under, format!("{prefix}/")),
            // Nothing is inside one repository but itself.
            RepositoryPattern::One(name) => (Reach::One, format!("{name}/*")),
        };
        let itself = self.patterns.get(&(action, own, key(pattern).1)).copied();
        let mut found: Vec<&'a Grant> = itself.into_iter().collect();
        for reach in [Reach::Under, Reach::One] {
            let from = self.patterns.range((action, reach, start.as_str())..);
            let inside = from.take_while(|((other, kind, text), _)| {
                (*other, *kind) == (action, reach) && text.starts_with(&start)
            });
            found.extend(inside.map(|(_, grant)| *grant));
        }
        found.into_iter()
    }
}

fn key(pattern: &RepositoryPattern) -> (Reach, &str) {
    match pattern {
        RepositoryPattern::All => (Reach::All, ""),
        RepositoryPattern::Under(prefix) => (Reach::Under, RepositoryName::as_str(prefix)),
        RepositoryPattern::One(name) => (Reach::One, name.as_str()),
    }
}

/// The names that this one is below.
fn above(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').map(|(at, _)| &name[..at])
}

/// What a child keeps of its grants under those of its parent, sorted. Grants at gateways are its
/// own.
pub(super) fn intersection(child: &[Grant], parent: &Granted<'_>) -> Vec<Grant> {
    let mut kept: BTreeSet<&Grant> = BTreeSet::new();
    for grant in child {
        match grant {
            // Patterns are nested or disjoint: what is left are the parent's that lie inside.
            Grant::Repository(pattern, action) if !parent.cover(grant) => {
                kept.extend(parent.inside(pattern, *action));
            }
            _ => {
                kept.insert(grant);
            }
        }
    }
    kept.into_iter().cloned().collect()
}

/// What a child keeps of its grants when no part of one is kept.
pub(super) fn covered(child: &[Grant], parent: &Granted<'_>) -> Vec<Grant> {
    let is_kept = |grant: &&Grant| matches!(grant, Grant::Gateway(..)) || parent.cover(grant);
    child.iter().filter(is_kept).cloned().collect()
}

/// Those of `these` that are not among `those`.
pub(super) fn lacking(these: &[Grant], those: &[Grant]) -> Vec<Grant> {
    let those: BTreeSet<&Grant> = those.iter().collect();
    these.iter().filter(|grant| !those.contains(grant)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERNS: [&str; 12] = [
        "*", "a", "ab", "a/*", "a/b", "a/b/*", "a/b/c", "a/bc", "team/*", "team/x", "team/x/*", "t",
    ];

    fn pattern(text: &str) -> RepositoryPattern {
        text.parse().unwrap()
    }

    fn grants(chosen: usize, action: RepositoryAction) -> Vec<Grant> {
        let is_chosen = |at: &usize| chosen & (1 << at) != 0;
        let at = (0..PATTERNS.len()).filter(is_chosen);
        at.map(|at| Grant::Repository(pattern(PATTERNS[at]), action)).collect()
    }

    /// Compares what is looked up with what comparing each with each says.
    #[test]
    fn f082_what_is_looked_up_is_what_the_patterns_say() {
        let action = RepositoryAction::ContentRead;
        for chosen in 0..1 << PATTERNS.len() {
            let these = grants(chosen, action);
            let granted = Granted::of(&these);
            for wanted in PATTERNS.map(pattern) {
                let includes = |outer: &Grant, inner: &Grant| match (outer, inner) {
                    (Grant::Repository(outer, _), Grant::Repository(inner, _)) => {
                        outer.includes(inner)
                    }
                    _ => false,
                };
                let grant = Grant::Repository(wanted.clone(), action);
                let covered = these.iter().any(|outer| includes(outer, &grant));
                assert_eq!(granted.cover(&grant), covered, "{these:?} {grant}");
                let other = RepositoryAction::ContentWrite;
                assert!(!granted.cover_pattern(&wanted, other));
                let mut inside: Vec<_> = granted.inside(&wanted, action).collect();
                inside.sort_unstable();
                let mut expected: Vec<_> =
                    these.iter().filter(|inner| includes(&grant, inner)).collect();
                expected.sort_unstable();
                assert_eq!(inside, expected, "{these:?} {grant}");
                assert_eq!(granted.inside(&wanted, other).count(), 0);
            }
        }
    }
}
