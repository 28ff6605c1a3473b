//! The second version.

use super::super::envelope::single;
use super::*;
use crate::types::limits::{CLIENT_TOKENS_MAX, PAGE_MAX, SCOPE_MAP_PERMISSIONS_MAX, TAG_MAX};

const V2: Format = Format::V2;

/// An envelope in hexadecimal digits.
fn envelope(kind: u16, body: &str) -> String {
    let body = body.replace(' ', "");
    let len = u32::try_from(body.len() / 2).unwrap();
    format!("{}{}{body}", hex(&kind.to_le_bytes()), hex(&len.to_le_bytes()))
}

fn bytes(envelopes: &[String]) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(envelopes.concat().as_bytes()).unwrap()
}

fn config_envelopes() -> Vec<String> {
    let token = |name: &str| {
        let (salt, hash) = ("01".repeat(16), "02".repeat(32));
        format!("{name} 056d61707331 01 06 01 34 {salt}{hash} 03 04 0105 00 03 00")
    };
    let node = "06646f636b3031 08526561644f6e6c79 00 0573796e6331 01 07636c69656e7431 \
                0a30203132202a202a202a 80a305 0b496e666f726d6174696f6e 02 07 01901c";
    let grant = "1d7265706f7369746f726965732f6170702f636f6e74656e742f72656164";
    vec![
        envelope(32, "05 0a6d797265676973747279"),
        envelope(33, node),
        envelope(34, &token("0573796e6331")),
        envelope(35, &token("07636c69656e7431")),
        envelope(38, &format!("056d61707331 01{grant} 08 0164")),
        envelope(39, "066368696c6431 026162"),
    ]
}

fn listing_envelopes() -> Vec<String> {
    let key = |n: u8| format!("2101{}", hex(&[n; 32]));
    vec![
        envelope(48, "02 05 06 01027631"),
        envelope(49, &format!("027631{}", key(1))),
        envelope(50, &key(2)),
    ]
}

fn report_envelopes() -> Vec<String> {
    vec![
        envelope(56, "01 0131 0161 01 09556e6865616c746879 0102"),
        envelope(57, "044469736b 094469736b4572726f72 0164 01 0163"),
    ]
}

/// The bytes of version 2. A field that comes later changes the end of an envelope; what was
/// written before is read for ever.
#[test]
fn f202_golden_bytes_of_version_2() {
    assert_eq!(config_envelopes()[0], "20000c000000050a6d797265676973747279");
    assert_eq!(hex(&config().write(V2).unwrap()), config_envelopes().concat());
    assert_eq!(hex(&listing().write(V2).unwrap()), listing_envelopes().concat());
    assert_eq!(hex(&report().write(V2).unwrap()), report_envelopes().concat());
    // Of children there is none in that state.
    let child = config().node;
    let with_child = NodeConfig {
        children: vec![child],
        child_tokens: vec![token("sync1")],
        client_tokens: vec![],
        ..config()
    };
    let mut envelopes = config_envelopes();
    envelopes[0] = envelope(32, "06 0a6d797265676973747279");
    envelopes[3] = envelopes[1].replacen("21", "24", 1);
    envelopes.insert(4, envelopes[2].replacen("22", "25", 1));
    assert_eq!(hex(&with_child.clone().write(V2).unwrap()), envelopes.concat());
    assert!(NodeConfig::read(V2, &bytes(&envelopes)).unwrap() == with_child);
}

/// These have an envelope for each item already, or no list.
#[test]
fn f202_batches_and_activations_are_the_same_in_both_versions() {
    assert_eq!(encode_batch(V2, batch()), encode_batch(V1, batch()));
    let request = ActivationRequest {
        instance_id: "i".to_owned(),
        version: "1".to_owned(),
        login_server: "a:1".to_owned(),
        accepted_epoch: None,
    };
    assert_eq!(request.clone().write(V2), request.clone().write(V1));
    let answer = ActivationAnswer { activation_epoch: 1, feed: Cursor::default() };
    assert_eq!(answer.clone().write(V2), answer.write(V1));
    // Without the last field.
    let short = bytes(&[envelope(18, "0169 0131 03613a31")]);
    assert_eq!(ActivationRequest::read(V2, &short), Ok(request));
}

/// Every envelope is longer than it is known here, and between any two comes one of a kind that is
/// not known here.
#[test]
fn f202_what_a_newer_version_adds_to_an_element_is_skipped() {
    let newer = |golden: Vec<String>| {
        let mut all = Vec::new();
        for (number, golden) in golden.iter().enumerate() {
            let kind =
                u16::from_le_bytes(bytes(std::slice::from_ref(golden))[..2].try_into().unwrap());
            let body = &golden[12..];
            // The head says how many elements there are.
            let body = match number {
                0 => format!("{:02x}{}", 2 * (golden_count(&golden[12..14])), &body[2..]),
                _ => body.to_owned(),
            };
            all.push(envelope(kind, &format!("{body} 03616263")));
            all.push(envelope(999, "ff"));
        }
        // As many as there are elements: the last one is behind them.
        bytes(&all)
    };
    assert!(NodeConfig::read(V2, &newer(config_envelopes())).unwrap() == config());
    assert_eq!(Listing::read(V2, &newer(listing_envelopes())), Ok(listing()));
    assert_eq!(StatusReport::read(V2, &newer(report_envelopes())), Ok(report()));
    // And so is what follows on a whole message, whatever it is.
    let mut longer = report().write(V2).unwrap();
    longer.extend([1, 2, 3]);
    assert_eq!(StatusReport::read(V2, &longer), Ok(report()));
}

fn golden_count(digits: &str) -> u8 {
    u8::from_str_radix(digits, 16).unwrap()
}

/// A password is a struct in the element of its token.
#[test]
fn f202_a_password_of_a_newer_version_has_a_longer_end() {
    let mut envelopes = config_envelopes();
    for envelope_of_token in &mut envelopes[2..4] {
        let kind = u16::from(bytes(std::slice::from_ref(envelope_of_token))[0]);
        let body = envelope_of_token[12..].replace("34010101", "36010101");
        let body = body.replace("03040105000300", "03040105aabb000300");
        *envelope_of_token = envelope(kind, &body);
    }
    assert!(NodeConfig::read(V2, &bytes(&envelopes)).unwrap() == config());
}

/// An older version does not write the fields that were appended later.
#[test]
fn f202_what_an_older_version_leaves_out_has_its_default() {
    let mut envelopes = config_envelopes();
    let node = envelopes[1][12..].strip_suffix("01901c").unwrap().to_owned();
    envelopes[1] = envelope(33, &node);
    let map = envelopes[4][12..].strip_suffix("0164").unwrap().to_owned();
    envelopes[4] = envelope(38, &map);
    let mut expected = config();
    expected.node.sync_window_s = None;
    expected.scope_maps[0].description = String::new();
    assert!(NodeConfig::read(V2, &bytes(&envelopes)).unwrap() == expected);
    let envelopes = [
        envelope(56, "01 0131 0161 01 09556e6865616c746879"),
        envelope(57, "044469736b 094469736b4572726f72 0164 01"),
    ];
    let mut expected = report();
    expected.last_sync = None;
    expected.details[0].correlation_id = String::new();
    assert_eq!(StatusReport::read(V2, &bytes(&envelopes)), Ok(expected));
    // A field that is cut in its midst is none that was left out, and some have no default: a
    // listing without its `next` would say that the tags of later pages are gone.
    envelopes_that_are_refused(&[envelope(56, "00 0131 0161 01 09556e6865616c746879 01")]);
    let refused = Listing::read(V2, &bytes(&[envelope(48, "00 05 06")]));
    assert!(refused.is_err(), "{refused:?}");
}

fn envelopes_that_are_refused(envelopes: &[String]) {
    let read = StatusReport::read(V2, &bytes(envelopes));
    assert!(read.is_err(), "{read:?}");
}

#[test]
fn f202_words_of_a_newer_version_do_what_they_can_here() {
    // A state: the instance is in contact.
    let head = |state: &str| {
        let state = format!("{:02x}{}", state.len(), hex(state.as_bytes()));
        bytes(&[envelope(56, &format!("00 0131 0161 01 {state} 00"))])
    };
    let state = |word| StatusReport::read(V2, &head(word)).unwrap().state;
    assert_eq!(state("Syncing"), ConnectionState::Syncing);
    assert_eq!(state("Hibernating"), ConnectionState::Offline);
    // A grant: it allows nothing; the others stand.
    let mut envelopes = config_envelopes();
    let fly = "repositories/app/fly/away";
    let known = &envelopes[4][26..];
    let map = format!("056d61707331 02 {:02x}{} {known}", fly.len(), hex(fly.as_bytes()));
    envelopes[4] = envelope(38, &map);
    assert!(NodeConfig::read(V2, &bytes(&envelopes)).unwrap() == config());
    // A mode: the node would serve what it must not.
    let mut envelopes = config_envelopes();
    envelopes[1] = envelope(33, &envelopes[1][12..].replace("08526561644f6e6c79", "0446617374"));
    let error = NodeConfig::read(V2, &bytes(&envelopes)).err().unwrap();
    assert!(error.to_string().contains("invalid mode 'Fast'"), "{error}");
    // That of a child: the others are served.
    let mut envelopes = config_envelopes();
    let child = envelopes[1][12..].replace("08526561644f6e6c79", "0446617374");
    envelopes[0] = envelope(32, "06 0a6d797265676973747279");
    envelopes.insert(4, envelope(36, &child));
    assert!(NodeConfig::read(V2, &bytes(&envelopes)).unwrap() == config());
}

#[test]
fn f202_a_divided_message_that_is_cut_short_is_refused() {
    let all = config().write(V2).unwrap();
    for len in 0..all.len() {
        assert!(NodeConfig::read(V2, &all[..len]).is_err(), "{len} of {}", all.len());
    }
    let all = listing().write(V2).unwrap();
    for len in 0..all.len() {
        assert!(Listing::read(V2, &all[..len]).is_err(), "{len} of {}", all.len());
    }
    // Each version is read as itself only.
    assert!(NodeConfig::read(V1, &config().write(V2).unwrap()).is_err());
    assert!(NodeConfig::read(V2, &config().write(V1).unwrap()).is_err());
    let no_node = bytes(&[envelope(32, "00 0a6d797265676973747279")]);
    assert!(NodeConfig::read(V2, &no_node).is_err());
    // A number of elements for which there is no room costs nothing.
    let many = single(Kind::Status, &(u32::MAX, "1", "a", true, "Online")).unwrap();
    assert!(StatusReport::read(V2, &many).is_err());
}

#[test]
fn f202_the_largest_messages_are_not_too_large() {
    let long = |number: usize| format!("{number:0200}");
    let map = |number: usize| ScopeMap {
        name: format!("map-{number}").parse().unwrap(),
        description: "d".repeat(256),
        grants: (0..SCOPE_MAP_PERMISSIONS_MAX)
            .map(|number| format!("repositories/{}/content/read", long(number)).parse().unwrap())
            .collect(),
        created: UnixSeconds(8),
    };
    let descendant = |number: usize| Descendant {
        name: format!("descendant{number:040}").parse().unwrap(),
        version: "f".repeat(64),
    };
    let config = NodeConfig {
        client_tokens: (0..CLIENT_TOKENS_MAX).map(|n| token(&format!("token-{n}"))).collect(),
        scope_maps: (0..=CLIENT_TOKENS_MAX).map(map).collect(),
        descendants: (0..10_000).map(descendant).collect(),
        ..config()
    };
    let digest = |number: usize| {
        let number = u64::try_from(number).unwrap().to_be_bytes();
        Digest::from_raw(Algorithm::Sha512, &[number; 8].concat()).unwrap()
    };
    let listing = Listing {
        tags: (0..PAGE_MAX)
            .map(|number| TagEntry {
                tag: format!("{number:0TAG_MAX$}").parse().unwrap(),
                digest: digest(number),
            })
            .collect(),
        referrers: (0..50_000).map(digest).collect(),
        ..listing()
    };
    for format in [V1, V2] {
        for len in [config.clone().write(format), listing.clone().write(format)]
            .map(|bytes| bytes.unwrap().len() as u64)
        {
            assert!(len < BODY_BYTES_MAX, "{format:?}: {len}");
        }
    }
    let read = NodeConfig::read(V2, &config.clone().write(V2).unwrap()).unwrap();
    assert!(read == config);
}

#[test]
fn f202_the_version_is_found_in_headers() {
    let (first, second) = (V1.content_type(), V2.content_type());
    for (accept, asked) in [
        (None, V1),
        (Some("*/*"), V1),
        (Some(first), V1),
        (Some(second), V2),
        (Some(&*Format::accepted()), V2),
        (Some(&*format!("{first},{second}; q=0.5")), V2),
        (Some(&*format!("{second}x")), V1),
        (Some("application/json"), Format::Json),
        (Some("text/html, application/json;q=0.9"), Format::Json),
    ] {
        assert_eq!(Format::asked(accept), asked, "{accept:?}");
    }
    for (content_type, expected) in [
        (None, V1),
        (Some("application/octet-stream"), V1),
        (Some(first), V1),
        (Some(second), V2),
        (Some("Application/vnd.Skerry.gateway.v2+postcard; x=y"), V2),
        (Some("application/json; charset=utf-8"), Format::Json),
    ] {
        assert_eq!(Format::of(content_type), expected, "{content_type:?}");
    }
}
