//! `skerry serve`

use std::process::ExitCode;
use std::sync::Arc;

use super::{EXIT_CONFIG, Failure, Global};
use crate::config::{self, ParentKind, SystemSource};

/// Loads the configuration, starts the log, runs the node.
pub(super) fn serve(global: &Global) -> Result<ExitCode, Failure> {
    let loaded = config::load(&global.options(), &SystemSource)?;
    let is_oci = loaded.config.parent.as_ref().is_some_and(|p| p.kind == ParentKind::Oci);
    if is_oci {
        let origin = loaded.origin("parent.kind");
        let message =
            format!("{origin}: parent.kind: kind = \"oci\" is not available in this version");
        return Err(Failure { code: EXIT_CONFIG, message });
    }
    crate::sys::log::init(loaded.config.log.level);
    for warning in &loaded.warnings {
        log::warn!("configuration: {warning}");
    }
    let options = global.options();
    let reread = move || config::load(&options, &SystemSource).map(|loaded| loaded.config);
    Ok(crate::app::serve(loaded.config, Arc::new(reread)))
}
