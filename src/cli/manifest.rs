//! `skerry manifest ...`: the manifests of a repository.

use std::process::ExitCode;

use clap::Subcommand;

use super::image::{Image, Order};
use super::output::{self, View};
use super::{Failure, Global};
use crate::types::RepositoryName;

/// The verbs.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// List the manifests of a repository with their tags and sizes
    ListMetadata {
        /// Name of the repository
        #[arg(short, long)]
        name: RepositoryName,
        /// By the time of the push; else by digest
        #[arg(long)]
        orderby: Option<Order>,
        /// At most so many
        #[arg(long)]
        top: Option<usize>,
    },
    /// Show a manifest
    ShowMetadata {
        /// Name of an image: `repository:tag` or `repository@digest`
        #[arg(short, long)]
        name: Image,
    },
    /// Delete a manifest with all its tags
    Delete {
        /// Name of an image: `repository:tag` or `repository@digest`
        #[arg(short, long)]
        name: Image,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

impl Verb {
    /// Carries the verb out.
    pub(super) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let content = global.content()?;
        let (view, value) = match self {
            Verb::ListMetadata { name, orderby, top } => {
                let path = format!("{name}/_manifests");
                let manifests = content.list(&path, "manifests", *orderby, *top)?;
                (View::Manifests, manifests.into())
            }
            Verb::ShowMetadata { name } => (View::Object, content.manifest(name)?),
            Verb::Delete { name, yes } => {
                content.delete_image(name, *yes)?;
                return Ok(ExitCode::SUCCESS);
            }
        };
        output::answer(view, value, global.output)?;
        Ok(ExitCode::SUCCESS)
    }
}
