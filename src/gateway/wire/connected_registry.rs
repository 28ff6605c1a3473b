//! A connected registry in a desired state.

use serde::{Deserialize, Serialize};

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
