//! `skerry state ...`: what the state directory belongs to.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use super::{Failure, Global, output};
use crate::app::offline;
use crate::config::{self, SystemSource};
use crate::types::Role;

/// The verbs.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Make the state directory that of a node of another role; the node must be stopped. Take a
    /// backup first: changes that have not reached the former parent are dropped, and a connected
    /// registry holds afterwards what its new parent has
    Adopt {
        /// What the node is to be
        #[arg(long)]
        role: RoleArgument,
        /// There is a backup: do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// `--role`.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum RoleArgument {
    /// The root of a tree of its own, with the tokens and children that the parent sent
    Root,
    /// A connected registry that waits for its connection string
    Connected,
}

/// Runs a verb.
pub(super) fn run(verb: &Verb, global: &Global) -> Result<ExitCode, Failure> {
    let Verb::Adopt { role, yes } = verb;
    let role = match role {
        RoleArgument::Root => Role::Root,
        RoleArgument::Connected => Role::Connected,
    };
    let state_dir = config::load(&global.options(), &SystemSource)?.config.storage.state_dir;
    let question = format!(
        "The state directory {} becomes that of a {} node, which cannot be undone without a \
         backup. Is there a backup, and shall it be done?",
        state_dir.display(),
        role.name()
    );
    if !yes && !output::confirm(&question)? {
        return Err(Failure::new("nothing was changed"));
    }
    let former = offline::adopt(&state_dir, role).map_err(Failure::new)?;
    let next = match role {
        Role::Root => "set registry.role = \"root\" and remove [parent] before the next start",
        Role::Connected => "give it the connection string before or after the next start",
    };
    output::print(&format!(
        "{} was {former} and is {} now; {next}\n",
        state_dir.display(),
        role.name()
    ))?;
    Ok(ExitCode::SUCCESS)
}
