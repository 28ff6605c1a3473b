//! `skerry repository ...`: what is in the repositories of a node.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::image::{Image, Order};
use super::output::{self, View};
use super::{Failure, Global};
use crate::types::{Reference, RepositoryName};

/// A repository, or one image of it.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// Name of the repository
    #[arg(long)]
    repository: Option<RepositoryName>,
    /// Name of an image: `repository:tag` or `repository@digest`
    #[arg(short = 't', long)]
    image: Option<Image>,
}

/// What is taken because `az acr repository` has it.
#[derive(Args)]
pub(super) struct Node {
    /// Ignored: a node manages exactly one registry
    #[arg(short, long, hide = true)]
    name: Option<String>,
}

/// The verbs.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// List the repositories that hold something
    List {
        #[command(flatten)]
        node: Node,
        /// At most so many
        #[arg(long)]
        top: Option<usize>,
    },
    /// Show how much is in a repository, or what is known of an image
    Show {
        #[command(flatten)]
        node: Node,
        #[command(flatten)]
        which: Which,
    },
    /// List the tags of a repository
    ShowTags {
        #[command(flatten)]
        node: Node,
        /// Name of the repository
        #[arg(long)]
        repository: RepositoryName,
        /// Also what they name, and since when
        #[arg(long)]
        detail: bool,
        /// By the time of the last change; else by name
        #[arg(long)]
        orderby: Option<Order>,
        /// At most so many
        #[arg(long)]
        top: Option<usize>,
    },
    /// Remove a tag; what it names stays, unless gc.untagged_manifests lets it go
    Untag {
        #[command(flatten)]
        node: Node,
        /// `repository:tag`
        #[arg(short = 't', long)]
        image: Image,
    },
    /// Delete an image with all its tags, or all that a repository holds
    Delete {
        #[command(flatten)]
        node: Node,
        #[command(flatten)]
        which: Which,
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
            Verb::List { node: _, top } => {
                let names = content.list("_catalog", "repositories", None, *top)?;
                (View::Repositories, names.into())
            }
            Verb::Show { which: Which { repository: Some(name), .. }, .. } => {
                (View::Object, content.get(name.as_str())?)
            }
            Verb::Show { which, .. } => (View::Object, content.image(which.image()?)?),
            Verb::ShowTags { repository, detail, orderby, top, .. } => {
                let tags = content.list(&format!("{repository}/_tags"), "tags", *orderby, *top)?;
                match detail {
                    true => (View::Tags, tags.into()),
                    false => {
                        let names = tags.into_iter().map(|mut tag| tag["name"].take());
                        (View::TagNames, Value::Array(names.collect()))
                    }
                }
            }
            Verb::Untag { image, .. } => {
                let Reference::Tag(tag) = &image.reference else {
                    return Err(Failure::usage(
                        "--image names the tag to remove: 'repository:tag'",
                    ));
                };
                content.untag(&image.repository, tag)?;
                (View::Object, Value::Null)
            }
            Verb::Delete { which, yes, .. } => {
                match &which.repository {
                    Some(name) => content.delete_repository(name, *yes)?,
                    None => content.delete_image(which.image()?, *yes)?,
                }
                (View::Object, Value::Null)
            }
        };
        output::answer(view, value, global.output)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Which {
    fn image(&self) -> Result<&Image, Failure> {
        self.image.as_ref().ok_or_else(|| Failure::usage("name a repository or an image"))
    }
}
