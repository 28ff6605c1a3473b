//! A parent that tests play.

use std::io::{BufRead, BufReader, Read, Write};

use super::*;
use crate::http::ClientOptions;
use crate::sys::Spawner;

pub(crate) fn upstream(endpoint: &str, protocol: &str, private_ca: bool) -> Upstream {
    let sys = Sys::real(Spawner::new());
    let client = Client::new(&sys, ClientOptions::default()).unwrap();
    let text = format!(
        "ConnectedRegistryName=dock01;SyncTokenName=sync01;SyncTokenPassword=x;\
         ParentGatewayEndpoint={endpoint};ParentEndpointProtocol={protocol}"
    );
    let connection = match ConnectionString::parse(&text, |_| None) {
        Ok(connection) => connection,
        Err(error) => panic!("{error}"),
    };
    Upstream::new(&sys, client, connection, "i".to_owned(), private_ca, Arc::default())
}

/// Says yes to everything that is asked with a token; the tokens that it gives out are called
/// `1 <scope>`, `2 <scope>` and so on. Requests with a token are for `answer`: the path, the
/// token, and back a status and a body.
pub(crate) fn parent(
    answer: impl FnMut(&str, &str) -> (u16, Vec<u8>) + Send + 'static,
) -> Upstream {
    parent_with_tokens(900, answer)
}

/// The same; its tokens are good for so many seconds.
#[allow(clippy::disallowed_methods, reason = "the far side of a connection is no part of us")]
pub(crate) fn parent_with_tokens(
    expires_in: u64,
    mut answer: impl FnMut(&str, &str) -> (u16, Vec<u8>) + Send + 'static,
) -> Upstream {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let realm = format!("Bearer realm=\"http://{address}/oauth2/token\",service=\"s\"");
    std::thread::spawn(move || {
        let mut given = 0;
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (path, authorization) = request(&mut stream);
            let (status, body) = if let Some(scope) = path.split("&scope=").nth(1) {
                given += 1;
                let text = format!("{{\"token\":\"{given} {scope}\",\"expires_in\":{expires_in}}}");
                (200, text.into_bytes())
            } else if let Some(token) = authorization.strip_prefix("Bearer ") {
                answer(&path, token)
            } else {
                (401, Vec::new())
            };
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\
                 www-authenticate: {realm}\r\n\r\n",
                body.len()
            );
            let _ = stream.get_mut().write_all(&[head.as_bytes(), &body].concat());
        }
    });
    upstream(&address.to_string(), "http", false)
}

/// Reads a request; its path and its authorization.
fn request(stream: &mut impl BufRead) -> (String, String) {
    let mut line = String::new();
    let _ = stream.read_line(&mut line);
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut authorization, mut len) = (String::new(), 0);
    loop {
        line.clear();
        let _ = stream.read_line(&mut line);
        match line.trim_end().split_once(": ") {
            Some(("authorization", value)) => value.clone_into(&mut authorization),
            Some(("content-length", value)) => len = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let _ = std::io::copy(&mut stream.take(len), &mut std::io::sink());
    (path, authorization)
}
