//! Pulling without a login.

use super::*;
use crate::types::scope::Access;

fn open_to_everybody(repositories: &[&str]) -> AuthOptions {
    AuthOptions {
        anonymous_pull: repositories.iter().map(|text| text.parse().unwrap()).collect(),
        ..options(Role::Root, None, vec![listener(5000, true)])
    }
}

impl Node {
    /// Asks for a token without credentials.
    fn get_without(&self, query: &str) -> (Reply, Value) {
        let target = format!("/oauth2/token?service={HOST}&{query}");
        self.send(Method::Get, &target, None, "")
    }
}

#[test]
fn f198_everybody_may_pull_where_that_is_open_and_do_nothing_else() {
    let node = node_as(open_to_everybody(&["public/*", "one"]), Store::in_memory);
    let all = "pull,push,delete,metadata_read,metadata_write";
    let query =
        format!("offline_token=true&scope=repository:public/app:{all}&scope=repository:b:pull");
    let (reply, json) = node.get_without(&query);
    assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")), "{json}");
    assert_eq!((&json["expires_in"], json.get("refresh_token")), (&4500.into(), None));
    let token = json["token"].as_str().unwrap();
    let claims = claims(token);
    let granted = serde_json::json!([
        { "type": "repository", "name": "public/app", "actions": ["metadata_read", "pull"] }
    ]);
    assert_eq!((&claims["sub"], &claims["aud"]), (&"".into(), &HOST.into()));
    let access: Vec<Access> = serde_json::from_value(claims["access"].clone()).unwrap();
    let sorted = access.into_iter().map(|mut access| {
        access.actions.sort_unstable();
        access
    });
    let sorted: Vec<Access> = sorted.collect();
    assert_eq!(serde_json::to_value(sorted).unwrap(), granted);
    let bearer = format!("Bearer {token}");
    let (who, app) = (presenting(&bearer), "public/app".parse().unwrap());
    let pull: Authorized<Pull> = node.auth.repository(&who, &app).unwrap();
    assert_eq!(pull.principal, Principal::Anonymous);
    assert!(!node.auth.may_push(&pull, &app) && !node.auth.is_for_push(&pull, &app));
    assert!(node.auth.repository::<ReadMetadata>(&who, &app).is_ok());
    assert!(node.auth.ping(&who).is_ok());
    let other = "public/other".parse().unwrap();
    let name = "dock01".parse().unwrap();
    for refusal in [
        refused(node.auth.repository::<Push>(&who, &app)),
        refused(node.auth.repository::<Delete>(&who, &app)),
        refused(node.auth.repository::<Pull>(&who, &other)),
        refused(node.auth.catalog(&who)),
        refused(node.auth.gateway(&who, &name, GatewayAction::ConfigRead)),
    ] {
        assert_eq!((refusal.status, refusal.code), (401, "UNAUTHORIZED"));
        assert!(refusal.challenge.is_some(), "with a login it may work");
    }
    // As the password of a login it is good for no more.
    let (reply, json) = node.get(NULL_USER, token, "scope=repository:public/other:pull");
    assert_eq!(reply.status, 200);
    assert_eq!(super::claims(json["token"].as_str().unwrap())["access"], serde_json::json!([]));
    // Who logs in may do that too.
    let [password, _] = node.token("my-token", &["repositories/app/content/write"], None);
    let bearer = node.bearer("my-token", &password, "repository:public/app:pull,push");
    assert_eq!(super::claims(&bearer)["access"][0]["actions"], serde_json::json!(["pull"]));
    let pull: Authorized<Pull> = node.auth.repository(&presenting(&bearer), &app).unwrap();
    assert_eq!(pull.principal, Principal::Client("my-token".parse().unwrap()));
    // As clients of the reference product ask.
    let form = format!("grant_type=password&service={HOST}&scope=repository:one:pull");
    assert_eq!(node.send(Method::Post, "/oauth2/token", None, &form).0.status, 200);
    // No more than the endpoint itself.
    let without = Presented { authorization: None, ..who };
    assert_eq!(refused(node.auth.repository::<Pull>(&without, &app)).status, 401);
}

#[test]
fn f198_who_asks_for_something_else_has_to_log_in() {
    let node = node_as(open_to_everybody(&["public/*"]), Store::in_memory);
    for query in [
        "",
        "scope=repository:secret:pull",
        "scope=repository:publicity/app:pull",
        "scope=repository:public:pull",
        "scope=repository:*:pull",
        "scope=repository:public/app:push",
        "scope=registry:catalog:*",
        "scope=gateway:dock01:config_read",
    ] {
        let (reply, json) = node.get_without(query);
        assert_eq!((reply.status, &json["errors"][0]["code"]), (401, &"UNAUTHORIZED".into()));
        assert_eq!(reply.header("www-authenticate"), Some(&*format!("Basic realm=\"{HOST}\"")));
    }
    // Wrong credentials are no missing ones.
    let scope = "scope=repository:public/app:pull";
    assert_eq!(node.get("my-token", "wrong", scope).0.status, 401);
    let target = format!("/oauth2/token?service={HOST}&{scope}");
    for bad in ["Bearer x", "Basic", ""] {
        assert_eq!(node.send(Method::Get, &target, Some(bad), "").0.status, 401, "{bad}");
    }
    for user in ["username=my-token&", "password=x&", "username=&password=&"] {
        let form = format!("{user}grant_type=password&service={HOST}&{scope}");
        assert_eq!(node.send(Method::Post, "/oauth2/token", None, &form).0.status, 401, "{user}");
    }
}

#[test]
fn f198_what_is_not_open_any_more_is_refused_at_the_next_request() {
    let open = open_to_everybody(&["public/*"]);
    let identity = open.identity.clone();
    let node = node_as(open, Store::in_memory);
    let (_, json) = node.get_without("scope=repository:public/app:pull");
    let bearer = format!("Bearer {}", json["token"].as_str().unwrap());
    let (who, app) = (presenting(&bearer), "public/app".parse().unwrap());
    assert!(node.auth.repository::<Pull>(&who, &app).is_ok());
    for now in [&["other/*"][..], &[]] {
        let options = AuthOptions { identity: identity.clone(), ..open_to_everybody(now) };
        let auth = Auth::new(node.store.clone(), options).unwrap();
        let refusal = refused(auth.repository::<Pull>(&who, &app));
        assert_eq!((refusal.status, refusal.code), (401, "UNAUTHORIZED"), "{now:?}");
    }
    // By default nothing is.
    let closed = super::node(Role::Root, None);
    assert_eq!(closed.get_without("scope=repository:public/app:pull").0.status, 401);
}
