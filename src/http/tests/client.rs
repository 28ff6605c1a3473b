//! The client side, against our own server and against peers that misbehave.

use futures_rustls::rustls::{self, AlertDescription, ClientConfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::*;
use crate::http::wire::certificates::{provider, roots};
use crate::sys::net;
use crate::types::limits::REDIRECTS_MAX;

async fn get(client: &Client, url: &str) -> Result<(u16, Vec<u8>), ClientError> {
    let mut response = client.send(ClientRequest::new(Method::Get, url)).await?;
    match response.body.read_all(100_000_000).await {
        Ok(bytes) => Ok((response.status, bytes)),
        Err(BodyError::Io(error)) => Err(ClientError::Io(error)),
        Err(_) => Err(ClientError::Protocol("too large".into())),
    }
}

fn client(sys: &Sys) -> Client {
    Client::new(sys, ClientOptions::default()).unwrap()
}

fn url(port: u16, path: &str) -> String {
    format!("http://127.0.0.1:{port}{path}")
}

/// Sends `answer` to each of the first connections and closes; counts connections.
fn scripted(sys: &Sys, answers: Vec<Vec<u8>>) -> (u16, Arc<AtomicU64>) {
    let listener = Listener::tcp("127.0.0.1:0").unwrap();
    let port = listener.local_address().unwrap().port();
    let seen = Arc::new(AtomicU64::new(0));
    let counter = seen.clone();
    let task = async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            stream.write_all(&answer).await.unwrap();
            stream.close().await.unwrap();
        }
    };
    sys.spawner.spawn(task).detach();
    (port, seen)
}

#[test]
fn a_connection_is_used_again() {
    with_server(|server| async move {
        let client = client(&server.sys);
        for round in 0..5 {
            for (path, body) in [("/hello", &b"hello"[..]), ("/none", b""), ("/unchanged", b"")] {
                let (_, got) = get(&client, &url(server.port, path)).await.unwrap();
                assert_eq!(got, body);
            }
            let head = ClientRequest::new(Method::Head, url(server.port, "/file"));
            let response = client.send(head).await.unwrap();
            let size = server.content.len().to_string();
            assert_eq!(response.header("content-length"), Some(size.as_str()));
            assert_eq!(server.service.admission.permits.in_use(), 1, "round {round}");
        }
        // Not read to its end: the connection is closed, not left in the middle.
        let unread = ClientRequest::new(Method::Get, url(server.port, "/file"));
        drop(client.send(unread).await.unwrap());
        assert_eq!(get(&client, &url(server.port, "/hello")).await.unwrap().1, b"hello");
    });
}

#[test]
fn bodies_go_both_ways() {
    with_server(|server| async move {
        let client = client(&server.sys);
        let (_, got) = get(&client, &url(server.port, "/file")).await.unwrap();
        assert!(got == server.content);
        let file = SystemDisk.open(&server.dir.path().join("content")).unwrap();
        let (offset, len) = (1000, server.content.len() as u64 - 2000);
        for (body, expected) in [
            (ClientBody::Empty, &b""[..]),
            (ClientBody::Bytes(b"abc".to_vec()), b"abc"),
            (ClientBody::Bytes(server.content.clone()), &server.content),
            (
                ClientBody::File { file, offset, len },
                &server.content[1000..server.content.len() - 1000],
            ),
        ] {
            let mut request = ClientRequest::new(Method::Put, url(server.port, "/echo"));
            request.body = body;
            let mut response = client.send(request).await.unwrap();
            assert!(response.body.read_all(10_000_000).await.unwrap() == expected);
        }
    });
}

#[test]
fn an_early_refusal_of_a_long_body_is_heard() {
    with_server(|server| async move {
        let client = client(&server.sys);
        let mut request = ClientRequest::new(Method::Put, url(server.port, "/refuse"));
        request.body = ClientBody::Bytes(noise(30_000_000));
        let mut response = client.send(request).await.unwrap();
        assert_eq!(response.status, 413);
        let text = response.body.read_all(10_000).await.unwrap();
        assert!(String::from_utf8(text).unwrap().contains("SIZE_INVALID"));
        assert_eq!(get(&client, &url(server.port, "/hello")).await.unwrap().1, b"hello");
    });
}

#[test]
fn answers_of_every_kind_are_understood() {
    run(|sys| async move {
        let client = client(&sys);
        for (answer, status, body) in [
            ("HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, "until the end"),
            ("HTTP/1.0 200 OK\r\n\r\nold", 200, "old"),
            (
                "HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
                200,
                "abc",
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 -\r\nA: b\r\n\r\n\
                 HTTP/1.1 201 -\r\nContent-Length: 2\r\n\r\nok",
                201,
                "ok",
            ),
            ("HTTP/1.1 522 Odd\r\nContent-Length: 1, 1\r\n\r\nx", 522, "x"),
            ("HTTP/1.1 200 OK\r\nX: \u{fc}\u{7}\r\nContent-Length: 1\r\n\r\nx", 200, "x"),
            ("HTTP/1.1 200 OK\nContent-Length: 1\n\nx", 200, "x"),
            ("HTTP/1.1 204 -\r\nContent-Length: 5\r\n\r\n", 204, ""),
            ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 1\r\n\r\nx", 200, "x"),
        ] {
            let (port, _) = scripted(&sys, vec![answer.as_bytes().to_vec()]);
            let got = get(&client, &url(port, "/")).await;
            match got {
                Ok(got) => assert_eq!(got, (status, body.as_bytes().to_vec()), "{answer:?}"),
                // A control byte in a value is the one thing that the parser itself refuses.
                Err(error) => assert!(answer.contains('\u{7}'), "{answer:?}: {error}"),
            }
        }
        let (port, _) = scripted(&sys, vec!["HTTP/1.1 200 OK\r\nX: \u{fc}\r\n\r\n".into()]);
        let response = client.send(ClientRequest::new(Method::Get, url(port, "/"))).await.unwrap();
        assert_eq!(response.header("x"), Some("??"));
        assert_eq!(response.header("date"), None, "no field that the peer did not send");
    });
}

#[test]
fn broken_answers_are_errors() {
    run(|sys| async move {
        let client = client(&sys);
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(40_000));
        for answer in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabcde",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 101 -\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n\r\n",
            "HTTP/1.1 20",
            &long,
        ] {
            let (port, _) = scripted(&sys, vec![answer.as_bytes().to_vec()]);
            let got = get(&client, &url(port, "/")).await;
            assert!(got.is_err(), "{answer:?}: {got:?}");
        }
        let interim = "HTTP/1.1 100 -\r\n\r\n".repeat(50);
        let (port, _) = scripted(&sys, vec![interim.into_bytes()]);
        assert!(get(&client, &url(port, "/")).await.is_err());
    });
}

#[test]
fn a_dead_pooled_connection_is_replaced() {
    run(|sys| async move {
        let client = client(&sys);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx".to_vec();
        let (port, seen) = scripted(&sys, vec![answer.clone(), answer.clone(), answer]);
        for _ in 0..3 {
            assert_eq!(get(&client, &url(port, "/")).await.unwrap().1, b"x");
        }
        assert_eq!(seen.load(Ordering::Relaxed), 3);
    });
}

#[test]
fn a_silent_peer_is_given_up() {
    run(|sys| async move {
        let client = client(&sys);
        let listener = Listener::tcp("127.0.0.1:0").unwrap();
        let port = listener.local_address().unwrap().port();
        let mut request = ClientRequest::new(Method::Get, url(port, "/"));
        request.deadline = Duration::from_millis(100);
        let result = client.send(request).await;
        assert!(matches!(result, Err(ClientError::Timeout)));
    });
}

#[test]
fn redirects_are_followed_with_care() {
    run(|sys| async move {
        let server = TestServer::start(&sys, 64, None);
        let other = TestServer::start(&sys, 64, None);
        let client = client(&sys);
        let send = async |path: &str| {
            let request = ClientRequest::new(Method::Get, url(server.port, path))
                .with("Authorization", "Bearer secret")
                .with("range", "bytes=0-1");
            let mut response = client.send(request).await?;
            let body = response.body.read_all(10_000).await.unwrap();
            Ok::<_, ClientError>((response.status, String::from_utf8(body).unwrap(), response.url))
        };
        let agent = concat!("skerry/", env!("CARGO_PKG_VERSION"));
        let (_, text, _) = send("/redirect?to=/fields").await.unwrap();
        assert_eq!(text, format!("Bearer secret|{agent}|bytes=0-1"));
        let elsewhere = url(other.port, "/fields");
        for status in [301, 302, 303, 307, 308] {
            let (_, text, at) =
                send(&format!("/redirect?status={status}&to={elsewhere}")).await.unwrap();
            assert_eq!((text, at), (format!("-|{agent}|bytes=0-1"), elsewhere.clone()));
        }
        // Back again: the credentials do not return.
        let back = url(server.port, "/fields");
        let there = format!("/redirect?to={}", url(other.port, &format!("/redirect?to={back}")));
        let (_, text, _) = send(&there).await.unwrap();
        assert!(text.starts_with("-|"), "{text}");
        let error = send("/redirect?to=http://127.0.0.1:1/").await.unwrap_err().to_string();
        let from = format!("127.0.0.1:{} redirects elsewhere, and there: ", server.port);
        assert!(error.contains(&from) && error.contains("refused"), "{error}");
        let error = send("/redirect?to=ftp://a/b").await.unwrap_err();
        assert!(matches!(error, ClientError::Url(_)));
        let listener = scripted_loop(&sys);
        let mut request = ClientRequest::new(Method::Get, url(listener, "/"));
        request.deadline = Duration::from_secs(2);
        let error = client.send(request).await.err().unwrap().to_string();
        assert!(error.contains(&REDIRECTS_MAX.to_string()), "{error}");
        let post = ClientRequest::new(Method::Post, url(server.port, "/redirect"));
        assert_eq!(client.send(post).await.unwrap().status, 307);
    });
}

fn scripted_loop(sys: &Sys) -> u16 {
    let answer = b"HTTP/1.1 302 -\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n".to_vec();
    scripted(sys, vec![answer; REDIRECTS_MAX + 1]).0
}

#[test]
fn odd_urls_are_refused() {
    run(|sys| async move {
        let client = client(&sys);
        for bad in [
            "",
            "localhost:5000",
            "ftp://a/",
            "http:/a",
            "http://",
            "http://a b/",
            "http://u:p@a/",
            "http://a\\b/",
            "http://a:99999/",
            "HTTP//a",
            "http://\u{fc}/",
        ] {
            let error = get(&client, bad).await.unwrap_err();
            assert!(matches!(error, ClientError::Url(_)), "{bad}: {error}");
            assert!(!error.to_string().contains("p@"), "{error}");
        }
        let error = get(&client, "http://127.0.0.1:1/").await.unwrap_err();
        assert!(
            matches!(&error, ClientError::Connect(io) if io.to_string().contains("refused")),
            "{error}"
        );
    });
}

#[test]
fn a_unix_socket_serves_files_and_bodies() {
    with_server(|server| async move {
        let path = server.dir.path().join("admin.sock");
        let listener = Listener::unix(&path).unwrap();
        let mut service = server.service.clone();
        service.shutdown = Shutdown::new();
        let task = server.sys.spawner.spawn(serve(service.clone(), listener, None));
        let client = Client::unix(&server.sys, &path);
        let (status, body) = get(&client, "http://localhost/file").await.unwrap();
        assert!(status == 200 && body == server.content);
        assert_eq!(get(&client, "http://any/hello").await.unwrap().1, b"hello");
        service.shutdown.begin();
        task.await;
        let error = get(&client, "http://localhost/hello").await.unwrap_err();
        assert!(matches!(error, ClientError::Connect(_)), "{error}");
        assert!(net::dial_unix(&path).await.is_err());
    });
}

fn tls_server(sys: &Sys, names: &[&str]) -> (TestServer, Vec<u8>, TlsAcceptor) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let identity = tls::self_signed(&names).unwrap();
    let pem = identity.certificate_pem.into_bytes();
    let key_pem = identity.key_pem.into_bytes();
    let tls = ServerTls { certificate_pem: pem.clone(), key_pem, client_ca_pem: None };
    let acceptor = TlsAcceptor::new(sys, &tls).unwrap();
    (TestServer::start(sys, 64, Some(acceptor.clone())), pem, acceptor)
}

#[test]
fn tls_needs_a_known_authority_and_the_right_name() {
    run(|sys| async move {
        let (server, pem, acceptor) = tls_server(&sys, &["localhost", "127.0.0.1"]);
        let base = format!("https://localhost:{}", server.port);
        let error = get(&client(&sys), &format!("{base}/hello")).await.unwrap_err();
        assert!(
            matches!(&error, ClientError::Tls(text) if text.contains("[parent] ca_file")),
            "{error}"
        );
        let options = ClientOptions { ca_pem: Some(pem.clone()), ca_fingerprint: None };
        let trusting = Client::new(&sys, options).unwrap();
        for path in ["/file", "/file", "/hello"] {
            let (status, body) = get(&trusting, &format!("{base}{path}")).await.unwrap();
            assert!(status == 200 && (body == server.content || body == b"hello"));
        }
        assert_eq!(server.service.admission.permits.in_use(), 1, "the TLS connection is kept");
        let by_address = format!("https://127.0.0.1:{}/hello", server.port);
        assert_eq!(get(&trusting, &by_address).await.unwrap().1, b"hello");
        let mut request = ClientRequest::new(Method::Put, format!("{base}/echo"));
        request.body = ClientBody::Bytes(server.content.clone());
        let mut response = trusting.send(request).await.unwrap();
        assert!(response.body.read_all(10_000_000).await.unwrap() == server.content);

        let pin = tls::fingerprints(&pem).unwrap().remove(0);
        let pinned = |pin: &str| {
            let ca_fingerprint = Some(format!("sha256:{pin}"));
            Client::new(&sys, ClientOptions { ca_pem: None, ca_fingerprint }).unwrap()
        };
        assert_eq!(get(&pinned(&pin), &format!("{base}/hello")).await.unwrap().1, b"hello");
        let error = get(&pinned(&"0".repeat(64)), &format!("{base}/hello")).await.unwrap_err();
        assert!(
            matches!(&error, ClientError::Tls(text) if text.contains("ParentCaFingerprint")),
            "{error}"
        );

        // Another certificate from now on, under the same name and unknown to the client.
        let identity = tls::self_signed(&["elsewhere".to_owned()]).unwrap();
        let certificate_pem = identity.certificate_pem.into_bytes();
        let key_pem = identity.key_pem.into_bytes();
        let other = certificate_pem.clone();
        acceptor.reload(&ServerTls { certificate_pem, key_pem, client_ca_pem: None }).unwrap();
        let options = ClientOptions { ca_pem: Some(other), ca_fingerprint: None };
        let error = get(&Client::new(&sys, options).unwrap(), &format!("{base}/hello")).await;
        let error = error.unwrap_err();
        assert!(
            matches!(&error, ClientError::Tls(text) if text.contains("another name")),
            "{error}"
        );
    });
}

#[test]
fn schemes_that_do_not_match_are_explained() {
    run(|sys| async move {
        let (server, ..) = tls_server(&sys, &["localhost"]);
        let text = server.raw_text("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("https://"), "{text}");
        let plain = TestServer::start(&sys, 8, None);
        let url = format!("https://localhost:{}/hello", plain.port);
        let error = get(&client(&sys), &url).await.unwrap_err();
        assert!(matches!(&error, ClientError::Tls(text) if text.contains("http://")), "{error}");
        // A client that says nothing does not hold its connection for ever.
        let mut silent = server.connect().await;
        assert!(read_end(&mut silent).await.is_empty());
    });
}

/// An authority for clients: its certificate, PEM, and a client's certificate and key.
fn client_authority(name: &str) -> (Vec<u8>, (CertificateDer<'static>, PrivateKeyDer<'static>)) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let own = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let names = CertificateParams::new(["client".to_owned()]).unwrap();
    let signed = names.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (own.pem().into_bytes(), (signed.der().clone(), key))
}

/// Asks over TLS with this certificate, if any: what came back, and how the connection ended.
async fn visit(
    server: &TestServer,
    trusted: &[u8],
    shown: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> (String, Option<io::Error>) {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(trusted).unwrap());
    let config = match shown {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let connector = futures_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let mut answer = Vec::new();
    let outcome = async {
        let mut stream = connector.connect(name, server.connect().await).await?;
        let request = b"GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await?;
        stream.read_to_end(&mut answer).await
    }
    .await;
    (String::from_utf8(answer).unwrap(), outcome.err())
}

/// Who shows no certificate, or a stranger's, is refused in the handshake for that reason; that the
/// connection fails in some way would not show that the certificate decides.
#[test]
fn a_client_certificate_can_be_demanded() {
    run(|sys| async move {
        let (ours, welcome) = client_authority("ours");
        let (_, stranger) = client_authority("another");
        let identity = tls::self_signed(&["localhost".to_owned()]).unwrap();
        let trusted = identity.certificate_pem.into_bytes();
        let tls = ServerTls {
            certificate_pem: trusted.clone(),
            key_pem: identity.key_pem.into_bytes(),
            client_ca_pem: Some(ours),
        };
        let server = TestServer::start(&sys, 8, Some(TlsAcceptor::new(&sys, &tls).unwrap()));
        let (text, end) = visit(&server, &trusted, Some(welcome)).await;
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("hello"), "{text} {end:?}");
        for (shown, alert) in [
            (None, AlertDescription::CertificateRequired),
            (Some(stranger), AlertDescription::UnknownCA),
        ] {
            let (text, end) = visit(&server, &trusted, shown).await;
            assert_eq!(text, "");
            let reason = end.as_ref().and_then(io::Error::get_ref);
            let reason = reason.and_then(|error| error.downcast_ref::<rustls::Error>());
            assert_eq!(reason, Some(&rustls::Error::AlertReceived(alert)), "{end:?}");
        }
    });
}
