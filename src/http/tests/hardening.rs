//! What a server built on the bare codec gets wrong, one row each, over real sockets: every
//! request has the answer that was designed for it, and what follows it is read as it should be.

use super::*;

const HELLO: &str = "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}

/// Each request gets one answer of this status, and the connection ends: nothing that follows
/// may be taken for a request.
fn refused(cases: Vec<(String, u16)>) {
    with_server(|server| async move {
        for (request, status) in cases {
            let text = server.raw_text(format!("{request}{HELLO}")).await;
            let wanted = format!("HTTP/1.1 {status} ");
            assert!(text.starts_with(&wanted), "{request:?}: {text}");
            assert_eq!(answers(&text), 1, "{request:?}: {text}");
            assert!(text.contains("connection: close\r\n"), "{request:?}: {text}");
            assert!(text.contains("\"reason\""), "{request:?}: {text}");
        }
        assert!(server.raw_text(HELLO).await.ends_with("hello"), "the server lives");
        assert_eq!(server.sys.metrics.panics.get(), 0);
    });
}

fn with_fields(fields: &[(&str, u16)]) -> Vec<(String, u16)> {
    let head = |text: &str| format!("POST /echo HTTP/1.1\r\nHost: a\r\n{text}\r\n\r\n");
    fields.iter().map(|(text, status)| (head(text), *status)).collect()
}

fn with_target(targets: &[(&str, u16)]) -> Vec<(String, u16)> {
    let head = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    targets.iter().map(|(target, status)| (head(target), *status)).collect()
}

#[test]
fn bytes_beyond_ascii_are_refused_wherever_they_stand() {
    refused(vec![
        ("GET /hello HTTP/1.1\r\nHost: a\r\nUser-Agent: \u{fc}\r\n\r\n".into(), 400),
        ("GET /hello HTTP/1.1\r\nHost: a\r\n\u{fc}: x\r\n\r\n".into(), 400),
        ("GET /\u{fc} HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("G\u{fc}T /hello HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET /hello HTTP/1.1\r\nHost: \u{fc}\r\n\r\n".into(), 400),
    ]);
}

#[test]
fn lengths_are_one_plain_number() {
    refused(with_fields(&[
        ("Content-Length: 0\r\nContent-Length: 3", 400),
        ("Content-Length: 3\r\nContent-Length: 3", 400),
        ("Content-Length: 3, 3", 400),
        ("Content-Length: +3", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: 0x3", 400),
        ("Content-Length: 3 3", 400),
        ("Content-Length: ", 400),
        ("Content-Length: 18446744073709551616", 400),
    ]));
}

#[test]
fn bodies_are_framed_in_one_known_way() {
    refused(with_fields(&[
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: chunked, gzip", 501),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 501),
        ("Transfer-Encoding: identity", 501),
        ("Transfer-Encoding: xchunked", 501),
        ("Transfer-Encoding:\u{b}chunked", 400),
        ("Transfer-Encoding : chunked", 400),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
    ]));
}

#[test]
fn chunks_are_read_to_the_letter() {
    let head = "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bad = ["\r\n", "x\r\n", "-1\r\n", "5 5\r\nabcde\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n"];
    refused(bad.iter().map(|body| (format!("{head}{body}"), 400)).collect());
    with_server(|server| async move {
        for body in [
            "2\r\nde\r\n0\r\n\r\n",
            "2;name=value\r\nde\r\n0;last\r\n\r\n",
            "002\r\nde\r\n000\r\nTrailer: x\r\nOther: y\r\n\r\n",
        ] {
            let text = server.raw_text(format!("{head}{body}{HELLO}")).await;
            assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{body:?}: {text}");
            assert!(text.contains("\r\n\r\nde") && text.ends_with("hello"), "{body:?}: {text}");
        }
        // The end of a chunked body in two packets, cut at each of its bytes.
        let whole = format!("{head}2\r\nde\r\n0\r\n\r\n");
        for cut in whole.len() - 12..whole.len() {
            let mut stream = server.connect().await;
            stream.get_ref().set_nodelay(true).unwrap();
            stream.write_all(&whole.as_bytes()[..cut]).await.unwrap();
            clock::sleep(Duration::from_millis(20)).await;
            stream.write_all(&whole.as_bytes()[cut..]).await.unwrap();
            stream.write_all(HELLO.as_bytes()).await.unwrap();
            let text = String::from_utf8(read_end(&mut stream).await).unwrap();
            assert_eq!(answers(&text), 2, "cut at {cut}: {text}");
            assert!(text.ends_with("hello"), "cut at {cut}: {text}");
        }
    });
}

#[test]
fn a_host_cannot_change_the_path() {
    let hosts = [
        "", "a/b", "a/b?q=", "a b", "a@b", "a:b", "a:+80", "a:99999", "[::1", "[]", "a,b", "a%2fb",
        "a\\b", "a#b",
    ];
    let head = |host: &str| format!("GET /hello HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut cases: Vec<(String, u16)> = hosts.iter().map(|host| (head(host), 400)).collect();
    cases.push(("GET /hello HTTP/1.1\r\n\r\n".into(), 400));
    cases.push(("GET /hello HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), 400));
    refused(cases);
    with_server(|server| async move {
        for host in ["reg.example", "reg.example:5000", "[::1]:5000", "127.0.0.1"] {
            let text = server.raw_text(HELLO.replace("Host: a", &format!("Host: {host}"))).await;
            assert!(text.ends_with("hello"), "{host}: {text}");
        }
    });
}

#[test]
fn targets_are_decoded_once_and_do_not_climb() {
    refused(with_target(&[
        ("/../hello", 400),
        ("/x/../hello", 400),
        ("/./hello", 400),
        ("/%2e%2e/hello", 400),
        ("/.%2E/hello", 400),
        ("/x%2f..%2fhello", 400),
        ("/x\\..\\hello", 400),
        ("/x%5c..%5chello", 400),
        ("/hello%00", 400),
        ("/hello%0d%0aX:%20y", 400),
        ("/%", 400),
        ("/%zz", 400),
        ("/%ff", 400),
        ("/hello#x", 400),
        ("hello", 400),
        ("*", 400),
        ("ftp://a/hello", 400),
        ("http://u@a/hello", 400),
        ("http://", 400),
    ]));
    with_server(|server| async move {
        for target in ["/hello", "/h%65llo", "/%68%65%6C%6c%6f", "/hello?x=%2e%2e/", "/hello?"] {
            let text = server.raw_text(HELLO.replace("/hello", target)).await;
            assert!(text.ends_with("hello"), "{target}: {text}");
        }
        // Doubled slashes, double encoding: other paths, which are not there.
        for target in ["//hello", "/hello/", "/h%2565llo", "/hello%2F"] {
            let text = server.raw_text(HELLO.replace("/hello", target)).await;
            assert!(text.starts_with("HTTP/1.1 404 "), "{target}: {text}");
        }
        for target in ["http://a/hello", "HTTP://other:80/hello", "https://[::1]:1/hello?x"] {
            let text = server.raw_text(HELLO.replace("/hello", target)).await;
            assert!(text.ends_with("hello"), "{target}: {text}");
        }
    });
}

#[test]
fn methods_and_versions_that_are_not_spoken_are_named() {
    let mut cases = Vec::new();
    for (line, status) in [
        ("BREW /hello HTTP/1.1", 501),
        ("get /hello HTTP/1.1", 501),
        ("CONNECT a:80 HTTP/1.1", 501),
        ("GET /hello HTTP/1.2", 505),
        ("GET /hello HTTP/2.0", 505),
        ("PRI * HTTP/2.0", 505),
    ] {
        cases.push((format!("{line}\r\nHost: a\r\n\r\n"), status));
    }
    cases.push(("PUT /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(), 400));
    cases.push(("GET /hello\r\n\r\n".into(), 400));
    cases.push(("PUT /echo HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n".into(), 417));
    refused(cases);
    with_server(|server| async move {
        let text = server.raw_text("GET /hello HTTP/1.0\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("connection: close"), "{text}");
        let put = "PUT /echo HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nab";
        let text = server.raw_text(put).await;
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("ab"), "{text}");
        let text = server.raw_text(format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n{HELLO}")).await;
        assert!(text.starts_with("HTTP/1.1 204 ") && answers(&text) == 2, "{text}");
    });
}

#[test]
fn heads_have_room_for_a_large_token_and_no_more() {
    let fields = |count: usize| "X: y\r\n".repeat(count);
    let head = |fields: &str| format!("GET /hello HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    refused(vec![
        (head(&format!("X: {}\r\n", "x".repeat(16 * 1024))), 431),
        (head(&fields(65)), 431),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(5000)), 414),
        (format!("GET /?{} HTTP/1.1\r\nHost: a\r\n\r\n", "a&".repeat(129)), 400),
    ]);
    with_server(|server| async move {
        for extra in [format!("Authorization: Bearer {}\r\n", "x".repeat(12_000)), fields(60)] {
            let text = server.raw_text(format!("{}{HELLO}", head(&extra))).await;
            assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
        }
    });
}

#[test]
fn a_head_that_only_drips_is_cut_off() {
    with_server(|server| async move {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n").await.unwrap();
        // Each field comes in time; all of them together do not.
        for _ in 0..12 {
            clock::sleep(Duration::from_millis(60)).await;
            if stream.write_all(b"X: y\r\n").await.is_err() {
                break;
            }
        }
        let text = String::from_utf8(read_end(&mut stream).await).unwrap();
        assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("\"timeout\""), "{text}");
    });
}

#[test]
fn a_body_that_nobody_reads_or_sends_ends_the_connection() {
    with_server(|server| async move {
        for framing in
            ["Content-Length: 10000000000", "Content-Length: 10000000000\r\nExpect: 100-continue"]
        {
            let head = format!("PUT /refuse HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
            let text = server.raw_text(head).await;
            assert!(text.starts_with("HTTP/1.1 413 ") && answers(&text) == 1, "{text}");
            assert!(text.contains("connection: close\r\n"), "{text}");
        }
    });
}

#[test]
fn close_is_found_among_other_options() {
    with_server(|server| async move {
        for value in ["close", "foo, close", "Close", "keep-alive,CLOSE"] {
            let one = HELLO.replace("Connection: close", &format!("Connection: {value}"));
            let text = server.raw_text(format!("{one}{HELLO}")).await;
            assert_eq!(answers(&text), 1, "{value}: {text}");
        }
        let empty = "PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        let none = "PUT /echo HTTP/1.1\r\nHost: a\r\n\r\n";
        let text = server.raw_text([empty, none, HELLO].concat()).await;
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
    });
}
