//! What a command did beside what it was asked for: scope maps of other connected registries.

use std::collections::{BTreeMap, BTreeSet};

use super::Warning;
use crate::store::tree::{AlsoChanged, Others};
use crate::types::{ConnectedRegistryName, Grant, RepositoryAction, ScopeMapName};

/// The actions on each repository or wildcard.
pub type Actions = BTreeMap<String, Vec<RepositoryAction>>;

/// A scope map that changed because that of a connected registry above or below did. What a parent
/// may do at the gateway of a new child goes without saying.
pub struct OtherChanged {
    /// Whose sync token has it.
    pub connected_registry: ConnectedRegistryName,
    /// Its name.
    pub scope_map: ScopeMapName,
    /// Granted now: a parent is granted what its child is.
    pub added: Actions,
    /// Not granted any more: a child is granted no more than its parent.
    pub removed: Actions,
}

/// What there is to tell of other scope maps that changed too.
pub(super) fn tell(others: Others) -> (Vec<OtherChanged>, Vec<Warning>) {
    let (mut changed, mut warnings) = (Vec::new(), Vec::new());
    for AlsoChanged { connected_registry, scope_map, added, removed } in others.changed {
        let [added, removed] = [&added, &removed].map(|grants| by_repository(grants));
        if added.is_empty() && removed.is_empty() {
            continue;
        }
        let (map, registry) = (scope_map.clone(), connected_registry.clone());
        if removed.is_empty() {
            let (scope_map, connected_registry, actions) = (map, registry, added.clone());
            warnings.push(Warning::GrantedAbove { scope_map, connected_registry, actions });
        } else {
            // What a scope map below gains while it loses something is the rest of a wildcard.
            let (scope_map, connected_registry) = (map, registry);
            let (actions, kept) = (removed.clone(), added.clone());
            warnings.push(Warning::LostBelow { scope_map, connected_registry, actions, kept });
        }
        changed.push(OtherChanged { connected_registry, scope_map, added, removed });
    }
    if others.more > 0 {
        warnings.push(Warning::MoreLostBelow(others.more));
    }
    warnings.extend(others.left.map(Warning::StillLosing));
    (changed, warnings)
}

/// The scope maps that a command changed: the one that was named, and others.
pub(super) fn all_changed(named: &ScopeMapName, others: &Others) -> BTreeSet<ScopeMapName> {
    let others = others.changed.iter().map(|other| other.scope_map.clone());
    others.chain([named.clone()]).collect()
}

fn by_repository(grants: &[Grant]) -> Actions {
    let mut all = Actions::new();
    for grant in grants {
        if let Grant::Repository(pattern, action) = grant {
            all.entry(pattern.to_string()).or_default().push(*action);
        }
    }
    all
}
