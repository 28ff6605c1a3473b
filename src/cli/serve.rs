//! `skerry serve`

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use super::{EXIT_CONFIG, Failure, Global};
use crate::config::{self, Loaded, ParentKind, SystemSource};

/// Loads the configuration, starts the log, runs the node.
pub(super) fn serve(global: &Global) -> Result<ExitCode, Failure> {
    let loaded = config::load(&global.options(), &SystemSource)?;
    check_parent(&loaded)?;
    crate::sys::log::init(loaded.config.log.level);
    let warn = |warning: &String| log::warn!("configuration: {warning}");
    loaded.warnings.iter().for_each(warn);
    let (options, told) = (global.options(), Mutex::new(loaded.warnings));
    // What has come since is read again and again; each warning is logged once.
    let reread = move || {
        let Loaded { config, warnings, .. } = config::load(&options, &SystemSource)?;
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.iter().filter(|warning| !told.contains(warning)).for_each(warn);
        *told = warnings;
        Ok(config)
    };
    Ok(crate::app::serve(loaded.config, Arc::new(reread)))
}

/// Refuses a kind of parent that this version does not have.
pub(super) fn check_parent(loaded: &Loaded) -> Result<(), Failure> {
    if loaded.config.parent.as_ref().is_none_or(|parent| parent.kind != ParentKind::Oci) {
        return Ok(());
    }
    let origin = loaded.origin("parent.kind");
    let message = format!("{origin}: parent.kind: kind = \"oci\" is not available in this version");
    Err(Failure { code: EXIT_CONFIG, message })
}
