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
pub(crate) fn parent_with_tokens(
    expires_in: u64,
    mut answer: impl FnMut(&str, &str) -> (u16, Vec<u8>) + Send + 'static,
) -> Upstream {
    parent_of_types(expires_in, move |_, path, token| {
        let (status, body) = answer(path, token);
        (status, "application/octet-stream", body)
    })
}

/// Manifests and blobs by the text of their digests, with their types.
pub(crate) type Content = BTreeMap<String, (&'static str, Vec<u8>)>;

/// Has this content in each repository. With the method and the path of each request for it.
pub(crate) fn parent_of(content: Content) -> (Upstream, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    let upstream = parent_of_types(900, move |method, path, _| {
        lock(&heard).push(format!("{method} {path}"));
        let name = path.rsplit('/').next().unwrap();
        match content.get(name) {
            Some((media_type, body)) => (200, *media_type, body.clone()),
            None => (404, "application/json", Vec::new()),
        }
    });
    (upstream, asked)
}

#[allow(clippy::disallowed_methods, reason = "the far side of a connection is no part of us")]
fn parent_of_types(
    expires_in: u64,
    mut answer: impl FnMut(&str, &str, &str) -> (u16, &'static str, Vec<u8>) + Send + 'static,
) -> Upstream {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let realm = format!("Bearer realm=\"http://{address}/oauth2/token\",service=\"s\"");
    std::thread::spawn(move || {
        let mut given = 0;
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (method, path, authorization) = request(&mut stream);
            let (status, media_type, body) = if let Some(scope) = path.split("&scope=").nth(1) {
                given += 1;
                let text = format!("{{\"token\":\"{given} {scope}\",\"expires_in\":{expires_in}}}");
                (200, "application/json", text.into_bytes())
            } else if let Some(token) = authorization.strip_prefix("Bearer ") {
                answer(&method, &path, token)
            } else {
                (401, "application/json", Vec::new())
            };
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\
                 content-type: {media_type}\r\nwww-authenticate: {realm}\r\n\r\n",
                body.len()
            );
            let _ = stream.get_mut().write_all(&[head.as_bytes(), &body].concat());
        }
    });
    upstream(&address.to_string(), "http", false)
}

/// Reads a request; its method, its path and its authorization.
fn request(stream: &mut impl BufRead) -> (String, String, String) {
    let mut line = String::new();
    let _ = stream.read_line(&mut line);
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
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
    (method, path, authorization)
}
