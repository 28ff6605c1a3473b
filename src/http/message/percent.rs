//! Percent-decoding (RFC 3986 section 2.1).

/// Decodes once; `+` means a space in queries. `None` when a `%` is not followed by two hex
/// digits or the result is not UTF-8.
pub(in crate::http) fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn decodes_once() {
        assert_eq!(decode("a%2Fb+%25", false).as_deref(), Some("a/b+%"));
        assert_eq!(decode("a+b", true).as_deref(), Some("a b"));
        for bad in ["%", "%4", "%g0", "%+1", "%ff", "%c3"] {
            assert_eq!(decode(bad, true), None, "{bad}");
        }
    }
}
