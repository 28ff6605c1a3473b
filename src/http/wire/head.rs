//! A request head: found in the receive buffer and checked. What httparse read of a GET or a HEAD
//! is then the request; a request that may have a body goes through the codec, which reads it once
//! more. Both ways make the same request of a head, which a fuzz target holds.
//!
//! The codec panics on a byte outside ASCII, takes the last of two lengths, treats an unknown
//! transfer coding as no body and lets the Host change the path. So everything that frames or
//! names the request is checked and taken out here; what reaches it is a fixed Host, the path
//! and harmless fields, all in memory.

use std::io::BufRead;
use std::str::{self, FromStr};

use http_types::Method;

use super::codec::through_codec;
use super::framing::Framing;
use super::target::{checked_host, decoded_path, query, target};
use crate::http::message::refusal::refusal;
use crate::types::Refusal;
use crate::types::limits::HEADERS_MAX;

/// What a head says.
#[cfg_attr(any(test, fuzzing), derive(PartialEq, Debug))]
pub(in crate::http) struct Head {
    /// GET, HEAD and so on.
    pub(in crate::http) method: Method,
    /// Decoded once, without dot segments. `None` for `OPTIONS *`.
    pub(in crate::http) path: Option<String>,
    /// Decoded, in order.
    pub(in crate::http) query: Vec<(String, String)>,
    /// Names in lower case, in order.
    pub(in crate::http) headers: Vec<(String, String)>,
    /// As sent, or from an absolute target; checked.
    pub(in crate::http) host: Option<String>,
    /// How the body ends.
    pub(in crate::http) framing: Framing,
    /// The client waits for `100 Continue`.
    pub(in crate::http) expects_continue: bool,
    /// The client wants, or its version needs, the connection closed after the reply.
    pub(in crate::http) close: bool,
}

/// Where the head in `bytes` ends, if it is all there. `from` says how far an earlier call
/// looked, so that a head that comes byte by byte is not searched over and over.
pub(in crate::http) fn end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut rest = bytes.get(from.saturating_sub(3)..)?;
    // Searches many bytes at a time; at the end of a slice it stops without a line end.
    while rest.skip_until(b'\n').is_ok_and(|skipped| skipped > 0) {
        // A bare LF ends a line too, so that it is refused at once and not waited out.
        let after =
            if rest.starts_with(b"\r\n") { 2 } else { usize::from(rest.starts_with(b"\n")) };
        if after > 0 {
            return Some(bytes.len() - rest.len() + after);
        }
    }
    None
}

/// Checks a whole head, and passes it through the codec if it is not of a GET or HEAD without a
/// body.
pub(in crate::http) fn parse(bytes: &[u8]) -> Result<Head, Refusal> {
    let (head, path) = checked(bytes)?;
    match head.method {
        Method::Get | Method::Head if head.framing.is_over() => Ok(head),
        _ => read_again(head, path),
    }
}

/// Checks a whole head and passes it through the codec, whatever it is of.
#[cfg(any(test, fuzzing))]
pub(in crate::http) fn parse_with_codec(bytes: &[u8]) -> Result<Head, Refusal> {
    let (head, path) = checked(bytes)?;
    read_again(head, path)
}

/// The head as the codec reads it; `path` as sent.
fn read_again(mut head: Head, path: &str) -> Result<Head, Refusal> {
    head.headers = through_codec(head.method, path, head.path.as_deref(), head.headers)?;
    Ok(head)
}

/// A head that keeps all rules, and its path as sent.
fn checked(bytes: &[u8]) -> Result<(Head, &str), Refusal> {
    check_bytes(bytes)?;
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(refusal(400, "the request head is cut short")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(refusal(431, format!("more than {HEADERS_MAX} header fields")));
        }
        Err(httparse::Error::Version) => {
            return Err(refusal(505, "this server speaks versions 1.1 and 1.0 of HTTP"));
        }
        Err(error) => return Err(refusal(400, format!("malformed request head: {error}"))),
    }
    let old = request.version == Some(0);
    let method = method(request.method.unwrap_or_default())?;
    let facts = facts(request.headers, old)?;
    let target =
        target(request.path.ok_or_else(|| refusal(400, "the request target is missing"))?, method)?;
    let host = match target.authority {
        Some(authority) => Some(checked_host(authority)?),
        None => facts.host,
    };
    if host.is_none() && !old {
        return Err(refusal(400, "the Host header is missing"));
    }
    let path = match target.path {
        "*" => None,
        path => Some(decoded_path(path)?),
    };
    let head = Head {
        method,
        path,
        query: query(target.query)?,
        headers: facts.headers,
        host,
        framing: facts.framing,
        expects_continue: facts.expects_continue && !old,
        close: facts.close || old,
    };
    Ok((head, target.path))
}

/// Only what every implementation reads the same way: ASCII, lines that end in CRLF, no folds.
fn check_bytes(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.iter().any(|byte| *byte >= 0x80) {
        return Err(refusal(400, "a request head must be ASCII; percent-encode the path"));
    }
    for (at, byte) in bytes.iter().enumerate() {
        let after = bytes.get(at + 1).copied();
        match byte {
            b'\r' if after != Some(b'\n') => return Err(refusal(400, "a bare CR in the head")),
            b'\n' if at == 0 || bytes[at - 1] != b'\r' => {
                return Err(refusal(400, "a line of the head ends without CRLF"));
            }
            b'\n' if matches!(after, Some(b' ' | b'\t')) => {
                return Err(refusal(400, "a folded header field"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn method(text: &str) -> Result<Method, Refusal> {
    let known = Method::from_str(text).ok().filter(|method| method.as_ref() == text);
    match known {
        Some(Method::Connect | Method::Pri) | None => {
            Err(refusal(501, format!("the method {text} is not implemented")))
        }
        Some(method) => Ok(method),
    }
}

/// What the fields say of the message itself; `headers` are the others.
struct Facts {
    headers: Vec<(String, String)>,
    host: Option<String>,
    framing: Framing,
    expects_continue: bool,
    close: bool,
}

fn facts(fields: &[httparse::Header<'_>], old: bool) -> Result<Facts, Refusal> {
    let mut facts = Facts {
        headers: Vec::with_capacity(fields.len()),
        host: None,
        framing: Framing::End,
        expects_continue: false,
        close: false,
    };
    let (mut length, mut chunked) = (None, false);
    for field in fields {
        let name = field.name.to_ascii_lowercase();
        let value = str::from_utf8(field.value).unwrap_or_default().trim();
        match name.as_str() {
            "host" if facts.host.is_some() => return Err(refusal(400, "two Host headers")),
            "host" => facts.host = Some(checked_host(value)?),
            "authorization" if facts.headers.iter().any(|(other, _)| *other == name) => {
                return Err(refusal(400, "two Authorization headers"));
            }
            "content-length" if length.is_some() => {
                return Err(refusal(400, "two Content-Length headers"));
            }
            "content-length" => length = Some(content_length(value)?),
            "transfer-encoding" if chunked || !value.eq_ignore_ascii_case("chunked") => {
                return Err(refusal(501, "the only transfer coding known here is chunked"));
            }
            "transfer-encoding" => chunked = true,
            "expect" if value.eq_ignore_ascii_case("100-continue") => {
                facts.expects_continue = true;
            }
            "expect" => return Err(refusal(417, "the only expectation known is 100-continue")),
            "connection" => {
                let mut options = value.split(',').map(str::trim);
                facts.close |= options.any(|option| option.eq_ignore_ascii_case("close"));
            }
            _ => facts.headers.push((name, value.to_owned())),
        }
    }
    facts.framing = match (length, chunked) {
        (Some(_), true) => {
            return Err(refusal(400, "both Content-Length and Transfer-Encoding"));
        }
        (None, true) if old => return Err(refusal(400, "a chunked body in HTTP/1.0")),
        (None, true) => Framing::ChunkSize,
        (Some(length), false) => Framing::Length(length),
        (None, false) => Framing::End,
    };
    facts.expects_continue &= !facts.framing.is_over();
    Ok(facts)
}

fn content_length(value: &str) -> Result<u64, Refusal> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(length) if digits => Ok(length),
        _ => Err(refusal(400, "Content-Length is not a number of bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::each_damaged;

    fn head(text: &str) -> Result<Head, u16> {
        assert_eq!(end(text.as_bytes(), 0), Some(text.len()), "{text:?}");
        both_ways(text.as_bytes()).map_err(|refusal| refusal.status)
    }

    fn both_ways(bytes: &[u8]) -> Result<Head, Refusal> {
        let head = parse(bytes);
        assert_eq!(head, parse_with_codec(bytes), "{}", bytes.escape_ascii());
        head
    }

    fn get(target: &str) -> Result<Head, u16> {
        head(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
    }

    fn with(fields: &str) -> Result<Head, u16> {
        head(&format!("PUT /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"))
    }

    #[test]
    fn a_plain_head_passes() {
        let long = "x".repeat(9000);
        let text = format!(
            "GET /v2/a%2Bb/tags/list?n=5&last=a+b%26c&scope=1&scope HTTP/1.1\r\n\
             Host: [::1]:5000\r\nX-Two: one\r\nAuthorization: Bearer {long}\r\nAccept: a/b\r\n\
             x-two:  two \r\nX-Long: {long}\r\nConnection: foo, Close\r\n\r\n"
        );
        let head = head(&text).unwrap();
        assert_eq!((head.method, head.path.as_deref()), (Method::Get, Some("/v2/a+b/tags/list")));
        let query: Vec<(&str, &str)> =
            head.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(query, [("n", "5"), ("last", "a b&c"), ("scope", "1"), ("scope", "")]);
        let bearer = format!("Bearer {long}");
        let headers: Vec<(&str, &str)> =
            head.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [
            ("x-two", "one"),
            ("authorization", bearer.as_str()),
            ("accept", "a/b"),
            ("x-two", "two"),
            ("x-long", long.as_str()),
        ];
        assert_eq!(headers, expected);
        assert_eq!(head.host.as_deref(), Some("[::1]:5000"));
        assert!(head.close && head.framing.is_over());
    }

    #[test]
    fn paths_are_decoded_once_and_never_escape() {
        for (raw, decoded) in [
            ("/v2/", "/v2/"),
            ("/a%252e", "/a%2e"),
            ("//a//b", "//a//b"),
            ("/a%2Fb", "/a/b"),
            ("/caf%C3%A9", "/caf\u{e9}"),
            ("/a..b/...", "/a..b/..."),
            ("http://other:80/x?y=1", "/x"),
            ("HTTP://other", "/"),
            ("/a;b|c^d`{}\"<>'", "/a;b|c^d`{}\"<>'"),
        ] {
            assert_eq!(get(raw).map(|head| head.path), Ok(Some(decoded.into())), "{raw}");
        }
        assert_eq!(get("http://other:80/x").unwrap().host.as_deref(), Some("other:80"));
        for raw in [
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e%2e/x",
            "/.%2E",
            "/%2e",
            "/a%2f..%2fb",
            "/a%00b",
            "/%0a",
            "/%",
            "/%4",
            "/%zz",
            "/%ff",
            "/a\\..\\b",
            "/a%5c..%5cb",
            "/#x",
            "*",
            "v2/",
            "ftp://a/b",
            "http://u@a/",
            "http:///x",
            "/?a=%",
            "http://a\\b/",
            "/\u{e9}",
        ] {
            assert_eq!(get(raw).map(|head| head.path), Err(400), "{raw}");
        }
        assert_eq!(get(&format!("/{}", "a".repeat(5000))).err(), Some(414));
        assert_eq!(get(&format!("/?{}", "a&".repeat(129))).err(), Some(400));
        let options = head("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!((options.path, options.method), (None, Method::Options));
    }

    #[test]
    fn what_could_smuggle_is_refused() {
        for (fields, status) in [
            ("Content-Length: 0\r\nContent-Length: 3", 400),
            ("Content-Length: 3\r\nContent-Length: 3", 400),
            ("Content-Length: +3", 400),
            ("Content-Length: -3", 400),
            ("Content-Length: 3, 3", 400),
            ("Content-Length: 0x3", 400),
            ("Content-Length:", 400),
            ("Content-Length: 18446744073709551616", 400),
            ("Content-Length: 3\r\nTransfer-Encoding: chunked", 400),
            ("Transfer-Encoding: gzip, chunked", 501),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 501),
            ("Transfer-Encoding: identity", 501),
            ("Transfer-Encoding : chunked", 400),
            ("Transfer-Encoding: xchunked", 501),
            ("Host: b", 400),
            ("Authorization: Basic x\r\nauthorization: Bearer y", 400),
            ("X: a\r\n b", 400),
            ("X: a\nY: b", 400),
            ("X: a\rY: b", 400),
            ("X: \u{fc}", 400),
            ("X: a\0b", 400),
            (": x", 400),
            ("Expect: 200-ok", 417),
        ] {
            assert_eq!(with(fields).map(|head| head.framing), Err(status), "{fields:?}");
        }
        let chunked = with("transfer-encoding: CHUNKED").unwrap();
        assert_eq!(chunked.framing, Framing::ChunkSize);
        let longest = with("Content-Length: 18446744073709551615").unwrap();
        assert_eq!(longest.framing, Framing::Length(u64::MAX));
        let many = vec!["X: y"; 65].join("\r\n");
        assert_eq!(with(&many).err(), Some(431));
    }

    #[test]
    fn hosts_cannot_reach_into_the_path() {
        let host = |host: &str| head(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        for good in ["a", "a.b:5000", "127.0.0.1", "[::1]", "[fe80::1]:80", "a_b:", "A-b"] {
            assert_eq!(host(good).ok().and_then(|head| head.host).as_deref(), Some(good));
        }
        for bad in [
            "",
            "a/b",
            "localhost/evil/path?q=",
            "a b",
            "a@b",
            "a:b",
            "a:+80",
            "a:99999",
            "[::1",
            "::1",
            "[]",
            "[::1]x",
            "a,b",
            "a%2fb",
            "[g::1]",
        ] {
            assert_eq!(host(bad).err(), Some(400), "{bad:?}");
        }
        assert_eq!(head("GET / HTTP/1.1\r\nX: y\r\n\r\n").err(), Some(400));
    }

    #[test]
    fn methods_and_versions() {
        let old = head("GET / HTTP/1.0\r\n\r\n").unwrap();
        assert!(old.close && old.host.is_none());
        let kept = head("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
        assert!(kept.close);
        let old_chunked = "PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(head(old_chunked).err(), Some(400));
        for (line, status) in [
            ("BREW / HTTP/1.1", 501),
            ("get / HTTP/1.1", 501),
            ("CONNECT a:80 HTTP/1.1", 501),
            ("PRI * HTTP/2.0", 505),
            ("GET / HTTP/2", 505),
            ("GET / HTTP/1.2", 505),
            ("GET /", 400),
            ("GET  / HTTP/1.1", 400),
            ("G@T / HTTP/1.1", 400),
        ] {
            let text = format!("{line}\r\nHost: a\r\n\r\n");
            let got = head(&text).map(|head| head.path);
            assert!(
                matches!(got, Err(found) if found == status || status == 400 && found == 505),
                "{line}: {got:?}"
            );
        }
    }

    #[test]
    fn expectations_in_all_spellings() {
        for spelling in ["100-continue", "100-Continue", "100-CONTINUE"] {
            let head = with(&format!("Expect: {spelling}\r\nContent-Length: 3")).unwrap();
            assert!(head.expects_continue);
            assert!(!with(&format!("Expect: {spelling}")).unwrap().expects_continue);
        }
    }

    #[test]
    fn the_end_is_found_wherever_the_search_resumes() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        for from in 0..text.len() - 4 {
            for have in from..=text.len() {
                let expected = (have >= text.len() - 4).then_some(text.len() - 4);
                assert_eq!(end(&text[..have], from), expected, "{from} {have}");
            }
        }
    }

    /// Whatever comes, there is an answer and no panic.
    #[test]
    fn noise_is_answered() {
        let text = b"GET /a%20b?c=d HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\nX: y\r\n\r\n";
        each_damaged(text, |bytes| drop(both_ways(bytes)));
    }
}
