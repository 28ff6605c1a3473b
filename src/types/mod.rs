//! Domain values. A constructor is the only validation: what exists here is valid.

pub mod action;
pub mod connected_registry;
pub mod connection_string;
pub mod cursor;
pub mod deed;
pub mod delivery;
pub mod digest;
pub mod endpoint;
pub mod limits;
pub mod manifest;
pub mod media;
pub mod message;
pub mod name;
pub mod namespace;
pub mod reason;
pub mod refusal;
pub mod role;
pub mod schedule;
pub mod scope;
pub mod secret;
pub mod text;
pub mod time;
pub mod token;

pub use action::{GatewayAction, Grant, RepositoryAction, RepositoryPattern};
pub use connected_registry::{ConnectedRegistry, Mode};
pub use cursor::Cursor;
pub use delivery::{Delivery, Offered, OutboxId};
pub use digest::Digest;
pub use manifest::Manifest;
pub use name::{ConnectedRegistryName, Reference, RepositoryName, ScopeMapName, Tag, TokenName};
pub use namespace::Namespace;
pub use reason::Reason;
pub use refusal::Refusal;
pub use role::{NodeState, Role, StoreRole};
pub use secret::Secret;
pub use time::UnixSeconds;
