//! `skerry state ...`: what the state directory belongs to.

use std::path::Path;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::{Failure, Global, admin_client, output};
use crate::app::offline;
use crate::config::SystemSource;
use crate::types::Role;

/// The verbs.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Make the state directory that of a node of another role; the node must be stopped. Take a
    /// backup first: content stays, and a ReadWrite connected registry offers its new parent what
    /// that lacks, but deletions that have not reached the former parent are dropped, and a
    /// ReadOnly connected registry holds afterwards what its new parent has
    Adopt {
        /// What the node is to be
        #[arg(long)]
        role: RoleArgument,
        /// There is a backup: do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Give up what follows damage of the journal that keeps the node from starting, and keep what
    /// is before it; the node must be stopped. Restore a backup instead if there is one, or copy
    /// the state directory first
    CutJournal {
        /// The loss is accepted: do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Agree to what `status` names in lostRecords, so that the running node collects garbage
    /// again, also what only lost records named
    AcceptLoss {
        /// Do not ask
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
    match verb {
        Verb::Adopt { role: RoleArgument::Root, yes } => {
            adopt(&global.state_dir()?, Role::Root, *yes)
        }
        Verb::Adopt { role: RoleArgument::Connected, yes } => {
            adopt(&global.state_dir()?, Role::Connected, *yes)
        }
        Verb::CutJournal { yes } => cut_journal(&global.state_dir()?, *yes),
        Verb::AcceptLoss { yes } => accept_loss(*yes, global),
    }
}

fn adopt(state_dir: &Path, role: Role, yes: bool) -> Result<ExitCode, Failure> {
    // What keeps it from being opened is told when it is to be changed.
    let waiting = match offline::waiting(state_dir).unwrap_or_default() {
        0 => String::new(),
        count => unsent(count, role),
    };
    let question = format!(
        "The state directory {} becomes that of a {} node, which cannot be undone without a \
         backup.{waiting} Is there a backup, and shall it be done?",
        state_dir.display(),
        role.name()
    );
    if !yes && !output::confirm(&question)? {
        return Err(Failure::new("nothing was changed"));
    }
    let (former, is_other) = offline::adopt(state_dir, role).map_err(Failure::new)?;
    if !is_other {
        output::print(&format!(
            "{} is {former} already; nothing was changed\n",
            state_dir.display()
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let next = match role {
        Role::Root => "set registry.role = \"root\" and remove [parent] before the next start",
        Role::Connected => {
            "set registry.role = \"connected\", where it is \"root\", before the next start, and \
             give it the connection string before or after that"
        }
    };
    output::print(&format!(
        "{} was {former} and is {} now; {next}\n",
        state_dir.display(),
        role.name()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What becomes of changes that have not reached the former parent.
fn unsent(count: usize, role: Role) -> String {
    let more = if count < offline::WAITING_MAX { "" } else { " or more" };
    let then = match role {
        Role::Root => "they stay here and do not go up any more",
        Role::Connected => {
            "what was pushed is offered to the new parent if this is a ReadWrite connected \
             registry there, and goes if it is a ReadOnly one; what was deleted comes back if that \
             parent has it"
        }
    };
    format!(" Changes that have not reached its parent: {count}{more}; {then}.")
}

fn cut_journal(state_dir: &Path, yes: bool) -> Result<ExitCode, Failure> {
    let question = format!(
        "What the journal in {} has after the damage is lost for good. Shall it be cut off?",
        state_dir.display()
    );
    if !yes && !output::confirm(&question)? {
        return Err(Failure::new("nothing was changed"));
    }
    let (recovery, is_lost) = offline::cut_journal(state_dir).map_err(Failure::new)?;
    let next = match is_lost {
        true => format!("start the node; {}\n", offline::LOSS_REMEDY),
        false => String::new(),
    };
    output::print(&format!("{}\n{next}", recovery.damage.join("\n")))?;
    Ok(ExitCode::SUCCESS)
}

fn accept_loss(yes: bool, global: &Global) -> Result<ExitCode, Failure> {
    let socket =
        admin_client::socket(global.admin_socket.as_deref(), &global.options(), &SystemSource)?;
    let question = "Content that only lost records named becomes garbage and is removed. What was \
                    good before is good again: earlier passwords, disabled tokens, withdrawn \
                    permissions. Has what is missing been pushed and changed again, or can it be \
                    spared?";
    if !yes && !output::confirm(question)? {
        return Err(Failure::new("nothing was changed"));
    }
    let answer = admin_client::post(&socket, "accept-loss", &json!({}))?;
    let loss = answer["accepted"].as_str().unwrap_or_default();
    output::print(&format!("agreed to: {loss}\n"))?;
    Ok(ExitCode::SUCCESS)
}
