//! What a request names: the target in its parts, decoded once, and the host.

use http_types::Method;

use crate::http::message::percent;
use crate::http::message::refusal::refusal;
use crate::types::Refusal;

/// Longest path, bytes as sent. Over it: 414.
const PATH_BYTES_MAX: usize = 4 * 1024;
/// Most parameters in a query: a request for a token may have each of 64 scopes in one, and others
/// beside them. Over it: 400.
const QUERY_PARAMETERS_MAX: usize = 128;
/// Longest `Host`: a DNS name and a port. Over it: 400.
const HOST_BYTES_MAX: usize = 261;

/// A request target in its parts, not decoded.
pub(super) struct Target<'a> {
    pub(super) authority: Option<&'a str>,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
}

pub(super) fn target(text: &str, method: Method) -> Result<Target<'_>, Refusal> {
    if text == "*" && method == Method::Options {
        return Ok(Target { authority: None, path: "*", query: "" });
    }
    if text.bytes().any(|byte| byte == b'#' || byte == b'\\' || byte <= b' ') {
        return Err(refusal(400, "a byte in the request target that must be percent-encoded"));
    }
    let scheme = ["http://", "https://"].into_iter().find_map(|scheme| {
        let head = text.get(..scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then(|| &text[scheme.len()..])
    });
    let (authority, rest) = match scheme {
        Some(rest) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
        None => (None, text),
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = if path.is_empty() && authority.is_some() { "/" } else { path };
    if !path.starts_with('/') {
        return Err(refusal(400, "the request target is neither a path nor an http URL"));
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(refusal(414, format!("the path is longer than {PATH_BYTES_MAX} bytes")));
    }
    Ok(Target { authority, path, query })
}

/// Decodes a path once. What could mean another path to anyone behind or before us is refused:
/// dot segments in any spelling, NUL and other control characters.
pub(super) fn decoded_path(raw: &str) -> Result<String, Refusal> {
    let path = percent::decode(raw, false)
        .ok_or_else(|| refusal(400, "the path is not percent-encoded UTF-8"))?;
    if path.chars().any(char::is_control) {
        return Err(refusal(400, "a control character in the path"));
    }
    if path.split(['/', '\\']).any(|segment| segment == "." || segment == "..") {
        return Err(refusal(400, "a dot segment in the path"));
    }
    Ok(path)
}

pub(super) fn query(raw: &str) -> Result<Vec<(String, String)>, Refusal> {
    let mut query = Vec::new();
    for field in percent::form_fields(raw) {
        if query.len() == QUERY_PARAMETERS_MAX {
            let text = format!("more than {QUERY_PARAMETERS_MAX} parameters in the query");
            return Err(refusal(400, text));
        }
        let broken = || refusal(400, "the query is not percent-encoded UTF-8");
        query.push(field.ok_or_else(broken)?);
    }
    Ok(query)
}

/// `name`, `name:port`, `v4:port` or `[v6]:port`, nothing that could reach into a path.
pub(super) fn checked_host(value: &str) -> Result<String, Refusal> {
    let bad = || refusal(400, "the Host header is not `host` or `host:port`");
    let (name, port) = match value.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, port)) => {
            let inside = |byte: u8| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.';
            if name.is_empty() || !name.bytes().all(inside) {
                return Err(bad());
            }
            (name, port)
        }
        None => {
            let colon = value.find(':').unwrap_or(value.len());
            let (name, port) = value.split_at(colon);
            let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if name.is_empty() || !name.bytes().all(inside) {
                return Err(bad());
            }
            (name, port)
        }
    };
    let digits = port.strip_prefix(':').unwrap_or("0");
    let port_fits = port.is_empty() || port == ":" || digits.parse::<u16>().is_ok();
    let signed = digits.starts_with('+');
    if name.len() > HOST_BYTES_MAX
        || !port_fits
        || signed
        || !(port.is_empty() || port.starts_with(':'))
    {
        return Err(bad());
    }
    Ok(value.to_owned())
}
