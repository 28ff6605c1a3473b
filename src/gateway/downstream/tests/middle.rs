//! What a node says for those below it.

use super::*;

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
