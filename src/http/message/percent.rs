//! Percent-encoding (RFC 3986 section 2.1) and forms (WHATWG URL, section 5.1), read strictly.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Decodes once; `+` means a space in queries. `None` when a `%` is not followed by two hex
/// digits or the result is not UTF-8.
pub(in crate::http) fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    // The crate leaves a `%` as it is that begins no escape.
    let begins_escape = |rest: &str| {
        rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(begins_escape) {
        return None;
    }
    let text = if plus_is_space { Cow::from(text.replace('+', " ")) } else { text.into() };
    percent_decode_str(&text).decode_utf8().ok().map(Cow::into_owned)
}

/// The names and values of a query or a form, in order; `None` for one that [`decode`] refuses.
pub fn form_fields(text: &str) -> impl Iterator<Item = Option<(String, String)>> {
    text.split('&').filter(|field| !field.is_empty()).map(|field| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        Some((decode(name, true)?, decode(value, true)?))
    })
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn decodes_once() {
        assert_eq!(decode("a%2Fb+%25", false).as_deref(), Some("a/b+%"));
        assert_eq!(decode("a+b%2B%2525", true).as_deref(), Some("a b+%25"));
        assert_eq!(decode("%C3%a4\u{e4}", true).as_deref(), Some("\u{e4}\u{e4}"));
        for bad in ["%", "%4", "%g0", "%+1", "%ff", "%c3", "%%41", "a%4", "%4\u{e4}", "%c3\u{e4}"] {
            assert_eq!(decode(bad, true), None, "{bad}");
        }
    }
}
