//! `skerry connected-registry ...`

use clap::{Args, Subcommand};

use super::call::Call;
use super::named::Named;
use super::output::View;

/// The verbs.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Create a connected registry; its sync passwords are printed once
    Create(Box<Create>),
    /// Change client tokens or the schedule
    Update(Box<Update>),
    /// Show a connected registry
    Show(Named),
    /// List connected registries
    List {
        /// Only those below this one, at any depth
        #[arg(short, long)]
        parent: Option<String>,
        /// Only the first level
        #[arg(long)]
        no_children: bool,
    },
    /// Delete a connected registry
    Delete {
        #[command(flatten)]
        named: Named,
        /// Also delete its sync token and scope map, and its gateway actions on all ancestors
        #[arg(long)]
        cleanup: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Free a connected registry from its device, so that another one can take its place
    Deactivate {
        #[command(flatten)]
        named: Named,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Print what a device needs, with the connection string
    GetSettings {
        #[command(flatten)]
        named: Named,
        /// Make a new password 1 or 2 and print it; the old one stops to work
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
        generate_password: Option<u8>,
        /// http or https; else as the parent listens
        #[arg(long, value_parser = ["http", "https"])]
        parent_protocol: Option<String>,
        /// Print nothing but the connection string, for the device's file
        #[arg(long)]
        connection_string: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// List the tokens that clients of a connected registry may log in with
    ListClientTokens(Named),
    /// Show or change what a connected registry mirrors
    #[command(subcommand)]
    Permissions(Permissions),
    /// Print what a device needs (old names of get-settings)
    #[command(subcommand)]
    Install(Install),
}

/// What `create` sets and `update` changes.
#[derive(Args)]
struct SettingFlags {
    /// When to sync: five cron fields in UTC; if never given, always
    #[arg(short = 's', long, value_name = "CRON")]
    sync_schedule: Option<String>,
    /// How long each sync may last, for example PT4H; if never given, PT1H
    #[arg(short = 'w', long, value_name = "DURATION")]
    sync_window: Option<String>,
    /// How long messages are kept for it, for example P2D
    #[arg(long, value_name = "DURATION")]
    sync_message_ttl: Option<String>,
    /// Debug, Information, Warning, Error or None
    #[arg(long)]
    log_level: Option<String>,
}

/// Flags of `create`.
#[derive(Args)]
pub(super) struct Create {
    #[command(flatten)]
    named: Named,
    /// Its parent; else the root
    #[arg(short, long)]
    parent: Option<String>,
    /// Repositories to mirror; makes sync token and scope map
    #[arg(long, num_args = 1.., value_name = "REPOSITORY")]
    repository: Vec<String>,
    /// An existing token to sync with, instead of --repository
    #[arg(long)]
    sync_token: Option<String>,
    /// ReadWrite or ReadOnly; else ReadWrite, or ReadOnly below a ReadOnly parent
    #[arg(short, long)]
    mode: Option<String>,
    /// Tokens that its clients may log in with
    #[arg(long, num_args = 1.., value_name = "TOKEN", alias = "client-token")]
    client_tokens: Vec<String>,
    #[command(flatten)]
    settings: SettingFlags,
    /// Print nothing but the connection string, for the device's file; it is shown only this once
    #[arg(long, conflicts_with = "sync_token")]
    connection_string: bool,
    /// Accepted for scripts; there is nothing to ask
    #[arg(short, long, hide = true)]
    yes: bool,
}

/// Flags of `update`.
#[derive(Args)]
pub(super) struct Update {
    #[command(flatten)]
    named: Named,
    /// Tokens to accept from now on
    #[arg(long, num_args = 1.., value_name = "TOKEN", alias = "add-client-token")]
    add_client_tokens: Vec<String>,
    /// Tokens to accept no more
    #[arg(long, num_args = 1.., value_name = "TOKEN", alias = "remove-client-token")]
    remove_client_tokens: Vec<String>,
    #[command(flatten)]
    settings: SettingFlags,
}

/// The verbs about what is mirrored.
#[derive(Subcommand)]
pub(super) enum Permissions {
    /// Show the sync scope map
    Show(Named),
    /// Add repositories here and at all ancestors, or remove them here and at all descendants
    Update {
        #[command(flatten)]
        named: Named,
        /// Repositories to add
        #[arg(long, num_args = 1.., value_name = "REPOSITORY")]
        add: Vec<String>,
        /// Repositories to remove
        #[arg(long, num_args = 1.., value_name = "REPOSITORY")]
        remove: Vec<String>,
    },
}

/// Old names of `get-settings`.
#[derive(Subcommand)]
pub(super) enum Install {
    /// Print the settings without a password
    Info {
        #[command(flatten)]
        named: Named,
        /// http or https; else as the parent listens
        #[arg(long, value_parser = ["http", "https"])]
        parent_protocol: Option<String>,
    },
    /// Make a new password 1 and print the settings
    RenewCredentials {
        #[command(flatten)]
        named: Named,
        /// http or https; else as the parent listens
        #[arg(long, value_parser = ["http", "https"])]
        parent_protocol: Option<String>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

impl Verb {
    /// The call that the verb makes.
    pub(super) fn call(&self) -> Call {
        match self {
            Verb::Create(flags) => flags.call(),
            Verb::Update(flags) => flags.call(),
            Verb::Show(named) => Call::named("connected-registry/show", View::Object, named.name()),
            Verb::List { parent, no_children } => {
                Call::new("connected-registry/list", View::ConnectedRegistries)
                    .field("parent", parent.clone())
                    .flag("noChildren", *no_children)
            }
            Verb::Delete { named, cleanup, yes } => {
                let rest = match cleanup {
                    true => "with its sync token and scope map",
                    false => "but keep its sync token and scope map",
                };
                Call::named("connected-registry/delete", View::Object, named.name())
                    .flag("cleanup", *cleanup)
                    .ask(*yes, format!("Delete the connected registry '{}', {rest}?", named.name()))
            }
            Verb::Deactivate { named, yes } => {
                let question =
                    format!("Free the connected registry '{}' from its device?", named.name());
                Call::named("connected-registry/deactivate", View::Object, named.name())
                    .ask(*yes, question)
            }
            Verb::GetSettings {
                named,
                generate_password,
                parent_protocol,
                connection_string,
                yes,
            } => {
                let call = settings(named, *generate_password, parent_protocol.as_ref(), *yes);
                match connection_string {
                    true => Call { view: View::ConnectionString, ..call },
                    false => call,
                }
            }
            Verb::ListClientTokens(named) => {
                Call::named("connected-registry/list-client-tokens", View::Tokens, named.name())
            }
            Verb::Permissions(verb) => verb.call(),
            Verb::Install(Install::Info { named, parent_protocol }) => {
                settings(named, None, parent_protocol.as_ref(), false)
            }
            Verb::Install(Install::RenewCredentials { named, parent_protocol, yes }) => {
                settings(named, Some(1), parent_protocol.as_ref(), *yes)
            }
        }
    }
}

impl SettingFlags {
    fn add_to(&self, call: Call) -> Call {
        call.field("syncSchedule", self.sync_schedule.clone())
            .field("syncWindow", self.sync_window.clone())
            .field("syncMessageTtl", self.sync_message_ttl.clone())
            .field("logLevel", self.log_level.clone())
    }
}

impl Create {
    fn call(&self) -> Call {
        let view = if self.connection_string { View::ConnectionString } else { View::Credentials };
        let call = Call::named("connected-registry/create", view, self.named.name())
            .flag("connectionString", self.connection_string)
            .field("parent", self.parent.clone())
            .list("repository", &self.repository)
            .field("syncToken", self.sync_token.clone())
            .field("mode", self.mode.clone())
            .list("clientTokens", &self.client_tokens);
        self.settings.add_to(call)
    }
}

impl Update {
    fn call(&self) -> Call {
        let call = Call::named("connected-registry/update", View::Object, self.named.name())
            .list("addClientTokens", &self.add_client_tokens)
            .list("removeClientTokens", &self.remove_client_tokens);
        self.settings.add_to(call)
    }
}

impl Permissions {
    fn call(&self) -> Call {
        match self {
            Permissions::Show(named) => {
                Call::named("connected-registry/permissions-show", View::Object, named.name())
            }
            Permissions::Update { named, add, remove } => {
                Call::named("connected-registry/permissions-update", View::Object, named.name())
                    .list("add", add)
                    .list("remove", remove)
            }
        }
    }
}

fn settings(named: &Named, password: Option<u8>, protocol: Option<&String>, yes: bool) -> Call {
    let name = named.name();
    let call = Call::named("connected-registry/get-settings", View::Settings, name)
        .field("generatePassword", password)
        .field("parentProtocol", protocol.cloned());
    match password {
        None => call,
        Some(number) => call.ask(
            yes,
            format!(
                "Make a new password{number} of the sync token of '{name}'? The old one stops."
            ),
        ),
    }
}
