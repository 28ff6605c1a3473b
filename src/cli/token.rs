//! `skerry token ...`: tokens and their passwords.

use clap::{Subcommand, ValueEnum};

use super::call::Call;
use super::named::Named;
use super::output::View;
use super::scope_map::Grants;

/// Whether a token may be used.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Status {
    /// It may.
    Enabled,
    /// It is refused here at once, and on each device as soon as that hears of it.
    Disabled,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Enabled => "enabled",
            Status::Disabled => "disabled",
        }
    }
}

/// The verbs.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Create a token; its passwords are printed once
    Create {
        #[command(flatten)]
        named: Named,
        /// An existing scope map; else --repository and --gateway make one
        #[arg(long)]
        scope_map: Option<String>,
        #[command(flatten)]
        grants: Grants,
        /// Whether it may be used
        #[arg(long, ignore_case = true)]
        status: Option<Status>,
        /// Make no passwords
        #[arg(long)]
        no_passwords: bool,
        /// Days until the passwords expire; else never
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        expiration_in_days: Option<u32>,
    },
    /// Enable or disable a token, or give it another scope map
    Update {
        #[command(flatten)]
        named: Named,
        /// Whether it may be used
        #[arg(long, ignore_case = true)]
        status: Option<Status>,
        /// Another scope map
        #[arg(long)]
        scope_map: Option<String>,
    },
    /// Show a token; never its passwords
    Show {
        #[command(flatten)]
        named: Named,
    },
    /// List all tokens
    List,
    /// Delete a token
    Delete {
        #[command(flatten)]
        named: Named,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Manage a token's passwords
    #[command(subcommand)]
    Credential(Credential),
}

/// The verbs about passwords.
#[derive(Subcommand)]
pub(super) enum Credential {
    /// Make new passwords and print them once; both unless one is named
    Generate {
        #[command(flatten)]
        named: Named,
        /// The first password
        #[arg(long)]
        password1: bool,
        /// The second password
        #[arg(long)]
        password2: bool,
        /// Days until they expire; else never
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        expiration_in_days: Option<u32>,
    },
    /// Delete passwords
    Delete {
        #[command(flatten)]
        named: Named,
        /// The first password
        #[arg(long)]
        password1: bool,
        /// The second password
        #[arg(long)]
        password2: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

impl Verb {
    /// The call that the verb makes.
    pub(super) fn call(&self) -> Call {
        match self {
            Verb::Create { named, scope_map, grants, status, no_passwords, expiration_in_days } => {
                Call::named("token/create", View::Credentials, named.name())
                    .field("scopeMap", scope_map.clone())
                    .list("repository", &grants.repository)
                    .list("gateway", &grants.gateway)
                    .field("status", status.map(Status::name))
                    .flag("noPasswords", *no_passwords)
                    .field("expirationInDays", *expiration_in_days)
            }
            Verb::Update { named, status, scope_map } => {
                Call::named("token/update", View::Object, named.name())
                    .field("status", status.map(Status::name))
                    .field("scopeMap", scope_map.clone())
            }
            Verb::Show { named } => Call::named("token/show", View::Object, named.name()),
            Verb::List => Call::new("token/list", View::Tokens),
            Verb::Delete { named, yes } => Call::named("token/delete", View::Object, named.name())
                .ask(
                    *yes,
                    format!(
                        "Delete the token '{}'? Everyone who uses it is locked out at once.",
                        named.name()
                    ),
                ),
            Verb::Credential(verb) => verb.call(),
        }
    }
}

impl Credential {
    fn call(&self) -> Call {
        match self {
            Credential::Generate { named, password1, password2, expiration_in_days } => {
                Call::named("token/credential-generate", View::Credentials, named.name())
                    .flag("password1", *password1)
                    .flag("password2", *password2)
                    .field("expirationInDays", *expiration_in_days)
            }
            Credential::Delete { named, password1, password2, yes } => {
                Call::named("token/credential-delete", View::Object, named.name())
                    .flag("password1", *password1)
                    .flag("password2", *password2)
                    .ask(*yes, format!("Delete these passwords of the token '{}'?", named.name()))
            }
        }
    }
}
