//! `skerry audit`

use super::call::Call;
use super::output::View;

/// The call that the verb makes.
pub(super) fn call() -> Call {
    Call::new("audit", View::Audit)
}
