//! What a parent or a child sends, for fuzzing.

use super::distribution::below_v2;
use super::upstream::parse_challenge;
use super::wire::{Format, Wire, decode_batch, encode_batch};
use crate::http::host_of;
use crate::types::connected_registry::StatusReport;
use crate::types::message::{
    ActivationAnswer, ActivationRequest, Batch, Item, Listing, Manifests, Message, NodeConfig,
};
use crate::types::{Cursor, Digest};

/// Messages of every kind, in every form: what is understood is written and understood again.
pub(crate) fn message(bytes: &[u8]) {
    for format in [Format::V1, Format::V2, Format::Json] {
        again::<NodeConfig>(format, bytes);
        again::<Listing>(format, bytes);
        again::<Manifests>(format, bytes);
        again::<ActivationRequest>(format, bytes);
        again::<ActivationAnswer>(format, bytes);
        again::<StatusReport>(format, bytes);
        if let Ok(received) = decode_batch(format, bytes) {
            let written = encode_batch(format, received.batch.clone());
            let written = written.expect("a batch that was read can be sent");
            let second = decode_batch(format, &written).expect("a batch that was sent can be read");
            assert_eq!(second.batch, received.batch);
            assert!(!second.unknown);
        }
    }
}

fn again<T: Wire>(format: Format, bytes: &[u8]) {
    if let Ok(message) = T::read(format, bytes) {
        let written = message.write(format).expect("a message that was read can be sent");
        let second = T::read(format, &written).expect("a message that was sent can be read");
        assert_eq!(second.write(format), Ok(written));
    }
}

/// A batch, a listing and an activation.
pub(crate) fn messages() -> Vec<Vec<u8>> {
    let digest: Digest = format!("sha256:{}", "1f".repeat(32)).parse().expect("a digest");
    let (repository, tag) = ("library/one", "v1");
    let repository = || repository.parse().expect("a repository name");
    let cursor = Cursor { epoch: 7, sequence: 300 };
    let all = [
        Message::Tag {
            repository: repository(),
            tag: tag.parse().expect("a tag"),
            digest: Some(digest.clone()),
        },
        Message::ManifestAdded { repository: repository(), digest: digest.clone() },
        Message::ManifestDeleted { repository: repository(), digest: digest.clone() },
        Message::ConfigChanged { name: "dock01".parse().expect("a name") },
    ];
    let items = all.map(|message| Item { sequence: 300, message }).to_vec();
    let manifests = Manifests { digests: vec![digest.clone()] };
    let listing = Listing { at: cursor, tags: Vec::new(), referrers: vec![digest], next: None };
    let request = ActivationRequest {
        instance_id: "0f".repeat(16),
        version: "0.1.0".to_owned(),
        login_server: "dock01.example:5000".to_owned(),
        accepted_epoch: Some(3),
    };
    let answer = ActivationAnswer { activation_epoch: 3, feed: cursor };
    let batch = Batch { from: Cursor::default(), through: cursor, items };
    let written = [Format::V1, Format::V2, Format::Json].map(|format| {
        [
            encode_batch(format, batch.clone()),
            listing.clone().write(format),
            manifests.clone().write(format),
            request.clone().write(format),
            answer.clone().write(format),
        ]
    });
    written.into_iter().flatten().map(|written| written.expect("a message can be sent")).collect()
}

/// A `WWW-Authenticate` of the parent, and the place of an upload there. The password goes to
/// the realm when its host is the gateway's: our client must then really call that host.
pub(crate) fn challenge(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = below_v2(&text);
    let Some(realm) = parse_challenge(&text) else { return };
    let (checked, called) = (host_of(&realm.origin), host_of(&realm.url));
    // What nobody can call is not checked for anything.
    assert!(checked.is_none() || called.is_none() || checked == called, "{}", realm.url);
}
