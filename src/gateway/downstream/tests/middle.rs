//! What a node says for those below it.

use super::*;
use crate::http::ReplyBody;
use crate::store::registry::manifests::testing::push;

#[test]
fn f032_a_second_middle_does_not_speak_for_those_below() {
    smol::block_on(async {
        let (store, gateway, _) = root().await;
        let new = |name: &str, parent: Option<&str>| NewConnectedRegistry {
            name: name.parse().unwrap(),
            mode: None,
            parent: parent.map(|parent| parent.parse().unwrap()),
            repositories: vec!["app".parse().unwrap()],
            sync_token: None,
            client_tokens: Vec::new(),
            settings: Settings::default(),
        };
        let (middle, _) = store.connected_registry_create(new("middle1", None)).await.unwrap();
        let passwords = middle.passwords;
        store.connected_registry_create(new("leaf01", Some("middle1"))).await.unwrap();
        let user = format!("middle1:{}", passwords[0].value.expose());
        let basic = format!("Basic {}", data_encoding::BASE64.encode(user.as_bytes()));
        for name in ["middle1", "leaf01"] {
            let name: ConnectedRegistryName = name.parse().unwrap();
            let epoch = store.connected_registry(&name).unwrap().unwrap().activation_epoch;
            let (instance_id, at) = ("one".to_owned(), UnixSeconds(1));
            store.record_activation(name, Activation { epoch, instance_id, at }).await.unwrap();
        }
        let leaf: ConnectedRegistryName = "leaf01".parse().unwrap();
        let ask = async |method, name: &str, call: &str, instance: &str| {
            let mut request = request(method, &format!("/gateway/v1/{name}/{call}"));
            let asked = ActivationRequest {
                instance_id: "of-the-other".to_owned(),
                version: String::new(),
                login_server: String::new(),
                accepted_epoch: Some(1),
            };
            let bytes = asked.write(Format::Json).unwrap();
            let len = Some(bytes.len() as u64);
            request.body = Body::new(smol::io::Cursor::new(bytes), len);
            request.host = Some("reg.example:5001".to_owned());
            for (name, value) in [
                ("authorization", &*basic),
                (INSTANCE, instance),
                ("content-type", "application/json"),
            ] {
                request.headers.push((name.to_owned(), value.to_owned()));
            }
            gateway.answer(&mut request).await.err().map(|refusal| refusal.reason)
        };
        // A second middle is refused for itself ...
        let refused = Some(Reason::AlreadyActivated);
        assert_eq!(ask(Method::Get, "middle1", "config", "two").await, refused);
        // ... and for those below it.
        assert_eq!(ask(Method::Get, "leaf01", "config", "two").await, refused, "config");
        assert_eq!(ask(Method::Post, "leaf01", "activation", "two").await, refused, "activation");
        assert_eq!(store.activation(&leaf).unwrap().unwrap().instance_id, "one");
    });
}

/// Symptom: a repository became whole between the reading of its tags and the look at whether it
/// is, and the child took what had come in between for deleted.
#[test]
fn f204_a_listing_from_before_a_repository_was_whole_does_not_tell_that_it_is() {
    smol::block_on(async {
        for turns in 0..12 {
            let (store, gateway, authorization) = root().await;
            store.stand(Role::Connected, true);
            activate(&store).await;
            let app = "app".parse().unwrap();
            store.note_compared().await.unwrap();
            store.request_reconcile().await.unwrap();
            let mut request = request(Method::Get, "/gateway/v1/dock01/repositories/app");
            request.host = Some("reg.example:5001".to_owned());
            for (name, value) in [("authorization", &*authorization), (INSTANCE, "one")] {
                request.headers.push((name.to_owned(), value.to_owned()));
            }
            let mut answer = std::pin::pin!(gateway.answer(&mut request));
            let mut early = None;
            for _ in 0..turns {
                early = smol::future::poll_once(&mut answer).await;
                if early.is_some() {
                    break;
                }
            }
            push(&store, "app", 1, &["v1"]).await;
            store.mark_synced(&app, true).await.unwrap();
            store.reconciled(store.head()).await.unwrap();
            assert!(!store.is_partial(&app).unwrap());
            let reply = match early {
                Some(reply) => reply,
                None => answer.await,
            };
            let reply = reply.unwrap();
            let is_partial = reply.headers.iter().any(|(name, _)| *name == PARTIAL);
            let ReplyBody::Bytes(bytes) = reply.body else { panic!("no listing") };
            let listing = Listing::read(Format::V1, &bytes).unwrap();
            assert!(is_partial || !listing.tags.is_empty(), "after {turns} turns");
        }
    });
}
