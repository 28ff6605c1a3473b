//! The command line: parses it and calls [`crate::app`], or a running node over its admin socket.
//!
//! The management verbs have the names and flags of `az acr`; `--registry` and `--resource-group`
//! are taken and ignored, because a node manages exactly one registry.

mod admin_client;
mod audit;
mod backup;
mod call;
mod config;
mod confirm;
mod connected_registry;
mod fsck;
mod gc;
mod image;
mod manifest;
mod named;
mod output;
mod repository;
mod rules;
mod scope_map;
mod scrub;
mod serve;
mod state;
mod status;
mod token;
mod version;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Options, SystemSource};
use call::Call;
use output::{Format, View};

/// The command did what it should.
pub const EXIT_OK: u8 = 0;
/// It was refused, failed, or no node answered.
pub const EXIT_FAILED: u8 = 1;
/// The command line is wrong.
pub const EXIT_USAGE: u8 = 2;
/// What was named does not exist.
pub const EXIT_NOT_FOUND: u8 = 3;
/// The configuration cannot be used (EX_CONFIG of sysexits.h); the service is not restarted.
pub const EXIT_CONFIG: u8 = 78;

/// What `--help` of the program says, and that of each verb need not repeat.
const OF_ALL: &str = "\
Options of every command:
      --config <FILE>              Configuration file, instead of /etc/skerry/skerry.toml and the
                                   conf.d directories
      --set <SECTION.KEY=VALUE>    One value of the configuration, above all files and the
                                   environment
      --admin-socket <PATH>        Admin socket of the node to manage
  -o, --output <FORMAT>            How to print: table, which is readable text; for programs json,
                                   or tsv: the columns of a list, all values of an object
  -r, --registry, -g, --resource-group
                                   Ignored: a node manages exactly one registry

Exit codes:
  0   done
  1   refused or failed; the reason is on stderr
  2   wrong command line
  3   what was named does not exist
  78  the configuration cannot be used";

/// A connected container registry for the edge.
#[derive(Parser)]
#[command(name = "skerry", version, after_help = OF_ALL, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every verb.
#[derive(Args)]
struct Global {
    /// Configuration file, instead of /etc/skerry/skerry.toml and the conf.d directories
    #[arg(long, value_name = "FILE", global = true, hide = true)]
    config: Option<PathBuf>,
    /// One value of the configuration, above all files and the environment
    #[arg(long, value_name = "SECTION.KEY=VALUE", global = true, hide = true)]
    set: Vec<String>,
    /// Admin socket of the node to manage
    #[arg(long, value_name = "PATH", global = true, hide = true)]
    admin_socket: Option<PathBuf>,
    /// How to print: readable text, or json, table, tsv for programs
    #[arg(short, long, value_name = "FORMAT", global = true, hide = true)]
    output: Option<Format>,
    /// Ignored: a node manages exactly one registry
    #[arg(short, long, global = true, hide = true)]
    registry: Option<String>,
    /// Ignored
    #[arg(short = 'g', long, global = true, hide = true)]
    resource_group: Option<String>,
}

impl Global {
    fn options(&self) -> Options {
        Options { file: self.config.clone(), set: self.set.clone(), board: None }
    }

    /// What is in the repositories of the node to manage.
    fn content(&self) -> Result<image::Content, Failure> {
        Ok(image::Content { socket: self.socket()? })
    }

    fn socket(&self) -> Result<PathBuf, Failure> {
        admin_client::socket(self.admin_socket.as_deref(), &self.options(), &SystemSource)
    }

    /// The state directory of verbs that work on it without a node; tells when a service would not
    /// start there.
    fn state_dir(&self) -> Result<PathBuf, Failure> {
        let loaded = crate::config::load(&self.options(), &SystemSource)?;
        if let Some(warning) = loaded.unmanaged_state_dir() {
            output::complain(&format!("warning: {warning}"));
        }
        Ok(loaded.config.storage.state_dir)
    }
}

#[derive(Subcommand)]
enum Command {
    /// Run a node: what its store and the configuration say, a root or a connected registry
    Serve,
    /// Run a small tree on free loopback ports and show what it does
    Demo {
        /// Stop after the tour and say whether every step succeeded
        #[arg(long)]
        check: bool,
    },
    /// Show the state of the running node
    Status,
    /// Show who changed what is managed at this root, and who was refused it
    Audit,
    /// Keep this version: let the store rise to its format, which the version before this one may
    /// be unable to use
    Confirm,
    /// Print the certificate that clients of a node with tls.mode "self-signed" have to trust
    Ca,
    /// Remove content that nothing refers to
    Gc {
        /// Remove nothing, only tell what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Hash all content now, and take out of service what is damaged
    Scrub {
        /// Read as fast as the disk can, not at the configured rate
        #[arg(long)]
        full_speed: bool,
        /// Do not wait for its end
        #[arg(long)]
        no_wait: bool,
    },
    /// Check the store of the running node, or, when none runs, the state directory
    Fsck {
        /// Also hash all content
        #[arg(long)]
        content: bool,
    },
    /// Copy everything of the running node to a directory; again: only what is new
    Backup {
        /// An empty directory, or one with an older backup of the same store
        directory: PathBuf,
        /// Also replace the backup of another store, or of a later state of this one
        #[arg(long)]
        replace: bool,
        /// Also hash what the directory has already, and take again what is damaged there
        #[arg(long)]
        verify: bool,
    },
    /// Make the state directory, which must be empty, from a backup
    Restore {
        /// What `skerry backup` made
        directory: PathBuf,
    },
    /// Change what the state directory belongs to
    #[command(subcommand)]
    State(state::Verb),
    /// Check or explain the configuration
    #[command(subcommand)]
    Config(config::Verb),
    /// Show the version and the built-in limits
    Version {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Manage scope maps: what tokens may do
    #[command(subcommand)]
    ScopeMap(scope_map::Verb),
    /// Manage tokens and their passwords
    #[command(subcommand)]
    Token(token::Verb),
    /// Manage connected registries
    #[command(subcommand)]
    ConnectedRegistry(connected_registry::Verb),
    /// Show, untag and delete what is in repositories
    #[command(subcommand)]
    Repository(Box<repository::Verb>),
    /// Show and delete the manifests of a repository
    #[command(subcommand)]
    Manifest(Box<manifest::Verb>),
}

/// Why a command failed; printed as `skerry: <message>`.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(message: impl Into<String>) -> Failure {
        Failure { code: EXIT_FAILED, message: message.into() }
    }

    fn usage(message: impl Into<String>) -> Failure {
        Failure { code: EXIT_USAGE, message: message.into() }
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Failure {
        Failure { code: EXIT_CONFIG, message: error.to_string() }
    }
}

/// Runs the command line, program name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // A reader that has gone away is no error of ours.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { EXIT_OK });
        }
    };
    dispatch(&cli).unwrap_or_else(|failure| {
        output::complain(&failure.message);
        ExitCode::from(failure.code)
    })
}

fn dispatch(cli: &Cli) -> Result<ExitCode, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Serve => serve::serve(global),
        Command::Demo { check } => Ok(crate::app::demo(crate::app::DemoOptions { check: *check })),
        Command::State(verb) => state::run(verb, global),
        Command::Config(verb) => config::run(verb, global),
        Command::Version { json } => {
            let json = *json || global.output == Some(Format::Json);
            output::print(&version::text(json)).map(|()| ExitCode::SUCCESS)
        }
        Command::Status => manage(&status::call(), global),
        Command::Audit => manage(&audit::call(), global),
        Command::Confirm => manage(&confirm::call(), global),
        Command::Ca => manage(&Call::new("ca", View::Certificate), global),
        Command::Gc { dry_run } => manage(&gc::call(*dry_run), global),
        Command::Scrub { full_speed, no_wait } => scrub::run(*full_speed, *no_wait, global),
        Command::Fsck { content } => fsck::run(*content, global),
        Command::Backup { directory, replace, verify } => {
            backup::backup(directory, *replace, *verify, global)
        }
        Command::Restore { directory } => backup::restore(directory, global),
        Command::ScopeMap(verb) => manage(&verb.call(), global),
        Command::Token(verb) => manage(&verb.call(), global),
        Command::ConnectedRegistry(verb) => manage(&verb.call(), global),
        Command::Repository(verb) => verb.run(global),
        Command::Manifest(verb) => verb.run(global),
    }
}

/// Asks where the verb asks, calls the node, prints its answer.
fn manage(call: &Call, global: &Global) -> Result<ExitCode, Failure> {
    if let Some(question) = &call.question
        && !output::confirm(question)?
    {
        return Err(Failure::new("nothing was changed"));
    }
    let answer = admin_client::post(&global.socket()?, call.path, &call.body.clone().into())?;
    output::answer(call.view, answer, global.output)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use serde_json::{Value, json};

    const CREATE: &str = "connected-registry/create";

    fn call(line: &str) -> Call {
        let words = shell_words(line).into_iter().map(OsString::from);
        let arguments = std::iter::once(OsString::from("skerry")).chain(words);
        let cli = Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}"));
        match cli.command {
            Command::ScopeMap(verb) => verb.call(),
            Command::Token(verb) => verb.call(),
            Command::ConnectedRegistry(verb) => verb.call(),
            Command::Status => status::call(),
            Command::Confirm => confirm::call(),
            Command::Gc { dry_run } => gc::call(dry_run),
            _ => panic!("no management verb: {line}"),
        }
    }

    /// Words parted by blanks; single quotes hold one together.
    fn shell_words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (index, piece) in line.split('\'').enumerate() {
            match index % 2 {
                0 => words.extend(piece.split_whitespace().map(str::to_owned)),
                _ => words.push(piece.to_owned()),
            }
        }
        words
    }

    #[allow(clippy::needless_pass_by_value, reason = "a literal at every call")]
    fn expect(line: &str, path: &str, body: Value) {
        let call = call(line);
        assert_eq!(call.path, path, "{line}");
        assert_eq!(Value::from(call.body), body, "{line}");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_every_command_takes_is_said_once() {
        let mut all = Cli::command();
        all.build();
        let help = all.render_long_help().to_string();
        for argument in all.get_arguments().filter(|one| one.is_global_set()) {
            let name = format!("--{}", argument.get_long().unwrap());
            assert!(argument.is_hide_set() && help.contains(&name), "{name}");
        }
        for verb in all.get_subcommands_mut() {
            assert!(!verb.render_long_help().to_string().contains("--admin-socket"));
        }
    }

    #[test]
    fn a_name_is_taken_as_an_argument_too() {
        let body = json!({ "name": "my-map" });
        expect("scope-map show my-map", "scope-map/show", body.clone());
        expect("scope-map show --name my-map", "scope-map/show", body);
        let body = json!({ "name": "dock01", "repository": ["app", "lab"] });
        expect("connected-registry create dock01 --repository app lab", CREATE, body);
        for wrong in ["token show", "token show one two", "token show one --name two"] {
            let words = format!("skerry {wrong}");
            assert!(Cli::try_parse_from(words.split(' ')).is_err(), "{wrong}");
        }
    }

    #[test]
    fn gc_verb() {
        expect("gc --dry-run -o json", "gc", json!({ "dryRun": true }));
        expect("gc", "gc", json!({}));
        expect("confirm", "confirm", json!({}));
    }

    #[test]
    fn scope_map_verbs() {
        expect(
            "scope-map create -n my-map --repository hello-world content/read metadata/read \
             --repository a/b content/write --gateway dock01 config/read \
             --description 'for the dock' -r myregistry -g group",
            "scope-map/create",
            json!({
                "name": "my-map",
                "repository": [
                    ["hello-world", "content/read", "metadata/read"],
                    ["a/b", "content/write"],
                ],
                "gateway": [["dock01", "config/read"]],
                "description": "for the dock",
            }),
        );
        expect(
            "scope-map update --name my-map --add-repository a content/read \
             --remove-repository b content/read --add-gateway c config/read \
             --remove-gateway d config/read",
            "scope-map/update",
            json!({
                "name": "my-map",
                "addRepository": [["a", "content/read"]],
                "removeRepository": [["b", "content/read"]],
                "addGateway": [["c", "config/read"]],
                "removeGateway": [["d", "config/read"]],
            }),
        );
        expect("scope-map list", "scope-map/list", json!({}));
        expect("scope-map show -n my-map", "scope-map/show", json!({ "name": "my-map" }));
        assert!(call("scope-map delete -n my-map").question.is_some());
        assert!(call("scope-map delete -n my-map -y").question.is_none());
    }

    #[test]
    fn token_verbs() {
        expect(
            "token create --name my-token --scope-map my-map --status disabled --no-passwords",
            "token/create",
            json!({
                "name": "my-token", "scopeMap": "my-map", "status": "disabled",
                "noPasswords": true,
            }),
        );
        expect(
            "token create -n my-token --repository a content/read --expiration-in-days 30",
            "token/create",
            json!({
                "name": "my-token", "repository": [["a", "content/read"]],
                "expirationInDays": 30,
            }),
        );
        expect(
            "token update -n my-token --status enabled",
            "token/update",
            json!({ "name": "my-token", "status": "enabled" }),
        );
        expect(
            "token credential generate -n my-token --password1 --expiration-in-days 1",
            "token/credential-generate",
            json!({ "name": "my-token", "password1": true, "expirationInDays": 1 }),
        );
        expect(
            "token credential delete -n my-token --password2 --yes",
            "token/credential-delete",
            json!({ "name": "my-token", "password2": true }),
        );
        expect("token delete -n my-token -y", "token/delete", json!({ "name": "my-token" }));
    }

    #[test]
    fn connected_registry_verbs() {
        expect(
            "connected-registry create -r reg -n dock01 --repository app/one app/two \
             -m ReadOnly -p parent1 --client-tokens tok-1 tok-2 -s '0 12 * * *' -w PT4H \
             --sync-message-ttl P2D --log-level Debug",
            "connected-registry/create",
            json!({
                "name": "dock01", "parent": "parent1", "repository": ["app/one", "app/two"],
                "mode": "ReadOnly", "clientTokens": ["tok-1", "tok-2"],
                "syncSchedule": "0 12 * * *", "syncWindow": "PT4H", "syncMessageTtl": "P2D",
                "logLevel": "Debug",
            }),
        );
        expect(
            "connected-registry update -n dock01 --add-client-token tok-1 \
             --remove-client-tokens tok-2",
            "connected-registry/update",
            json!({
                "name": "dock01", "addClientTokens": ["tok-1"], "removeClientTokens": ["tok-2"],
            }),
        );
        expect(
            "connected-registry list -p parent1 --no-children -o json",
            "connected-registry/list",
            json!({ "parent": "parent1", "noChildren": true }),
        );
        expect(
            "connected-registry permissions update -n dock01 --add a b --remove c",
            "connected-registry/permissions-update",
            json!({ "name": "dock01", "add": ["a", "b"], "remove": ["c"] }),
        );
        expect(
            "connected-registry delete -n dock01 --cleanup -y",
            "connected-registry/delete",
            json!({ "name": "dock01", "cleanup": true }),
        );
    }

    #[test]
    fn settings_verbs_ask_only_before_a_password_changes() {
        let settings = "connected-registry/get-settings";
        let line = "connected-registry get-settings -n dock01 --parent-protocol http";
        expect(line, settings, json!({ "name": "dock01", "parentProtocol": "http" }));
        assert!(call(line).question.is_none());
        let line = "connected-registry get-settings -n dock01 --generate-password 2";
        expect(line, settings, json!({ "name": "dock01", "generatePassword": 2 }));
        assert!(call(line).question.is_some());
        let line = "connected-registry install renew-credentials -n dock01 -y";
        expect(line, settings, json!({ "name": "dock01", "generatePassword": 1 }));
        let line = "connected-registry install info -n dock01";
        expect(line, settings, json!({ "name": "dock01" }));
        assert!(call("connected-registry deactivate -n dock01").question.is_some());
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            "scope-map create",
            "token update -n my-token --status sometimes",
            "connected-registry get-settings -n dock01 --generate-password 3",
            "token create -n my-token --expiration-in-days 0",
            "nonsense",
        ] {
            let arguments = format!("skerry {line}");
            assert!(Cli::try_parse_from(arguments.split(' ')).is_err(), "{line}");
        }
    }
}
