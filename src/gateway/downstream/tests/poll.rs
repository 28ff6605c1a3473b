//! Polls of a child.

use super::*;
use crate::gateway::wire::decode_batch;
use crate::http::ReplyBody;
use crate::store::rows::{self, Kind};

/// It is read on to its end within one poll: the child would ask for each part of it.
#[test]
fn f116_f209_a_backlog_without_news_is_passed_in_one_poll() {
    smol::block_on(async {
        let (store, gateway, authorization) = root().await;
        activate(&store).await;
        let from = store.head();
        for _ in 0..4 {
            let removed = (0..BATCH_BYTES / 100).map(|number| format!("{number:0100}"));
            let keys = removed.map(|name| rows::key(Kind::Inbox, &[name.as_bytes()]));
            let keys: Vec<_> = keys.collect();
            let removal = store.commit(move |txn| keys.into_iter().try_for_each(|k| txn.delete(k)));
            removal.await.unwrap();
        }
        let mut request = request(Method::Get, "/gateway/v1/dock01/messages");
        request.query =
            vec![("after".to_owned(), from.to_string()), ("wait".to_owned(), "1".to_owned())];
        request.host = Some("reg.example:5001".to_owned());
        for (name, value) in
            [("authorization", &*authorization), (INSTANCE, "one"), ("accept", "application/json")]
        {
            request.headers.push((name.to_owned(), value.to_owned()));
        }
        let ReplyBody::Bytes(bytes) = gateway.answer(&mut request).await.unwrap().body else {
            panic!("it is small");
        };
        let batch = decode_batch(Format::Json, &bytes).unwrap().batch;
        assert_eq!((batch.from, batch.through, batch.items.len()), (from, store.head(), 0));
    });
}
