//! The name of what a verb is about.

use clap::Args;

/// As `az acr` has it, or as an argument.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Named {
    /// Its name, before flags that take several values; or with --name
    #[arg(value_name = "NAME")]
    argument: Option<String>,
    /// Its name
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
}

impl Named {
    /// The name.
    pub(super) fn name(&self) -> &str {
        self.argument.as_ref().or(self.name.as_ref()).map(String::as_str).unwrap_or_default()
    }
}
