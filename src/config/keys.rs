//! Every key: its path, how it is set and how it is shown.

use strsim::levenshtein;

use super::model::{Config, Parent};
use super::value::{self, Setting, Value};

/// One key.
pub(super) struct Key {
    /// `section.key`.
    pub(super) path: &'static str,
    /// Puts a value in place.
    pub(super) set: fn(&mut Config, &Value) -> Result<(), String>,
    /// As TOML, secrets redacted; `None` when it has no value.
    pub(super) show: fn(&Config) -> Option<String>,
}

macro_rules! key {
    ($path:literal, parent.$field:ident) => {
        Key {
            path: $path,
            set: |config, value| {
                let parent = config.parent.get_or_insert_with(Parent::default);
                parent.$field = Setting::read(value)?;
                Ok(())
            },
            show: |config| config.parent.as_ref().and_then(|parent| parent.$field.show()),
        }
    };
    ($path:literal, $section:ident.$field:ident) => {
        Key {
            path: $path,
            set: |config, value| {
                config.$section.$field = Setting::read(value)?;
                Ok(())
            },
            show: |config| config.$section.$field.show(),
        }
    };
}

/// All keys, in the order in which they are explained.
pub(super) const KEYS: &[Key] = &[
    key!("registry.role", registry.role),
    key!("registry.name", registry.name),
    key!("registry.region", registry.region),
    key!("registry.suffix", registry.suffix),
    key!("registry.login_server", registry.login_server),
    key!("registry.gateway_server", registry.gateway_server),
    key!("registry.public_scheme", registry.public_scheme),
    key!("registry.namespaces", registry.namespaces),
    key!("registry.quotas", registry.quotas),
    key!("registry.anonymous_pull", registry.anonymous_pull),
    key!("listen.login", listen.login),
    key!("listen.gateway", listen.gateway),
    key!("listen.threads", listen.threads),
    key!("listen.admin", listen.admin),
    key!("storage.state_dir", storage.state_dir),
    key!("storage.reserve", storage.reserve),
    key!("storage.verify", storage.verify),
    key!("tls.mode", tls.mode),
    key!("tls.certificate", tls.certificate),
    key!("tls.private_key", tls.private_key),
    key!("parent.kind", parent.kind),
    key!("parent.connection_string", parent.connection_string),
    key!("parent.connection_string_file", parent.connection_string_file),
    key!("parent.gateway_endpoint", parent.gateway_endpoint),
    key!("parent.ca_file", parent.ca_file),
    key!("parent.url", parent.url),
    key!("parent.repositories", parent.repositories),
    key!("parent.username", parent.username),
    key!("parent.password_file", parent.password_file),
    key!("tokens.access_lifetime", tokens.access_lifetime),
    key!("tokens.refresh_lifetime", tokens.refresh_lifetime),
    key!("gc.enabled", gc.enabled),
    key!("gc.schedule", gc.schedule),
    Key {
        path: "gc.grace",
        set: |config, value| {
            config.gc.grace = value::grace(value)?;
            Ok(())
        },
        show: |config| config.gc.grace.show(),
    },
    key!("gc.untagged_manifests", gc.untagged_manifests),
    key!("scrub.enabled", scrub.enabled),
    key!("scrub.rate", scrub.rate),
    key!("scrub.max_age", scrub.max_age),
    key!("log.level", log.level),
    key!("limits.memory", limits.memory),
    key!("limits.connections", limits.connections),
    key!("limits.body_memory", limits.body_memory),
    key!("limits.uploads", limits.uploads),
    key!("limits.blocking_threads", limits.blocking_threads),
    key!("limits.index_cache", limits.index_cache),
];

/// The key of this path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether keys stand below this path.
pub(super) fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// What an unknown key is told: the nearest one that exists.
pub(super) fn unknown(path: &str) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let sections = KEYS.iter().filter_map(|key| key.path.split('.').next());
    let candidates = KEYS.iter().map(|key| key.path).chain(sections);
    // The whole path decides; a key that stands in another section is as near as two letters.
    let near = candidates
        .map(|known| {
            let elsewhere = if last(known) == last(path) { 2 } else { usize::MAX };
            (levenshtein(known, path).min(elsewhere), known)
        })
        .min();
    match near {
        Some((steps, known)) if steps <= path.len().div_ceil(3).max(2) => {
            format!("unknown key (did you mean {known}?)")
        }
        _ => "unknown key (skerry config explain lists all keys)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_named() {
        assert!(unknown("listen.logn").contains("listen.login"));
        assert!(unknown("lisen").contains("did you mean listen?"));
        assert!(unknown("registry.threads").contains("listen.threads"));
        assert!(unknown("storage.reserved").contains("storage.reserve"));
        assert!(unknown("quite.something").contains("config explain"));
    }

    #[test]
    fn every_key_has_one_section_and_one_entry() {
        for key in KEYS {
            assert_eq!(key.path.split('.').count(), 2, "{}", key.path);
            assert_eq!(KEYS.iter().filter(|k| k.path == key.path).count(), 1, "{}", key.path);
        }
    }
}
