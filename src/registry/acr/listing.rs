//! Which entries of a repository a listing shows: by name, or by the time of their last change.

use std::collections::BinaryHeap;

use crate::http::Request;
use crate::registry::error::malformed;
use crate::registry::page::{Page, next_link};
use crate::types::{Refusal, UnixSeconds};

/// In which order entries are listed (ACR, `orderby`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// By name.
    Name,
    /// What was changed first comes first.
    Oldest,
    /// What was changed last comes first.
    Newest,
}

/// A page of entries in some order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Listing {
    pub(super) order: Order,
    pub(super) limit: usize,
    /// Entries behind the one of this name.
    pub(super) after: Option<String>,
    /// When that was changed, as the link to this page says: it may have changed again since.
    at: Option<UnixSeconds>,
}

/// Where an entry stands in an order.
type Place = (u64, String);

/// An entry of a page: its name, and when it was changed.
pub(super) type Listed = (String, UnixSeconds);

impl Listing {
    /// Reads `n`, of which more than `limit` is cut, `last`, `orderby`, and `at` of our links.
    pub(super) fn of(request: &Request, limit: usize) -> Result<Listing, Refusal> {
        let Page { limit: asked, after } = Page::of(request)?;
        let order = match request.query("orderby") {
            None | Some("" | "none") => Order::Name,
            Some("timeasc") => Order::Oldest,
            Some("timedesc") => Order::Newest,
            Some(_) => {
                return Err(malformed("UNSUPPORTED", "orderby is neither timeasc nor timedesc"));
            }
        };
        let at = match request.query("at").map(str::parse) {
            None => None,
            Some(Ok(seconds)) => Some(UnixSeconds(seconds)),
            Some(Err(_)) => return Err(malformed("UNSUPPORTED", "at is no time")),
        };
        Ok(Listing { order, limit: asked.min(limit), after, at })
    }

    /// Where an entry stands.
    fn place(&self, name: &str, changed: UnixSeconds) -> Place {
        let time = match self.order {
            Order::Name => 0,
            Order::Oldest => changed.0,
            Order::Newest => u64::MAX - changed.0,
        };
        (time, name.to_owned())
    }

    /// Chooses the page among entries that come in any order. `changed` says when the entry was
    /// changed behind which it begins.
    pub(super) fn begin(
        &self,
        changed: impl FnOnce(&str) -> Option<UnixSeconds>,
    ) -> Result<Chosen, Refusal> {
        let behind = match &self.after {
            Some(name) if self.order == Order::Name => Some(self.place(name, UnixSeconds(0))),
            Some(name) => {
                let at = self.at.or_else(|| changed(name));
                let nothing = || malformed("UNSUPPORTED", "last names nothing that is here");
                Some(self.place(name, at.ok_or_else(nothing)?))
            }
            None => None,
        };
        Ok(Chosen { listing: self.clone(), behind, found: BinaryHeap::new() })
    }

    /// The link to the page behind an entry.
    pub(super) fn link(&self, path: &str, last: &str, changed: UnixSeconds) -> String {
        let (limit, at) = (self.limit.to_string(), changed.0.to_string());
        let mut query = vec![("n", limit.as_str()), ("last", last)];
        match self.order {
            Order::Name => {}
            Order::Oldest => query.extend([("orderby", "timeasc"), ("at", &at)]),
            Order::Newest => query.extend([("orderby", "timedesc"), ("at", &at)]),
        }
        next_link(path, &query)
    }
}

/// The first entries of a page, however many there are: no more are in memory than it shows.
pub(super) struct Chosen {
    listing: Listing,
    behind: Option<Place>,
    found: BinaryHeap<(Place, UnixSeconds)>,
}

impl Chosen {
    /// Looks at an entry.
    pub(super) fn look(&mut self, name: &str, changed: UnixSeconds) {
        let place = self.listing.place(name, changed);
        if self.behind.as_ref().is_some_and(|behind| place <= *behind) {
            return;
        }
        self.found.push((place, changed));
        if self.found.len() > self.listing.limit + 1 {
            self.found.pop();
        }
    }

    /// The entries of the page in their order, and whether more follow.
    pub(super) fn end(self) -> (Vec<Listed>, bool) {
        let limit = self.listing.limit;
        let found = self.found.into_sorted_vec();
        let more = found.len() > limit;
        let entry = |((_, name), changed)| (name, changed);
        (found.into_iter().take(limit).map(entry).collect(), more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: [(&str, u64); 5] = [("a", 5), ("b", 3), ("c", 5), ("d", 9), ("e", 1)];

    fn page(order: Order, limit: usize, after: Option<&str>) -> (String, bool) {
        let after = after.map(str::to_owned);
        let listing = Listing { order, limit, after, at: None };
        let changed = |name: &str| {
            let found = ENTRIES.iter().find(|(entry, _)| *entry == name);
            found.map(|(_, time)| UnixSeconds(*time))
        };
        let mut chosen = listing.begin(changed).unwrap();
        ENTRIES.iter().for_each(|(name, time)| chosen.look(name, UnixSeconds(*time)));
        let (entries, more) = chosen.end();
        (entries.into_iter().map(|(name, _)| name).collect(), more)
    }

    #[test]
    fn f185_pages_follow_each_other_in_every_order() {
        for (order, all) in
            [(Order::Name, "abcde"), (Order::Oldest, "ebacd"), (Order::Newest, "dacbe")]
        {
            assert_eq!(page(order, 9, None), (all.to_owned(), false));
            for limit in 1..=5 {
                let (mut seen, mut last) = (String::new(), None);
                loop {
                    let (names, more) = page(order, limit, last.as_deref());
                    last = names.chars().last().map(String::from);
                    seen.push_str(&names);
                    assert!(seen.len() <= all.len(), "{order:?} by {limit} does not end");
                    if !more {
                        break;
                    }
                    assert_eq!(names.len(), limit);
                }
                assert_eq!(seen, all, "{order:?} by {limit}");
            }
        }
        assert_eq!(page(Order::Name, 9, Some("bb")), ("cde".to_owned(), false));
        assert_eq!(page(Order::Name, 0, None), (String::new(), true));
        let gone = Listing { order: Order::Newest, limit: 1, after: Some("x".into()), at: None };
        assert_eq!(gone.begin(|_| None).err().map(|refusal| refusal.status), Some(400));
        let known = Listing { at: Some(UnixSeconds(5)), ..gone };
        assert!(known.begin(|_| None).is_ok(), "the link said when it was changed");
        let link = known.link("/acr/v1/app/_tags", "x", UnixSeconds(5));
        assert_eq!(link, "</acr/v1/app/_tags?n=1&last=x&orderby=timedesc&at=5>; rel=\"next\"");
    }
}
