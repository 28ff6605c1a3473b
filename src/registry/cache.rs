//! Manifests in memory: the same few are asked for again and again. Content is immutable, so an
//! entry is never stale; whether a repository still holds the manifest is asked elsewhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::types::Digest;

/// A bounded cache; the least recently used entries go first.
pub(super) struct Cache {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clock: u64,
    bytes: usize,
    entries: BTreeMap<Digest, (u64, Arc<[u8]>)>,
}

impl Cache {
    /// An empty cache of at most `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize) -> Cache {
        Cache { bytes_max, state: Mutex::default() }
    }

    /// Looks content up.
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        let mut state = self.state.lock().ok()?;
        state.clock += 1;
        let now = state.clock;
        let (used, bytes) = state.entries.get_mut(digest)?;
        *used = now;
        Some(bytes.clone())
    }

    /// Keeps content, unless it is so large that it would push out most of the rest.
    pub(super) fn put(&self, digest: &Digest, bytes: &[u8]) {
        if bytes.len() > self.bytes_max / 4 {
            return;
        }
        let Ok(mut state) = self.state.lock() else {
            return;
        };
        state.clock += 1;
        let entry = (state.clock, Arc::from(bytes));
        if state.entries.insert(digest.clone(), entry).is_none() {
            state.bytes += bytes.len();
        }
        while state.bytes > self.bytes_max {
            let oldest = state.entries.iter().min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = oldest.map(|(digest, _)| digest.clone()) else {
                return;
            };
            if let Some((_, gone)) = state.entries.remove(&oldest) {
                state.bytes -= gone.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::digest::Algorithm;

    #[test]
    fn the_bound_holds_and_the_oldest_go() {
        let digest = |n: u8| Digest::from_raw(Algorithm::Sha256, &[n; 32]).unwrap();
        let cache = Cache::new(100);
        for number in 0..4 {
            cache.put(&digest(number), &[number; 25]);
        }
        cache.put(&digest(3), &[3; 25]);
        assert!(cache.get(&digest(0)).is_some());
        cache.put(&digest(4), &[4; 25]);
        assert!(cache.get(&digest(1)).is_none());
        assert_eq!(cache.get(&digest(0)).as_deref(), Some([0; 25].as_slice()));
        cache.put(&digest(5), &[5; 26]);
        assert!(cache.get(&digest(5)).is_none());
        assert!(cache.state.lock().unwrap().bytes <= 100);
    }
}
