//! From a method and a path under `/acr/v1/` to what is asked for. Pure.

use crate::http::Method;
use crate::registry::route::{NoRoute, bad_digest, not_allowed, repository, unknown_path};
use crate::types::{Digest, RepositoryName, Tag};

/// Where the paths of this API begin.
pub const ROOT: &str = "/acr/v1/";

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// List repositories.
    Catalog,
    /// Show a repository.
    Repository(RepositoryName),
    /// Delete all that a repository holds.
    RepositoryDelete(RepositoryName),
    /// List tags with what they name.
    Tags(RepositoryName),
    /// Show a tag.
    Tag(RepositoryName, Tag),
    /// Take a tag away.
    TagDelete(RepositoryName, Tag),
    /// List manifests with their tags.
    Manifests(RepositoryName),
    /// Show a manifest.
    Manifest(RepositoryName, Digest),
}

impl Route {
    /// Finds the route of a request. No part of a repository's name begins with an underscore.
    pub(super) fn of(method: Method, path: &str) -> Result<Route, NoRoute> {
        let rest = path.strip_prefix(ROOT).ok_or_else(unknown_path)?;
        if rest == "_catalog" {
            return reads(method).map(|()| Route::Catalog);
        }
        let (head, last) = rest.rsplit_once('/').unwrap_or(("", rest));
        if last == "_tags" || last == "_manifests" {
            reads(method)?;
            let name = repository(head)?;
            return Ok(if last == "_tags" { Route::Tags(name) } else { Route::Manifests(name) });
        }
        if let Some(name) = head.strip_suffix("/_tags") {
            let (name, tag) = (repository(name)?, last.parse().map_err(|_| unknown_path())?);
            return match method {
                Method::Delete => Ok(Route::TagDelete(name, tag)),
                Method::Get => Ok(Route::Tag(name, tag)),
                _ => Err(not_allowed("GET, DELETE")),
            };
        }
        if let Some(name) = head.strip_suffix("/_manifests") {
            reads(method)?;
            let digest = last.parse().map_err(|fault| bad_digest(404, fault))?;
            return Ok(Route::Manifest(repository(name)?, digest));
        }
        match method {
            Method::Delete => Ok(Route::RepositoryDelete(repository(rest)?)),
            Method::Get => Ok(Route::Repository(repository(rest)?)),
            _ => Err(not_allowed("GET, DELETE")),
        }
    }
}

fn reads(method: Method) -> Result<(), NoRoute> {
    match method {
        Method::Get => Ok(()),
        _ => Err(not_allowed("GET")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f185_paths_lead_to_what_they_name() {
        let name = |text: &str| text.parse::<RepositoryName>().unwrap();
        let digest = format!("sha256:{}", "a".repeat(64));
        let of_digest = format!("team/app/_manifests/{digest}");
        for (path, route) in [
            ("_catalog", Route::Catalog),
            ("app", Route::Repository(name("app"))),
            ("team/app", Route::Repository(name("team/app"))),
            ("team/app/_tags", Route::Tags(name("team/app"))),
            ("app/_tags/V1", Route::Tag(name("app"), "V1".parse().unwrap())),
            ("app/_manifests", Route::Manifests(name("app"))),
            (of_digest.as_str(), Route::Manifest(name("team/app"), digest.parse().unwrap())),
        ] {
            assert_eq!(Route::of(Method::Get, &format!("{ROOT}{path}")), Ok(route), "{path}");
        }
        let delete = |path: &str| Route::of(Method::Delete, &format!("{ROOT}{path}"));
        let tag = Route::TagDelete(name("app"), "v1".parse().unwrap());
        assert_eq!(delete("app/_tags/v1"), Ok(tag));
        assert_eq!(delete("team/app"), Ok(Route::RepositoryDelete(name("team/app"))));
        for path in
            ["", "a b", "app/", "_tags", "app/_tags/", "app/_manifests/sha256:x", "app/_other"]
        {
            let refused = Route::of(Method::Get, &format!("{ROOT}{path}")).unwrap_err();
            assert_eq!(refused.refusal.status, 404, "{path}");
        }
        for (method, path, allow) in [
            (Method::Delete, "app/_tags", "GET"),
            (Method::Delete, "app/_manifests", "GET"),
            (Method::Patch, "app", "GET, DELETE"),
            (Method::Patch, "app/_tags/v1", "GET, DELETE"),
            (Method::Post, "_catalog", "GET"),
        ] {
            let refused = Route::of(method, &format!("{ROOT}{path}")).unwrap_err();
            assert_eq!((refused.refusal.status, refused.allow), (405, Some(allow)), "{path}");
        }
    }
}
