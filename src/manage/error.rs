//! Why a command was not done.

use std::fmt;

use crate::store::StoreError;

/// What is to be thought of a command that was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It breaks a rule.
    Invalid,
    /// What it is about is not there.
    NotFound,
    /// What is there does not allow it.
    Conflict,
    /// It is for the root of the tree, and this is a connected registry.
    ManagedAtRoot,
    /// A repository would hold more than it may.
    QuotaExceeded,
    /// The disk has no room for it.
    DiskFull,
    /// A newer version wrote the store.
    ReadOnlyStore,
    /// Not now; perhaps later.
    Unavailable,
    /// The store failed.
    Failed,
}

/// What is managed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Noun {
    /// A named list of grants.
    ScopeMap,
    /// A named credential.
    Token,
    /// A registry below the root.
    ConnectedRegistry,
}

impl Noun {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Noun::ScopeMap => "scope map",
            Noun::Token => "token",
            Noun::ConnectedRegistry => "connected registry",
        }
    }
}

/// The resource that an error is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// What it is.
    pub noun: Noun,
    /// Its name.
    pub name: String,
}

/// Why a command was not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    /// What is to be thought of it.
    pub kind: Kind,
    /// The resource that it is about, where one resource can be named.
    pub subject: Option<Subject>,
    /// The part of the command that it is about, such as `sync token`.
    pub field: Option<&'static str>,
    /// A sentence that says why; one from the store may hold the cure too.
    pub cause: String,
    /// A sentence that says what helps.
    pub cure: Option<String>,
}

impl Error {
    fn new(kind: Kind, cause: impl Into<String>) -> Error {
        Error { kind, subject: None, field: None, cause: cause.into(), cure: None }
    }

    /// A command that breaks a rule.
    pub fn invalid(cause: impl Into<String>) -> Error {
        Error::new(Kind::Invalid, cause)
    }

    /// Something is not there.
    pub fn not_found(cause: impl Into<String>) -> Error {
        Error::new(Kind::NotFound, cause)
    }

    /// A resource is not there.
    pub(super) fn missing(noun: Noun, name: &dyn fmt::Display) -> Error {
        Error::missing_as(noun, noun.name(), name)
    }

    /// A resource is not there that a command names as such a part of another one.
    pub(super) fn missing_as(noun: Noun, part: &'static str, name: &dyn fmt::Display) -> Error {
        Error {
            subject: Some(Subject { noun, name: name.to_string() }),
            field: (part != noun.name()).then_some(part),
            ..Error::not_found(format!("The {part} '{name}' could not be found."))
        }
    }

    pub(super) fn managed_at_root(registry: &str) -> Error {
        let cause =
            "This node is a connected registry and takes its settings from its parent.".to_owned();
        let cure = format!("Run the command at the root of its tree, the registry '{registry}'.");
        Error { cure: Some(cure), ..Error::new(Kind::ManagedAtRoot, cause) }
    }

    /// The same, about this part of the command.
    pub(super) fn at(self, field: &'static str) -> Error {
        Error { field: Some(field), ..self }
    }

    /// What a fault of the store is to a command about this resource.
    pub(super) fn of(noun: Noun, name: &dyn fmt::Display) -> impl Fn(StoreError) -> Error {
        let name = name.to_string();
        move |error| match error {
            StoreError::NotFound => Error::missing(noun, &name),
            other => {
                let subject = Subject { noun, name: name.clone() };
                Error { subject: Some(subject), ..Error::from(other) }
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        self.cure.iter().try_for_each(|cure| write!(f, " {cure}"))
    }
}

impl std::error::Error for Error {}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        let cause = error.to_string();
        let kind = match error {
            StoreError::NotFound => return Error::not_found("There is no such thing."),
            StoreError::Invalid(_) => Kind::Invalid,
            StoreError::Conflict(_)
            | StoreError::OutboxMismatch(_)
            | StoreError::OutboxReplaced(_) => Kind::Conflict,
            StoreError::Quota(_) | StoreError::QuotaKept(_) => Kind::QuotaExceeded,
            StoreError::Full | StoreError::IndexFull => Kind::DiskFull,
            StoreError::NewerFormat(_) => Kind::ReadOnlyStore,
            StoreError::Unavailable | StoreError::Rebuilding(_) => Kind::Unavailable,
            StoreError::Corrupt(_) | StoreError::Unreadable(_) | StoreError::Io(_) => {
                log::error!("a management command failed: {cause}");
                Kind::Failed
            }
        };
        Error::new(kind, cause)
    }
}
