//! `skerry scope-map ...`: what tokens may do.

use clap::Subcommand;

use super::call::Call;
use super::output::View;
use super::rules::rules;

rules!(
    /// What a new scope map, or a new token's own one, grants.
    Grants { repository: "repository", gateway: "gateway" }
);

rules!(
    /// What an update adds and removes.
    Changes {
        add_repository: "add-repository",
        remove_repository: "remove-repository",
        add_gateway: "add-gateway",
        remove_gateway: "remove-gateway",
    }
);

/// The verbs.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Create a scope map
    Create {
        /// Name of the scope map
        #[arg(short, long)]
        name: String,
        #[command(flatten)]
        grants: Grants,
        /// For people, at most 256 characters
        #[arg(long)]
        description: Option<String>,
    },
    /// Add or remove actions, or change the description. What is added to the scope map of a
    /// connected registry is added to those of its ancestors too, and what is removed is removed
    /// from those of its descendants, which do not get it back when it is added again; the answer
    /// names each
    Update {
        /// Name of the scope map
        #[arg(short, long)]
        name: String,
        #[command(flatten)]
        changes: Changes,
        /// For people, at most 256 characters
        #[arg(long)]
        description: Option<String>,
    },
    /// Show a scope map
    Show {
        /// Name of the scope map
        #[arg(short, long)]
        name: String,
    },
    /// List all scope maps
    List,
    /// Delete a scope map
    Delete {
        /// Name of the scope map
        #[arg(short, long)]
        name: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

impl Verb {
    /// The call that the verb makes.
    pub(super) fn call(&self) -> Call {
        match self {
            Verb::Create { name, grants, description } => {
                Call::named("scope-map/create", View::Object, name)
                    .list("repository", &grants.repository)
                    .list("gateway", &grants.gateway)
                    .field("description", description.clone())
            }
            Verb::Update { name, changes, description } => {
                Call::named("scope-map/update", View::Object, name)
                    .field("description", description.clone())
                    .list("addRepository", &changes.add_repository)
                    .list("removeRepository", &changes.remove_repository)
                    .list("addGateway", &changes.add_gateway)
                    .list("removeGateway", &changes.remove_gateway)
            }
            Verb::Show { name } => Call::named("scope-map/show", View::Object, name),
            Verb::List => Call::new("scope-map/list", View::ScopeMaps),
            Verb::Delete { name, yes } => Call::named("scope-map/delete", View::Object, name)
                .ask(*yes, format!("Delete the scope map '{name}'?")),
        }
    }
}
