//! Tells a broken link from content that breaks it: a transfer that ends at the same byte again
//! and again, while the parent answers everything else, is a fault of this content.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::error::SyncError;
use crate::gateway::UpstreamError;
use crate::types::Digest;

/// Transfers in a row that end without one more byte before the content is at fault.
const STRIKES: u32 = 3;

/// Content that is remembered. Over it: all is forgotten, and found out again.
const STRIKES_MAX: usize = 256;

/// How far the transfers that broke off have come.
#[derive(Default)]
pub(super) struct Strikes(Mutex<BTreeMap<Digest, Strike>>);

struct Strike {
    offset: u64,
    times: u32,
}

impl Strikes {
    /// The result of a transfer that has come as far as `offset`.
    pub(super) fn judge<T>(
        &self,
        digest: &Digest,
        offset: u64,
        result: Result<T, SyncError>,
    ) -> Result<T, SyncError> {
        // A panic elsewhere leaves whole entries behind.
        let mut strikes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(value) => {
                strikes.remove(digest);
                Ok(value)
            }
            Err(SyncError::Upstream(
                error @ (UpstreamError::Unreachable(_)
                | UpstreamError::Protocol(_)
                | UpstreamError::NoGateway(_)),
            )) => {
                if strikes.len() >= STRIKES_MAX && !strikes.contains_key(digest) {
                    strikes.clear();
                }
                let strike = strikes.entry(digest.clone()).or_insert(Strike { offset, times: 0 });
                let stands = offset <= strike.offset;
                strike.times = if stands { strike.times.saturating_add(1) } else { 1 };
                strike.offset = strike.offset.max(offset);
                if strike.times < STRIKES {
                    return Err(error.into());
                }
                let text = format!("the parent breaks off {digest} at byte {offset} each time");
                Err(SyncError::Content(format!("{text}: {error}")))
            }
            Err(other) => Err(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::digest::Algorithm;

    #[test]
    fn f204_only_what_stops_at_the_same_byte_each_time_is_at_fault() {
        let strikes = Strikes::default();
        let digest = Digest::from_raw(Algorithm::Sha256, &[1; 32]).unwrap();
        let cut = |offset| {
            let error = UpstreamError::Unreachable("cut".to_owned());
            let judged = strikes.judge::<()>(&digest, offset, Err(error.into()));
            judged.unwrap_err().is_of_item()
        };
        // Each goes a little further: the link.
        assert_eq!([10, 20, 30, 40, 50].map(cut), [false; 5]);
        assert_eq!([50, 50].map(cut), [false, true]);
        assert!(cut(50), "and it stays so");
        assert!(!cut(51));
        assert!(strikes.judge(&digest, 60, Ok(())).is_ok());
        assert_eq!([0, 0, 0].map(cut), [false, false, true]);
        let other = SyncError::from(UpstreamError::Unauthorized("no".to_owned()));
        assert_eq!(strikes.judge::<()>(&digest, 0, Err(other.clone())), Err(other));
    }
}
