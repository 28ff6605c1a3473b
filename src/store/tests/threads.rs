//! What uploads take of the threads for work that blocks: all of the node waits for the same few.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::types::limits::BLOCKING_THREADS;

fn repository() -> RepositoryName {
    "library/alpine".parse().unwrap()
}

fn is_of_an_upload(path: &Path) -> bool {
    path.starts_with("/s/uploads") && path.extension().is_none()
}

/// Each upload that was written had a thread of its own, up to 500 of them.
#[test]
fn f211_uploads_at_once_take_no_more_threads_than_there_are() {
    const UPLOADS: usize = 40;
    block_on(async {
        let disk = MemoryDisk::new();
        let (store, _) = open_memory(&disk).unwrap();
        let mut uploads = Vec::new();
        for _ in 0..UPLOADS {
            uploads.push(store.upload_start(&repository(), "").await.unwrap());
        }
        let (running, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let (highest, (open, gate)) = (most.clone(), smol::channel::bounded::<()>(1));
        disk.watch(move |what, path, _| {
            if what == "write" && is_of_an_upload(path) {
                highest.fetch_max(1 + running.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                let _ = gate.recv_blocking();
                running.fetch_sub(1, Ordering::SeqCst);
            }
        });
        for (number, upload) in uploads.iter_mut().enumerate() {
            let piece = vec![u8::try_from(number).unwrap(); upload.memory_bytes() / 2];
            upload.write(&piece).await.unwrap();
            // Whoever gives its upload up while it is written leaves the thread to nobody else.
            (0..1000).for_each(|_| std::thread::yield_now());
        }
        drop(open);
        for upload in uploads {
            upload.pause().await.unwrap();
        }
        let most = most.load(Ordering::SeqCst);
        assert!((1..=BLOCKING_THREADS).contains(&most), "{most} jobs at once");
    });
}
