//! Conditional requests (RFC 9110, section 13): what a client has, and what it believes is here.

use super::error::{malformed, store_refusal};
use crate::auth::Principal;
use crate::http::Request;
use crate::store::replica::outbox::Origin;
use crate::store::{Precondition, Store};
use crate::types::{Delivery, Digest, Reason, Refusal};

/// The entity tag of content: its digest, quoted.
pub fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client says with `If-None-Match` that it has this content.
pub fn client_has(request: &Request, digest: &Digest) -> bool {
    let wanted = etag(digest);
    let mut fields = request.headers.iter().filter(|(name, _)| name == "if-none-match");
    fields.any(|(_, value)| {
        value
            .split(',')
            .map(str::trim)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == wanted)
    })
}

/// Whether `If-Range` allows a part to be sent: absent, or exactly this content.
pub fn range_applies(request: &Request, digest: &Digest) -> bool {
    request.header("if-range").is_none_or(|value| value.trim() == etag(digest))
}

/// What a change of a tag is made to depend on.
pub fn precondition(request: &Request) -> Result<Precondition, Refusal> {
    match (request.header("if-match"), request.header("if-none-match")) {
        (None, None) => Ok(Precondition::None),
        (None, Some("*")) => Ok(Precondition::Absent),
        (Some("*"), None) => Ok(Precondition::Present),
        (Some(value), None) => {
            let digest = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            let digest = digest.and_then(|digest| digest.parse().ok());
            digest
                .map(Precondition::Is)
                .ok_or_else(|| malformed("UNSUPPORTED", "If-Match takes one quoted digest, or *"))
        }
        _ => Err(malformed(
            "UNSUPPORTED",
            "a change takes If-Match with one quoted digest, or If-None-Match: *",
        )),
    }
}

/// Who makes a change. A child may name the change, which may come from further below; of anyone
/// else the name is ignored. A child that took the name of another's change would make that one
/// look delivered: it is refused.
pub fn origin(store: &Store, request: &Request, principal: &Principal) -> Result<Origin, Refusal> {
    let Principal::Child(child) = principal else {
        return Ok(Origin::Client);
    };
    let delivery = Delivery::read(|name| request.header(name));
    let Some(mut delivery) = delivery.map_err(|text| malformed("UNSUPPORTED", text))? else {
        return Ok(Origin::Client);
    };
    let from = &delivery.id.origin;
    if !store.may_deliver(child, from).map_err(store_refusal)? {
        let text = format!("a change of '{from}', which is not below '{child}'");
        return Err(Refusal::new(409, "DENIED", Reason::OriginNotBelow, text));
    }
    let mut instead_of = Vec::new();
    for id in std::mem::take(&mut delivery.instead_of) {
        // What is below another node since says itself what becomes of its changes.
        if store.may_deliver(child, &id.origin).map_err(store_refusal)? {
            instead_of.push(id);
        } else {
            // Of that one it is not known here whether it has taken effect.
            delivery.anew = false;
        }
    }
    Ok(Origin::Child(Delivery { instead_of, ..delivery }))
}

#[cfg(test)]
pub(super) mod testing {
    use crate::http::{Body, Method, Request};
    use crate::sys::net::Peer;

    /// A request with these header fields.
    pub(in super::super) fn request(method: Method, headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        Request {
            method,
            path: "/v2/".to_owned(),
            query: Vec::new(),
            headers: headers.collect(),
            host: None,
            peer: Peer::Local(None),
            secure: false,
            is_operator: false,
            body: Body::empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::request;
    use super::*;
    use crate::http::Method;
    use crate::store::tree::connected_registries::Settings;
    use crate::store::tree::creation::NewConnectedRegistry;
    use crate::sys::{Spawner, Sys};
    use crate::types::{Mode, OutboxId};

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn clients_say_what_they_have() {
        let digest: Digest = A.parse().unwrap();
        for (value, expected) in [
            (format!("\"{A}\""), true),
            (format!("W/\"{A}\""), true),
            (format!("\"x\" , \"{A}\""), true),
            ("*".to_owned(), true),
            (A.to_owned(), false),
            ("\"x\"".to_owned(), false),
            (String::new(), false),
        ] {
            let request = request(Method::Get, &[("if-none-match", &value)]);
            assert_eq!(client_has(&request, &digest), expected, "{value}");
        }
        assert!(range_applies(&request(Method::Get, &[]), &digest));
        assert!(!range_applies(&request(Method::Get, &[("if-range", "\"x\"")]), &digest));
    }

    #[test]
    fn preconditions_are_read_strictly() {
        let read = |headers: &[(&str, &str)]| precondition(&request(Method::Put, headers));
        let quoted = format!("\"{A}\"");
        assert_eq!(read(&[]), Ok(Precondition::None));
        assert_eq!(read(&[("if-none-match", "*")]), Ok(Precondition::Absent));
        assert_eq!(read(&[("if-match", "*")]), Ok(Precondition::Present));
        assert_eq!(read(&[("if-match", &quoted)]), Ok(Precondition::Is(A.parse().unwrap())));
        for bad in [
            [("if-match", A)].as_slice(),
            &[("if-match", "\"x\"")],
            &[("if-match", "\"")],
            &[("if-none-match", &quoted)],
            &[("if-match", "*"), ("if-none-match", "*")],
        ] {
            assert_eq!(read(bad).unwrap_err().status, 400, "{bad:?}");
        }
    }

    #[test]
    fn children_name_their_changes_and_those_below_them() {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        let origin = |headers: &[(&str, &str)], principal| {
            origin(&store, &request(Method::Put, headers), principal)
        };
        for (name, parent) in [("dock01", None), ("crane7", Some("dock01")), ("dock02", None)] {
            let new = NewConnectedRegistry {
                name: name.parse().unwrap(),
                mode: Some(Mode::ReadWrite),
                parent: parent.map(|name| name.parse().unwrap()),
                repositories: vec!["app".parse().unwrap()],
                sync_token: None,
                client_tokens: Vec::new(),
                settings: Settings::default(),
            };
            smol::block_on(store.connected_registry_create(new)).unwrap();
        }
        let child = Principal::Child("dock01".parse().unwrap());
        let client = Principal::Client("token-1".parse().unwrap());
        for (name, below) in
            [("dock01", true), ("crane7", true), ("gone01", true), ("dock02", false)]
        {
            let id = OutboxId { origin: name.parse().unwrap(), incarnation: 0xaf, sequence: 12 };
            let delivery = Delivery::of(id);
            let fields = delivery.fields();
            let fields: Vec<_> = fields.iter().map(|(n, value)| (*n, value.as_str())).collect();
            match origin(&fields, &child) {
                Ok(found) => assert_eq!((found, below), (Origin::Child(delivery), true), "{name}"),
                Err(refusal) => {
                    assert_eq!((refusal.reason, below), (Reason::OriginNotBelow, false), "{name}");
                }
            }
            assert_eq!(origin(&fields, &client), Ok(Origin::Client));
        }
        assert_eq!(origin(&[], &child), Ok(Origin::Client));
        let bad = origin(&[("skerry-outbox-id", "x")], &child).unwrap_err();
        assert_eq!((bad.status, bad.reason), (400, Reason::Malformed));
    }
}
