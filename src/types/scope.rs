//! Docker scopes: `repository:<name>:pull,push` (distribution, "Token Scope Documentation").

use std::fmt;

use serde::{Deserialize, Serialize};

use super::limits::{SCOPE_ACTIONS_MAX, SCOPES_MAX};

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

    /// Parses one scope; `None` also for one with too many actions. The name may hold a colon
    /// (`host:port/name`), so it is split from both ends; a resource class in parentheses is
    /// ignored.
    pub fn parse(text: &str) -> Option<Access> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        if actions.split(',').count() > SCOPE_ACTIONS_MAX {
            return None;
        }
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

    /// Parses a blank-separated list, merging scopes of one resource into one entry. What is
    /// counted is what was sent, so that the work is bounded before it is done.
    pub fn parse_list<'a>(
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<Access>, TooMany> {
        let mut list: Vec<Access> = Vec::new();
        let scopes = texts.into_iter().flat_map(str::split_ascii_whitespace);
        for (number, text) in scopes.enumerate() {
            if number == SCOPES_MAX {
                return Err(TooMany::Scopes);
            }
            let actions = text.rsplit(':').next().unwrap_or_default();
            if actions.split(',').count() > SCOPE_ACTIONS_MAX {
                return Err(TooMany::Actions);
            }
            let Some(access) = Access::parse(text) else {
                continue;
            };
            match list.iter_mut().find(|a| a.kind == access.kind && a.name == access.name) {
                Some(known) => access.actions.iter().for_each(|a| known.add(a)),
                None => list.push(access),
            }
            if list.iter().any(|access| access.actions.len() > SCOPE_ACTIONS_MAX) {
                return Err(TooMany::Actions);
            }
        }
        Ok(list)
    }

    /// Adds an action once.
    pub fn add(&mut self, action: &str) {
        if !self.actions.iter().any(|a| a == action) {
            self.actions.push(action.to_owned());
        }
    }
}

/// Why a list of scopes is not looked at further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TooMany {
    /// More than [`SCOPES_MAX`] scopes.
    Scopes,
    /// More than [`SCOPE_ACTIONS_MAX`] actions on one resource.
    Actions,
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TooMany::Scopes => {
                write!(f, "a request names at most {SCOPES_MAX} scopes; ask for fewer at a time")
            }
            TooMany::Actions => {
                write!(f, "a scope names at most {SCOPE_ACTIONS_MAX} actions on a resource")
            }
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
        ])
        .unwrap();
        let printed: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert_eq!(
            printed,
            ["repository:a/b:pull,push", "repository:host:5000/x:pull", "registry:catalog:*"]
        );
    }

    #[test]
    fn f209_what_is_sent_is_counted() {
        let scopes = |count: usize| vec!["nonsense"; count].join(" ");
        assert_eq!(Access::parse_list([&*scopes(40), &*scopes(24)]), Ok(vec![]));
        assert_eq!(Access::parse_list([&*scopes(40), &*scopes(25)]), Err(TooMany::Scopes));
        let actions = |count: usize| format!("a:b:{}", vec!["same"; count].join(","));
        assert_eq!(Access::parse_list([&*actions(16)]).unwrap()[0].actions, ["same"]);
        assert_eq!(Access::parse_list([&*actions(17)]), Err(TooMany::Actions));
        assert_eq!(Access::parse(&actions(17)), None);
        let several: Vec<String> = (0..17).map(|number| format!("a:b:action{number}")).collect();
        let several: Vec<&str> = several.iter().map(String::as_str).collect();
        assert_eq!(Access::parse_list(several[..16].to_vec()).unwrap()[0].actions.len(), 16);
        assert_eq!(Access::parse_list(several), Err(TooMany::Actions));
    }
}
