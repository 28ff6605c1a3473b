//! `skerry config ...`: what is configured, and by whom.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::output::{self, Format};
use super::{EXIT_CONFIG, Failure, Global, admin_client, serve};
use crate::config::{self, Loaded, MemoryPlan, Source, SystemSource};
use crate::types::Role;

/// The verbs.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Say what `serve` would fail on, exit 78 then; also beside the running service
    Check {
        /// The profile of another board: only the files are looked at, not this machine
        #[arg(long, value_name = "FILE")]
        board: Option<PathBuf>,
    },
    /// Print every value and where it comes from, secrets redacted
    Explain,
}

/// Runs a verb.
pub(super) fn run(verb: &Verb, global: &Global) -> Result<ExitCode, Failure> {
    let mut options = global.options();
    if let Verb::Check { board } = verb {
        options.board.clone_from(board);
    }
    let loaded = config::load(&options, &SystemSource)?;
    let waits = match verb {
        Verb::Check { board: None } => try_here(&loaded, global)?,
        Verb::Check { .. } | Verb::Explain => Vec::new(),
    };
    let as_json = global.output == Some(Format::Json);
    let text = match verb {
        Verb::Check { .. } => check(&loaded),
        Verb::Explain if as_json => explain_json(&loaded),
        Verb::Explain => explain_text(&loaded),
    };
    output::print(&text)?;
    for warning in loaded.warnings.iter().chain(&loaded.unmanaged_state_dir()).chain(&waits) {
        output::complain(&format!("warning: {warning}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Tries on this machine what `serve` would try; returns what it would wait for.
fn try_here(loaded: &Loaded, global: &Global) -> Result<Vec<String>, Failure> {
    serve::check_parent(loaded)?;
    let given = global.admin_socket.as_deref();
    let socket = admin_client::socket(given, &global.options(), &SystemSource)?;
    let candidate = Candidate::of(global.config.as_deref());
    let again = || {
        let read = config::load(&global.options(), &candidate)?;
        Ok((read.config, candidate.doubt().into_iter().collect()))
    };
    crate::app::check(&loaded.config, admin_client::answers(&socket), &again)
        .map_err(|message| Failure { code: EXIT_CONFIG, message })
}

/// This machine, with the file of `--config` as it could be read at first: whoever else is to read
/// it may get it in another place.
struct Candidate {
    file: Option<(PathBuf, String)>,
}

impl Candidate {
    fn of(file: Option<&Path>) -> Candidate {
        let file =
            file.and_then(|path| Some((path.to_owned(), SystemSource.read(path).ok().flatten()?)));
        Candidate { file }
    }

    /// Why this thread cannot read the file.
    fn doubt(&self) -> Option<String> {
        let (path, _) = self.file.as_ref()?;
        let error = SystemSource.read(path).err()?;
        Some(format!(
            "{}: the user of the service cannot read it from here: {error}",
            path.display()
        ))
    }
}

impl Source for Candidate {
    fn read(&self, path: &Path) -> io::Result<Option<String>> {
        match &self.file {
            Some((file, text)) if file == path => Ok(Some(text.clone())),
            _ => SystemSource.read(path),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        SystemSource.list(dir)
    }

    fn mode(&self, path: &Path) -> Option<u32> {
        SystemSource.mode(path)
    }

    fn variables(&self) -> BTreeMap<String, String> {
        SystemSource.variables()
    }
}

fn check(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let role = match config.named_role() {
        Some(Role::Root) => "root",
        Some(Role::Connected) => "connected registry",
        None => "root, or what the store is,",
    };
    let listeners: Vec<String> =
        config.listen.login.iter().map(|listener| listener.address.to_string()).collect();
    let plan = MemoryPlan::of(config);
    format!(
        "ok: {role} on {}, state in {}, up to {} MiB and {} threads at full load\n",
        listeners.join(", "),
        config.storage.state_dir.display(),
        plan.total().div_ceil(1 << 20),
        MemoryPlan::threads(config),
    )
}

fn explain_text(loaded: &Loaded) -> String {
    let explained = config::explain(loaded);
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "(not set)".to_owned());
    let width = explained.iter().map(|e| e.key.len() + shown(&e.value).len()).max().unwrap_or(0);
    // One very long value must not push all origins out of sight.
    let width = width.min(60);
    let line = |entry: &config::Explained| {
        let setting = format!("{} = {}", entry.key, shown(&entry.value));
        let note = entry.note.map(|note| format!("; {note}")).unwrap_or_default();
        format!("{setting:<width$}  # {}{note}\n", entry.origin, width = width + 3)
    };
    explained.iter().map(line).collect()
}

fn explain_json(loaded: &Loaded) -> String {
    let entries: Vec<_> = config::explain(loaded)
        .into_iter()
        .map(|e| json!({ "key": e.key, "value": e.value, "origin": e.origin.to_string() }))
        .collect();
    format!("{:#}\n", serde_json::Value::from(entries))
}
