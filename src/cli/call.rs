//! One call of the admin interface, ready to be sent.

use serde_json::{Map, Value};

use super::output::View;

/// `POST /admin/v1/<path>` with a JSON object; absent flags are absent fields.
pub(super) struct Call {
    /// `noun/verb`.
    pub(super) path: &'static str,
    /// Fields, named like the long flags in camel case.
    pub(super) body: Map<String, Value>,
    /// How the answer is printed for people.
    pub(super) view: View,
    /// What to ask before the call.
    pub(super) question: Option<String>,
}

impl Call {
    pub(super) fn new(path: &'static str, view: View) -> Call {
        Call { path, body: Map::new(), view, question: None }
    }

    /// A call about one resource.
    pub(super) fn named(path: &'static str, view: View, name: &str) -> Call {
        Call::new(path, view).field("name", Some(name))
    }

    /// A field, if it has a value.
    pub(super) fn field(mut self, key: &str, value: Option<impl Into<Value>>) -> Call {
        if let Some(value) = value {
            self.body.insert(key.to_owned(), value.into());
        }
        self
    }

    /// A list, if it is not empty.
    pub(super) fn list<T: Clone + Into<Value>>(self, key: &str, items: &[T]) -> Call {
        let list = (!items.is_empty()).then(|| items.to_vec());
        self.field(key, list)
    }

    /// A flag, if it is given.
    pub(super) fn flag(self, key: &str, given: bool) -> Call {
        self.field(key, given.then_some(true))
    }

    /// What to ask first, unless `--yes` answers it.
    pub(super) fn ask(mut self, yes: bool, question: String) -> Call {
        self.question = (!yes).then_some(question);
        self
    }
}
