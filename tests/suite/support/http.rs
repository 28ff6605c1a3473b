//! A plain, strict HTTP/1.1 client over a socket: what a stranger would send, and what comes back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| {
            panic!("not JSON ({e}): {} {}", self.status, String::from_utf8_lossy(&self.body))
        })
    }

    /// The code and the reason of an OCI error.
    pub fn error(&self) -> (String, String) {
        let error = &self.json()["errors"][0];
        let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
        (text(&error["code"]), text(&error["detail"]["reason"]))
    }

    /// What an OCI error says to people.
    pub fn message(&self) -> String {
        self.json()["errors"][0]["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// One request on a connection of its own.
pub fn send(
    address: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut head =
        format!("{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "PUT" || method == "POST" || method == "PATCH" {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(head.as_bytes())?;
    // A refusal may come before the body is read; the answer counts, not the write.
    let _ = stream.write_all(body);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes, method == "HEAD")
}

/// Sends bytes as they are and reads until the peer closes.
pub fn raw(address: &str, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(answer)
}

/// An answer from all its bytes; that to HEAD has no body.
pub fn parse(bytes: &[u8], is_head: bool) -> std::io::Result<Answer> {
    let bad = |what: &str| {
        let seen = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        std::io::Error::other(format!("{what}: {seen:?}"))
    };
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| bad("no head"))?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| bad("head is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
    let status: u16 = status.ok_or_else(|| bad("no status"))?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    let answer = Answer { status, headers, body: bytes[end + 4..].to_vec() };
    let declared = answer.header("content-length").and_then(|v| v.parse::<usize>().ok());
    if let Some(declared) = declared
        && !is_head
        && declared != answer.body.len()
    {
        return Err(bad(&format!("declared {declared} bytes, sent {}", answer.body.len())));
    }
    Ok(answer)
}

pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", data_encoding::BASE64.encode(format!("{user}:{password}").as_bytes()))
}

/// Asks a node for an access token; the answer to a refusal comes back as it is.
pub fn token(address: &str, user: &str, password: &str, scopes: &[&str]) -> Result<String, Answer> {
    let mut target = format!("/oauth2/token?service={address}");
    for scope in scopes {
        target.push_str(&format!("&scope={scope}"));
    }
    let answer = send(address, "GET", &target, &[("authorization", &basic(user, password))], b"")
        .expect("an answer from the token endpoint");
    if answer.status != 200 {
        return Err(answer);
    }
    Ok(answer.json()["access_token"].as_str().expect("access_token").to_owned())
}

/// A request with a bearer token.
pub fn bearer(
    address: &str,
    token: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let authorization = format!("Bearer {token}");
    let mut all = vec![("authorization", authorization.as_str())];
    all.extend_from_slice(headers);
    send(address, method, target, &all, body).expect("an answer")
}

/// The same with a body that does not tell its length, as clients push layers.
pub fn stream(
    address: &str,
    token: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!(
        "{method} {target} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         connection: close\r\ntransfer-encoding: chunked\r\n"
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("\r\n{:x}\r\n", body.len()));
    let bytes = [head.as_bytes(), body, b"\r\n0\r\n\r\n"].concat();
    parse(&raw(address, &bytes).expect("a connection"), false).expect("an answer")
}
