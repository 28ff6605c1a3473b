//! What is known of a manifest that is being fetched. It waits in memory until its turn to be
//! completed comes, so it has no manifest in it: those are read again from their files.

use std::collections::{BTreeMap, BTreeSet};

use super::error::SyncError;
use crate::store::Wanted;
use crate::store::content::leases::Lease;
use crate::types::limits::CLOSURE_BYTES_MAX;
use crate::types::{Digest, Manifest};

/// An entry of an ordered set or map takes this many times its own size at most: a node has room
/// for more entries than it has.
const TREE_FACTOR: usize = 2;

/// A manifest and what is missing of it here. Its manifests are stored, but not yet visible.
pub(super) struct Closure {
    pub(super) root: Digest,
    /// [`Store::deletions`](crate::store::Store::deletions) before the parent was asked for it.
    pub(super) since: u64,
    /// What it is fetched for, unless a tag shall name it.
    pub(super) wanted: Wanted,
    /// Children before their parents, so the root is last; empty when all is here.
    pub(super) manifests: Vec<Part>,
    /// Blobs to link, with their lengths; of those not in the store the bytes are missing.
    pub(super) blobs: BTreeMap<Digest, u64>,
    /// What is to be transferred, bytes.
    pub(super) missing_bytes: u64,
    /// The largest blob of which something is missing, with its length.
    pub(super) largest: Option<(u64, Digest)>,
    /// Manifests that were looked at, or are to be.
    pub(super) seen: BTreeSet<Digest>,
    /// Those of them that an index there needs and the parent has deleted.
    pub(super) deleted: BTreeSet<Digest>,
}

/// A manifest of a closure, by its bytes in the store.
pub(super) struct Part {
    pub(super) content: Lease,
    pub(super) media_type: String,
    pub(super) bytes_len: u64,
}

impl Closure {
    /// Nothing is known yet.
    pub(super) fn new(root: &Digest, since: u64) -> Closure {
        Closure {
            root: root.clone(),
            since,
            wanted: Wanted::Told,
            manifests: Vec::new(),
            blobs: BTreeMap::new(),
            missing_bytes: 0,
            largest: None,
            seen: BTreeSet::new(),
            deleted: BTreeSet::new(),
        }
    }

    /// The most memory that this may take, bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let digests = self.seen.len() + self.deleted.len();
        let in_trees =
            self.blobs.len() * size_of::<(Digest, u64)>() + digests * size_of::<Digest>();
        let parts = self.manifests.iter().map(|part| size_of::<Part>() + part.media_type.len());
        in_trees * TREE_FACTOR + parts.sum::<usize>()
    }

    /// `Content` when it takes more memory than one tag may.
    pub(super) fn check_size(&self) -> Result<(), SyncError> {
        if self.held_bytes() <= CLOSURE_BYTES_MAX {
            return Ok(());
        }
        Err(SyncError::Content(format!(
            "{} names too many manifests and blobs for one tag ({} and {} so far): push it in \
             several",
            self.root,
            self.manifests.len(),
            self.blobs.len()
        )))
    }
}

/// A manifest and all that it names, whether it is here or not.
pub(super) fn names<'a>(
    digest: &'a Digest,
    parsed: &'a Manifest,
) -> impl Iterator<Item = Digest> + 'a {
    let named = parsed.required_blobs().chain(parsed.required_manifests());
    let named = named.chain(parsed.optional()).map(|named| &named.digest);
    named.chain([digest]).cloned()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::fetch::Fetcher;
    use super::*;
    use crate::gateway::UpstreamError;
    use crate::gateway::upstream::testing::{Content, parent_of};
    use crate::store::replica::node::testing::connected;
    use crate::types::digest::Algorithm;
    use crate::types::media;

    fn digest(number: usize) -> Digest {
        let mut raw = [0; 32];
        raw[..8].copy_from_slice(&number.to_be_bytes());
        Digest::from_raw(Algorithm::Sha256, &raw).unwrap()
    }

    #[test]
    fn f209_what_is_known_of_one_tag_is_bounded_in_bytes() {
        let mut closure = Closure::new(&digest(0), 0);
        let most = CLOSURE_BYTES_MAX / (size_of::<(Digest, u64)>() * TREE_FACTOR);
        closure.blobs.extend((0..most).map(|number| (digest(number), 1)));
        assert_eq!(closure.check_size(), Ok(()));
        closure.seen.extend([digest(1), digest(2)]);
        let Err(SyncError::Content(text)) = closure.check_size() else { panic!("no error") };
        assert!(text.contains(&format!("(0 and {most} so far)")), "{text}");
    }

    fn digest_of(text: &str) -> Digest {
        let raw = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        Digest::from_raw(Algorithm::Sha256, raw.as_ref()).unwrap()
    }

    /// An index of images that name one blob again and again, and that blob.
    fn index_of_large_images(images: usize, layers: usize) -> (Digest, Content) {
        let mut content = Content::new();
        let mut add = |media_type, text: String| {
            let digest = digest_of(&text);
            let entry = format!(
                r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#,
                text.len()
            );
            content.insert(digest.to_string(), (media_type, text.into_bytes()));
            (digest, entry)
        };
        let (_, layer) = add("a/b", "{}".to_owned());
        let all = vec![layer.clone(); layers].join(",");
        let images: Vec<String> = (0..images)
            .map(|n| {
                let text =
                    format!(r#"{{"schemaVersion":2,"x":{n},"config":{layer},"layers":[{all}]}}"#);
                add(media::OCI_MANIFEST, text).1
            })
            .collect();
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, images.join(","));
        (add(media::OCI_INDEX, index).0, content)
    }

    async fn fetcher_of(content: Content) -> (Fetcher, Arc<Mutex<Vec<String>>>) {
        let (upstream, asked) = parent_of(content);
        let (store, upstream) = (connected().await, Arc::new(upstream));
        (Fetcher { store, upstream, strikes: Arc::default(), lacking: Arc::default() }, asked)
    }

    #[test]
    fn f209_images_that_wait_to_be_completed_are_not_in_memory() {
        smol::block_on(async {
            let (root, content) = index_of_large_images(20, 1000);
            let app = "app".parse().unwrap();
            let (fetcher, _) = fetcher_of(content).await;
            let store = &fetcher.store;
            let layer = store.blob_put(&digest_of("{}"), b"{}".to_vec()).await.unwrap();
            store.link_blob(&app, &layer, 2).await.unwrap();
            let closure = fetcher.resolve(&app, &root).await.unwrap();
            assert_eq!((closure.manifests.len(), closure.blobs.len()), (21, 0));
            let held = closure.held_bytes();
            assert!(held < 32 * 1024, "{held}");
            let tag = "v1".parse().unwrap();
            assert_eq!(fetcher.complete(&app, closure, Some((&tag, None))).await, Ok(true));
            assert_eq!(fetcher.store.tag(&app, &tag).unwrap(), Some(root));
        });
    }

    #[test]
    fn f204_manifests_that_came_before_an_attempt_was_broken_off_are_not_fetched_again() {
        smol::block_on(async {
            let (root, content) = index_of_large_images(3, 1);
            let app = "app".parse().unwrap();
            let (fetcher, asked) = fetcher_of(content).await;
            for _ in 0..2 {
                drop(fetcher.resolve(&app, &root).await.unwrap());
            }
            let asked = asked.lock().unwrap().clone();
            let count = |method| asked.iter().filter(|line| line.starts_with(method)).count();
            assert_eq!((count("GET"), count("HEAD")), (4, 4), "{asked:?}");
            // The parent has deleted it since.
            let nothing = Arc::new(parent_of(Content::new()).0);
            let fetcher = Fetcher { upstream: nothing, ..fetcher };
            let gone = fetcher.resolve(&app, &root).await.err();
            assert!(matches!(gone, Some(SyncError::Upstream(UpstreamError::NotFound(_)))));
        });
    }
}
