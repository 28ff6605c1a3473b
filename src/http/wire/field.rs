//! Fields of a head that goes out.

use std::borrow::Cow;

/// What may stand in a header value; anything else becomes a question mark, so that no value
/// can end its line.
pub(in crate::http) fn visible(value: &str) -> Cow<'_, str> {
    if value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(value);
    }
    let keep = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    Cow::Owned(value.chars().map(keep).collect())
}

/// Replaces the line of a field, found by its name between line ends in the head.
pub(in crate::http) fn replace_field(buffer: &mut Vec<u8>, name: &[u8], line: &str) {
    let head = find(buffer, b"\r\n\r\n").map_or(buffer.len(), |at| at + 2);
    let Some(at) = find(&buffer[..head], name) else { return };
    let start = at + 2;
    let Some(len) = find(&buffer[start..head], b"\r\n") else { return };
    buffer.splice(start..start + len + 2, line.bytes());
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_cannot_end_their_line() {
        assert_eq!(visible("a\r\nb: \u{e9}\0~"), "a??b: ??~");
    }
}
