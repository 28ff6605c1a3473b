//! `skerry version`

use serde_json::json;

use crate::types::limits;

/// Version and built-in ceilings, as text or JSON.
pub(super) fn text(as_json: bool) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let value = json!({
        "version": version,
        "arch": std::env::consts::ARCH,
        "limits": {
            "connections": limits::CONNECTIONS_MAX,
            "uploads": limits::UPLOADS_MAX,
            "manifestBytes": limits::MANIFEST_BYTES_MAX,
            "headBytes": limits::HEAD_BYTES_MAX,
            "clientTokens": limits::CLIENT_TOKENS_MAX,
            "scopeMapPermissions": limits::SCOPE_MAP_PERMISSIONS_MAX,
        },
    });
    if as_json {
        return format!("{value:#}\n");
    }
    let limits = value["limits"].as_object().into_iter().flatten();
    let limits = limits.map(|(name, limit)| format!("  {name}: {limit}\n"));
    format!("skerry {version}\nlimits:\n{}", limits.collect::<String>())
}
