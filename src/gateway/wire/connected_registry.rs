//! A connected registry in a desired state.

use serde::{Deserialize, Serialize};

use super::envelope::WireError;
use crate::types::schedule::Schedule;
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Mode, TokenName, UnixSeconds};

#[derive(Serialize, Deserialize)]
enum ModeV1 {
    ReadOnly,
    ReadWrite,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ConnectedRegistryV1 {
    name: ConnectedRegistryName,
    mode: ModeV1,
    parent: Option<ConnectedRegistryName>,
    sync_token: TokenName,
    client_tokens: Vec<TokenName>,
    schedule: Schedule,
    sync_window_s: Option<u64>,
    message_ttl_s: u64,
    log_level: String,
    activation_epoch: u64,
    created: UnixSeconds,
}

impl From<ConnectedRegistry> for ConnectedRegistryV1 {
    fn from(node: ConnectedRegistry) -> ConnectedRegistryV1 {
        let mode = match node.mode {
            Mode::ReadOnly => ModeV1::ReadOnly,
            Mode::ReadWrite => ModeV1::ReadWrite,
        };
        ConnectedRegistryV1 {
            name: node.name,
            mode,
            parent: node.parent,
            sync_token: node.sync_token,
            client_tokens: node.client_tokens,
            schedule: node.schedule,
            sync_window_s: node.sync_window_s,
            message_ttl_s: node.message_ttl_s,
            log_level: node.log_level,
            activation_epoch: node.activation_epoch,
            created: node.created,
        }
    }
}

impl From<ConnectedRegistryV1> for ConnectedRegistry {
    fn from(node: ConnectedRegistryV1) -> ConnectedRegistry {
        let mode = match node.mode {
            ModeV1::ReadOnly => Mode::ReadOnly,
            ModeV1::ReadWrite => Mode::ReadWrite,
        };
        ConnectedRegistry {
            name: node.name,
            mode,
            parent: node.parent,
            sync_token: node.sync_token,
            client_tokens: node.client_tokens,
            schedule: node.schedule,
            sync_window_s: node.sync_window_s,
            message_ttl_s: node.message_ttl_s,
            log_level: node.log_level,
            activation_epoch: node.activation_epoch,
            created: node.created,
        }
    }
}

/// Modes travel as words.
#[derive(Serialize, Deserialize)]
pub(super) struct ConnectedRegistryV2 {
    name: ConnectedRegistryName,
    mode: String,
    parent: Option<ConnectedRegistryName>,
    sync_token: TokenName,
    client_tokens: Vec<TokenName>,
    schedule: Schedule,
    message_ttl_s: u64,
    log_level: String,
    activation_epoch: u64,
    created: UnixSeconds,
    #[serde(default)]
    sync_window_s: Option<u64>,
}

impl From<ConnectedRegistry> for ConnectedRegistryV2 {
    fn from(node: ConnectedRegistry) -> ConnectedRegistryV2 {
        ConnectedRegistryV2 {
            name: node.name,
            mode: node.mode.name().to_owned(),
            parent: node.parent,
            sync_token: node.sync_token,
            client_tokens: node.client_tokens,
            schedule: node.schedule,
            message_ttl_s: node.message_ttl_s,
            log_level: node.log_level,
            activation_epoch: node.activation_epoch,
            created: node.created,
            sync_window_s: node.sync_window_s,
        }
    }
}

impl TryFrom<ConnectedRegistryV2> for ConnectedRegistry {
    type Error = WireError;

    fn try_from(node: ConnectedRegistryV2) -> Result<ConnectedRegistry, WireError> {
        Ok(ConnectedRegistry {
            name: node.name,
            // To serve in another mode than is desired is no way to serve.
            mode: node.mode.parse().map_err(WireError)?,
            parent: node.parent,
            sync_token: node.sync_token,
            client_tokens: node.client_tokens,
            schedule: node.schedule,
            sync_window_s: node.sync_window_s,
            message_ttl_s: node.message_ttl_s,
            log_level: node.log_level,
            activation_epoch: node.activation_epoch,
            created: node.created,
        })
    }
}
