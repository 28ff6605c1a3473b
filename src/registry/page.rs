//! Pages of listings: `n`, `last` and the `Link` to the next one (OCI distribution-spec, "Listing
//! Tags"; RFC 8288).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::malformed;
use crate::http::Request;
use crate::types::Refusal;
use crate::types::limits::PAGE_MAX;

/// What is percent-encoded in a value of the query of a link.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/').remove(b':');

/// Which page of a listing is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Page {
    /// At most this many entries.
    pub(super) limit: usize,
    /// Entries greater than this.
    pub(super) after: Option<String>,
}

impl Page {
    /// Reads `n` and `last`. More than [`PAGE_MAX`] is cut; what is no number is refused.
    pub(super) fn of(request: &Request) -> Result<Page, Refusal> {
        let limit = match request.query("n") {
            None | Some("") => PAGE_MAX,
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map_or(PAGE_MAX, |n: usize| n.min(PAGE_MAX))
            }
            Some(_) => return Err(malformed("UNSUPPORTED", "n is no number of entries")),
        };
        let after = request.query("last").filter(|last| !last.is_empty()).map(str::to_owned);
        Ok(Page { limit, after })
    }
}

/// The value of a `Link` header to the page after `last`. Values are percent-encoded.
pub(super) fn next_link(path: &str, query: &[(&str, &str)]) -> String {
    let mut link = format!("<{path}");
    for (number, (name, value)) in query.iter().enumerate() {
        link.push(if number == 0 { '?' } else { '&' });
        link.push_str(name);
        link.push('=');
        link.extend(utf8_percent_encode(value, ENCODED));
    }
    link.push_str(">; rel=\"next\"");
    link
}

#[cfg(test)]
mod tests {
    use super::super::conditional::testing::request;
    use super::*;
    use crate::http::Method;

    #[test]
    fn pages() {
        let page = |query: &[(&str, &str)]| {
            let mut request = request(Method::Get, &[]);
            let query = query.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
            request.query = query.collect();
            Page::of(&request)
        };
        let expected =
            |limit, after: Option<&str>| Ok(Page { limit, after: after.map(str::to_owned) });
        assert_eq!(page(&[]), expected(PAGE_MAX, None));
        assert_eq!(page(&[("n", "0")]), expected(0, None));
        assert_eq!(page(&[("n", "7"), ("last", "a")]), expected(7, Some("a")));
        assert_eq!(page(&[("n", "1001")]), expected(PAGE_MAX, None));
        assert_eq!(page(&[("n", "99999999999999999999999")]), expected(PAGE_MAX, None));
        assert_eq!(page(&[("n", ""), ("last", "")]), expected(PAGE_MAX, None));
        for bad in ["-1", "x", "1.5", "+1"] {
            assert_eq!(page(&[("n", bad)]).unwrap_err().status, 400, "{bad}");
        }
        assert_eq!(
            next_link("/v2/_catalog", &[("n", "2"), ("last", "a/b"), ("t", "x+y&z\r\n")]),
            "</v2/_catalog?n=2&last=a/b&t=x%2By%26z%0D%0A>; rel=\"next\""
        );
    }
}
