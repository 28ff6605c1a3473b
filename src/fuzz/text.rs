//! Texts: what they are read as must come back when it is written and read again.

use std::fmt::{Debug, Display};
use std::path::PathBuf;
use std::str::FromStr;

use crate::config::{self, MAIN_FILE, MapSource, MemoryPlan};
use crate::http::Method;
use crate::registry::range::{self, Wanted};
use crate::registry::route::{self, Route};
use crate::token;
use crate::types::connection_string::ConnectionString;
use crate::types::limits::{ANNOTATIONS_BYTES_MAX, MANIFEST_DESCRIPTORS_MAX};
use crate::types::media::{self, OCI_INDEX, OCI_MANIFEST};
use crate::types::namespace::Namespace;
use crate::types::schedule::{Schedule, Window};
use crate::types::scope::Access;
use crate::types::time::{format_duration, parse_duration_s};
use crate::types::{
    ConnectedRegistryName, Cursor, Digest, Grant, Manifest, RepositoryName, ScopeMapName, Tag,
    TokenName, UnixSeconds,
};

fn owned(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

fn digest() -> String {
    format!("sha256:{}", "1f".repeat(32))
}

/// A method and a path.
pub(super) fn route(bytes: &[u8]) {
    let Some((method, path)) = bytes.split_first() else { return };
    let methods = [Method::Get, Method::Head, Method::Put, Method::Post, Method::Patch];
    let method = methods.get(usize::from(*method)).copied().unwrap_or(Method::Delete);
    let path = String::from_utf8_lossy(path);
    match route::route(method, &path) {
        Ok(found) => {
            let written = written(&found);
            assert_eq!(route::route(method, &written), Ok(found), "{path} {written}");
        }
        Err(none) => assert!((400..=405).contains(&none.refusal.status)),
    }
}

fn written(route: &Route) -> String {
    match route {
        Route::Ping => "/v2/".to_owned(),
        Route::Catalog => "/v2/_catalog".to_owned(),
        Route::BlobGet(name, digest) | Route::BlobDelete(name, digest) => {
            format!("/v2/{name}/blobs/{digest}")
        }
        Route::UploadStart(name) => format!("/v2/{name}/blobs/uploads/"),
        Route::UploadStatus(name, id)
        | Route::UploadAppend(name, id)
        | Route::UploadFinish(name, id)
        | Route::UploadCancel(name, id) => format!("/v2/{name}/blobs/uploads/{id}"),
        Route::ManifestGet(name, reference)
        | Route::ManifestPut(name, reference)
        | Route::ManifestDelete(name, reference) => format!("/v2/{name}/manifests/{reference}"),
        Route::Tags(name) => format!("/v2/{name}/tags/list"),
        Route::Referrers(name, digest) => format!("/v2/{name}/referrers/{digest}"),
    }
}

pub(super) fn routes() -> Vec<Vec<u8>> {
    let digest = digest();
    let id = "0f0f0f0f-1111-2222-3333-444444444444";
    let paths = [
        (0, "/v2/".to_owned()),
        (0, "/v2/_catalog".to_owned()),
        (0, format!("/v2/a/b_c/blobs/{digest}")),
        (5, format!("/v2/a/blobs/{digest}")),
        (3, "/v2/a/blobs/uploads/".to_owned()),
        (4, format!("/v2/a/blobs/uploads/{id}")),
        (2, "/v2/blobs/uploads/manifests/v1".to_owned()),
        (1, format!("/v2/a/manifests/{digest}")),
        (0, "/v2/tags/list/tags/list".to_owned()),
        (0, format!("/v2/a/referrers/{digest}")),
    ];
    paths.map(|(method, path)| [&[method], path.as_bytes()].concat()).to_vec()
}

/// The length of a blob, eight bytes, and a `Range` or `Content-Range`.
pub(super) fn range(bytes: &[u8]) {
    let Some((len, text)) = bytes.split_first_chunk() else { return };
    let (len, text) = (u64::from_le_bytes(*len), String::from_utf8_lossy(text));
    if let Wanted::Part { offset, len: part } = range::wanted(Some(&text), len) {
        assert!(part > 0 && offset.checked_add(part).is_some_and(|end| end <= len), "{text}");
    }
    if let Some(chunk) = range::chunk(&text) {
        assert!(chunk.len > 0 && chunk.first.checked_add(chunk.len - 1).is_some(), "{text}");
    }
}

pub(super) fn ranges() -> Vec<Vec<u8>> {
    let texts = ["bytes=0-99", "bytes=5-", "bytes=-7", "0-99", "bytes 5-9/10", "bytes=0-1,3-4"];
    let with = |text: &str, len: u64| [&len.to_le_bytes(), text.as_bytes()].concat();
    texts.iter().flat_map(|text| [with(text, 100), with(text, u64::MAX)]).collect()
}

/// A `Content-Type`, perhaps empty, and on the next line a manifest.
pub(super) fn manifest(bytes: &[u8]) {
    let cut = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let content_type = String::from_utf8_lossy(&bytes[..cut]);
    let body = bytes.get(cut + 1..).unwrap_or_default();
    let sent = Some(content_type.as_ref()).filter(|text| !text.is_empty());
    let Ok(parsed) = Manifest::parse(sent, body) else { return };
    assert_eq!(media::essence(&parsed.media_type).as_ref(), Some(&parsed.media_type));
    assert!(parsed.children.len() <= MANIFEST_DESCRIPTORS_MAX);
    assert!(parsed.layers.len() <= 2 * MANIFEST_DESCRIPTORS_MAX);
    let annotations = parsed.annotations.iter().map(|(name, value)| name.len() + value.len());
    assert!(annotations.sum::<usize>() <= ANNOTATIONS_BYTES_MAX);
    assert!(parsed.required_blobs().count() <= 1 + parsed.layers.len());
    assert!(parsed.required_manifests().count() <= parsed.children.len());
    let again = Manifest::parse(Some(&parsed.media_type), body);
    assert_eq!(again.as_ref(), Ok(&parsed), "it is served as what it was pushed as");
}

pub(super) fn manifests() -> Vec<Vec<u8>> {
    let digest = digest();
    let descriptor = |kind: &str| {
        format!(r#"{{"mediaType":"application/vnd.oci.{kind}","digest":"{digest}","size":7}}"#)
    };
    let (config, layer) = (descriptor("image.config.v1+json"), descriptor("image.layer.v1.tar"));
    let child = descriptor("image.manifest.v1+json");
    owned(&[
        &format!(
            r#"{OCI_MANIFEST}
{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[{layer}]}}"#
        ),
        &format!(
            r#"
{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{child},{layer}],"subject":{child},
"artifactType":"a/b","annotations":{{"org.opencontainers.image.created":"now","a":"b"}}}}"#
        ),
        &format!(
            r#"application/vnd.example+json; charset=utf-8
{{"config":{config},"blobs":[{layer}],"urls":[],"platform":{{"os":"linux"}}}}"#
        ),
    ])
}

/// Cron expressions, durations and times.
pub(super) fn schedule(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(seconds) = parse_duration_s(&text) {
        let written = format_duration(seconds);
        // More days than the parser takes may come of weeks and hours.
        let again = parse_duration_s(&written);
        assert!(again.is_none_or(|again| again == seconds), "{text} {written}");
    }
    if let Some(time) = UnixSeconds::parse_rfc3339(&text) {
        assert_eq!(UnixSeconds::parse_rfc3339(&time.rfc3339()), Some(time));
    }
    let Ok(schedule) = text.parse::<Schedule>() else { return };
    assert_eq!(schedule.to_string().parse(), Ok(schedule.clone()));
    let chosen = bytes.iter().fold(0, |sum: u64, byte| sum.rotate_left(8) ^ u64::from(*byte));
    for now in [0, 1_700_000_000, chosen % 253_402_300_799, 253_402_300_799, u64::MAX] {
        let now = UnixSeconds(now);
        let (last, next) = (schedule.last_until(now), schedule.next_after(now));
        assert!(last.is_none_or(|last| last <= now && last.0 % 60 == 0));
        if let Some(next) = next {
            assert!(next > now && next.0 % 60 == 0);
            assert_eq!(schedule.last_until(next), Some(next), "{text}");
            // Nothing fires in between.
            let before = schedule.last_until(UnixSeconds(next.0 - 1));
            assert!(before.is_none_or(|before| before <= now), "{text}");
        }
        match schedule.window(Some(3600), now) {
            Window::Open { until } => assert!(until > now),
            Window::Closed { next: opens } => assert_eq!(opens, next),
            Window::Always => assert!(schedule.is_continuous()),
        }
    }
}

pub(super) fn schedules() -> Vec<Vec<u8>> {
    owned(&[
        "* * * * *",
        "0 2 * * *",
        "*/15 0-6,22/1 1,15 2-11/3 1-5",
        "0 0 29 2 *",
        "59 23 31 2 7",
        "5 4 * * 0",
        "PT1H",
        "P7D",
        "P1W2DT3H4M5.678S",
        "-P1D",
        "2026-11-21T07:42:28Z",
        "9999-12-30T22:00:00.5+02:00",
    ])
}

/// Scopes, grants, names and forms.
pub(super) fn scope(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for access in Access::parse_list([text.as_ref()]).unwrap_or_default() {
        assert_eq!(Access::parse(&access.to_string()), Some(access));
    }
    same::<Grant>(&text);
    same::<RepositoryName>(&text);
    same::<Tag>(&text);
    same::<TokenName>(&text);
    same::<ScopeMapName>(&text);
    same::<ConnectedRegistryName>(&text);
    same::<Namespace>(&text);
    same::<Digest>(&text);
    same::<Cursor>(&text);
    token::fuzz_form(bytes);
}

fn same<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().ok(), Some(value), "{text}");
    }
}

pub(super) fn scopes() -> Vec<Vec<u8>> {
    let digest = digest();
    owned(&[
        "repository:library/one:pull,push repository(plugin):host:5000/a:pull repository:b:",
        "registry:catalog:*",
        "gateway:dock01:config_read,message_write",
        "repositories/a/b/content/read",
        "repositories/a/*/metadata/write",
        "repositories/*/content/delete",
        "gateway/dock01/message/read",
        "a-b__c.d/e",
        "docker.io=mirror/hub",
        &digest,
        "00000000000000ff.12",
        "grant_type=password&scope=a%3Ab%3Apull+c%3Ad%3Ae&scope=f&username=my-token",
    ])
}

/// A connection string.
pub(super) fn connection_string(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lookup = |name: &str| (name != "NONE").then(|| format!(" {name} "));
    let Ok(parsed) = ConnectionString::parse(&text, lookup) else { return };
    let written = parsed.format();
    let again = ConnectionString::parse(written.expose(), |_| None);
    let Ok(again) = again else { panic!("what was written cannot be read") };
    assert_eq!(again.gateway_url(), parsed.gateway_url());
    assert_eq!((&again.name, &again.sync_token), (&parsed.name, &parsed.sync_token));
    assert_eq!(again.ca_fingerprint, parsed.ca_fingerprint);
    assert!(again.password.expose() == parsed.password.expose(), "the password is another");
}

pub(super) fn connection_strings() -> Vec<Vec<u8>> {
    let hex = "0f".repeat(32);
    let start = "ConnectedRegistryName=dock01;SyncTokenName=dock01-sync;SyncTokenPassword==a=b==";
    owned(&[
        &format!("{start};ParentGatewayEndpoint=h.example:5001;ParentEndpointProtocol=https"),
        &format!(
            " {start} ; parentgatewayendpoint=$HOST:5001;ParentEndpointProtocol=HTTP;\
             ParentCaFingerprint=sha256:{hex};;"
        ),
    ])
}

/// A file of configuration; after a zero byte, lines for the environment.
pub(super) fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (file, lines) = text.split_once('\0').unwrap_or((&text, ""));
    let mut source = MapSource::default().file(MAIN_FILE, file).file(config::BOARD_FILE, file);
    for (name, value) in lines.lines().filter_map(|line| line.split_once('=')) {
        source = source.variable(name, value);
    }
    // Whoever reads the board's file looks beside it.
    source.files.insert(PathBuf::from("/usr/share/skerry/base.toml"), "[board]".to_owned());
    let as_board = config::load(&config::Options::default(), &source);
    source.files.remove(&PathBuf::from(config::BOARD_FILE));
    for loaded in [as_board, config::load(&config::Options::default(), &source)] {
        match loaded {
            Ok(loaded) => {
                assert!(MemoryPlan::of(&loaded.config).total() > 0);
                assert!(!config::explain(&loaded).is_empty());
            }
            Err(error) => assert!(!error.0.is_empty()),
        }
    }
}

pub(super) fn configs() -> Vec<Vec<u8>> {
    owned(&[
        "[listen]\nlogin = \"0.0.0.0:5100\"\ngateway = [{address = \"[::1]:5001\", tls = true}]\n\
         [storage]\nreserve = \"64MiB\"\n[gc]\nschedule = \"0 0 * * *\"\ngrace = \"1h\"\n\
         [limits]\nconnections = 100\n[tokens]\naccess_lifetime = \"75m\"\n",
        "inherit = \"base\"\n[board]\nid = \"x\"\ncores = 4\n[image]\nroot_mib = 7\n\
         [registry]\nnamespaces = [\"docker.io=hub\"]\n",
        "\0SKERRY_LOG__LEVEL=debug\nSKERRY_TLS__MODE=self-signed\nACR_REGISTRY_LOGIN_SERVER=a.b\n",
    ])
}

/// Heads of requests.
pub(super) fn request_heads() -> Vec<Vec<u8>> {
    owned(&[
        "GET /v2/a%2Fb/tags/list?n=5&last=a+b%26c HTTP/1.1\r\nHost: [::1]:5000\r\n\r\n",
        "PUT http://other:80/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
         Expect: 100-continue\r\nConnection: close, x\r\n\r\n",
        "POST /x HTTP/1.0\r\nContent-Length: 10\r\nAccept: a/b\r\naccept: c/d\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a.b:1\r\nAuthorization: Basic QTpi\r\n\r\n",
        "HEAD /v2/a/manifests/v1 HTTP/1.1\r\nHost: a\r\nAccept: a/b\r\nX: y\r\naccept: c\r\n\r\n",
        "GET /a%20b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
    ])
}

/// Heads of replies: 200, 304, 404, and a status that nobody knows.
pub(super) fn reply_heads() -> Vec<Vec<u8>> {
    owned(&[
        "\x28\x28\x05\x04application/json\n\x00\"x\"\n\x01</v2/>; rel=next\n\x03then",
        "\x31\x6c\x02\x00\"x\"\n\x02a\r\n\x05b",
        "\x46\x7c\x07\x06keep-alive\n\x07\u{e9}",
        "\x7f\x7f\x04",
    ])
}

/// Heads of answers, after a byte for the method.
pub(super) fn answer_heads() -> Vec<Vec<u8>> {
    owned(&[
        "0HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nx: a\r\n b\r\n\r\n",
        "1HTTP/1.0 404 Not Found\r\nTransfer-Encoding: chunked\r\nDate: today\r\n\r\n",
        "2HTTP/1.1 307 x\r\nLocation: /v2/\r\nx-y : z\r\nConnection: Close\r\n\r\n",
    ])
}

/// Bodies, after the bytes for their framing and their cuts.
pub(super) fn bodies() -> Vec<Vec<u8>> {
    owned(&[
        "\x05\x105\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nx: y\r\n\r\nGET /",
        "\x06\x05helloGET /",
        "\x03\x7fhello",
        "\x04\x33hello, this is sent in chunks",
    ])
}

/// What a client sends, after a byte for the cuts.
pub(super) fn connections() -> Vec<Vec<u8>> {
    owned(&[
        "\x40PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\
         \r\n\r\nGET /x?a=b HTTP/1.1\r\nHost: a\r\n\r\n",
        "\x07PUT /ignored HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyzGET / HTTP/1.0\r\n\
         \r\n",
        "\x13POST /up HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab\
         OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ])
}

/// URLs and where they lead.
pub(super) fn locations() -> Vec<Vec<u8>> {
    owned(&[
        "https://h.example:5000/v2/a?b=c\nhttp://other.example/d#e",
        "http://[::1]:5000/\n/v2/x/../y?z",
        "http://127.0.0.1/a\n//u@h:80/b",
    ])
}

/// Challenges and places of uploads.
pub(super) fn challenges() -> Vec<Vec<u8>> {
    owned(&[
        "Bearer realm=\"https://h.example:5000/oauth2/token\",service=\"h.example\",scope=\"a\"",
        "bearer service=\"x\", realm=\"http://[::1]:80/t\"",
        "https://h.example/v2/a/blobs/uploads/1?x=y",
    ])
}
