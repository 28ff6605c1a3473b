//! Commands as any front end gives them.

use super::connected_registry::{ConnectedRegistryChange, NewConnectedRegistry, Settings};
use super::scope_map::{NewScopeMap, ScopeMapChange};
use super::token::{NewToken, TokenGrants};
use super::*;
use crate::sys::{Spawner, Sys};
use crate::types::token::PasswordSlot;
use crate::types::{Change, Grant, ScopeMapName, TokenName};

/// Nobody was ever in contact.
struct Nobody;

impl Contact for Nobody {
    fn state(
        &self,
        _: &ConnectedRegistry,
        _: ConnectionState,
        _: Option<UnixSeconds>,
    ) -> ConnectionState {
        ConnectionState::Offline
    }

    fn last_seen(
        &self,
        _: &ConnectedRegistryName,
        stored: Option<UnixSeconds>,
    ) -> Option<UnixSeconds> {
        stored
    }

    fn told(&self, _: &ConnectedRegistryName) -> Option<(Schedule, Option<u64>)> {
        None
    }
}

fn manage(role: Role) -> Manage {
    let store = Store::in_memory(Sys::real(Spawner::new()));
    store.stand(role, true);
    let options = Options {
        role,
        registry_name: "myregistry".into(),
        login_server: "reg.example:5000".into(),
        gateway_endpoint: "reg.site.data.example:5001".into(),
        gateway_warning: None,
        protocol: Protocol::Https,
        ca_fingerprint: None,
    };
    Manage::new(store, options, Arc::new(Nobody))
}

fn change<T, F: Future<Output = Result<T, Error>>>(
    manage: &Manage,
    command: impl FnOnce(Changes) -> F,
) -> Result<T, Error> {
    let [actor, action, subject] = ["somebody", "try", "it"].map(str::to_owned);
    smol::block_on(manage.change(Asked { actor, action, subject }, command))
}

fn grants(texts: &[&str]) -> Vec<Grant> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn create_map(manage: &Manage, name: &str) {
    let grants = grants(&["repositories/a/content/read"]);
    let new = NewScopeMap { name: name.parse().unwrap(), description: String::new(), grants };
    change(manage, |changes| async move { changes.scope_map_create(new).await }).unwrap();
}

fn create_token(manage: &Manage, name: &str) {
    let new = NewToken {
        name: name.parse().unwrap(),
        grants: TokenGrants::Map("my-map".parse().unwrap()),
        enabled: true,
        passwords: Some(credential::Expiry::Never),
    };
    change(manage, |changes| async move { changes.token_create(new).await }).unwrap();
}

fn create_registry(manage: &Manage, name: &str, parent: Option<&str>) {
    let new = NewConnectedRegistry {
        name: name.parse().unwrap(),
        mode: None,
        parent: parent.map(|name| name.parse().unwrap()),
        repositories: vec!["a".parse().unwrap(), "b".parse().unwrap()],
        sync_token: None,
        client_tokens: Vec::new(),
        settings: Settings::default(),
    };
    change(manage, |changes| async move { changes.connected_registry_create(new, false).await })
        .unwrap();
}

fn shown(manage: &Manage, map: &str) -> Vec<String> {
    let map = manage.scope_map(&map.parse().unwrap()).unwrap();
    let of_repositories = map.grants.iter().filter(|grant| matches!(grant, Grant::Repository(..)));
    of_repositories.map(ToString::to_string).collect()
}

#[test]
fn f082_a_list_of_grants_takes_the_place_of_all_above_and_below() {
    let manage = manage(Role::Root);
    for (name, parent) in [("upper", None), ("middle", Some("upper")), ("lower", Some("middle"))] {
        create_registry(&manage, name, parent);
    }
    let name = || "middle".parse::<ScopeMapName>().unwrap();
    let gateway = manage.scope_map(&name()).unwrap().grants.into_iter();
    let gateway = gateway.filter(|grant| matches!(grant, Grant::Gateway(..)));
    let wanted = ["repositories/a/content/read", "repositories/c/content/read"];
    let all: Vec<Grant> = grants(&wanted).into_iter().chain(gateway).collect();
    let replace = |all: Vec<Grant>| {
        let update =
            ScopeMapChange { name: name(), description: None, grants: Change::Replace(all) };
        change(&manage, |changes| async move { changes.scope_map_update(update).await })
    };
    let changed = replace(all.clone()).unwrap();
    assert_eq!(changed.resource.grants, all);
    let others: Vec<_> = changed.others.iter().map(|other| other.scope_map.as_str()).collect();
    assert_eq!(others, ["upper", "lower"]);
    assert_eq!(shown(&manage, "middle"), wanted);
    assert!(shown(&manage, "upper").contains(&wanted[1].to_owned()));
    assert!(shown(&manage, "upper").contains(&"repositories/b/content/read".to_owned()));
    assert_eq!(shown(&manage, "lower"), [wanted[0]], "what is not above is not below");
    // The same list again changes nothing.
    let again = replace(all.clone()).unwrap();
    assert!(again.resource.grants == all && again.others.is_empty());
}

#[test]
fn a_list_of_client_tokens_takes_the_place_of_all() {
    let manage = manage(Role::Root);
    create_map(&manage, "my-map");
    ["token1", "token2", "token3"].iter().for_each(|name| create_token(&manage, name));
    create_registry(&manage, "dock01", None);
    let replace = |names: &[&str]| {
        let all = names.iter().map(|name| name.parse().unwrap()).collect();
        let name = "dock01".parse().unwrap();
        let (client_tokens, settings) = (Change::Replace(all), Settings::default());
        let update = ConnectedRegistryChange { name, client_tokens, settings };
        change(&manage, |changes| async move { changes.connected_registry_update(update).await })
    };
    for names in [&["token2", "token1"][..], &["token3", "token2", "token3"], &[]] {
        let node = replace(names).unwrap().resource;
        let mut expected = names.to_vec();
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(node.client_tokens.iter().map(TokenName::as_str).collect::<Vec<_>>(), expected);
    }
    replace(&["token1"]).unwrap();
    let error = replace(&["token2", "token9"]).err().unwrap();
    assert_eq!((error.kind, error.field), (Kind::NotFound, Some("client token")));
    assert_eq!(error.subject, Some(Subject { noun: Noun::Token, name: "token9".into() }));
    let of_sync = replace(&["dock01"]).err().unwrap();
    assert_eq!(of_sync.kind, Kind::Invalid, "{of_sync}");
    assert_eq!(manage.client_tokens(&"dock01".parse().unwrap()).unwrap().len(), 1);
}

#[test]
fn a_list_of_passwords_says_which_are_kept() {
    use PasswordSlot::{One, Two};
    let manage = manage(Role::Root);
    create_map(&manage, "my-map");
    create_token(&manage, "token1");
    let name = || "token1".parse::<TokenName>().unwrap();
    let before = manage.token(&name()).unwrap().passwords;
    let keep = |slots: &[PasswordSlot]| {
        let all = Change::Replace(slots.to_vec());
        let kept =
            change(&manage, |changes| async move { changes.credential_delete(name(), all).await });
        kept.map(|kept| kept.resource.passwords)
    };
    assert!(keep(&[Two, One]).unwrap() == before, "both are kept, and are the same");
    let [_, second] = before;
    assert!(keep(&[Two]).unwrap() == [None, second.clone()]);
    let error = keep(&[One, Two]).err().unwrap();
    assert_eq!(error.kind, Kind::Invalid);
    assert_eq!(error.to_string(), "The token 'token1' has no password1.");
    assert!(manage.token(&name()).unwrap().passwords == [None, second]);
    assert!(keep(&[]).unwrap() == [None, None]);
}

#[test]
fn a_connected_registry_says_where_it_is_managed() {
    let manage = manage(Role::Connected);
    let map = "my-map".parse().unwrap();
    let error = change(&manage, |changes| async move { changes.scope_map_delete(map).await });
    let error = error.err().unwrap();
    assert_eq!(error.kind, Kind::ManagedAtRoot);
    assert!(error.cure.is_some_and(|cure| cure.contains("'myregistry'")));
    let audit = smol::block_on(manage.audit()).unwrap();
    let told: Vec<_> = audit.iter().map(|entry| (&*entry.deed.actor, entry.refused)).collect();
    assert_eq!(told, [("somebody", Some(Kind::ManagedAtRoot))]);
}
