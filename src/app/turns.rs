//! What each route reads of the store in one turn, in one job on the blocking pool, and in one
//! command of the writer, over sets that are far larger than the bounds.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::node::Seen;
use super::router::{Door, Router};
use crate::admin::{Admin, AdminOptions};
use crate::auth::{Auth, AuthOptions, LoginListener, LoginServer, keys};
use crate::gateway::wire::{Format, decode_batch};
use crate::gateway::{Contacts, Gateway, GatewayOptions};
use crate::http::{Body, Method, Reply, ReplyBody, Request};
use crate::manage::{self, Manage};
use crate::registry::{Registry, RegistryOptions};
use crate::store::Store;
use crate::store::gc::GcOptions;
use crate::store::replica::node::testing;
use crate::store::rows::connected_registry::connected_registry_key;
use crate::store::rows::manifest::{ManifestRow, manifest_key};
use crate::store::rows::outbox::{OutboxChange, OutboxEntry};
use crate::store::rows::referrer::{ReferrerRow, referrer_key};
use crate::store::rows::repository::{RepositoryRow, repository_key};
use crate::store::rows::scope_map::scope_map_key;
use crate::store::rows::tag::{TagRow, tag_key};
use crate::store::rows::token::token_key;
use crate::store::rows::{Kind, Stored, key};
use crate::store::tree::connected_registries::Settings;
use crate::store::tree::creation::NewConnectedRegistry;
use crate::store::tree::tokens::{NewToken, TokenGrants};
use crate::sys::net::Peer;
use crate::sys::turn::Work;
use crate::sys::turn::testing::{Longest, measure};
use crate::sys::{Spawner, Sys};
use crate::token::Tokens;
use crate::types::connection_string::Protocol;
use crate::types::digest::Algorithm;
use crate::types::limits::{PAGE_MAX, SCOPES_MAX};
use crate::types::message::{Descendant, NodeConfig};
use crate::types::{Cursor, Digest, Offered, OutboxId, RepositoryName, Role, UnixSeconds, media};

/// Rows of each large set: more than any bound.
const MANY: usize = 12_000;
/// Nodes that one desired state lists.
const LISTED: usize = 3 * PAGE_MAX;
/// Rows that a turn of a task, a job, or a command may have to do with, whatever the sets: those of
/// two pages, and some look-ups.
const ROWS_MAX: u64 = 2 * PAGE_MAX as u64 + 100;
/// The same of a command that removes a page of tags: of each the row, the note of a conflict, and
/// the rows that follow from it.
const COMMAND_ROWS_MAX: u64 = 10 * PAGE_MAX as u64;
/// Bytes that a turn of a task or a job may read, whatever the sets.
const BYTES_MAX: u64 = 1024 * 1024;

/// Of the large repository.
const LARGE: &str = "large";
/// Characters of a request that are shown.
const WHAT_MAX: usize = 72;
const HOST: &str = "reg.example:5000";

fn digest_of(bytes: &[u8]) -> Digest {
    let algorithm = Algorithm::Sha256;
    Digest::from_raw(algorithm, ring::digest::digest(algorithm.function(), bytes).as_ref()).unwrap()
}

fn number(number: usize) -> Digest {
    digest_of(&number.to_be_bytes())
}

fn large() -> RepositoryName {
    LARGE.parse().unwrap()
}

/// A node, and who asks it.
struct Node {
    store: Store,
    router: Arc<Router>,
    /// May do everything.
    owner: String,
    /// Sees the last repository.
    narrow: String,
    /// The connected registry below.
    child: String,
    found: Vec<String>,
}

/// What a request came to.
struct Answer {
    reply: Reply,
    longest: Longest,
    command_rows: u64,
}

impl Answer {
    fn json(&self) -> Value {
        match &self.reply.body {
            ReplyBody::Bytes(bytes) => serde_json::from_slice(bytes).unwrap_or(Value::Null),
            _ => Value::Null,
        }
    }
}

async fn token(store: &Store, name: &str, grants: &[&str]) -> String {
    let new = NewToken {
        name: name.parse().unwrap(),
        grants: TokenGrants::Own(grants.iter().map(|grant| grant.parse().unwrap()).collect()),
        enabled: true,
        passwords: true,
        expires: None,
    };
    let (_, passwords) = store.token_create(new).await.unwrap();
    basic(name, passwords[0].value.expose())
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", data_encoding::BASE64.encode(format!("{name}:{password}").as_bytes()))
}

/// Writes rows, a page of them in each record.
async fn fill<R: Stored + Send + 'static>(store: &Store, rows: impl Iterator<Item = (Vec<u8>, R)>) {
    let mut rows = rows.peekable();
    while rows.peek().is_some() {
        let page: Vec<_> = rows.by_ref().take(PAGE_MAX).collect();
        let put =
            store.commit(move |txn| page.into_iter().try_for_each(|(key, row)| txn.put(key, &row)));
        put.await.unwrap();
    }
}

fn manifest_row(subject: Option<Digest>) -> ManifestRow {
    ManifestRow {
        media_type: media::OCI_MANIFEST.to_owned(),
        size: 1,
        config_media_type: None,
        artifact_type: Some("application/sig".to_owned()),
        subject,
        annotations: [("note".to_owned(), "x".repeat(1000))].into(),
        blobs: Vec::new(),
        children: Vec::new(),
        content_size: 0,
        pushed: UnixSeconds(1),
        elsewhere: None,
        from_below: false,
    }
}

/// Many tags of one manifest, many referrers of one, many repositories, and many nodes below with
/// their tokens and scope maps.
async fn fill_root(store: &Store, named: &Digest) {
    let tags = (0..MANY).map(|n| {
        let row = TagRow {
            digest: named.clone(),
            created: UnixSeconds(1),
            updated: UnixSeconds(1),
            from_below: false,
        };
        (tag_key(&large(), &format!("t{n:06}").parse().unwrap()), row)
    });
    fill(store, tags).await;
    let subject = number(0);
    let rows =
        (1..MANY).map(|n| (manifest_key(&large(), &number(n)), manifest_row(Some(number(0)))));
    fill(store, rows).await;
    let rows = (1..MANY).map(|n| (referrer_key(&large(), &subject, &number(n)), ReferrerRow));
    fill(store, rows).await;
    let rows = (0..MANY).map(|n| {
        let row = RepositoryRow { created: UnixSeconds(1), bytes: 1 };
        (repository_key(&format!("r{n:06}").parse().unwrap()), row)
    });
    fill(store, rows).await;
    fill(
        store,
        (0..MANY).map(|n| {
            let mut node = testing::connected_registry(&node_name(n), None);
            node.client_tokens.push("shared".parse().unwrap());
            (connected_registry_key(&node.name), node)
        }),
    )
    .await;
    fill(
        store,
        (0..MANY).map(|n| {
            let token = testing::token(&format!("{}-sync", node_name(n)));
            (token_key(&token.name), token)
        }),
    )
    .await;
    fill(
        store,
        (0..MANY).map(|n| {
            let grant = format!("repositories/{}/content/read", node_name(n));
            let map = testing::map(&format!("{}-sync-map", node_name(n)), &[&grant]);
            (scope_map_key(&map.name), map)
        }),
    )
    .await;
}

/// Many repositories that were whole, and many changes of one that wait for the parent.
async fn fill_below(store: &Store, named: &Digest) {
    for n in 0..LISTED {
        store.mark_synced(&format!("r{n:06}").parse().unwrap(), true).await.unwrap();
    }
    let rows = (1..MANY as u64).map(|n| {
        let origin = "dock01".parse().unwrap();
        let id = OutboxId { origin, incarnation: 1, sequence: n };
        let tag = format!("w{n:06}").parse().unwrap();
        let change = OutboxChange::Tag { tag, base: None, digest: Some(named.clone()) };
        let entry = OutboxEntry {
            id,
            repository: large(),
            change,
            unheard: vec![],
            offered: Offered::No,
            instead_of: vec![],
            anew: false,
        };
        // The numbers that are given in the meantime are lower.
        (key(Kind::Outbox, &[&(n + (1 << 20)).to_be_bytes()]), entry)
    });
    fill(store, rows).await;
}

/// Makes the node a connected registry, with the tokens that it has and one node below.
async fn stand_below(store: &Store, grants: &[String]) {
    let named = |name: &str| store.token(&name.parse().unwrap()).unwrap().unwrap();
    let client_tokens = vec![named("owner"), named("narrow")];
    let mut node = testing::connected_registry("dock01", None);
    node.client_tokens = client_tokens.iter().map(|token| token.name.clone()).collect();
    let mut ship = store.connected_registry(&"ship01".parse().unwrap()).unwrap().unwrap();
    ship.parent = Some(node.name.clone());
    let grants: Vec<&str> = grants.iter().map(String::as_str).collect();
    let mut scope_maps = store.scope_maps().await.unwrap();
    scope_maps.push(testing::map("dock01-sync-map", &grants));
    let config = NodeConfig {
        node,
        client_tokens,
        children: vec![ship],
        child_tokens: vec![named("ship01")],
        scope_maps,
        descendants: Vec::new(),
        ..testing::config(&[])
    };
    let [mut below, ship] = [config.clone(), config.clone()];
    store.receive_config(config, "v1".to_owned()).await.unwrap();
    (below.node, below.sync_token) = (ship.children[0].clone(), ship.child_tokens[0].clone());
    (below.children, below.child_tokens) = (Vec::new(), Vec::new());
    let listed = |n| Descendant { name: node_name(n).parse().unwrap(), version: "v1".to_owned() };
    below.descendants = (0..LISTED).map(listed).collect();
    store.receive_descendant(below.clone(), "v1".to_owned()).await.unwrap();
    for listed in &below.descendants {
        let mut config = testing::config(&[]);
        config.node = testing::connected_registry(listed.name.as_str(), Some("ship01"));
        store.receive_descendant(config, listed.version.clone()).await.unwrap();
    }
}

fn node_name(number: usize) -> String {
    format!("node{number:06}")
}

impl Node {
    async fn new(role: Role) -> Node {
        let sys = Sys::real(Spawner::new());
        let store = Store::in_memory(sys.clone());
        store.stand(role, true);
        // As a node does that has children.
        store.retain_for_children(true);
        let all = ["content/read", "content/write", "content/delete", "metadata/read"];
        let all = all.map(|action| format!("repositories/*/{action}"));
        let owner = token(&store, "owner", &all.each_ref().map(String::as_str)).await;
        let last = format!("repositories/r{:06}/metadata/read", MANY - 1);
        let narrow = token(&store, "narrow", &[&last]).await;
        let new = NewConnectedRegistry {
            name: "ship01".parse().unwrap(),
            mode: None,
            parent: None,
            repositories: vec!["*".parse().unwrap()],
            sync_token: None,
            client_tokens: Vec::new(),
            settings: Settings::default(),
        };
        token(&store, "shared", &[&last]).await;
        let passwords = store.connected_registry_create(new).await.unwrap().0.passwords;
        let child = basic("ship01", passwords[0].value.expose());
        if role == Role::Connected {
            stand_below(&store, &all).await;
        }
        let router = Arc::new(router(role, &store, &sys));
        Node { store, router, owner, narrow, child, found: Vec::new() }
    }

    /// Sends a request; the answer has to have this status.
    async fn send(
        &mut self,
        who: &str,
        method: Method,
        target: &str,
        (media_type, body): (&str, &[u8]),
        status: u16,
    ) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut headers = vec![
            ("content-type".to_owned(), media_type.to_owned()),
            ("accept".to_owned(), "application/json, */*".to_owned()),
        ];
        if !who.is_empty() {
            headers.push(("authorization".to_owned(), who.to_owned()));
        }
        let mut request = Request {
            method,
            path: path.to_owned(),
            query: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            headers,
            host: Some(HOST.to_owned()),
            peer: Peer::Address("10.0.0.9:4711".parse().unwrap()),
            secure: false,
            is_operator: false,
            body: Body::new(smol::io::Cursor::new(body.to_vec()), Some(body.len() as u64)),
        };
        let door = match path {
            path if path.starts_with("/admin/") => Door::Admin,
            path if path.starts_with("/gateway/") => Door::Gateway,
            _ => Door::Login,
        };
        let handler = self.router.clone().behind(door);
        self.store.sys().metrics.command_rows.begin();
        let (reply, longest) = measure(handler.handle(&mut request)).await;
        let command_rows = self.store.sys().metrics.command_rows.get();
        let answer = Answer { reply, longest, command_rows };
        let what: String = format!("{method:?} {target}").chars().take(WHAT_MAX).collect();
        assert_eq!(answer.reply.status, status, "{what}: {}", answer.json());
        self.judge(&what, &answer);
        answer
    }

    #[allow(clippy::print_stdout, reason = "the figures are what one looks at when it fails")]
    fn judge(&mut self, what: &str, answer: &Answer) {
        let Longest { turn, job } = answer.longest;
        let one = |work: Work| format!("{} rows {} bytes", work.rows, work.bytes);
        let command = answer.command_rows;
        let line = format!("{what}: turn {}, job {}, command {command} rows", one(turn), one(job));
        println!("{line}");
        let is_over = |work: Work| work.rows > ROWS_MAX || work.bytes > BYTES_MAX;
        if is_over(turn) || is_over(job) || command > COMMAND_ROWS_MAX {
            self.found.push(line);
        }
    }

    async fn admin(&mut self, verb: &str, body: Value) -> Value {
        let (target, body) = (format!("/admin/v1/{verb}"), body.to_string());
        let form = ("application/json", body.as_bytes());
        self.send("", Method::Post, &target, form, 200).await.json()
    }
}

fn router(role: Role, store: &Store, sys: &Sys) -> Router {
    let options = AuthOptions {
        role,
        registry_name: "myregistry".into(),
        login_server: LoginServer {
            listeners: vec![LoginListener { address: ([0, 0, 0, 0], 5000).into(), tls: false }],
            ..LoginServer::default()
        },
        access_lifetime: Duration::from_secs(600),
        refresh_lifetime: Duration::from_secs(600),
        anonymous_pull: Vec::new(),
        identity: keys::make().unwrap(),
    };
    let auth = Auth::new(store.clone(), options).unwrap();
    let contacts = Contacts::new(sys);
    let options =
        GatewayOptions { role, registry: "myregistry".to_owned(), contacts: contacts.clone() };
    let gateway = Gateway::new(store.clone(), auth.clone(), options);
    let options = RegistryOptions { role, namespaces: Vec::new(), login_server: None };
    let registry = Registry::new(store.clone(), auth.clone(), options);
    let options = manage::Options {
        role,
        registry_name: "myregistry".into(),
        login_server: HOST.into(),
        gateway_endpoint: "reg.example:5001".into(),
        gateway_warning: None,
        protocol: Protocol::Https,
        ca_fingerprint: None,
    };
    let manage = Manage::new(store.clone(), options, Arc::new(Seen(contacts)));
    let options = AdminOptions {
        gc: GcOptions { grace: Duration::ZERO, untagged: None, dry_run: false },
        scrub_rate: 1 << 20,
        certificate: None,
    };
    Router {
        role,
        store: store.clone(),
        registry,
        tokens: Tokens::new(store, auth),
        gateway,
        admin: Admin::new(store.clone(), manage, options),
    }
}

const NO_BODY: (&str, &[u8]) = ("", b"");

/// A manifest without content.
fn manifest(subject: Option<&Digest>, note: &str) -> Vec<u8> {
    let mut value = json!({
        "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [],
        "annotations": {"note": note},
    });
    if let Some(subject) = subject {
        value["subject"] =
            json!({"mediaType": media::OCI_MANIFEST, "digest": subject.to_string(), "size": 1});
    }
    value.to_string().into_bytes()
}

/// The routes under `/v2/`.
async fn registry_routes(node: &mut Node) {
    let (owner, narrow) = (node.owner.clone(), node.narrow.clone());
    let base = format!("/v2/{LARGE}");
    node.send(&owner, Method::Get, "/v2/", NO_BODY, 200).await;
    node.send(&owner, Method::Get, "/v2/_catalog", NO_BODY, 200).await;
    node.send(&narrow, Method::Get, "/v2/_catalog", NO_BODY, 200).await;
    node.send(&owner, Method::Get, "/v2/_catalog?n=5&last=r000100", NO_BODY, 200).await;
    node.send(&owner, Method::Get, &format!("{base}/tags/list"), NO_BODY, 200).await;
    node.send(&owner, Method::Get, &format!("{base}/tags/list?n=9&last=t5"), NO_BODY, 200).await;
    for filter in ["", "?artifactType=application/sig", "?artifactType=none"] {
        let target = format!("{base}/referrers/{}{filter}", number(0));
        node.send(&owner, Method::Get, &target, NO_BODY, 200).await;
    }
    let by_digest = format!("/_tags?n=9&digest={}", number(1));
    for listing in [
        "",
        "/_tags",
        "/_tags?orderby=timedesc",
        &by_digest,
        "/_tags/t000001",
        "/_manifests",
        "/_manifests?n=9&orderby=timeasc",
    ] {
        let target = format!("/acr/v1/{LARGE}{listing}");
        node.send(&owner, Method::Get, &target, NO_BODY, 200).await;
    }

    let blob = b"a blob".as_slice();
    let digest = digest_of(blob);
    let target = format!("{base}/blobs/uploads/");
    let started = node.send(&owner, Method::Post, &target, NO_BODY, 202).await;
    let place = started.reply.header("location").unwrap().to_owned();
    node.send(&owner, Method::Get, &place, NO_BODY, 204).await;
    node.send(&owner, Method::Patch, &place, ("application/octet-stream", blob), 202).await;
    node.send(&owner, Method::Put, &format!("{place}?digest={digest}"), NO_BODY, 201).await;
    let started = node.send(&owner, Method::Post, &target, NO_BODY, 202).await;
    let place = started.reply.header("location").unwrap().to_owned();
    node.send(&owner, Method::Delete, &place, NO_BODY, 204).await;
    let mount = format!("/v2/other/blobs/uploads/?mount={digest}&from={LARGE}");
    node.send(&owner, Method::Post, &mount, NO_BODY, 201).await;
    let target = format!("{base}/blobs/{digest}");
    node.send(&owner, Method::Get, &target, NO_BODY, 200).await;
    node.send(&owner, Method::Delete, &target, NO_BODY, 202).await;

    let tagged = manifest(None, "tagged");
    let media_type = media::OCI_INDEX;
    for (reference, bytes) in [
        (digest_of(&tagged).to_string(), tagged.clone()),
        ("t000000".to_owned(), manifest(None, "moved")),
        ("fresh".to_owned(), manifest(Some(&number(0)), "refers")),
    ] {
        let target = format!("{base}/manifests/{reference}");
        node.send(&owner, Method::Put, &target, (media_type, &bytes), 201).await;
        node.send(&owner, Method::Get, &target, NO_BODY, 200).await;
    }
    node.send(&owner, Method::Delete, &format!("{base}/manifests/t000000"), NO_BODY, 202).await;
    let target = format!("{base}/manifests/{}", digest_of(&tagged));
    node.send(&owner, Method::Delete, &target, NO_BODY, 202).await;
}

/// The routes of the token endpoints.
async fn token_routes(node: &mut Node) {
    let owner = node.owner.clone();
    node.send("", Method::Get, "/.well-known/jwks.json", NO_BODY, 200).await;
    let scopes: Vec<String> =
        (0..SCOPES_MAX).map(|n| format!("scope=repository:r{n:06}:pull")).collect();
    let target = format!("/oauth2/token?service=x&{}", scopes.join("&"));
    node.send(&owner, Method::Get, &target, NO_BODY, 200).await;
    let media_type = "application/x-www-form-urlencoded";
    let user = data_encoding::BASE64.decode(owner.trim_start_matches("Basic ").as_bytes()).unwrap();
    let user = String::from_utf8(user).unwrap();
    let password = user.split_once(':').unwrap().1.replace('+', "%2B");
    let form = format!(
        "grant_type=password&service=x&username=owner&password={password}&{}",
        scopes.join("&")
    );
    node.send("", Method::Post, "/oauth2/token", (media_type, form.as_bytes()), 200).await;
    let form = b"grant_type=refresh_token&service=x&refresh_token=none";
    node.send("", Method::Post, "/oauth2/exchange", (media_type, form), 401).await;
}

/// The routes of the gateway, as the connected registry below uses them.
async fn gateway_routes(node: &mut Node) {
    let (child, base) = (node.child.clone(), "/gateway/v1/ship01".to_owned());
    let json = "application/json";
    let activation = json!({"instance_id": "i", "version": "1", "login_server": HOST}).to_string();
    let form = (json, activation.as_bytes());
    node.send(&child, Method::Post, &format!("{base}/activation"), form, 200).await;
    node.send(&child, Method::Get, &format!("{base}/config"), NO_BODY, 200).await;
    let end = node.send(&child, Method::Get, &format!("{base}/messages"), NO_BODY, 200).await;
    let end = decode_batch(Format::Json, end.json().to_string().as_bytes()).unwrap().batch;
    for after in [end.through, Cursor { sequence: 0, ..end.through }] {
        let target = format!("{base}/messages?after={after}");
        node.send(&child, Method::Get, &target, NO_BODY, 200).await;
    }
    let target = format!("{base}/repositories/{LARGE}");
    node.send(&child, Method::Get, &target, NO_BODY, 200).await;
    // The last page of tags, which has the referrers.
    let target = format!("{target}?last=t{:06}", MANY - 2);
    node.send(&child, Method::Get, &target, NO_BODY, 200).await;
}

/// Health, and the management verbs that only show.
async fn showing_routes(node: &mut Node) {
    for path in ["/healthz", "/readyz", "/metrics"] {
        node.send("", Method::Get, path, NO_BODY, 200).await;
    }
    node.admin("status", json!({})).await;
    node.admin("token/list", json!({})).await;
    node.admin("token/show", json!({"name": "owner"})).await;
    node.admin("scope-map/list", json!({})).await;
    node.admin("connected-registry/list", json!({})).await;
    node.admin("connected-registry/show", json!({"name": "ship01"})).await;
    node.admin("connected-registry/list-client-tokens", json!({"name": "ship01"})).await;
    node.admin("connected-registry/permissions-show", json!({"name": "ship01"})).await;
    node.admin("fsck", json!({})).await;
}

/// The management verbs that change something.
async fn managing_routes(node: &mut Node) {
    let rule = json!([["a", "content/read"]]);
    node.admin("scope-map/create", json!({"name": "my-map", "repository": rule})).await;
    node.admin("scope-map/show", json!({"name": "my-map"})).await;
    node.admin(
        "scope-map/update",
        json!({"name": "my-map", "addRepository": [["b", "content/read"]]}),
    )
    .await;
    node.admin("token/create", json!({"name": "my-token", "scopeMap": "my-map"})).await;
    node.admin("token/update", json!({"name": "my-token", "status": "disabled"})).await;
    node.admin("token/credential-generate", json!({"name": "my-token", "password1": true})).await;
    node.admin("token/credential-delete", json!({"name": "my-token", "password1": true})).await;
    node.admin("token/delete", json!({"name": "my-token"})).await;
    node.admin("token/delete", json!({"name": "shared"})).await;
    node.admin("scope-map/delete", json!({"name": "my-map"})).await;
    node.admin(
        "connected-registry/create",
        json!({"name": "leaf01", "repository": ["a"], "parent": "ship01"}),
    )
    .await;
    node.admin("connected-registry/update", json!({"name": "leaf01", "logLevel": "debug"})).await;
    node.admin(
        "connected-registry/get-settings",
        json!({"name": "leaf01", "parentProtocol": "https"}),
    )
    .await;
    node.admin("connected-registry/permissions-update", json!({"name": "leaf01", "add": ["b"]}))
        .await;
    node.admin("connected-registry/deactivate", json!({"name": "leaf01"})).await;
    node.admin("connected-registry/delete", json!({"name": "leaf01", "cleanup": true})).await;
}

/// The deletion of a manifest that very many tags name.
async fn large_deletion(node: &mut Node, named: &Digest) {
    let owner = node.owner.clone();
    let target = format!("/v2/{LARGE}/manifests/{named}");
    node.send(&owner, Method::Delete, &target, NO_BODY, 202).await;
}

async fn push_named(node: &mut Node) -> Digest {
    let owner = node.owner.clone();
    let bytes = manifest(None, "named");
    let target = format!("/v2/{LARGE}/manifests/t000001");
    node.send(&owner, Method::Put, &target, (media::OCI_INDEX, &bytes), 201).await;
    digest_of(&bytes)
}

#[test]
fn f209_no_route_of_a_root_reads_without_a_bound_in_one_turn() {
    smol::block_on(async {
        let mut node = Node::new(Role::Root).await;
        let named = push_named(&mut node).await;
        fill_root(&node.store, &named).await;
        registry_routes(&mut node).await;
        token_routes(&mut node).await;
        gateway_routes(&mut node).await;
        showing_routes(&mut node).await;
        managing_routes(&mut node).await;
        large_deletion(&mut node, &named).await;
        assert_eq!(node.found, Vec::<String>::new());
    });
}

#[test]
fn f209_no_route_of_a_connected_registry_reads_without_a_bound_in_one_turn() {
    smol::block_on(async {
        let mut node = Node::new(Role::Connected).await;
        let named = push_named(&mut node).await;
        fill_root(&node.store, &named).await;
        fill_below(&node.store, &named).await;
        registry_routes(&mut node).await;
        token_routes(&mut node).await;
        gateway_routes(&mut node).await;
        showing_routes(&mut node).await;
        large_deletion(&mut node, &named).await;
        assert_eq!(node.found, Vec::<String>::new());
    });
}
