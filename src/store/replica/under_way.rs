//! What holds a garbage collection back on a node with a parent: the sync has fetched what nothing
//! refers to yet.

use crate::store::{Store, StoreError};
use crate::types::connected_registry::ParentContact;

/// What of the sync is not done yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum UnderWay {
    /// A comparison with the parent is due or under way.
    Comparison,
    /// Messages from the parent wait.
    Messages,
    /// Content was missing when the process before this one ended, and only a comparison finds out
    /// what that was. Once that is done the engine keeps what it has fetched of each item, so that
    /// one that can never be had holds nothing else back.
    Debts,
}

impl Store {
    /// Why the sync holds a collection back, and until when; for people.
    pub fn why_it_waits_for_sync(&self) -> Result<String, StoreError> {
        let what = match self.under_way()? {
            Some(UnderWay::Comparison) => "everything here is to be compared with the parent",
            Some(UnderWay::Debts) => {
                "content was missing when this node stopped, and is to be asked for at the parent"
            }
            Some(UnderWay::Messages) | None => {
                "messages from the parent are not worked through yet"
            }
        };
        let until = match self.sync_view().contact {
            ParentContact::InContact => "try again when that is done",
            ParentContact::Connecting => {
                "the parent has not answered yet: try again when it has and that is done"
            }
            ParentContact::WaitingForWindow => "that goes on when the next sync window opens",
            ParentContact::OutOfContact => {
                "that goes on when the parent, which is out of contact, is back: see status"
            }
            ParentContact::NoConnectionString => {
                "that goes on when there is a connection string: see status"
            }
        };
        Ok(format!(
            "Nothing was removed, and the figures are those of a dry run: {what}, and what was \
             fetched may not be referred to before; {until}."
        ))
    }

    /// Whether the sync has fetched what nothing refers to yet, or may have.
    pub(in crate::store) fn sync_under_way(&self) -> Result<bool, StoreError> {
        Ok(self.self_node()?.is_some() && self.under_way()?.is_some())
    }

    fn under_way(&self) -> Result<Option<UnderWay>, StoreError> {
        Ok(if self.reconcile_due()? {
            Some(UnderWay::Comparison)
        } else if !self.inbox(1)?.is_empty() {
            Some(UnderWay::Messages)
        } else {
            self.sync_view().any_incomplete.then_some(UnderWay::Debts)
        })
    }
}
