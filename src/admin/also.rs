//! What a command did beside what it was asked for, and what is to be known about it.

use serde_json::{Value, json};

use crate::manage::Changed;
use crate::manage::other::{Actions, OtherChanged};

/// Adds to the answer of a command which scope maps of other connected registries changed too, and
/// the warnings.
pub(super) fn tell<T>(mut value: Value, changed: &Changed<T>) -> Value {
    let print = |other: &OtherChanged| {
        json!({
            "added": paths(&other.added),
            "connectedRegistry": other.connected_registry,
            "removed": paths(&other.removed),
            "scopeMap": other.scope_map,
        })
    };
    if !changed.others.is_empty() {
        value["alsoChanged"] = changed.others.iter().map(print).collect();
    }
    if !changed.warnings.is_empty() {
        value["warnings"] = changed.warnings.iter().map(ToString::to_string).collect();
    }
    value
}

/// As a scope map has them: `repositories/app/content/read`
fn paths(actions: &Actions) -> Vec<String> {
    let all = actions.iter().flat_map(|(name, actions)| actions.iter().map(move |a| (name, a)));
    all.map(|(name, action)| format!("repositories/{name}/{}", action.name())).collect()
}
