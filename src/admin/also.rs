//! What a command did beside what it was asked for.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::store::tree::{AlsoChanged, Others};
use crate::types::Grant;

/// Repositories that a warning names. Over it: it says how many more there are; the answer has all.
const NAMED_MAX: usize = 10;

/// Adds to the warnings of an answer.
pub(super) fn warn(value: &mut Value, warnings: Vec<String>) {
    if warnings.is_empty() {
        return;
    }
    let mut all = value["warnings"].as_array().cloned().unwrap_or_default();
    all.extend(warnings.into_iter().map(Value::from));
    value["warnings"] = all.into();
}

/// Tells, in the answer and the log, which scope maps of other connected registries changed too.
/// What a parent may do at the gateway of a new child goes without saying.
pub(super) fn tell_others(value: &mut Value, others: &Others) {
    let mut printed: Vec<Value> = Vec::new();
    let mut warnings = Vec::new();
    for AlsoChanged { connected_registry, scope_map, added, removed } in &others.changed {
        let [added, removed] = [added, removed].map(|grants| by_repository(grants));
        if added.is_empty() && removed.is_empty() {
            continue;
        }
        printed.push(json!({
            "added": paths(&added),
            "connectedRegistry": connected_registry,
            "removed": paths(&removed),
            "scopeMap": scope_map,
        }));
        let of = format!("scope map '{scope_map}' of connected registry '{connected_registry}'");
        if !added.is_empty() {
            warnings.push(format!(
                "The {of} was given {} too: a parent is granted what is granted below it.",
                list(&added)
            ));
        }
        if !removed.is_empty() {
            warnings.push(format!(
                "The {of} lost {} too: nothing is granted below that is not granted above. Adding \
                 it above again does not give it back there.",
                list(&removed)
            ));
        }
    }
    if others.more > 0 {
        warnings.push(format!(
            "{} more scope maps of connected registries below lost what is not granted above; \
             `skerry scope-map list` shows what each has.",
            others.more
        ));
    }
    if let Some(error) = &others.left {
        warnings.push(format!(
            "It is not yet taken from all connected registries below: {error}; this node goes on \
             by itself, also after a restart."
        ));
    }
    if !printed.is_empty() {
        value["alsoChanged"] = printed.into();
    }
    warnings.iter().for_each(|warning| log::info!("{warning}"));
    warn(value, warnings);
}

/// The actions on each repository.
type Actions = BTreeMap<String, Vec<&'static str>>;

fn by_repository(grants: &[Grant]) -> Actions {
    let mut all = Actions::new();
    for grant in grants {
        if let Grant::Repository(pattern, action) = grant {
            all.entry(pattern.to_string()).or_default().push(action.name());
        }
    }
    all
}

/// As a scope map has them: `repositories/app/content/read`
fn paths(actions: &Actions) -> Vec<String> {
    let path = |repository: &str, action: &str| format!("repositories/{repository}/{action}");
    let of = |(repository, actions): (&String, &Vec<&str>)| {
        actions.iter().map(|action| path(repository, action)).collect::<Vec<_>>()
    };
    actions.iter().flat_map(of).collect()
}

/// `app (content/read metadata/read), team/* (content/read)`
fn list(actions: &Actions) -> String {
    let named = actions.iter().take(NAMED_MAX);
    let mut texts: Vec<String> =
        named.map(|(name, actions)| format!("{name} ({})", actions.join(" "))).collect();
    if actions.len() > NAMED_MAX {
        texts.push(format!("and {} more", actions.len() - NAMED_MAX));
    }
    texts.join(", ")
}
