//! The token endpoints over a store in memory, as clients use them.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::Value;

use super::*;
use crate::auth::{
    AuthOptions, Authorized, Catalog, Delete, LoginListener, LoginServer, NULL_USER, Principal,
    Pull, Push, ReadMetadata, keys,
};
use crate::http::Body;
use crate::http::ReplyBody;
use crate::store::tree::connected_registries::Settings;
use crate::store::tree::creation::NewConnectedRegistry;
use crate::store::tree::scope_maps::ScopeMapUpdate;
use crate::store::tree::tokens::{NewToken, TokenGrants, TokenUpdate};
use crate::store::{IndexKind, StoreError, StoreOptions};
use crate::sys::clock::EARLIEST_TIME;
use crate::sys::net::Peer;
use crate::sys::{Clock, MemoryDisk, Spawner, Sys};
use crate::types::message::NodeConfig;
use crate::types::token::PasswordSlot;
use crate::types::{Change, GatewayAction, Mode, Role, UnixSeconds};

mod anonymous;

/// A clock that tests set.
struct TestClock(Mutex<(Option<UnixSeconds>, Duration)>);

impl Clock for TestClock {
    fn wall(&self) -> Option<UnixSeconds> {
        self.0.lock().unwrap().0
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap().1
    }
}

struct Node {
    store: Store,
    auth: Auth,
    tokens: Tokens,
    clock: Arc<TestClock>,
}

const START: UnixSeconds = UnixSeconds(EARLIEST_TIME.0 + 1000);
const HOST: &str = "reg.example:5000";

fn node(role: Role, login_server: Option<&str>) -> Node {
    node_with(role, login_server, Store::in_memory)
}

fn node_with(role: Role, login_server: Option<&str>, open: impl FnOnce(Sys) -> Store) -> Node {
    node_of(role, login_server, vec![listener(5000, true)], open)
}

/// Of every address.
fn listener(port: u16, tls: bool) -> LoginListener {
    LoginListener { address: ([0, 0, 0, 0], port).into(), tls }
}

fn node_of(
    role: Role,
    login_server: Option<&str>,
    listeners: Vec<LoginListener>,
    open: impl FnOnce(Sys) -> Store,
) -> Node {
    node_as(options(role, login_server, listeners), open)
}

fn options(role: Role, name: Option<&str>, listeners: Vec<LoginListener>) -> AuthOptions {
    AuthOptions {
        role,
        registry_name: "myregistry".into(),
        login_server: LoginServer { name: name.map(str::to_owned), public_scheme: None, listeners },
        access_lifetime: Duration::from_secs(75 * 60),
        refresh_lifetime: Duration::from_secs(3 * 3600),
        anonymous_pull: Vec::new(),
        identity: keys::make().unwrap(),
    }
}

fn node_as(options: AuthOptions, open: impl FnOnce(Sys) -> Store) -> Node {
    let clock = Arc::new(TestClock(Mutex::new((Some(START), Duration::ZERO))));
    let sys = Sys { clock: clock.clone(), ..Sys::real(Spawner::new()) };
    let store = open(sys);
    let auth = Auth::new(store.clone(), options).unwrap();
    Node { tokens: Tokens::new(&store, auth.clone()), store, auth, clock }
}

impl Node {
    fn advance(&self, seconds: u64) {
        let mut clock = self.clock.0.lock().unwrap();
        clock.0 = clock.0.map(|now| now.plus(seconds));
        clock.1 += Duration::from_secs(seconds);
    }

    /// A client token with these grants; returns its two passwords.
    fn token(&self, name: &str, grants: &[&str], expires: Option<UnixSeconds>) -> [String; 2] {
        let new = NewToken {
            name: name.parse().unwrap(),
            grants: TokenGrants::Own(grants.iter().map(|g| g.parse().unwrap()).collect()),
            enabled: true,
            passwords: true,
            expires,
        };
        let (_, passwords) = smol::block_on(self.store.token_create(new)).unwrap();
        let mut values = passwords.iter().map(|p| p.value.expose().to_owned());
        [values.next().unwrap(), values.next().unwrap()]
    }

    /// A connected registry that mirrors these repositories; the password of its sync token,
    /// which has a name of its own: `<name>-sync`.
    fn child(&self, name: &str, parent: Option<&str>, repositories: &[&str]) -> String {
        let sync_token = format!("{name}-sync");
        let grants = repositories.iter().flat_map(|repository| {
            ["content/read", "content/write", "metadata/read"]
                .map(|action| format!("repositories/{repository}/{action}"))
        });
        let grants: Vec<String> = grants.collect();
        let grants: Vec<&str> = grants.iter().map(String::as_str).collect();
        let [password, _] = self.token(&sync_token, &grants, None);
        let new = NewConnectedRegistry {
            name: name.parse().unwrap(),
            mode: None,
            parent: parent.map(|p| p.parse().unwrap()),
            repositories: Vec::new(),
            sync_token: Some(sync_token.parse().unwrap()),
            client_tokens: Vec::new(),
            settings: Settings::default(),
        };
        smol::block_on(self.store.connected_registry_create(new)).unwrap();
        password
    }

    fn send(&self, method: Method, target: &str, auth: Option<&str>, body: &str) -> (Reply, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let decode = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.replace('+', " "))
        };
        let mut headers = Vec::new();
        if let Some(value) = auth {
            headers.push(("authorization".to_owned(), value.to_owned()));
        }
        let bytes = body.as_bytes().to_vec();
        let len = Some(bytes.len() as u64);
        let mut request = Request {
            method,
            path: path.to_owned(),
            query: query.split('&').filter(|p| !p.is_empty()).map(decode).collect(),
            headers,
            host: Some(HOST.to_owned()),
            peer: Peer::Address("10.0.0.9:4711".parse().unwrap()),
            secure: false,
            is_operator: false,
            body: Body::new(smol::io::Cursor::new(bytes), len),
        };
        let reply = smol::block_on(self.tokens.handle(&mut request));
        let json = match &reply.body {
            ReplyBody::Bytes(bytes) => serde_json::from_slice(bytes).unwrap(),
            _ => Value::Null,
        };
        (reply, json)
    }

    fn get(&self, user: &str, password: &str, query: &str) -> (Reply, Value) {
        let basic = format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()));
        let target = format!("/oauth2/token?service={HOST}&{query}");
        self.send(Method::Get, &target, Some(&basic), "")
    }

    /// A refresh token that an earlier version issued for a password.
    fn issued_before(&self, user: &str, password: &str) -> String {
        let sender = presenting("");
        let login = self.auth.login_password(&sender, user, password).unwrap();
        self.auth.issued_before(&sender, &login)
    }

    /// An access token for `scopes`, as an `Authorization` header.
    fn bearer(&self, user: &str, password: &str, scopes: &str) -> String {
        let query: Vec<String> = scopes.split(' ').map(|s| format!("scope={s}")).collect();
        let (reply, json) = self.get(user, password, &query.join("&"));
        assert_eq!(reply.status, 200, "{json}");
        format!("Bearer {}", json["access_token"].as_str().unwrap())
    }
}

fn presenting(authorization: &str) -> Presented<'_> {
    Presented {
        authorization: Some(authorization),
        host: Some(HOST),
        secure: false,
        is_operator: false,
        peer: None,
    }
}

fn claims(token: &str) -> Value {
    let body = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(body.as_bytes()).unwrap()).unwrap()
}

fn refused<T>(result: Result<T, Refusal>) -> Refusal {
    match result {
        Ok(_) => panic!("authorized"),
        Err(refusal) => refusal,
    }
}

#[test]
fn f084_f085_challenges_have_the_form_that_clients_parse() {
    let node = node(Role::Root, None);
    let nobody = Presented {
        authorization: None,
        host: Some(HOST),
        secure: true,
        is_operator: false,
        peer: None,
    };
    let refusal = refused(node.auth.ping(&nobody));
    assert_eq!(
        refusal.challenge.unwrap(),
        format!(r#"Bearer realm="https://{HOST}/oauth2/token",service="{HOST}""#)
    );
    assert_eq!((refusal.status, refusal.code), (401, "UNAUTHORIZED"));
    let scope = |refusal: Refusal| {
        let challenge = refusal.challenge.unwrap();
        challenge.split_once(",scope=").map(|(_, scope)| scope.to_owned()).unwrap()
    };
    let repository = "a/b".parse().unwrap();
    let pull = refused(node.auth.repository::<Pull>(&nobody, &repository));
    assert_eq!(scope(pull), r#""repository:a/b:pull""#);
    let push = refused(node.auth.repository::<Push>(&nobody, &repository));
    assert_eq!(scope(push), r#""repository:a/b:pull,push""#);
    assert_eq!(scope(refused(node.auth.catalog(&nobody))), r#""registry:catalog:*""#);
    let at_gateway = Presented { host: Some("reg.example:5001"), ..nobody };
    let name = "dock01".parse().unwrap();
    let wanted = "gateway:dock01:config_read";
    let gateway =
        refused(node.auth.gateway(&at_gateway, &name, GatewayAction::ConfigRead)).challenge;
    assert_eq!(
        gateway.unwrap(),
        format!(r#"Bearer realm="https://{HOST}/oauth2/token",service="{HOST}",scope="{wanted}""#)
    );
}

/// Symptom: a root whose gateway has TLS and whose login server has none named that with https:
/// no device became active.
#[test]
fn f031_f186_the_gateway_names_a_login_server_as_it_listens() {
    let [plain, secure] = [(5000, false), (5443, true)].map(|(port, tls)| listener(port, tls));
    let named = Some("login.example");
    for (login_server, logins, at_gateway, realm) in [
        (None, vec![plain], false, "http://reg.example:5000"),
        (None, vec![plain], true, "http://reg.example:5000"),
        (None, vec![secure], true, "https://reg.example:5443"),
        (None, vec![secure], false, "https://reg.example:5443"),
        (None, vec![plain, secure], true, "https://reg.example:5443"),
        (None, vec![secure, plain], false, "http://reg.example:5000"),
        (named, vec![plain], false, "http://login.example"),
        (named, vec![plain], true, "https://login.example"),
        (named, vec![secure], false, "https://login.example"),
    ] {
        let node = node_of(Role::Root, login_server, logins.clone(), Store::in_memory);
        let (host, secure) = (Some("reg.example:5001"), at_gateway);
        let presented =
            Presented { authorization: None, host, secure, is_operator: false, peer: None };
        let name = "dock01".parse().unwrap();
        let refusal = refused(node.auth.gateway(&presented, &name, GatewayAction::ConfigRead));
        let challenge = refusal.challenge.unwrap();
        let wanted = format!("Bearer realm=\"{realm}/oauth2/token\",");
        assert!(challenge.starts_with(&wanted), "{logins:?} {at_gateway}: {challenge}");
    }
}

#[test]
fn f008_a_login_server_is_the_service_whatever_the_host() {
    let node = node(Role::Root, Some("Reg.Site:8443"));
    let nobody = Presented {
        authorization: None,
        host: Some(HOST),
        secure: false,
        is_operator: false,
        peer: None,
    };
    let challenge = refused(node.auth.ping(&nobody)).challenge.unwrap();
    let expected = r#"Bearer realm="http://reg.site:8443/oauth2/token",service="reg.site:8443""#;
    assert_eq!(challenge, expected);
    let [password, _] = node.token("my-token", &["repositories/a/content/read"], None);
    let bearer = node.bearer("my-token", &password, "repository:a:pull");
    let elsewhere = Presented { host: Some("other"), ..presenting(&bearer) };
    assert!(node.auth.ping(&elsewhere).is_ok());
}

#[test]
fn f086_f095_f096_a_token_for_basic_credentials() {
    let node = node(Role::Root, None);
    let grants = ["repositories/a/content/read", "repositories/b/content/write"];
    let [password, _] = node.token("my-token", &grants, None);
    let (reply, json) = node.get("my-token", &password, "scope=repository:a:pull,push");
    assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")));
    assert_eq!(json["token"], json["access_token"]);
    assert_eq!(json["expires_in"], 4500);
    assert_eq!(json["issued_at"], START.rfc3339());
    assert_eq!(json.get("refresh_token"), None);
    let claims = claims(json["token"].as_str().unwrap());
    for (name, value) in [
        ("iss", Value::from("skerry")),
        ("sub", "my-token".into()),
        ("aud", HOST.into()),
        ("exp", (START.0 + 4500).into()),
        ("nbf", START.0.into()),
        ("iat", START.0.into()),
        ("grant_type", "access_token".into()),
        ("version", "1.0".into()),
        ("access", serde_json::json!([{ "type": "repository", "name": "a", "actions": ["pull"] }])),
    ] {
        assert_eq!(claims[name], value, "{name}");
    }
    let bearer = format!("Bearer {}", json["token"].as_str().unwrap());
    let elsewhere = Presented { host: Some("other.example"), ..presenting(&bearer) };
    assert_eq!(refused(node.auth.ping(&elsewhere)).reason, Reason::TokenInvalid);
}

#[test]
fn f042_f093_f098_the_grant_is_what_is_asked_and_allowed() {
    let node = node(Role::Root, None);
    let [password, _] = node.token("my-token", &["repositories/a/content/read"], None);
    let bearer = node.bearer("my-token", &password, "repository:b:pull repository:A:pull");
    assert_eq!(claims(&bearer)["access"], serde_json::json!([]));
    let presented = presenting(&bearer);
    assert!(node.auth.ping(&presented).is_ok());
    let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
    for repository in [&a, &b] {
        let refusal = refused(node.auth.repository::<Pull>(&presented, repository));
        assert_eq!((refusal.status, refusal.code), (401, "DENIED"));
        assert!(refusal.message.contains("Insufficient scopes"));
        assert!(refusal.challenge.unwrap().ends_with(r#",error="insufficient_scope""#));
    }
    let bearer = node.bearer("my-token", &password, "repository:a:pull repository:b:pull");
    let who: Authorized<Pull> = node.auth.repository(&presenting(&bearer), &a).unwrap();
    assert_eq!(who.principal, Principal::Client("my-token".parse().unwrap()));
    assert!(node.auth.repository::<Pull>(&presenting(&bearer), &b).is_err());
    assert!(node.auth.repository::<Push>(&presenting(&bearer), &a).is_err());
}

#[test]
fn f057_f058_f094_wildcards_and_repeated_scopes() {
    let node = node(Role::Root, None);
    let grants = ["repositories/team/*/content/read", "repositories/*/content/write"];
    let [password, _] = node.token("my-token", &grants, None);
    let scopes = "repository:team/x/y:push repository:team/x/y:pull repository:team/x/y:delete";
    let bearer = node.bearer("my-token", &password, scopes);
    let access = &claims(&bearer)["access"];
    assert_eq!(access.as_array().unwrap().len(), 1);
    assert_eq!(access[0]["actions"], serde_json::json!(["push", "pull"]));
    let all = node.bearer("my-token", &password, "repository:team/x:* repository:team/*:pull");
    assert_eq!(claims(&all)["access"][0]["actions"], serde_json::json!(["pull", "push"]));
    let (inside, outside) = ("team/z".parse().unwrap(), "other".parse().unwrap());
    assert!(node.auth.repository::<Pull>(&presenting(&all), &inside).is_ok());
    assert!(node.auth.repository::<Pull>(&presenting(&all), &outside).is_err());
}

#[test]
fn f046_f047_delete_and_tag_lists_need_their_own_actions() {
    let node = node(Role::Root, None);
    let grants = ["repositories/a/content/read", "repositories/b/metadata/read"];
    let [password, _] = node.token("my-token", &grants, None);
    let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
    let scopes = "repository:a:pull,delete repository:b:pull,metadata_read";
    let bearer = node.bearer("my-token", &password, scopes);
    let presented = presenting(&bearer);
    assert!(node.auth.repository::<Pull>(&presented, &a).is_ok());
    assert!(node.auth.repository::<ReadMetadata>(&presented, &a).is_err());
    assert!(node.auth.repository::<Delete>(&presented, &a).is_err());
    assert!(node.auth.repository::<ReadMetadata>(&presented, &b).is_ok());
    assert!(node.auth.repository::<Pull>(&presented, &b).is_err());
}

#[test]
fn f156_the_catalog_shows_what_the_scope_map_grants() {
    let node = node(Role::Root, None);
    let [password, _] = node.token("my-token", &["repositories/team/*/content/read"], None);
    let bearer = node.bearer("my-token", &password, "registry:catalog:*");
    let who: Authorized<Catalog> = node.auth.catalog(&presenting(&bearer)).unwrap();
    assert!(node.auth.lists(&who, &"team/a".parse().unwrap()));
    assert!(!node.auth.lists(&who, &"other".parse().unwrap()));
    let others = "repository:team/a:pull registry:catalog:pull";
    let bearer = node.bearer("my-token", &password, others);
    assert!(node.auth.catalog(&presenting(&bearer)).is_err());
}

#[test]
fn f034_wrong_passwords_are_refused_and_slowed_down() {
    let node = node(Role::Root, None);
    let [password, _] = node.token("my-token", &["repositories/a/content/read"], None);
    for (user, wrong) in [("my-token", "nope"), ("no-token", &*password), ("?", "x")] {
        let (reply, json) = node.get(user, wrong, "");
        assert_eq!(reply.status, 401);
        assert_eq!(json["errors"][0]["code"], "UNAUTHORIZED");
        assert_eq!(json["errors"][0]["message"], "Incorrect Password");
        assert!(reply.header("www-authenticate").unwrap().starts_with("Basic realm="));
    }
    for _ in 0..20 {
        node.get("my-token", "nope", "");
    }
    let last = node.get("my-token", "nope", "").0;
    assert_eq!(last.status, 429);
    assert!(last.header("retry-after").unwrap().parse::<u64>().unwrap() <= 60);
    assert_eq!(node.get("my-token", &password, "").0.status, 200);
    node.advance(61);
    assert_eq!(node.get("my-token", "nope", "").0.status, 401);
    let (reply, json) = node.send(Method::Get, "/oauth2/token", None, "");
    assert_eq!((reply.status, &json["errors"][0]["code"]), (401, &"UNAUTHORIZED".into()));
}

#[test]
fn f087_f088_f099_forms_and_refresh_tokens() {
    let node = node(Role::Root, None);
    let [password, _] = node.token("my-token", &["repositories/a/content/read"], None);
    let form = format!(
        "grant_type=password&service=x&username=my-token&password={password}&\
         scope=repository%3Aa%3Apull+repository:b:pull&access_type=offline&client_id=docker"
    );
    let (reply, json) = node.send(Method::Post, "/acr/oauth2/token", None, &form);
    assert_eq!(reply.status, 200, "{json}");
    assert_eq!(claims(json["access_token"].as_str().unwrap())["access"][0]["name"], "a");
    let refresh = node.issued_before("my-token", &password);
    assert!(node.auth.ping(&presenting(&format!("Bearer {refresh}"))).is_err());
    let form = format!("grant_type=refresh_token&refresh_token={refresh}&scope=repository:a:pull");
    let (reply, json) = node.send(Method::Post, "/oauth2/token", None, &form);
    assert_eq!(reply.status, 200);
    let bearer = format!("Bearer {}", json["access_token"].as_str().unwrap());
    assert!(node.auth.repository::<Pull>(&presenting(&bearer), &"a".parse().unwrap()).is_ok());
    node.advance(3600);
    let (reply, json) = node.send(Method::Post, "/oauth2/exchange", None, &form);
    assert_eq!(reply.status, 200);
    let exchanged = json["refresh_token"].as_str().unwrap();
    // Each until its own end, three hours after it was issued.
    for (later, old, new) in [(7199, 200, 200), (1, 401, 200), (3599, 401, 200), (1, 401, 401)] {
        node.advance(later);
        for (token, status) in [(refresh.as_str(), old), (exchanged, new)] {
            let form = format!("grant_type=refresh_token&refresh_token={token}");
            let (reply, _) = node.send(Method::Post, "/oauth2/token", None, &form);
            assert_eq!(reply.status, status, "{later}");
        }
    }
}

#[test]
fn f090_tokens_are_passwords_of_the_null_user() {
    let node = node(Role::Root, None);
    let grants = ["repositories/a/content/read", "repositories/b/content/read"];
    let [password, _] = node.token("my-token", &grants, None);
    let (_, json) = node.get("my-token", &password, "scope=repository:a:pull");
    let refresh = &node.issued_before("my-token", &password);
    let access = json["access_token"].as_str().unwrap();
    let bearer = node.bearer(NULL_USER, refresh, "repository:b:pull");
    assert_eq!(claims(&bearer)["access"][0]["name"], "b");
    node.advance(100);
    let query = "offline_token=true&scope=repository:a:pull&scope=repository:b:pull";
    let (reply, json) = node.get(NULL_USER, access, query);
    assert_eq!(reply.status, 200);
    assert_eq!((&json["expires_in"], json.get("refresh_token")), (&4400.into(), None));
    let claims = claims(json["token"].as_str().unwrap());
    assert_eq!(claims["access"].as_array().unwrap().len(), 1);
    assert_eq!(claims["access"][0]["name"], "a");
    assert_eq!(node.get(NULL_USER, "junk", "").0.status, 401);
    assert_eq!(node.get(NULL_USER, "junk.junk.junk", "").0.status, 401);
}

#[test]
fn f205_only_a_login_with_a_refresh_token_gets_one() {
    let node = node(Role::Root, None);
    let [password, _] = node.token("my-token", &["repositories/a/content/read"], None);
    let ways = ["offline_token=true", "access_type=offline", "offline_token=true&client_id=docker"];
    let all = ways.join("&");
    let given = |(reply, json): (Reply, Value)| {
        assert_eq!(reply.status, 200, "{json}");
        json.get("refresh_token").is_some()
    };
    let post = |form: &str| given(node.send(Method::Post, "/oauth2/token", None, form));
    for query in ways.into_iter().chain([&*all]) {
        assert!(!given(node.get("my-token", &password, query)), "{query}");
        let form = format!("grant_type=password&username=my-token&password={password}&{query}");
        assert!(!post(&form), "{query}");
    }
    let (_, json) = node.get("my-token", &password, "scope=repository:a:pull");
    let access = json["access_token"].as_str().unwrap();
    assert!(!given(node.get(NULL_USER, access, &all)));
    let refresh = node.issued_before("my-token", &password);
    assert!(given(node.get(NULL_USER, &refresh, "offline_token=true")));
    assert!(!given(node.get(NULL_USER, &refresh, "")));
    let null = format!("grant_type=password&username={NULL_USER}&password={refresh}");
    assert!(post(&format!("{null}&access_type=offline")));
    let renew = format!("grant_type=refresh_token&refresh_token={refresh}");
    assert!(post(&format!("{renew}&access_type=offline")));
    assert!(!post(&renew));
}

#[test]
fn malformed_requests_get_a_designed_answer() {
    let node = node(Role::Root, None);
    let long = "x".repeat(usize::try_from(LOGIN_BODY_BYTES_MAX).unwrap() + 1);
    for (method, path, body, status) in [
        (Method::Head, "/oauth2/token", "", 405),
        (Method::Put, "/oauth2/token", "", 405),
        (Method::Get, "/oauth2/exchange", "", 405),
        (Method::Post, "/.well-known/jwks.json", "", 405),
        (Method::Get, "/oauth2/other", "", 404),
        (Method::Post, "/oauth2/token", "", 400),
        (Method::Post, "/oauth2/token", "grant_type=%", 400),
        (Method::Post, "/oauth2/token", "grant_type=fly", 400),
        (Method::Post, "/oauth2/token", "grant_type=refresh_token", 400),
        (Method::Post, "/oauth2/token", "grant_type=password", 401),
        (Method::Post, "/oauth2/token", &long, 413),
        (Method::Post, "/oauth2/exchange", "grant_type=access_token&access_token=x", 400),
    ] {
        let (reply, _) = node.send(method, path, None, body);
        assert_eq!(reply.status, status, "{method} {path}");
    }
    let (reply, json) = node.send(Method::Get, "/.well-known/jwks.json", None, "");
    assert_eq!((reply.status, &json["keys"][0]["kty"]), (200, &"EC".into()));
    for junk in ["", "Basic", "Basic !!", "Bearer", "Bearer ", "Digest a", "Bearer a.b.c"] {
        assert_eq!(refused(node.auth.ping(&presenting(junk))).status, 401, "{junk}");
    }
}

#[test]
fn f097_tokens_expire_and_the_password_bounds_them() {
    let node = node(Role::Root, None);
    let [password, _] =
        node.token("my-token", &["repositories/a/content/read"], Some(START.plus(600)));
    let (_, json) = node.get("my-token", &password, "scope=repository:a:pull");
    assert_eq!(json["expires_in"], 600);
    let bearer = format!("Bearer {}", json["token"].as_str().unwrap());
    node.advance(599);
    assert!(node.auth.ping(&presenting(&bearer)).is_ok());
    node.advance(1);
    let refusal = refused(node.auth.ping(&presenting(&bearer)));
    assert!(refusal.challenge.unwrap().ends_with(r#",error="invalid_token""#));
    let (reply, json) = node.get("my-token", &password, "");
    assert_eq!(reply.status, 401);
    assert_eq!(json["errors"][0]["detail"]["reason"], "password_revoked");
}

#[test]
fn f097_an_access_token_is_good_until_its_last_second_is_over() {
    let node = node(Role::Root, None);
    let [password, _] = node.token("my-token", &["repositories/a/content/read"], None);
    let bearer = node.bearer("my-token", &password, "repository:a:pull");
    node.advance(75 * 60 - 1);
    assert!(node.auth.ping(&presenting(&bearer)).is_ok());
    node.advance(1);
    assert_eq!(refused(node.auth.ping(&presenting(&bearer))).reason, Reason::TokenInvalid);
}

#[test]
fn an_unknown_clock_issues_tokens_without_a_time() {
    let node = node(Role::Root, None);
    let [password, _] = node.token("my-token", &["repositories/a/content/read"], None);
    node.clock.0.lock().unwrap().0 = None;
    let (reply, json) = node.get("my-token", &password, "scope=repository:a:pull");
    assert_eq!((reply.status, json.get("issued_at")), (200, None));
    assert_eq!(json["expires_in"], 4500);
    let bearer = format!("Bearer {}", json["token"].as_str().unwrap());
    assert!(node.auth.ping(&presenting(&bearer)).is_ok());
}

#[test]
fn f182_changes_take_effect_at_the_next_request() {
    let node = node(Role::Root, None);
    let name = || "my-token".parse().unwrap();
    let [first, second] = node.token("my-token", &["repositories/a/content/read"], None);
    let a = "a".parse().unwrap();
    let bearers = [&first, &second].map(|p| node.bearer("my-token", p, "repository:a:pull"));
    let reasons = || {
        bearers.each_ref().map(|bearer| {
            node.auth.repository::<Pull>(&presenting(bearer), &a).err().map(|r| r.reason)
        })
    };
    assert_eq!(reasons(), [None, None]);
    let update = |enabled| {
        let update = TokenUpdate { enabled: Some(enabled), scope_map: None };
        smol::block_on(node.store.token_update(name(), update)).unwrap();
    };
    update(false);
    assert_eq!(reasons(), [Some(Reason::TokenDisabled); 2]);
    assert_eq!(node.get("my-token", &first, "").0.status, 401);
    update(true);
    assert_eq!(reasons(), [None, None]);
    let rescope = |add: &[&str], remove: &[&str]| {
        let parse = |list: &[&str]| list.iter().map(|g| g.parse().unwrap()).collect();
        let grants = Change::Delta { add: parse(add), remove: parse(remove) };
        let update = ScopeMapUpdate { grants, description: None };
        let map = "my-token-scope-map".parse().unwrap();
        smol::block_on(node.store.scope_map_update(map, update)).unwrap();
    };
    rescope(&["repositories/b/content/read"], &["repositories/a/content/read"]);
    assert_eq!(reasons(), [Some(Reason::NotInScopeMap); 2]);
    rescope(&["repositories/a/content/read"], &[]);
    assert_eq!(reasons(), [None, None]);
    let slots = [PasswordSlot::Two];
    let fresh = smol::block_on(node.store.credential_generate(name(), &slots, None)).unwrap();
    assert_eq!(reasons(), [None, Some(Reason::PasswordRevoked)]);
    assert_eq!(node.get("my-token", &second, "").0.status, 401);
    assert_eq!(node.get("my-token", fresh[0].value.expose(), "").0.status, 200);
    let gone = Change::Delta { add: Vec::new(), remove: vec![PasswordSlot::One] };
    smol::block_on(node.store.credential_delete(name(), gone)).unwrap();
    assert_eq!(reasons(), [Some(Reason::PasswordRevoked); 2]);
    smol::block_on(node.store.token_delete(name())).unwrap();
    assert_eq!(reasons(), [Some(Reason::TokenDisabled); 2]);
    // A namesake must not revive the sessions of the one before it.
    smol::block_on(node.store.scope_map_delete("my-token-scope-map".parse().unwrap())).unwrap();
    node.token("my-token", &["repositories/a/content/read"], None);
    assert_eq!(reasons(), [Some(Reason::PasswordRevoked); 2]);
}

#[test]
fn f074_f077_f162_sync_tokens_act_for_their_own_branch() {
    let node = node(Role::Root, None);
    let [client, _] = node.token("my-token", &["gateway/dock01/config/read"], None);
    let dock = node.child("dock01", None, &["a"]);
    let ship = node.child("ship01", Some("dock01"), &["b"]);
    let _other = node.child("dock02", None, &["c"]);
    assert_eq!(node.get("ship01-sync", &ship, "").0.status, 401, "the root is not its parent");
    let all = "config_read,config_write,message_read,message_write";
    let scopes = format!(
        "repository:a:pull repository:b:pull gateway:dock01:{all} gateway:ship01:{all} \
         gateway:dock02:{all}"
    );
    let bearer = node.bearer("dock01-sync", &dock, &scopes);
    let presented = presenting(&bearer);
    let gateway = |presented: &Presented<'_>, name: &str| {
        node.auth.gateway(presented, &name.parse().unwrap(), GatewayAction::MessageRead)
    };
    let who = gateway(&presented, "dock01").unwrap();
    assert_eq!(who.principal, Principal::Child("dock01".parse().unwrap()));
    assert!(gateway(&presented, "ship01").is_ok());
    assert!(gateway(&presented, "dock02").is_err());
    assert!(node.auth.repository::<Push>(&presented, &"b".parse().unwrap()).is_err());
    assert!(node.auth.repository::<Pull>(&presented, &"b".parse().unwrap()).is_ok());
    let bearer = node.bearer("my-token", &client, &scopes);
    assert!(gateway(&presenting(&bearer), "dock01").is_err());
}

/// Gives a connected registry the desired state that its parent would send.
fn configure(root: &Node, device: &Node, name: &str, clients: &[&str]) {
    smol::block_on(send_to(root, device, name, clients)).unwrap();
}

async fn send_to(
    root: &Node,
    device: &Node,
    name: &str,
    clients: &[&str],
) -> Result<(), StoreError> {
    let node = root.store.connected_registry(&name.parse().unwrap()).unwrap().unwrap();
    let token = |name: &str| root.store.token(&name.parse().unwrap()).unwrap().unwrap();
    let all = root.store.connected_registries().await.unwrap();
    let children: Vec<_> =
        all.into_iter().filter(|c| c.parent.as_ref() == Some(&node.name)).collect();
    let mut config = NodeConfig {
        registry: "myregistry".into(),
        sync_token: token(node.sync_token.as_str()),
        client_tokens: clients.iter().map(|client| token(client)).collect(),
        child_tokens: children.iter().map(|child| token(child.sync_token.as_str())).collect(),
        children,
        scope_maps: root.store.scope_maps().await.unwrap(),
        descendants: Vec::new(),
        node,
    };
    config.node.client_tokens = clients.iter().map(|client| client.parse().unwrap()).collect();
    device.store.receive_config(config, "v1".to_owned()).await
}

/// Symptom: a device whose disk was full or read-only heard that a token was disabled, and went on
/// letting it in.
#[test]
fn f182_f210_what_a_device_hears_and_cannot_write_takes_rights_away_and_gives_none() {
    let root = node(Role::Root, None);
    let disk = MemoryDisk::new();
    let device = node_with(Role::Connected, None, |sys| {
        let sys = Sys { disk: Arc::new(disk.clone()), ..sys };
        let options = StoreOptions { index: IndexKind::Map, ..StoreOptions::new(Path::new("/s")) };
        Store::open(sys, options).unwrap().0
    });
    let reads = |repository: &str| format!("repositories/{repository}/content/read");
    let names = ["keeper", "disabled", "unlinked", "replaced", "narrowed"];
    let grants = [reads("a/*"), reads("b")];
    let passwords = names.map(|name| root.token(name, &grants.each_ref().map(|g| &**g), None));
    root.child("dock01", None, &["a/one", "a/two", "b", "c"]);
    let ship = root.child("ship01", Some("dock01"), &["c"]);
    configure(&root, &device, "dock01", &names);
    let scopes = ["a/one", "a/two", "b", "c"].map(|name| format!("repository:{name}:pull"));
    let bearers: Vec<String> = names
        .iter()
        .zip(&passwords)
        .map(|(name, [password, _])| device.bearer(name, password, &scopes.join(" ")))
        .collect();
    let child = device.bearer("ship01-sync", &ship, "repository:c:pull");
    let refusals = |repository: &str| {
        let repository = repository.parse().unwrap();
        let who = bearers.iter().chain([&child]);
        let asked = who.map(|who| device.auth.repository::<Pull>(&presenting(who), &repository));
        asked.map(|asked| asked.err().map(|refusal| refusal.reason)).collect::<Vec<_>>()
    };
    let not_granted = Some(Reason::NotInScopeMap);
    let of_child = [None, None, None, None, None, not_granted];
    assert_eq!(["a/one", "a/two", "b"].map(refusals), [(); 3].map(|()| of_child.to_vec()));

    let store = &root.store;
    let of_children = vec![store.token(&"ship01-sync".parse().unwrap()).unwrap().unwrap()];
    let update = |name: &str, add: &[String], remove: &[String]| {
        let parse = |list: &[String]| list.iter().map(|grant| grant.parse().unwrap()).collect();
        let grants = Change::Delta { add: parse(add), remove: parse(remove) };
        let update = ScopeMapUpdate { grants, description: None };
        let map = format!("{name}-scope-map").parse().unwrap();
        smol::block_on(store.scope_map_update(map, update)).unwrap();
    };
    let off = || TokenUpdate { enabled: Some(false), scope_map: None };
    smol::block_on(store.token_update("disabled".parse().unwrap(), off())).unwrap();
    let first = [PasswordSlot::One];
    smol::block_on(store.credential_generate("replaced".parse().unwrap(), &first, None)).unwrap();
    update("narrowed", &[reads("a/one"), reads("c")], &[reads("a/*")]);
    update("keeper", &[reads("c")], &[]);
    smol::block_on(store.token_update("ship01-sync".parse().unwrap(), off())).unwrap();
    disk.fail_syncs_after(0);
    let left = ["keeper", "disabled", "replaced", "narrowed"];
    smol::block_on(send_to(&root, &device, "dock01", &left)).unwrap_err();
    let (ended, replaced) = (Some(Reason::TokenDisabled), Some(Reason::PasswordRevoked));
    let expected = [None, ended, ended, replaced, None, ended];
    assert_eq!([refusals("a/one"), refusals("b")], [expected.to_vec(), expected.to_vec()]);
    assert_eq!(refusals("a/two")[4], not_granted, "what is left is what both grant");
    for number in [0, 4] {
        let who = device.bearer(names[number], &passwords[number][0], "repository:c:pull");
        let asked = device.auth.repository::<Pull>(&presenting(&who), &"c".parse().unwrap());
        assert_eq!(
            asked.err().map(|refusal| refusal.reason),
            not_granted,
            "nothing new is granted"
        );
    }
    let login = |number: usize| device.get(names[number], &passwords[number][0], "").0.status;
    assert_eq!([0, 1, 2, 3, 4].map(login), [200, 401, 401, 401, 200]);
    // The parent goes back to what is on disk.
    let before = device.store.self_config().unwrap().unwrap();
    let before = NodeConfig { child_tokens: of_children, ..before };
    smol::block_on(device.store.receive_config(before, "v1".to_owned())).unwrap_err();
    assert_eq!(refusals("a/one"), of_child);
}

#[test]
fn f039_f043_f045_f075_f163_a_connected_registry_accepts_its_own() {
    let root = node(Role::Root, None);
    let device = node(Role::Connected, None);
    let all = ["repositories/a/content/read", "repositories/a/content/write"];
    let [listed, _] = root.token("listed", &all, None);
    let [other, _] = root.token("other", &all, None);
    // Beside what clients push and the device takes up, each is granted what the others are not.
    let dock = root.child("dock01", None, &["of-dock", "a"]);
    let ship = root.child("ship01", Some("dock01"), &["of-ship"]);
    assert_eq!(device.get("listed", &listed, "").0.status, 503, "not activated yet");
    configure(&root, &device, "dock01", &["listed"]);
    assert_eq!(device.get("other", &other, "").0.status, 401);
    assert_eq!(device.get("dock01-sync", &dock, "").0.status, 401, "its own sync token");
    let a = "a".parse().unwrap();
    let bearer = device.bearer("listed", &listed, "repository:a:pull,push");
    assert!(device.auth.repository::<Push>(&presenting(&bearer), &a).is_ok());
    let child = device.bearer("ship01-sync", &ship, "repository:of-ship:pull repository:a:pull");
    let of_ship = "of-ship".parse().unwrap();
    let who: Authorized<Pull> = device.auth.repository(&presenting(&child), &of_ship).unwrap();
    assert_eq!(who.principal, Principal::Child("ship01".parse().unwrap()));
    for (bearer, repository) in [(&child, "a"), (&child, "of-dock"), (&bearer, "of-ship")] {
        let repository = repository.parse().unwrap();
        let refusal = refused(device.auth.repository::<Pull>(&presenting(bearer), &repository));
        assert_eq!(refusal.reason, Reason::NotInScopeMap, "{repository}");
    }

    let mut config = device.store.self_config().unwrap().unwrap();
    config.node.mode = Mode::ReadOnly;
    smol::block_on(device.store.receive_config(config, "v1".to_owned())).unwrap();
    let again = device.bearer("listed", &listed, "repository:a:pull,push,delete");
    assert_eq!(claims(&again)["access"][0]["actions"], serde_json::json!(["pull"]));
    for bearer in [&bearer, &again] {
        let refusal = refused(device.auth.repository::<Push>(&presenting(bearer), &a));
        assert_eq!((refusal.status, refusal.code), (403, "DENIED"));
        assert_eq!(refusal.message, "This operation is not allowed on this registry.");
        assert!(device.auth.repository::<Pull>(&presenting(bearer), &a).is_ok());
    }
    configure(&root, &device, "dock01", &[]);
    let refusal = refused(device.auth.repository::<Pull>(&presenting(&bearer), &a));
    assert_eq!(refusal.reason, Reason::TokenDisabled);
}
