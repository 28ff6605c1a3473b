//! Conditional requests (RFC 9110, section 13): what a client has, and what it believes is here.

use super::error::{malformed, store_refusal};
use crate::auth::Principal;
use crate::http::Request;
use crate::store::replica::outbox::{Delivery, Offered, Origin, OutboxId};
use crate::store::{Precondition, Store};
use crate::types::{Digest, Reason, Refusal};

/// The header in which a connected registry names the change that it delivers.
pub const OUTBOX_ID: &str = "skerry-outbox-id";

/// The header in which it names the start of its store that numbered the change, 16 hexadecimal
/// digits. Connected registries of the first version do not send it.
pub const OUTBOX_INCARNATION: &str = "skerry-outbox-incarnation";

/// The header with which it says that the change was refused before.
pub const OUTBOX_AGAIN: &str = "skerry-outbox-again";

/// The header with which it says that it offers what this node, or one further up, lacks:
/// [`OFFER_PUSHED`] for what a client had pushed there or further below, anything else for what it
/// had from here. The first version sends the same for both.
pub const OFFER: &str = "skerry-offer";

/// See [`OFFER`].
pub const OFFER_PUSHED: &str = "pushed";

/// The header with which it says that the bytes that it got of a blob have another digest.
pub const DOUBT: &str = "skerry-doubt";

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
    let (Principal::Child(child), Some(value)) = (principal, request.header(OUTBOX_ID)) else {
        return Ok(Origin::Client);
    };
    let mut id: OutboxId = value.parse().map_err(|()| {
        let text = "takes a connected registry and a number";
        malformed("UNSUPPORTED", format!("{OUTBOX_ID} {text}"))
    })?;
    if let Some(value) = request.header(OUTBOX_INCARNATION) {
        id.incarnation = u64::from_str_radix(value, 16).map_err(|_| {
            let text = "takes a hexadecimal number of at most 16 digits";
            malformed("UNSUPPORTED", format!("{OUTBOX_INCARNATION} {text}"))
        })?;
    }
    if !store.may_deliver(child, &id.origin).map_err(store_refusal)? {
        let text = format!("{OUTBOX_ID}: '{}' is not below '{child}'", id.origin);
        return Err(Refusal::new(409, "DENIED", Reason::OriginNotBelow, text));
    }
    let offered = match request.header(OFFER) {
        None => Offered::No,
        Some(OFFER_PUSHED) => Offered::Pushed,
        Some(_) => Offered::Mirrored,
    };
    let again = request.header(OUTBOX_AGAIN).is_some();
    Ok(Origin::Child(Delivery { id, offered, again }))
}

#[cfg(test)]
pub(super) mod testing {
    use crate::http::{Body, Method, Request};

    /// A request with these header fields.
    pub(in super::super) fn request(method: Method, headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        Request {
            method,
            path: "/v2/".to_owned(),
            query: Vec::new(),
            headers: headers.collect(),
            host: None,
            peer: None,
            secure: false,
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
    use crate::types::Mode;

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
            let told = (OUTBOX_INCARNATION, "00000000000000af");
            for (headers, incarnation) in [(&[][..], 0), (&[told][..], 0xaf)] {
                let id = OutboxId { origin: name.parse().unwrap(), incarnation, sequence: 12 };
                let value = id.to_string();
                assert_eq!(value, format!("{name} 12"));
                let found = origin(&[headers, &[(OUTBOX_ID, &value)]].concat(), &child);
                assert_eq!(found.is_ok(), below, "{name}");
                let expected = Origin::Child(Delivery { id, offered: Offered::No, again: false });
                match found {
                    Ok(found) => assert_eq!(found, expected, "{name}"),
                    Err(refusal) => assert_eq!(refusal.reason, Reason::OriginNotBelow, "{name}"),
                }
            }
        }
        for (value, offered) in
            [("1", Offered::Mirrored), ("pushed", Offered::Pushed), ("else", Offered::Mirrored)]
        {
            let found = origin(&[(OUTBOX_ID, "crane7 12"), (OFFER, value)], &child);
            let id = OutboxId { origin: "crane7".parse().unwrap(), incarnation: 0, sequence: 12 };
            assert_eq!(found, Ok(Origin::Child(Delivery { id, offered, again: false })), "{value}");
        }
        assert_eq!(origin(&[(OUTBOX_ID, "crane7 12")], &client), Ok(Origin::Client));
        assert_eq!(origin(&[], &child), Ok(Origin::Client));
        for bad in ["", "x", "-1", "+", "10000000000000000"] {
            let headers = [(OUTBOX_ID, "crane7 12"), (OUTBOX_INCARNATION, bad)];
            assert_eq!(origin(&headers, &child).unwrap_err().status, 400, "{bad}");
        }
        for bad in
            ["", "crane7", "crane7 x", "crane7 -1", "c 1", "crane7  1", "crane7 1 ", "crane7 1 x"]
        {
            assert_eq!(origin(&[(OUTBOX_ID, bad)], &child).unwrap_err().status, 400, "{bad}");
        }
    }
}
