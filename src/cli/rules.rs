//! Flags that are given several times with several words each:
//! `--repository REPOSITORY ACTION... --repository REPOSITORY ACTION...`.

use clap::{Arg, ArgAction, ArgMatches};

/// One group of words per time that the flag `name` was given.
pub(super) fn occurrences(matches: &ArgMatches, name: &str) -> Vec<Vec<String>> {
    let groups = matches.get_occurrences::<String>(name).into_iter().flatten();
    groups.map(|words| words.cloned().collect()).collect()
}

/// The flag `--<name>` for such groups.
pub(super) fn argument(name: &'static str) -> Arg {
    let (resource, help) = match name.ends_with("gateway") {
        true => (
            "CONNECTED_REGISTRY",
            "A connected registry and the gateway actions on it: config/read, config/write, \
             message/read, message/write",
        ),
        false => (
            "REPOSITORY",
            "A repository and the actions on it: content/read, content/write, content/delete, \
             metadata/read, metadata/write",
        ),
    };
    Arg::new(name)
        .long(name)
        .num_args(1..)
        .value_names([resource, "ACTION"])
        .action(ArgAction::Append)
        .help(help)
}

/// A set of such flags as one struct, for `#[command(flatten)]`.
macro_rules! rules {
    ($(#[$doc:meta])* $type:ident { $($field:ident: $name:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Default)]
        pub(super) struct $type {
            $(pub(super) $field: Vec<Vec<String>>,)+
        }

        impl clap::Args for $type {
            fn augment_args(command: clap::Command) -> clap::Command {
                command $(.arg($crate::cli::rules::argument($name)))+
            }

            fn augment_args_for_update(command: clap::Command) -> clap::Command {
                Self::augment_args(command)
            }
        }

        impl clap::FromArgMatches for $type {
            fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
                Ok($type { $($field: $crate::cli::rules::occurrences(matches, $name),)+ })
            }

            fn update_from_arg_matches(
                &mut self,
                matches: &clap::ArgMatches,
            ) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }
    };
}

pub(super) use rules;
