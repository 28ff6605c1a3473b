//! `Range` of a blob that is read and `Content-Range` of a chunk that is pushed.

/// What a `Range` header asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// All of it: no range, one in another unit, or several, which a server may ignore.
    All,
    /// These bytes.
    Part {
        /// First byte.
        offset: u64,
        /// How many, at least one.
        len: u64,
    },
    /// Bytes that there are not, or a malformed range: 416.
    Unsatisfiable,
}

/// Reads a `Range` header against content of `len` bytes (RFC 9110, section 14.1.2).
pub fn wanted(header: Option<&str>, len: u64) -> Wanted {
    let Some((unit, spec)) = header.and_then(|text| text.trim().split_once('=')) else {
        return Wanted::All;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || spec.contains(',') {
        return Wanted::All;
    }
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Wanted::Unsatisfiable;
    };
    let (first, last) = match (first, last) {
        ("", suffix) => match up_to(suffix) {
            Some(suffix) if suffix > 0 => (len.saturating_sub(suffix), len.saturating_sub(1)),
            _ => return Wanted::Unsatisfiable,
        },
        (first, "") => match number(first) {
            Some(first) => (first, len.saturating_sub(1)),
            None => return Wanted::Unsatisfiable,
        },
        (first, last) => match (number(first), up_to(last)) {
            (Some(first), Some(last)) => (first, last.min(len.saturating_sub(1))),
            _ => return Wanted::Unsatisfiable,
        },
    };
    if first >= len || last < first {
        return Wanted::Unsatisfiable;
    }
    Wanted::Part { offset: first, len: last - first + 1 }
}

/// The place of a chunk in its upload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// First byte.
    pub first: u64,
    /// How many.
    pub len: u64,
}

/// Reads the `Content-Range` of a chunk: `<first>-<last>`, both inclusive (OCI distribution-spec,
/// "Pushing a blob in chunks"). The form of RFC 9110, `bytes <first>-<last>/<total or *>`, is
/// taken too. `None`: malformed.
pub fn chunk(header: &str) -> Option<Chunk> {
    let text = header.trim();
    let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let len = last.checked_sub(first)?.checked_add(1)?;
    Some(Chunk { first, len })
}

/// What an upload that holds `offset` bytes says of itself: `0-<last byte>`. An empty one has no
/// last byte; `0-0` is what clients expect of it.
pub fn progress(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

/// Digits only: `parse` would take a sign.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The end of a range, which may lie anywhere beyond that of the content.
fn up_to(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // Only what is too large is no number then.
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f149_ranges() {
        let part = |offset, len| Wanted::Part { offset, len };
        for (header, len, expected) in [
            (None, 10, Wanted::All),
            (Some("bytes=0-9"), 10, part(0, 10)),
            (Some("bytes=0-"), 10, part(0, 10)),
            (Some("bytes=3-5"), 10, part(3, 3)),
            (Some("bytes=3-3"), 10, part(3, 1)),
            (Some("Bytes=3-99"), 10, part(3, 7)),
            (Some(" bytes = 3-5 "), 10, part(3, 3)),
            (Some("bytes=-3"), 10, part(7, 3)),
            (Some("bytes=-99"), 10, part(0, 10)),
            (Some("bytes=3-18446744073709551616"), 10, part(3, 7)),
            (Some("bytes=-18446744073709551616"), 10, part(0, 10)),
            (Some("bytes=18446744073709551616-"), 10, Wanted::Unsatisfiable),
            (Some("bytes=3-18446744073709551616x"), 10, Wanted::Unsatisfiable),
            (Some("bytes=-1"), u64::MAX, part(u64::MAX - 1, 1)),
            (Some("bytes=10-"), 10, Wanted::Unsatisfiable),
            (Some("bytes=10-12"), 10, Wanted::Unsatisfiable),
            (Some("bytes=5-3"), 10, Wanted::Unsatisfiable),
            (Some("bytes=-0"), 10, Wanted::Unsatisfiable),
            (Some("bytes=0-"), 0, Wanted::Unsatisfiable),
            (Some("bytes=-1"), 0, Wanted::Unsatisfiable),
            (Some("bytes="), 10, Wanted::Unsatisfiable),
            (Some("bytes=-"), 10, Wanted::Unsatisfiable),
            (Some("bytes=a-b"), 10, Wanted::Unsatisfiable),
            (Some("bytes=+1-2"), 10, Wanted::Unsatisfiable),
            (Some("bytes=1-2-3"), 10, Wanted::Unsatisfiable),
            (Some("bytes=99999999999999999999-"), 10, Wanted::Unsatisfiable),
            (Some("bytes=0-18446744073709551615"), 10, part(0, 10)),
            (Some("bytes=0-1,3-4"), 10, Wanted::All),
            (Some("lines=0-1"), 10, Wanted::All),
            (Some("bytes"), 10, Wanted::All),
            (Some(""), 10, Wanted::All),
        ] {
            assert_eq!(wanted(header, len), expected, "{header:?}");
        }
    }

    #[test]
    fn f152_chunks() {
        let good = |first, len| Some(Chunk { first, len });
        for (header, expected) in [
            ("0-9", good(0, 10)),
            ("10-10", good(10, 1)),
            ("bytes 5-9/20", good(5, 5)),
            ("bytes=5-9", good(5, 5)),
            ("5-9/*", good(5, 5)),
            ("9-5", None),
            ("0-18446744073709551615", None),
            ("-5", None),
            ("5-", None),
            ("", None),
            ("5", None),
            ("a-b", None),
            ("-1--1", None),
            ("0x1-2", None),
        ] {
            assert_eq!(chunk(header), expected, "{header}");
        }
        assert_eq!(progress(0), "0-0");
        assert_eq!(progress(1), "0-0");
        assert_eq!(progress(10), "0-9");
    }

    #[test]
    fn a_part_always_lies_inside() {
        let alphabet = b"bytes=0123456789-, ";
        let mut seed = 7u64;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            usize::try_from(seed >> 33).unwrap() % below
        };
        for _ in 0..50_000 {
            let mut text = String::from("bytes=");
            for _ in 0..next(12) {
                text.push(char::from(alphabet[next(alphabet.len())]));
            }
            let len = next(2000) as u64;
            if let Wanted::Part { offset, len: part } = wanted(Some(&text), len) {
                assert!(part > 0 && offset + part <= len, "{text} of {len}");
            }
            let _ = chunk(&text);
        }
    }
}
