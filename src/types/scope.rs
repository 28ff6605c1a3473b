//! Docker scopes: `repository:<name>:pull,push` (distribution, "Token Scope Documentation").

use std::fmt;

use serde::{Deserialize, Serialize};

/// One resource and the actions on it, as asked for in a token request, granted in an access
/// token, and named in a challenge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Access {
    /// `repository`, `registry` or `gateway`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The resource.
    pub name: String,
    /// What is to be done with it, without duplicates, in the order of first mention.
    pub actions: Vec<String>,
}

impl Access {
    /// An access with these actions.
    pub fn new(kind: &str, name: &str, actions: &[&str]) -> Access {
        Access {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: actions.iter().map(|a| (*a).to_owned()).collect(),
        }
    }

    /// Parses one scope. The name may hold a colon (`host:port/name`), so it is split from both
    /// ends; a resource class in parentheses is ignored.
    pub fn parse(text: &str) -> Option<Access> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let kind = kind.split_once('(').map_or(kind, |(kind, _)| kind);
        if kind.is_empty() || name.is_empty() {
            return None;
        }
        let mut access = Access::new(kind, name, &[]);
        for action in actions.split(',').filter(|a| !a.is_empty()) {
            access.add(action);
        }
        Some(access)
    }

    /// Parses a blank-separated list, merging scopes of one resource into one entry.
    pub fn parse_list<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Access> {
        let mut list: Vec<Access> = Vec::new();
        let scopes = texts.into_iter().flat_map(str::split_ascii_whitespace);
        for access in scopes.filter_map(Access::parse) {
            match list.iter_mut().find(|a| a.kind == access.kind && a.name == access.name) {
                Some(known) => access.actions.iter().for_each(|a| known.add(a)),
                None => list.push(access),
            }
        }
        list
    }

    /// Adds an action once.
    pub fn add(&mut self, action: &str) {
        if !self.actions.iter().any(|a| a == action) {
            self.actions.push(action.to_owned());
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.kind, self.name, self.actions.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_parse_and_merge() {
        let list = Access::parse_list([
            "repository:a/b:pull repository:a/b:push,pull",
            "repository(plugin):host:5000/x:pull",
            "registry:catalog:*",
            "nonsense",
        ]);
        let printed: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert_eq!(
            printed,
            ["repository:a/b:pull,push", "repository:host:5000/x:pull", "registry:catalog:*"]
        );
    }
}
