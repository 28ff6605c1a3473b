//! `skerry scope-map ...`: what tokens may do.

use clap::Subcommand;

use super::call::Call;
use super::named::Named;
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
        #[command(flatten)]
        named: Named,
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
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        changes: Changes,
        /// For people, at most 256 characters
        #[arg(long)]
        description: Option<String>,
    },
    /// Show a scope map
    Show {
        #[command(flatten)]
        named: Named,
    },
    /// List all scope maps
    List,
    /// Delete a scope map
    Delete {
        #[command(flatten)]
        named: Named,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

impl Verb {
    /// The call that the verb makes.
    pub(super) fn call(&self) -> Call {
        match self {
            Verb::Create { named, grants, description } => {
                Call::named("scope-map/create", View::Object, named.name())
                    .list("repository", &grants.repository)
                    .list("gateway", &grants.gateway)
                    .field("description", description.clone())
            }
            Verb::Update { named, changes, description } => {
                Call::named("scope-map/update", View::Object, named.name())
                    .field("description", description.clone())
                    .list("addRepository", &changes.add_repository)
                    .list("removeRepository", &changes.remove_repository)
                    .list("addGateway", &changes.add_gateway)
                    .list("removeGateway", &changes.remove_gateway)
            }
            Verb::Show { named } => Call::named("scope-map/show", View::Object, named.name()),
            Verb::List => Call::new("scope-map/list", View::ScopeMaps),
            Verb::Delete { named, yes } => {
                Call::named("scope-map/delete", View::Object, named.name())
                    .ask(*yes, format!("Delete the scope map '{}'?", named.name()))
            }
        }
    }
}
