//! The server side against raw sockets.

use super::*;
use crate::http::server::conn::Connection;
use crate::http::wire::script::Script;
use crate::http::wire::transport::Transport;
use crate::sys::net::Peer;

const GET: &str = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

/// The parts of the one reply in `bytes`.
fn split(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(bytes[..end].to_vec()).unwrap(), &bytes[end..])
}

#[test]
fn pipelined_requests_are_all_answered_in_order() {
    with_server(|server| async move {
        let put = "PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let chunked = "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nde\r\n0\r\n\r\n";
        let ignored = "PUT /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz\r\n";
        let text = server.raw_text([GET, put, chunked, ignored, LAST].concat()).await;
        assert_eq!(count(&text, "HTTP/1.1 200 OK"), 4, "{text}");
        assert_eq!(count(&text, "HTTP/1.1 202 Accepted"), 1, "{text}");
        let (abc, de) = (text.find("abc").unwrap(), text.find("\r\n\r\nde").unwrap());
        assert!(abc < de && text.ends_with("hello"), "{text}");
        assert_eq!(server.sys.metrics.requests.get(), 5);
        assert_eq!(server.sys.metrics.bytes_received.get(), 5);
    });
}

#[test]
fn replies_have_the_heads_they_should() {
    with_server(|server| async move {
        let text = server.raw_text(LAST).await;
        for part in ["content-length: 5\r\n", "date: ", " GMT\r\n", "connection: close\r\n"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.contains("x-bad: a??b: c\r\n") && !text.contains("\r\nb: c"), "{text}");
        let text = server.raw_text(LAST.replace("GET", "HEAD")).await;
        assert!(text.contains("content-length: 5\r\n") && text.ends_with("\r\n\r\n"), "{text}");
        let text = server.raw_text(LAST.replace("/hello", "/none")).await;
        assert!(text.starts_with("HTTP/1.1 204 ") && !text.contains("content-length"), "{text}");
        let text = server.raw_text(LAST.replace("/hello", "/unchanged")).await;
        assert!(text.starts_with("HTTP/1.1 304 Not Modified\r\n"), "{text}");
        assert!(!text.contains("content-length") && !text.contains("content-type"), "{text}");
        let text = server.raw_text(LAST.replace("GET /hello", "HEAD /length")).await;
        assert!(text.contains("content-length: 5000000000\r\n"), "{text}");
        let text = server.raw_text(LAST.replace("GET /hello", "OPTIONS *")).await;
        assert!(text.starts_with("HTTP/1.1 204 ") && text.contains("allow: GET"), "{text}");
        let bytes = server.raw(LAST.replace("/hello", "/big")).await;
        assert!(split(&bytes).1 == noise(300_000));
    });
}

#[test]
fn a_client_that_tries_tls_on_a_plain_port_is_told_at_once() {
    with_server(|server| async move {
        // The start of a ClientHello (RFC 8446 section 5.1), and no line end in sight.
        let text = server.raw_text(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
        assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("plain HTTP"), "{text}");
    });
}

#[test]
fn bad_requests_get_an_answer_and_the_server_lives() {
    with_server(|server| async move {
        let big = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(17_000));
        let endless = "x".repeat(20_000);
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: \u{fc}\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("\u{1}\u{2}\u{3}\r\n\r\n", 400),
            ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
            ("PUT / HTTP/1.1\r\nHost: a\r\nExpect: a-miracle\r\n\r\n", 417),
            (&big, 431),
            (&endless, 431),
            (
                "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: \
                 chunked\r\n\r\n0\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n",
                400,
            ),
            (
                "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
                400,
            ),
        ] {
            let text = server.raw_text(request).await;
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {text}");
            assert_eq!(count(&text, "HTTP/1.1 "), 1, "one answer: {text}");
            assert!(text.contains("connection: close\r\n") && text.contains("\"errors\""));
        }
        assert!(server.raw_text(LAST).await.ends_with("hello"));
        assert_eq!(server.sys.metrics.panics.get(), 0);
        assert_eq!(server.sys.metrics.requests_refused.get(), 9);
        assert_eq!(server.sys.metrics.requests_failed.get(), 2);
    });
}

#[test]
fn http_1_0_is_answered_and_closed() {
    with_server(|server| async move {
        let text = server.raw_text("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("hello"), "{text}");
        assert!(text.contains("connection: close\r\n"), "{text}");
    });
}

#[test]
fn continue_is_sent_when_the_body_is_wanted_and_only_then() {
    with_server(|server| async move {
        for spelling in ["100-continue", "100-Continue", "100-CONTINUE"] {
            let mut stream = server.connect().await;
            let head = format!(
                "PUT /echo HTTP/1.1\r\nHost: a\r\nExpect: {spelling}\r\nConnection: close\r\n\
                 Content-Length: 3\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut interim = [0; 25];
            stream.read_exact(&mut interim).await.unwrap();
            assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
            stream.write_all(b"abc").await.unwrap();
            let text = String::from_utf8(read_end(&mut stream).await).unwrap();
            assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("abc"), "{text}");
        }
        // Refused unread: no interim answer, and the connection is of no further use.
        let head = "PUT /refuse HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\
                    Content-Length: 3\r\n\r\n";
        let text = server.raw_text(head).await;
        assert!(text.starts_with("HTTP/1.1 413 ") && count(&text, "HTTP/1.1") == 1, "{text}");
        assert!(text.contains("connection: close\r\n"), "{text}");
        // The body came along: no interim answer either.
        let both = "PUT /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\n\
                    Content-Length: 3\r\n\r\nabc";
        let text = server.raw_text(both).await;
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("abc"), "{text}");
    });
}

#[test]
fn unread_bodies_are_drained_within_reason() {
    with_server(|server| async move {
        let put = |len: usize| {
            format!("PUT /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n")
        };
        let small = [put(60_000).into_bytes(), vec![b'x'; 60_000], LAST.into()].concat();
        let text = server.raw_text(small).await;
        assert!(text.ends_with("hello") && count(&text, "connection: close") == 1, "{text}");
        // The answer arrives although the client is not done sending.
        let large = [put(600_000).into_bytes(), vec![b'x'; 600_000], LAST.into()].concat();
        let text = server.raw_text(large).await;
        assert!(text.starts_with("HTTP/1.1 202 ") && count(&text, "HTTP/1.1 ") == 1, "{text}");
        // Chunks: the end is looked for, but not for ever.
        let head = "PUT /ignore HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let text = server.raw_text(format!("{head}3\r\nabc\r\n0\r\n\r\n{LAST}")).await;
        assert!(text.ends_with("hello"), "{text}");
        let text =
            server.raw_text(format!("{head}186A0\r\n{}\r\n0\r\n\r\n{LAST}", "x".repeat(100_000)));
        assert_eq!(count(&text.await, "HTTP/1.1 "), 1);
    });
}

#[test]
fn a_truncated_body_is_an_error_for_the_handler() {
    with_server(|server| async move {
        for body in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n5\r\nab"] {
            let mut stream = server.connect().await;
            let request = format!("PUT /echo HTTP/1.1\r\nHost: a\r\n{body}");
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
            let text = String::from_utf8(read_end(&mut stream).await).unwrap();
            assert!(text.starts_with("HTTP/1.1 400 ") && text.ends_with("UnexpectedEof"), "{text}");
        }
    });
}

#[test]
fn slow_peers_are_cut_off() {
    with_server(|server| async move {
        let text = server.raw_text("GET /hello HT").await;
        assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("\"timeout\""), "{text}");
        let text =
            server.raw_text("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
        assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
        assert_eq!(server.raw_text("").await, "", "no word to a client that never asked");
        let text = server.raw_text(GET).await;
        assert_eq!(count(&text, "HTTP/1.1 "), 1, "idle: closed without a word: {text}");
    });
}

#[test]
fn a_reader_that_stops_is_cut_off() {
    with_server(|server| async move {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        clock::sleep(Duration::from_millis(100)).await;
        assert_eq!(server.service.admission.permits.in_use(), 1);
        server.service.admission.permits.all_returned().await;
        // Slow is not stopped: each piece is progress.
        let mut stream = server.connect().await;
        stream
            .write_all(b"GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let (mut total, mut piece) = (0, vec![0; 1_500_000]);
        loop {
            clock::sleep(Duration::from_millis(200)).await;
            let read = stream.read(&mut piece).await.unwrap();
            total += read;
            if read == 0 {
                break;
            }
        }
        assert!(total > server.content.len());
    });
}

#[test]
fn a_head_may_come_byte_by_byte() {
    with_server(|server| async move {
        let mut stream = server.connect().await;
        for byte in LAST.as_bytes() {
            stream.write_all(&[*byte]).await.unwrap();
            clock::sleep(Duration::from_millis(1)).await;
        }
        assert!(String::from_utf8(read_end(&mut stream).await).unwrap().ends_with("hello"));
    });
}

#[test]
fn a_panic_costs_one_connection() {
    with_server(|server| async move {
        let text = server.raw_text(GET.replace("/hello", "/panic")).await;
        assert!(text.starts_with("HTTP/1.1 500 ") && text.contains("connection: close"), "{text}");
        assert!(!text.contains("on purpose"), "the cause is for the log: {text}");
        assert_eq!(server.sys.metrics.panics.get(), 1);
        assert!(server.raw_text(LAST).await.ends_with("hello"));
    });
}

#[test]
fn files_go_out_whole_and_in_ranges() {
    with_server(|server| async move {
        let size = server.content.len();
        for (offset, len) in [
            (0, size),
            (1, size - 1),
            (4095, 2),
            (70_000, 40_000),
            (size - 1, 1),
            (5, 0),
            (0, 32_768),
        ] {
            let target = format!("/file?offset={offset}&len={len}");
            let bytes = server.raw(LAST.replace("/hello", &target)).await;
            let (head, body) = split(&bytes);
            assert!(head.contains(&format!("content-length: {len}\r\n")), "{head}");
            assert!(body == &server.content[offset..offset + len], "{target}");
        }
        let twice = [GET.replace("/hello", "/file"), LAST.to_owned()].concat();
        let bytes = server.raw(twice).await;
        assert!(bytes.ends_with(b"hello"), "sendfile leaves the connection in order");
        let text = server.raw_text(LAST.replace("GET /hello", "HEAD /file")).await;
        assert!(
            text.contains(&format!("content-length: {size}\r\n")) && text.ends_with("\r\n\r\n")
        );
        assert!(server.sys.metrics.bytes_sent.get() > 2 * size as u64);
        // A file that is shorter than announced: the connection ends, and no reply follows.
        for len in [size + 10, 5 * size] {
            let target = format!("/file?len={len}");
            let bytes = server.raw([GET.replace("/hello", &target), LAST.into()].concat()).await;
            assert!(split(&bytes).1.len() <= size);
        }
    });
}

#[test]
fn over_the_limit_clients_are_told_to_come_back() {
    run(|sys| async move {
        let server = TestServer::start(&sys, 1, None);
        let mut first = server.connect().await;
        first.write_all(b"GET /sl").await.unwrap();
        clock::sleep(Duration::from_millis(100)).await;
        let text = server.raw_text(LAST).await;
        assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("retry-after: "), "{text}");
        first.write_all(b"ow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(read_end(&mut first).await.ends_with(b"slow"));
        server.service.admission.permits.all_returned().await;
        assert!(server.raw_text(LAST).await.ends_with("hello"));
    });
}

#[test]
fn f209_an_idle_connection_gives_way_and_a_request_under_way_does_not() {
    run(|sys| async move {
        let server = TestServer::start(&sys, 2, None);
        let mut idle = server.connect().await;
        idle.write_all(GET.as_bytes()).await.unwrap();
        let mut polls = server.connect().await;
        polls.write_all(GET.replace("/hello", "/wait").as_bytes()).await.unwrap();
        clock::sleep(Duration::from_millis(100)).await;
        assert!(server.raw_text(LAST).await.ends_with("hello"), "it has the place of the idle one");
        assert!(read_end(&mut idle).await.ends_with(b"hello"));
        polls.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        let text = String::from_utf8(read_end(&mut polls).await).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        server.service.admission.permits.all_returned().await;
    });
}

/// Replies are larger than what the kernel takes of them, and nobody reads the first.
#[test]
fn f209_large_replies_share_a_part_of_the_memory_for_bodies() {
    run(|sys| async move {
        let mut server = TestServer::start(&sys, 8, None);
        server.service.shutdown.begin();
        server.ended().await;
        let listener = Listener::tcp("127.0.0.1:0").unwrap();
        server.port = listener.local_address().unwrap().port();
        server.service.shutdown = Shutdown::new();
        server.service.memory = Budget::new(160 << 20);
        server.service.deadlines.progress = Duration::from_secs(30);
        server.task = Some(sys.spawner.spawn(serve(server.service.clone(), listener, None)));
        let large = "/large?len=9000000";
        let mut deaf = server.connect().await;
        deaf.write_all(GET.replace("/hello", large).as_bytes()).await.unwrap();
        let memory = &server.service.memory;
        while !format!("{memory:?}").starts_with("9000000 of ") {
            clock::sleep(Duration::from_millis(10)).await;
        }
        // One that fits a connection, and HEAD, need nothing.
        assert!(server.raw_text(LAST).await.ends_with("hello"));
        let head = server.raw_text(LAST.replace("GET /hello", &format!("HEAD {large}"))).await;
        assert!(head.contains("content-length: 9000000\r\n"), "{head}");
        let text = server.raw_text(LAST.replace("/hello", large)).await;
        assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("retry-after: "), "{text}");
        let waits = server.raw(LAST.replace("/hello", large));
        let release = async {
            clock::sleep(Duration::from_millis(100)).await;
            drop(deaf);
            std::future::pending().await
        };
        let bytes = smol::future::or(waits, release).await;
        assert!(split(&bytes).1 == noise(9_000_000));
        server.service.admission.permits.all_returned().await;
        assert!(format!("{memory:?}").starts_with("0 of "), "{memory:?}");
    });
}

#[test]
fn shutdown_finishes_what_is_in_flight() {
    with_server(|mut server| async move {
        let mut idle = server.connect().await;
        idle.write_all(GET.as_bytes()).await.unwrap();
        let mut busy = server.connect().await;
        busy.write_all(GET.replace("/hello", "/slow").as_bytes()).await.unwrap();
        clock::sleep(Duration::from_millis(100)).await;
        server.service.shutdown.begin();
        let text = String::from_utf8(read_end(&mut busy).await).unwrap();
        assert!(text.ends_with("slow") && text.contains("connection: close"), "{text}");
        assert!(read_end(&mut idle).await.ends_with(b"hello"));
        server.ended().await;
        assert_eq!(server.service.admission.permits.in_use(), 0);
        let refused = Async::<TcpStream>::connect(([127, 0, 0, 1], server.port)).await;
        assert!(refused.is_err());
    });
}

#[test]
fn shutdown_cuts_off_what_never_ends() {
    run(|sys| async move {
        let mut server = TestServer::start(&sys, 8, None);
        server.service.shutdown.begin();
        server.ended().await;
        let listener = Listener::tcp("127.0.0.1:0").unwrap();
        server.port = listener.local_address().unwrap().port();
        server.service.shutdown = Shutdown::new();
        server.service.deadlines.stop = Duration::from_millis(100);
        server.task = Some(sys.spawner.spawn(serve(server.service.clone(), listener, None)));
        let mut busy = server.connect().await;
        busy.write_all(GET.replace("/hello", "/slow").as_bytes()).await.unwrap();
        clock::sleep(Duration::from_millis(50)).await;
        server.service.shutdown.begin();
        server.ended().await;
        assert!(read_end(&mut busy).await.is_empty());
    });
}

#[test]
fn a_handler_notices_that_its_client_left() {
    with_server(|server| async move {
        let mut stream = server.connect().await;
        stream.write_all(GET.replace("/hello", "/wait").as_bytes()).await.unwrap();
        clock::sleep(Duration::from_millis(1000)).await;
        assert_eq!(server.service.admission.permits.in_use(), 1, "a long poll is not idle");
        drop(stream);
        server.service.admission.permits.all_returned().await;
    });
}

/// Requests of every kind in one stream, cut at every byte, give the same answers.
#[test]
fn a_stream_may_be_cut_anywhere() {
    let chunked = "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                   2\r\nde\r\n0\r\n\r\n";
    let put = "PUT /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz\r\n";
    let stream = [GET, chunked, put, LAST].concat();
    with_server(|server| async move {
        for pieces in Script::cuts(stream.as_bytes()) {
            let (script, written) = Script::new(pieces.clone());
            let transport = Transport::Script(script);
            let place = server.service.admission.admit(None).unwrap();
            Connection::new(&server.service, transport, Peer::Local(None), place).run().await;
            let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
            assert_eq!(count(&text, "HTTP/1.1 200 OK"), 3, "{pieces:?}: {text}");
            assert_eq!(count(&text, "HTTP/1.1 "), 4, "{pieces:?}: {text}");
            assert!(text.contains("\r\n\r\nde") && text.ends_with("hello"), "{text}");
        }
    });
}

/// Whether a request is taken must not depend on how the empty lines before it arrive.
#[test]
fn empty_lines_before_a_request_may_be_cut_anywhere() {
    let stream = format!("\n\n\n\r\n{LAST}");
    with_server(|server| async move {
        let mut streams = Script::cuts(stream.as_bytes());
        streams.push(vec![stream.as_bytes().to_vec()]);
        for pieces in streams {
            let (script, written) = Script::new(pieces.clone());
            let transport = Transport::Script(script);
            let place = server.service.admission.admit(None).unwrap();
            Connection::new(&server.service, transport, Peer::Local(None), place).run().await;
            let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
            assert!(text.starts_with("HTTP/1.1 200 OK"), "{pieces:?}: {text}");
        }
    });
}

/// Thousands of long polls are held by one root, so a connection must be small.
#[test]
fn a_connection_costs_little_memory() {
    with_server(|server| async move {
        let (script, _) = Script::new([]);
        let transport = Transport::Script(script);
        let place = server.service.admission.admit(None).unwrap();
        let connection =
            Connection::new(&server.service, transport, Peer::Local(None), place).run();
        let size = size_of_val(&connection);
        assert!(size <= 6 * 1024, "{size}");
    });
}

#[test]
fn a_file_that_is_not_in_memory_goes_out_too() {
    with_server(|server| async move {
        let file = SystemDisk.open(&server.dir.path().join("content")).unwrap();
        file.sync_data().unwrap();
        for _ in 0..3 {
            let advice = rustix::fs::Advice::DontNeed;
            rustix::fs::fadvise(file.as_file().unwrap(), 0, None, advice).unwrap();
            let bytes = server.raw(LAST.replace("/hello", "/file")).await;
            assert!(split(&bytes).1 == server.content);
        }
    });
}

#[test]
fn many_files_go_out_at_once() {
    with_server(|server| async move {
        let request = LAST.replace("/hello", "/file");
        let mut tasks = Vec::new();
        for _ in 0..40 {
            let mut stream = server.connect().await;
            let request = request.clone();
            tasks.push(server.sys.spawner.spawn(async move {
                stream.write_all(request.as_bytes()).await.unwrap();
                read_end(&mut stream).await
            }));
        }
        for task in tasks {
            assert!(split(&task.await).1 == server.content);
        }
    });
}
