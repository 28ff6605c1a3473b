//! The audit: who changed what, and who was refused a change.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::{Error, Kind, Manage};
use crate::types::deed::Deed;
use crate::types::limits::REFUSED_DEEDS_MAX;

/// A change that somebody asked for.
#[derive(Clone)]
pub struct Entry {
    /// Who asked for what.
    pub deed: Deed,
    /// Why it was refused; `None`: it was made.
    pub refused: Option<Kind>,
}

/// The last changes that were refused since the start. They are nowhere else but in the log:
/// somebody who may do nothing must not make this node write.
#[derive(Default)]
pub(super) struct Refused(Mutex<VecDeque<Entry>>);

impl Refused {
    pub(super) fn note(&self, deed: Deed, error: &Error) {
        let Deed { actor, action, subject, .. } = &deed;
        log::info!("refused: {action} subject={subject} actor=\"{actor}\": {error}");
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REFUSED_DEEDS_MAX {
            all.pop_front();
        }
        all.push_back(Entry { deed, refused: Some(error.kind) });
    }
}

impl Manage {
    /// The last changes that were made, and the last that were refused since the start, in the
    /// order of their time.
    pub async fn audit(&self) -> Result<Vec<Entry>, Error> {
        let done = self.store.deeds().await?;
        let refused = self.refused.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut refused = refused.into_iter().peekable();
        let mut all = Vec::new();
        // Those that were done keep their order, whatever the clock did.
        for deed in done {
            while let Some(earlier) = refused.next_if(|refused| refused.deed.at < deed.at) {
                all.push(earlier);
            }
            all.push(Entry { deed, refused: None });
        }
        all.extend(refused);
        Ok(all)
    }
}
