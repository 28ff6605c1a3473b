//! `skerry gc`

use super::call::Call;
use super::output::View;

/// The call that the verb makes.
pub(super) fn call(dry_run: bool) -> Call {
    Call::new("gc", View::Object).flag("dryRun", dry_run)
}
