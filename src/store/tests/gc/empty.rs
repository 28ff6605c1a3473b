//! Repositories that hold nothing any more.

use super::*;
use crate::store::Txn;
use crate::store::registry::repositories::forget_if_empty;

/// Symptom: of each repository that was emptied the name stayed for ever, at new devices too.
#[test]
fn f141_a_repository_that_holds_nothing_is_forgotten_and_may_come_again() {
    let bench = Bench::new();
    let store = &bench.store;
    let known = || -> Vec<String> {
        store.repositories(None, 9).unwrap().iter().map(RepositoryName::to_string).collect()
    };
    let layers = ["app", "begun", "kept"].map(|name| blob(store, name, name.as_bytes()));
    let deleted = image(store, "app", &layers[..1], &["v1"]).unwrap();
    image(store, "kept", &layers[2..], &["v1"]).unwrap();
    delete(store, "app", &deleted);
    bench.gc();
    assert_eq!(known(), ["app", "begun", "kept"], "what nobody needs waits for the grace");
    bench.gc_twice();
    assert_eq!(known(), ["kept"]);
    let again = blob(store, "app", b"again");
    let pushed = image(store, "app", &[again], &["v2"]).unwrap();
    bench.gc_twice();
    assert_eq!(known(), ["app", "kept"]);
    assert!(store.manifest(&name("app"), &pushed).unwrap().is_some());
}

/// A push may come between the look and the command.
#[test]
fn f206_a_repository_that_is_pushed_to_again_is_not_forgotten() {
    let bench = Bench::new();
    let store = &bench.store;
    let (app, layer) = (name("app"), blob(store, "app", b"layer"));
    let forget = |app: RepositoryName| {
        let forget = move |txn: &mut Txn<'_>| forget_if_empty(txn, &app);
        block_on(store.commit(forget)).unwrap()
    };
    assert!(!forget(app.clone()), "it holds a blob");
    block_on(store.unlink_blob(&app, &layer)).unwrap();
    assert!(forget(app.clone()));
    assert_eq!(store.repository(&app), Ok(None));
}
