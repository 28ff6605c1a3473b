//! Peers that ask for too much or talk nonsense: the node answers and stays.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::net;

use crate::support::eventually;
use crate::support::http::{basic, bearer, raw, send, token};
use crate::support::image::{Image, MANIFEST, digest, noise, push_blob};
use crate::support::node::{Node, sync_token};
use crate::sync::{SOON, pull};

/// More than any board of ours gives; a node that kept bodies in memory would need a gigabyte.
const CEILING_KIB: u64 = 64 * 1024;

#[test]
fn f191_memory_stays_under_the_ceiling_with_everything_at_once() {
    let root = Node::root_with(
        "[limits]\nmemory = \"64MiB\"\nbody_memory = \"16MiB\"\nconnections = 128\n",
    );
    let user = root.pusher("owner-token", "*");
    let image = Image::new(1, &[16 << 20]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadOnly"]);
    root.link("dock01", &user.0);
    let mut device = Node::device(&connection);
    device.spawn();
    let scopes = ["repository:app:pull,push"];
    let owner = token(&root.login, &user.0, &user.1, &scopes).unwrap();
    let target = format!("/v2/app/blobs/{}", digest(&image.layers[0]));
    let pushed = noise(9, 32 << 20);
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let total = drain(&root.login, &owner, &target);
                assert_eq!(total, image.layers[0].len());
            });
        }
        scope.spawn(|| assert_eq!(push_blob(&root.login, &owner, "app", &pushed).status, 201));
    });
    device.wait_ready();
    eventually(SOON, "v1 at the device", || pull(&device, &user, "app", "v1").ok());
    for (node, name) in [(&root, "root"), (&device, "device")] {
        let peak = node.peak_rss_kib();
        eprintln!("{name}: {peak} KiB at most");
        assert!(peak < CEILING_KIB, "{name}: {peak} KiB");
        assert_eq!(node.metric("skerry_panics_total"), 0);
    }
}

/// Symptom: each of the many requests that one pull of containerd makes for parts of a layer had a
/// descriptor of its own.
#[test]
fn f216_many_requests_for_parts_of_one_blob_read_one_open_file() {
    const PARTS: usize = 100;
    let root = Node::root_with(
        "[limits]\nmemory = \"64MiB\"\nbody_memory = \"16MiB\"\nconnections = 128\n",
    );
    let user = root.pusher("owner-token", "app");
    let image = Image::new(1, &[24 << 20]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    let reader = token(&root.login, &user.0, &user.1, &["repository:app:pull"]).unwrap();
    let layer = &image.layers[0];
    let file = root.blob_file(layer);
    let descriptors = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", root.pid())).unwrap();
        open.filter(|entry| {
            let path = entry.as_ref().ok().and_then(|entry| std::fs::read_link(entry.path()).ok());
            path.is_some_and(|path| path == file)
        })
        .count()
    };
    let ask = |part: usize| {
        let mut stream = TcpStream::connect(&root.login).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!(
            "GET /v2/app/blobs/{} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {reader}\r\n\
             range: bytes={part}-\r\nconnection: close\r\n\r\n",
            digest(layer),
            root.login
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 206");
        stream
    };
    let parts: Vec<TcpStream> = (0..PARTS).map(ask).collect();
    // All of them are under way: much less than a layer fits between here and there.
    assert_eq!(descriptors(), 1);
    for (part, mut stream) in parts.into_iter().enumerate() {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(&layer[part..]), "part {part}");
    }
    eventually(SOON, "the file is closed", || (descriptors() == 0).then_some(()));
    let peak = root.peak_rss_kib();
    eprintln!("{PARTS} parts at once: {peak} KiB at most");
    assert!(peak < CEILING_KIB, "{peak} KiB");
    // What replaces a file is what the next one reads.
    let mut held = ask(0);
    std::fs::remove_file(&file).unwrap();
    let target = format!("/v2/app/blobs/{}", digest(layer));
    let missing = bearer(&root.login, &reader, "GET", &target, &[], b"");
    assert_eq!(missing.status, 503, "{:?}", missing.headers);
    let pusher = token(&root.login, &user.0, &user.1, &["repository:app:pull,push"]).unwrap();
    assert_eq!(push_blob(&root.login, &pusher, "app", layer).status, 201);
    assert_eq!(bearer(&root.login, &reader, "GET", &target, &[], b"").body, *layer);
    let mut rest = Vec::new();
    held.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(layer));
}

/// Each tag is long, so that what is kept in memory of all of them shows.
#[test]
fn f209_a_manifest_with_many_tags_is_deleted_within_the_memory() {
    const PUSHES: usize = 400;
    let root = Node::root();
    let user = root.pusher("owner-token", "app");
    let image = Image::new(1, &[3000]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    let scopes = ["repository:app:pull,push,delete"];
    let owner = token(&root.login, &user.0, &user.1, &scopes).unwrap();
    let path = format!("/v2/app/manifests/{}", image.digest());
    let long = "x".repeat(110);
    for push in 0..PUSHES {
        let tags: Vec<String> = (0..64).map(|n| format!("tag={push}-{n}-{long}")).collect();
        let target = format!("{path}?{}", tags.join("&"));
        let headers = [("content-type", MANIFEST)];
        let answer = bearer(&root.login, &owner, "PUT", &target, &headers, &image.manifest);
        assert_eq!(answer.status, 201);
    }
    let before = root.peak_rss_kib();
    assert_eq!(bearer(&root.login, &owner, "DELETE", &path, &[], b"").status, 202);
    // The kernel's count of the peak is not exact, and may seem to fall.
    let more = root.peak_rss_kib().saturating_sub(before);
    eprintln!("{} tags: {before} KiB before, {more} KiB more", PUSHES * 64);
    assert!(more < 16 * 1024, "{more} KiB more than {before} KiB");
    let listed = bearer(&root.login, &owner, "GET", "/v2/app/tags/list", &[], b"");
    assert_eq!(listed.json()["tags"].as_array().map(Vec::len), Some(0), "{listed:?}");
    assert_eq!(bearer(&root.login, &owner, "GET", &path, &[], b"").status, 404);
}

/// Reads a blob without keeping it; its length.
fn drain(address: &str, token: &str, target: &str) -> usize {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "GET {target} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let (mut head, mut total) = (Vec::new(), 0);
    loop {
        let read = stream.read(&mut buffer).unwrap();
        if read == 0 {
            return total;
        }
        if total > 0 {
            total += read;
            continue;
        }
        head.extend_from_slice(&buffer[..read]);
        if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            assert!(head.starts_with(b"HTTP/1.1 200 "));
            total = head.len() - end - 4;
        }
    }
}

#[test]
fn f191_over_the_limit_clients_are_told_to_come_back() {
    let root = Node::root_with("[limits]\nconnections = 4\n");
    // Connections that ask for nothing hold their places.
    let held: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(&root.login).unwrap()).collect();
    let answer = eventually(SOON, "the fifth is refused", || {
        send(&root.login, "GET", "/v2/", &[], b"").ok().filter(|answer| answer.status == 503)
    });
    assert_eq!(answer.error(), ("TOOMANYREQUESTS".to_owned(), "throttled".to_owned()));
    assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    drop(held);
    eventually(SOON, "there is room again", || {
        send(&root.login, "GET", "/v2/", &[], b"").ok().filter(|answer| answer.status == 401)
    });
}

/// A connection from another address of the loopback interface.
fn connect_from(source: [u8; 4], address: &str) -> TcpStream {
    let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).unwrap();
    net::bind(&socket, &SocketAddr::from((source, 0))).unwrap();
    net::connect(&socket, &address.parse::<SocketAddr>().unwrap()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Asks for `/healthz` and reads the start of the answer: the status.
fn healthz(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    Ok(String::from_utf8_lossy(&start[9..]).into_owned())
}

/// All connections are taken: by idle ones first, then by requests that never end.
#[test]
fn f209_a_stranger_with_all_connections_shuts_nobody_out() {
    let root = Node::root_with("[limits]\nconnections = 32\n");
    let user = root.pusher("owner-token", "*");
    let image = Image::new(1, &[1000]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadOnly"]);
    root.link("dock01", &user.0);
    let device = Node::start_device(&connection);
    eventually(SOON, "v1 at the device", || pull(&device, &user, "app", "v1").ok());

    let mut idle: Vec<TcpStream> =
        (0..40).map(|_| connect_from([127, 0, 0, 1], &root.login)).collect();
    let answered = idle.iter_mut().filter_map(|stream| healthz(stream).ok());
    assert!(answered.filter(|status| status == "200").count() >= 20);
    assert!(root.run(&["status"]).status.success(), "the operator");
    assert_eq!(healthz(&mut connect_from([127, 0, 0, 1], &root.login)).unwrap(), "200");
    assert_eq!(healthz(&mut connect_from([127, 0, 0, 1], &root.gateway)).unwrap(), "200");
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v2").status, 201);
    eventually(SOON, "v2 at the device", || pull(&device, &user, "app", "v2").ok());
    drop(idle);

    let slow: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = connect_from([127, 0, 0, 9], &root.login);
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\n");
            stream
        })
        .collect();
    let output = root.run(&["token", "update", "--name", &user.0, "--status", "disabled"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(healthz(&mut connect_from([127, 0, 0, 2], &root.login)).unwrap(), "200");
    assert_eq!(healthz(&mut connect_from([127, 0, 0, 2], &root.gateway)).unwrap(), "200");
    drop(slow);
}

#[test]
fn f209_one_account_does_not_take_all_uploads() {
    let root = Node::root_with("[limits]\nuploads = 16\n");
    let (one, two) = (root.pusher("one-token", "app"), root.pusher("two-token", "lab"));
    let login = |user: &(String, String), repository: &str| {
        let scope = format!("repository:{repository}:pull,push");
        token(&root.login, &user.0, &user.1, &[&scope]).unwrap()
    };
    let (of_one, of_two) = (login(&one, "app"), login(&two, "lab"));
    let start = |bearing: &str, repository: &str| {
        let target = format!("/v2/{repository}/blobs/uploads/");
        bearer(&root.login, bearing, "POST", &target, &[], b"")
    };
    let opened = (0..20).map(|_| start(&of_one, "app").status);
    assert_eq!(opened.filter(|status| *status == 202).count(), 12);
    let refused = start(&of_one, "app");
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(start(&of_two, "lab").status, 202);
    assert_eq!(push_blob(&root.login, &of_two, "lab", &noise(3, 1000)).status, 201);
    let image = Image::new(8, &[1000]);
    assert_eq!(image.push(&root.login, (&two.0, &two.1), "lab", "v1").status, 201);
}

#[test]
fn f209_two_logins_in_one_request_are_refused() {
    let root = Node::root();
    let user = root.pusher("owner-token", "app");
    let scope = ["repository:app:pull"];
    let owner = token(&root.login, &user.0, &user.1, &scope).unwrap();
    let headers = [("authorization", "Bearer x")];
    let answer = bearer(&root.login, &owner, "GET", "/v2/", &headers, b"");
    assert_eq!((answer.status, answer.error().1.as_str()), (400, "malformed"));
    assert!(answer.message().contains("two Authorization"), "{}", answer.message());
}

/// A generator of faults: the same ones in each run.
struct Faults(u64);

impl Faults {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }

    /// A copy with a few bytes changed, doubled, taken out or cut off.
    fn spoil(&mut self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        for _ in 0..=self.next(3) {
            let at = self.next(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
            match self.next(5) {
                0 => bytes[at] = u8::try_from(self.next(256)).unwrap(),
                1 => bytes.insert(at, b"\0\r\n{}[]\",:%/\xff"[self.next(13)]),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                3 if at > 0 => bytes.truncate(at),
                _ => {
                    let end = (at + 1 + self.next(40)).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
            }
        }
        bytes
    }
}

#[test]
fn f195_nonsense_gets_an_error_and_the_process_stays() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let image = Image::new(2, &[100]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    let scopes = ["repository:app:pull,push,delete,metadata_read"];
    let owner = token(&root.login, &user.0, &user.1, &scopes).unwrap();
    let mut faults = Faults(0x9e37_79b9_7f4a_7c15);
    let chunked = format!(
        "PUT /v2/app/manifests/v1?tag=x HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {owner}\r\n\
         content-type: {MANIFEST}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
         5\r\n{{\"a\":\r\n2;x=y\r\n1}}\r\n0\r\n\r\n",
        root.login
    );
    for number in 0..400 {
        let bytes = faults.spoil(chunked.as_bytes());
        let answer = short(&root.login, &bytes);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 "),
            "{number}: {:?}",
            String::from_utf8_lossy(&answer)
        );
        assert!(!answer.starts_with(b"HTTP/1.1 5") || is_designed(&answer), "{number}");
    }
    for _ in 0..300 {
        let body = faults.spoil(&image.manifest);
        let headers = [("content-type", MANIFEST)];
        let answer = bearer(&root.login, &owner, "PUT", "/v2/app/manifests/x", &headers, &body);
        assert!([201, 400].contains(&answer.status), "{}", answer.status);
    }
    for _ in 0..200 {
        let bad = faults.spoil(owner.as_bytes());
        let bad: String = bad.into_iter().filter(u8::is_ascii_graphic).map(char::from).collect();
        let answer = bearer(&root.login, &bad, "GET", "/v2/app/manifests/v1", &[], b"");
        assert!([200, 400, 401, 431].contains(&answer.status), "{}", answer.status);
        assert!(answer.status != 200 || bad == owner);
    }
    let child = root.connect("dock01", &["--repository", "app"]);
    let password = child.split(';').find_map(|p| p.strip_prefix("SyncTokenPassword=")).unwrap();
    let scope = "gateway:dock01:config_read,config_write,message_read,message_write";
    let sync = token(&root.login, &sync_token("dock01"), password, &[scope]).unwrap();
    let message = br#"{"instance":"0f8fad5b-d9cb-469f-a165-70867728950e","version":"0.1.0"}"#;
    for number in 0..300 {
        let (method, call) =
            [("POST", "activation"), ("PUT", "status"), ("POST", "messages")][number % 3];
        let target = format!("/gateway/v1/dock01/{call}");
        let media_type = [
            "application/json",
            "application/vnd.skerry.gateway.v1+postcard",
            "application/vnd.skerry.gateway.v2+postcard",
        ];
        let headers = [("content-type", media_type[number / 3 % 3])];
        let body = faults.spoil(message);
        let answer = bearer(&root.gateway, &sync, method, &target, &headers, &body);
        assert!(answer.status < 500, "{method} {call}: {}", answer.status);
    }
    assert_eq!(root.metric("skerry_panics_total"), 0);
    assert!(!root.log().contains("panicked"), "{}", root.log());
    assert!(pull(&root, &user, "app", "v1").is_ok());
}

/// Sends bytes, says that no more will come, and reads what comes back.
fn short(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// A method or version that is not spoken here, not a defect.
fn is_designed(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 501 ") || answer.starts_with(b"HTTP/1.1 505 ")
}

#[test]
fn f195_a_damaged_configuration_ends_with_a_sentence() {
    let mut node = Node::device("x");
    node.make_root();
    let good = node.configuration() + "[limits]\nconnections = 10\nmemory = \"1GiB\"\n";
    let mut faults = Faults(0x2545_f491_4f6c_dd1d);
    let file = node.dir.join("damaged.toml");
    for _ in 0..60 {
        let bytes = faults.spoil(good.as_bytes());
        std::fs::write(&file, &bytes).unwrap();
        let mut check = std::process::Command::new(crate::support::node::binary());
        let output = check.arg("--config").arg(&file).args(["config", "check"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 78)), "{output:?}");
        assert!(output.status.success() || !text.trim().is_empty(), "no word");
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn f195_a_second_head_behind_a_hostile_one_is_not_answered() {
    let root = Node::root();
    let smuggled = "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\
                    transfer-encoding: chunked\r\n\r\n0\r\n\r\n\
                    GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    let answer = String::from_utf8(raw(&root.login, smuggled.as_bytes()).unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

/// `count` different scopes, as the field of a form or a query.
fn scopes(count: usize, actions: usize) -> String {
    let actions: Vec<String> = (0..actions).map(|number| format!("a{number}")).collect();
    let actions = actions.join(",");
    let scopes: Vec<String> =
        (0..count).map(|number| format!("repository:r{number}:{actions}")).collect();
    format!("scope={}", scopes.join("+"))
}

#[test]
fn f209_a_token_request_with_too_many_scopes_is_refused_before_it_costs_anything() {
    let root = Node::root();
    let (user, password) = root.pusher("owner-token", "*");
    let login = format!("grant_type=password&username={user}&password={password}&");
    let post = |form: &str| {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        send(&root.login, "POST", "/oauth2/token", &headers, form.as_bytes()).unwrap()
    };
    let get = |scopes: &str| {
        let headers = [("authorization", &*basic(&user, &password))];
        send(&root.login, "GET", &format!("/oauth2/token?{scopes}"), &headers, b"").unwrap()
    };
    let flood: Vec<String> = (0..100_000).map(|number| format!("a:{number}:")).collect();
    let flood = format!("{login}scope={}", flood.join("+"));
    std::thread::scope(|scope| {
        let answers: Vec<_> = (0..4).map(|_| scope.spawn(|| post(&flood))).collect();
        for answer in answers {
            let answer = answer.join().unwrap();
            assert_eq!(answer.status, 413);
            assert_eq!(answer.error(), ("SIZE_INVALID".to_owned(), "too_large".to_owned()));
            assert!(answer.message().contains("16384 bytes"), "{}", answer.message());
        }
    });
    for (count, actions, status) in [(64, 1, 200), (65, 1, 400), (1, 16, 200), (1, 17, 400)] {
        let asked = scopes(count, actions);
        // As docker asks: each scope in a parameter of its own, beside the service.
        let apart = format!("service={}&{}", root.login, asked.replace('+', "&scope="));
        for answer in [post(&(login.clone() + &asked)), get(&asked), get(&apart)] {
            assert_eq!(answer.status, status, "{count} scopes, {actions} actions");
            assert!(status == 200 || answer.error().1 == "too_large");
        }
    }
    let merged = [scopes(1, 16), "scope=repository:r0:pull".to_owned()].join("&");
    let answer = get(&merged);
    assert_eq!((answer.status, answer.error().1.as_str()), (400, "too_large"));
    assert!(answer.message().contains("at most 16 actions"), "{}", answer.message());
}

#[test]
fn f209_a_form_that_trickles_in_ends_with_408() {
    let root = Node::root();
    let form = "grant_type=password&username=owner-token&password=unknown";
    let mut stream = TcpStream::connect(&root.login).unwrap();
    let head = format!(
        "POST /oauth2/token HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n",
        root.login,
        form.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A byte a second is progress; 57 seconds of it are too many for who has not logged in.
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let (mut answer, mut bytes) = ([0; 1024], form.bytes());
    let read = loop {
        match stream.read(&mut answer) {
            Ok(read) => break read,
            Err(_) => match bytes.next() {
                Some(byte) => stream.write_all(&[byte]).unwrap(),
                None => panic!("no answer to the whole form"),
            },
        }
    };
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(bytes.next().is_some(), "it was read to its end");
}
