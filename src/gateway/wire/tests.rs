//! Golden bytes, and what neighbours of adjacent versions make of each other's.

mod v2;

use serde::Serialize;

use super::envelope::{Kind, append};
use super::*;
use crate::types::UnixSeconds;
use crate::types::connected_registry::{ConnectionState, StatusDetail, StatusReport};
use crate::types::digest::Algorithm;
use crate::types::message::{
    ActivationAnswer, ActivationRequest, Batch, Descendant, Item, Listing, Manifests, Message,
    NodeConfig, TagEntry,
};
use crate::types::token::{ScopeMap, Token, Verifier};
use crate::types::{ConnectedRegistry, Cursor, Digest, Mode, RepositoryName};

const V1: Format = Format::V1;

fn digest(number: u8) -> Digest {
    Digest::from_raw(Algorithm::Sha256, &[number; 32]).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn batch() -> Batch {
    let repository: RepositoryName = "app".parse().unwrap();
    let messages = [
        Message::Tag {
            repository: repository.clone(),
            tag: "v1".parse().unwrap(),
            digest: Some(digest(1)),
        },
        Message::Tag { repository: repository.clone(), tag: "v2".parse().unwrap(), digest: None },
        Message::ManifestAdded { repository: repository.clone(), digest: digest(2) },
        Message::ManifestDeleted { repository, digest: digest(3) },
        Message::ConfigChanged { name: "dock01".parse().unwrap() },
    ];
    let items = (300..).zip(messages).map(|(sequence, message)| Item { sequence, message });
    Batch {
        from: Cursor { epoch: 5, sequence: 299 },
        through: Cursor { epoch: 5, sequence: 310 },
        items: items.collect(),
    }
}

fn token(name: &str) -> Token {
    let verifier = Verifier {
        salt: [1; 16],
        hash: [2; 32],
        generation: 3,
        created: UnixSeconds(4),
        expires: Some(UnixSeconds(5)),
    };
    Token {
        name: name.parse().unwrap(),
        scope_map: "maps1".parse().unwrap(),
        enabled: true,
        created: UnixSeconds(6),
        passwords: [Some(verifier), None],
        generations: [3, 0],
    }
}

fn config() -> NodeConfig {
    let node = ConnectedRegistry {
        name: "dock01".parse().unwrap(),
        mode: Mode::ReadOnly,
        parent: None,
        sync_token: "sync1".parse().unwrap(),
        client_tokens: vec!["client1".parse().unwrap()],
        schedule: "0 12 * * *".parse().unwrap(),
        sync_window_s: Some(3600),
        message_ttl_s: 86_400,
        log_level: "Information".to_owned(),
        activation_epoch: 2,
        created: UnixSeconds(7),
    };
    NodeConfig {
        registry: "myregistry".to_owned(),
        node,
        sync_token: token("sync1"),
        client_tokens: vec![token("client1")],
        children: vec![],
        child_tokens: vec![],
        scope_maps: vec![ScopeMap {
            name: "maps1".parse().unwrap(),
            description: "d".to_owned(),
            grants: vec!["repositories/app/content/read".parse().unwrap()],
            created: UnixSeconds(8),
        }],
        descendants: vec![Descendant { name: "child1".parse().unwrap(), version: "ab".to_owned() }],
    }
}

fn listing() -> Listing {
    Listing {
        at: Cursor { epoch: 5, sequence: 6 },
        tags: vec![TagEntry { tag: "v1".parse().unwrap(), digest: digest(1) }],
        referrers: vec![digest(2)],
        next: Some("v1".parse().unwrap()),
    }
}

fn report() -> StatusReport {
    StatusReport {
        version: "1".to_owned(),
        login_server: "a".to_owned(),
        tls: true,
        state: ConnectionState::Unhealthy,
        details: vec![StatusDetail {
            kind: "Disk".to_owned(),
            code: "DiskError".to_owned(),
            description: "d".to_owned(),
            timestamp: UnixSeconds(1),
            correlation_id: "c".to_owned(),
        }],
        last_sync: Some(UnixSeconds(2)),
    }
}

/// The bytes of version 1: a node of an adjacent version sends and expects exactly these.
#[test]
fn f202_golden_bytes() {
    let key = |n: u8| format!("2101{}", hex(&[n; 32]));
    let expected = [
        // kind, length, epoch 5, sequences 299 and 310
        format!("0100{}05ab0205b602", "06000000"),
        format!("0200{}ac02036170700276 3101{}", "2c000000", key(1)),
        format!("0200{}ad0203617070 027632 00", "0a000000"),
        format!("0300{}ae0203617070{}", "28000000", key(2)),
        format!("0400{}af0203617070{}", "28000000", key(3)),
        format!("0500{}b00206646f636b3031", "09000000"),
    ];
    let expected = expected.concat().replace(' ', "");
    assert_eq!(hex(&encode_batch(V1, batch()).unwrap()), expected);

    let request = ActivationRequest {
        instance_id: "i".to_owned(),
        version: "1".to_owned(),
        login_server: "a:1".to_owned(),
        accepted_epoch: Some(4),
    };
    assert_eq!(hex(&request.write(V1).unwrap()), "12000a0000000169013103613a310104");
    let answer = ActivationAnswer { activation_epoch: 1, feed: Cursor { epoch: 5, sequence: 6 } };
    assert_eq!(hex(&answer.write(V1).unwrap()), "130003000000010506");
    let expected = format!("1100{}050601027631{}01{}01027631", "4f000000", key(1), key(2));
    assert_eq!(hex(&listing().write(V1).unwrap()), expected);
    let expected = "140020000000013101610103 01 044469736b 094469736b4572726f72 0164 01 0163 01 02";
    let got = hex(&report().write(V1).unwrap());
    assert_eq!(got[12..], expected.replace(' ', "")[12..]);
    let expected = concat!(
        "0a6d797265676973747279 06646f636b3031 00 00 0573796e6331 01 07636c69656e7431",
        " 0a30203132202a202a202a 01901c 80a305 0b496e666f726d6174696f6e 02 07",
        " 0573796e6331 056d61707331 01 06 01 01010101010101010101010101010101",
        " 0202020202020202020202020202020202020202020202020202020202020202",
        " 03 04 0105 00 03 00",
        " 01 07636c69656e7431 056d61707331 01 06 01 01010101010101010101010101010101",
        " 0202020202020202020202020202020202020202020202020202020202020202",
        " 03 04 0105 00 03 00 00 00",
        " 01 056d61707331 0164 01 1d7265706f7369746f726965",
        "732f6170702f636f6e74656e742f72656164 08",
        " 01 066368696c6431 026162",
    );
    assert_eq!(hex(&config().write(V1).unwrap())[12..], expected.replace(' ', ""));
}

/// What people and their scripts read, and scripts write.
#[test]
fn golden_json() {
    let digest = |n: u8| format!("sha256:{}", hex(&[n; 32]));
    let items = [
        format!(
            r#"300,"message":{{"Tag":{{"repository":"app","tag":"v1","digest":"{}"}}}}"#,
            digest(1)
        ),
        r#"301,"message":{"Tag":{"repository":"app","tag":"v2","digest":null}}"#.to_owned(),
        format!(
            r#"302,"message":{{"ManifestAdded":{{"repository":"app","digest":"{}"}}}}"#,
            digest(2)
        ),
        format!(
            r#"303,"message":{{"ManifestDeleted":{{"repository":"app","digest":"{}"}}}}"#,
            digest(3)
        ),
        r#"304,"message":{"ConfigChanged":{"name":"dock01"}}"#.to_owned(),
    ];
    let items = items.map(|item| format!(r#"{{"sequence":{item}}}"#)).join(",");
    let ends = r#""from":{"epoch":5,"sequence":299},"through":{"epoch":5,"sequence":310}"#;
    let written = encode_batch(Format::Json, batch()).unwrap();
    let expected = format!(r#"{{{ends},"items":[{items}]}}"#);
    assert_eq!(String::from_utf8(written).unwrap(), expected);
    let token = |name: &str| {
        format!(
            concat!(
                r#"{{"name":"{}","scope_map":"maps1","enabled":true,"created":6,"#,
                r#""passwords":[{{"salt":{:?},"hash":{:?},"generation":3,"created":4,"#,
                r#""expires":5}},null],"generations":[3,0]}}"#,
            ),
            name, [1; 16], [2; 32]
        )
    };
    let expected = [
        r#"{"registry":"myregistry","node":{"name":"dock01","mode":"ReadOnly","parent":null,"#,
        r#""sync_token":"sync1","client_tokens":["client1"],"schedule":"0 12 * * *","#,
        r#""sync_window_s":3600,"message_ttl_s":86400,"log_level":"Information","#,
        r#""activation_epoch":2,"created":7},"sync_token":"#,
        &token("sync1").replace(", ", ","),
        r#","client_tokens":["#,
        &token("client1").replace(", ", ","),
        r#"],"children":[],"child_tokens":[],"scope_maps":[{"name":"maps1","description":"d","#,
        r#""grants":["repositories/app/content/read"],"created":8}],"#,
        r#""descendants":[{"name":"child1","version":"ab"}]}"#,
    ];
    let written = config().write(Format::Json).unwrap();
    assert_eq!(String::from_utf8(written).unwrap(), expected.concat());
}

/// A node between a root and others computes the versions that the root computed.
#[test]
fn f202_the_bytes_under_a_version_stay() {
    let bytes = versioned_bytes(config()).1.unwrap();
    assert_eq!(bytes, config().write(V1).unwrap()[6..]);
}

#[test]
fn messages_round_trip() {
    for format in [V1, Format::V2, Format::Json] {
        let received = decode_batch(format, &encode_batch(format, batch()).unwrap()).unwrap();
        assert_eq!(received, batch().into());
        let read = NodeConfig::read(format, &config().write(format).unwrap()).unwrap();
        assert!(read == config());
        for (len, is_read) in [(255, true), (256, false)] {
            let long = NodeConfig { registry: "r".repeat(len), ..config() };
            let written = long.write(format).unwrap();
            assert_eq!(NodeConfig::read(format, &written).is_ok(), is_read, "{len}");
        }
        assert_eq!(Listing::read(format, &listing().write(format).unwrap()), Ok(listing()));
        let manifests = Manifests { digests: listing().referrers };
        let written = manifests.clone().write(format).unwrap();
        assert_eq!(Manifests::read(format, &written), Ok(manifests));
        // As a parent answers that does not know the question.
        assert!(Manifests::read(format, &listing().write(format).unwrap()).is_err());
        assert_eq!(StatusReport::read(format, &report().write(format).unwrap()), Ok(report()));
    }
}

#[test]
fn f202_what_a_newer_version_adds_is_skipped() {
    let mut bytes = encode_batch(V1, batch()).unwrap();
    append(&mut bytes, Kind::Tag, &("longer", 1u8)).unwrap();
    let end = bytes.len();
    // The last envelope gets a kind of the future.
    bytes[end - 14..end - 12].copy_from_slice(&999u16.to_le_bytes());
    let received = decode_batch(V1, &bytes).unwrap();
    assert_eq!(received, Received { unknown: true, ..batch().into() });

    #[derive(Serialize)]
    struct Longer(u64, Cursor, u64);
    let feed = Cursor::default();
    let answer = ActivationAnswer { activation_epoch: 1, feed };
    let mut bytes = Vec::new();
    append(&mut bytes, Kind::ActivationAnswer, &Longer(1, feed, 7)).unwrap();
    assert_eq!(ActivationAnswer::read(V1, &bytes), Ok(answer));
}

#[test]
fn what_is_cut_short_is_refused() {
    let bytes = encode_batch(V1, batch()).unwrap();
    for len in 0..bytes.len() {
        match decode_batch(V1, &bytes[..len]) {
            Err(_) => {}
            // Cut between two envelopes: what is there is whole.
            Ok(received) => assert!(received.batch.items.len() < batch().items.len()),
        }
    }
    assert!(NodeConfig::read(V1, &[]).is_err());
    assert!(NodeConfig::read(V1, &[16, 0, 255, 255, 255, 255, 1]).is_err());
}
