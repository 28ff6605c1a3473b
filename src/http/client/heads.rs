//! The head of a request that goes out and of an answer that comes in, through the codec.

use http_types::{Method, StatusCode, Url};
use smol::io::AsyncReadExt;

use super::message::{ClientBody, ClientError, ClientRequest};
use crate::http::wire::codec::{Memory, now, restore_order};
use crate::http::wire::field::{replace_field, visible};
use crate::http::wire::framing::Framing;

/// Most header fields in an answer. Over it: a protocol error.
const HEADERS_MAX: usize = 96;
/// The codec takes heads below 8 KiB; fields beyond this budget go round it, bytes.
const CODEC_FIELDS_BYTES_MAX: usize = 6 * 1024;

/// The head as the codec encodes it, with the length as we know it: the codec's is a `usize`, and
/// it would announce a body of no bytes on every GET.
pub(in crate::http) fn encode_head(
    url: &Url,
    request: &ClientRequest,
    headers: &[(String, String)],
) -> Result<Vec<u8>, ClientError> {
    let bodiless = matches!(request.method, Method::Get | Method::Head | Method::Delete);
    let len = match &request.body {
        ClientBody::Empty if bodiless => None,
        ClientBody::Empty => Some(0),
        ClientBody::Bytes(bytes) => Some(bytes.len() as u64),
        ClientBody::File { len, .. } => Some(*len),
    };
    let mut encoded = http_types::Request::new(request.method, url.clone());
    encoded.set_body(http_types::Body::from_bytes(Vec::new()));
    encoded.remove_header("content-type");
    encoded.insert_header("user-agent", concat!("skerry/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(ClientError::Protocol("a header name is malformed".into()));
        }
        match name.as_str() {
            "host" | "content-length" | "connection" | "transfer-encoding" | "expect" => {}
            "user-agent" => {
                encoded.insert_header("user-agent", &*visible(value));
            }
            name => encoded.append_header(name, &*visible(value)),
        }
    }
    let mut head = Vec::new();
    let mut encoder = async_h1::client::Encoder::new(encoded);
    now(encoder.read_to_end(&mut head))
        .ok_or_else(|| ClientError::Url("it gives no request head".into()))?
        .map_err(|error| ClientError::Url(error.to_string()))?;
    let length = len.map(|len| format!("content-length: {len}\r\n"));
    replace_field(&mut head, b"\r\ncontent-length: ", length.as_deref().unwrap_or_default());
    Ok(head)
}

/// The head of an answer.
pub(in crate::http) struct Head {
    pub(in crate::http) status: u16,
    pub(in crate::http) headers: Vec<(String, String)>,
    pub(super) framing: Framing,
    pub(super) keep: bool,
}

/// What a peer did against the protocol.
pub(super) fn protocol(text: &str) -> ClientError {
    ClientError::Protocol(text.to_owned())
}

/// Checks the head of the answer to a request of this method, and passes it through the codec.
pub(in crate::http) fn parse_head(bytes: &[u8], method: Method) -> Result<Head, ClientError> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let mut config = httparse::ParserConfig::default();
    config.allow_obsolete_multiline_headers_in_responses(true);
    config.allow_spaces_after_header_name_in_responses(true);
    match config.parse_response(&mut response, bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(protocol("the answer is cut short")),
        Err(error) => return Err(ClientError::Protocol(format!("malformed answer: {error}"))),
    }
    let status = response.code.unwrap_or_default();
    if !(100..=999).contains(&status) {
        return Err(protocol("the answer has no status"));
    }
    let fields: Vec<(String, String)> = response
        .headers
        .iter()
        .map(|field| (field.name.to_ascii_lowercase(), lossy(field.value)))
        .collect();
    let mut keep = response.version == Some(1);
    keep &= !tokens(&fields, "connection").any(|token| token.eq_ignore_ascii_case("close"));
    let framing = framing(&fields, status, method)?;
    // Both lengths at once: the chunks win, and the connection is not trusted any further.
    let both = |name: &str| fields.iter().any(|(other, _)| other == name);
    keep &= !(both("content-length") && both("transfer-encoding"));
    let headers = through_codec(status, fields)?;
    Ok(Head { status, headers, framing, keep })
}

/// Visible ASCII; what else a peer sends becomes a question mark, and a fold a space.
fn lossy(value: &[u8]) -> String {
    let keep = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        b'\t' | b'\r' | b'\n' => ' ',
        _ => '?',
    };
    value.iter().map(keep).collect::<String>().trim().to_owned()
}

/// The members of every list field of this name.
fn tokens<'a>(fields: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    fields
        .iter()
        .filter(move |(other, _)| other == name)
        .flat_map(|(_, value)| value.split(','))
        .map(str::trim)
}

/// RFC 9112 section 6.3.
fn framing(
    fields: &[(String, String)],
    status: u16,
    method: Method,
) -> Result<Framing, ClientError> {
    if method == Method::Head || matches!(status, 100..=199 | 204 | 304) {
        return Ok(Framing::End);
    }
    let codings: Vec<&str> = tokens(fields, "transfer-encoding").collect();
    match codings.as_slice() {
        [] => {}
        [one] if one.eq_ignore_ascii_case("chunked") => return Ok(Framing::ChunkSize),
        _ => return Err(protocol("the answer has a transfer coding that is not chunked")),
    }
    let mut length = None;
    for value in tokens(fields, "content-length") {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let parsed: u64 = value.parse().map_err(|_| protocol("malformed Content-Length"))?;
        if !digits || length.is_some_and(|length| length != parsed) {
            return Err(protocol("malformed Content-Length"));
        }
        length = Some(parsed);
    }
    Ok(length.map_or(Framing::UntilClose, Framing::Length))
}

/// Has the codec decode the sanitised head. What frames the body, what would not fit, and a
/// status that it does not know go round it; the order of the fields is restored.
fn through_codec(
    status: u16,
    fields: Vec<(String, String)>,
) -> Result<Vec<(String, String)>, ClientError> {
    let known = StatusCode::try_from(status).map_or(200, u16::from);
    let mut text = format!("HTTP/1.1 {known} -\r\n");
    let mut passed = Vec::with_capacity(fields.len());
    for (name, value) in &fields {
        let framing = matches!(name.as_str(), "content-length" | "transfer-encoding");
        let fits = text.len() + name.len() + value.len() + 4 <= CODEC_FIELDS_BYTES_MAX;
        if fits && !framing {
            text.extend([name, ": ", value, "\r\n"]);
        }
        passed.push(fits && !framing);
    }
    text.push_str("\r\n");
    let decoded = now(async_h1::client::decode(Memory::new(text.into_bytes())))
        .ok_or_else(|| protocol("the answer is cut short"))?
        .map_err(|error| ClientError::Protocol(format!("malformed answer: {error}")))?;
    Ok(restore_order(fields, &passed, |name| decoded.header(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::each_damaged;

    fn head_of(method: Method, body: ClientBody, headers: &[(&str, &str)]) -> String {
        let url = Url::parse("http://[::1]:5000/v2/a%2Fb?n=1&x=%20").unwrap();
        let mut request = ClientRequest::new(method, url.as_str());
        request.body = body;
        let headers: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        String::from_utf8(encode_head(&url, &request, &headers).unwrap()).unwrap()
    }

    #[test]
    fn requests_have_the_heads_they_should() {
        let agent = concat!("user-agent: skerry/", env!("CARGO_PKG_VERSION"), "\r\n");
        let get =
            head_of(Method::Get, ClientBody::Empty, &[("Accept", "a/b"), ("accept", "c\r\nd")]);
        let expected = "GET /v2/a%2Fb?n=1&x=%20 HTTP/1.1\r\nhost: [::1]:5000\r\n\
                        accept: a/b\r\naccept: c??d\r\n";
        assert_eq!(get, format!("{expected}{agent}\r\n"));
        let put =
            head_of(Method::Put, ClientBody::Empty, &[("content-length", "9"), ("Host", "x")]);
        assert!(put.contains("content-length: 0\r\n") && !put.contains("host: x"), "{put}");
        let named = head_of(Method::Post, ClientBody::Bytes(vec![1; 7]), &[("User-Agent", "me")]);
        assert!(named.contains("content-length: 7\r\n"), "{named}");
        assert!(named.contains("user-agent: me\r\n") && !named.contains("skerry"), "{named}");
    }

    /// Whatever a peer sends, there is a result and no panic.
    #[test]
    fn noise_is_an_error_or_an_answer() {
        let text =
            b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-1/5\r\nContent-Length: 2\r\n\r\n";
        each_damaged(text, |bytes| drop(parse_head(bytes, Method::Get)));
    }
}
