//! The rows of the tree of connected registries: each with its activation and its last status.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, key, stored_as};
use crate::types::connected_registry::{Activation, ConnectionState, StatusDetail, StatusReport};
use crate::types::schedule::Schedule;
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Mode, TokenName, UnixSeconds};

/// A [`ConnectedRegistry`]; also an element of lists in the row of a desired state, so that a field
/// that comes later goes into a struct around this one.
#[derive(Serialize, Deserialize)]
pub(super) struct ConnectedRegistryRow {
    name: ConnectedRegistryName,
    mode: ModeRow,
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

/// A [`Mode`]. Never renumber.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum ModeRow {
    ReadOnly,
    ReadWrite,
}

impl Row for ConnectedRegistryRow {
    const VERSION: u8 = 1;
}

impl From<&ConnectedRegistry> for ConnectedRegistryRow {
    fn from(node: &ConnectedRegistry) -> ConnectedRegistryRow {
        ConnectedRegistryRow {
            name: node.name.clone(),
            mode: match node.mode {
                Mode::ReadOnly => ModeRow::ReadOnly,
                Mode::ReadWrite => ModeRow::ReadWrite,
            },
            parent: node.parent.clone(),
            sync_token: node.sync_token.clone(),
            client_tokens: node.client_tokens.clone(),
            schedule: node.schedule.clone(),
            sync_window_s: node.sync_window_s,
            message_ttl_s: node.message_ttl_s,
            log_level: node.log_level.clone(),
            activation_epoch: node.activation_epoch,
            created: node.created,
        }
    }
}

impl From<ConnectedRegistryRow> for ConnectedRegistry {
    fn from(row: ConnectedRegistryRow) -> ConnectedRegistry {
        ConnectedRegistry {
            name: row.name,
            mode: match row.mode {
                ModeRow::ReadOnly => Mode::ReadOnly,
                ModeRow::ReadWrite => Mode::ReadWrite,
            },
            parent: row.parent,
            sync_token: row.sync_token,
            client_tokens: row.client_tokens,
            schedule: row.schedule,
            sync_window_s: row.sync_window_s,
            message_ttl_s: row.message_ttl_s,
            log_level: row.log_level,
            activation_epoch: row.activation_epoch,
            created: row.created,
        }
    }
}

stored_as!(ConnectedRegistry, ConnectedRegistryRow);

/// An [`Activation`].
#[derive(Serialize, Deserialize)]
struct ActivationRow {
    epoch: u64,
    instance_id: String,
    at: UnixSeconds,
}

impl Row for ActivationRow {
    const VERSION: u8 = 1;
}

impl From<&Activation> for ActivationRow {
    fn from(activation: &Activation) -> ActivationRow {
        let Activation { epoch, instance_id, at } = activation;
        ActivationRow { epoch: *epoch, instance_id: instance_id.clone(), at: *at }
    }
}

impl From<ActivationRow> for Activation {
    fn from(row: ActivationRow) -> Activation {
        let ActivationRow { epoch, instance_id, at } = row;
        Activation { epoch, instance_id, at }
    }
}

stored_as!(Activation, ActivationRow);

/// The last status report of an instance, as its parent or a node above it holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusRecord {
    /// What the instance said.
    pub report: StatusReport,
    /// When it was last in contact.
    pub last_contact: UnixSeconds,
}

/// A [`StatusRecord`].
#[derive(Serialize, Deserialize)]
struct StatusRow {
    report: ReportRow,
    last_contact: UnixSeconds,
}

/// A [`StatusReport`], in a row of which more follows.
#[derive(Serialize, Deserialize)]
struct ReportRow {
    version: String,
    login_server: String,
    tls: bool,
    state: ConnectionStateRow,
    details: Vec<StatusDetailRow>,
    last_sync: Option<UnixSeconds>,
}

/// A [`ConnectionState`]. Never renumber.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum ConnectionStateRow {
    Offline,
    Online,
    Syncing,
    Unhealthy,
}

/// A [`StatusDetail`], an element of a list.
#[derive(Serialize, Deserialize)]
struct StatusDetailRow {
    kind: String,
    code: String,
    description: String,
    timestamp: UnixSeconds,
    correlation_id: String,
}

impl Row for StatusRow {
    const VERSION: u8 = 1;
}

impl From<&StatusRecord> for StatusRow {
    fn from(record: &StatusRecord) -> StatusRow {
        let report = &record.report;
        let report = ReportRow {
            version: report.version.clone(),
            login_server: report.login_server.clone(),
            tls: report.tls,
            state: match report.state {
                ConnectionState::Offline => ConnectionStateRow::Offline,
                ConnectionState::Online => ConnectionStateRow::Online,
                ConnectionState::Syncing => ConnectionStateRow::Syncing,
                ConnectionState::Unhealthy => ConnectionStateRow::Unhealthy,
            },
            details: report.details.iter().map(StatusDetailRow::from).collect(),
            last_sync: report.last_sync,
        };
        StatusRow { report, last_contact: record.last_contact }
    }
}

impl From<StatusRow> for StatusRecord {
    fn from(row: StatusRow) -> StatusRecord {
        let StatusRow { report, last_contact } = row;
        let report = StatusReport {
            version: report.version,
            login_server: report.login_server,
            tls: report.tls,
            state: match report.state {
                ConnectionStateRow::Offline => ConnectionState::Offline,
                ConnectionStateRow::Online => ConnectionState::Online,
                ConnectionStateRow::Syncing => ConnectionState::Syncing,
                ConnectionStateRow::Unhealthy => ConnectionState::Unhealthy,
            },
            details: report.details.into_iter().map(StatusDetail::from).collect(),
            last_sync: report.last_sync,
        };
        StatusRecord { report, last_contact }
    }
}

impl From<&StatusDetail> for StatusDetailRow {
    fn from(detail: &StatusDetail) -> StatusDetailRow {
        StatusDetailRow {
            kind: detail.kind.clone(),
            code: detail.code.clone(),
            description: detail.description.clone(),
            timestamp: detail.timestamp,
            correlation_id: detail.correlation_id.clone(),
        }
    }
}

impl From<StatusDetailRow> for StatusDetail {
    fn from(row: StatusDetailRow) -> StatusDetail {
        let StatusDetailRow { kind, code, description, timestamp, correlation_id } = row;
        StatusDetail { kind, code, description, timestamp, correlation_id }
    }
}

stored_as!(StatusRecord, StatusRow);

/// The key of a connected registry.
pub fn connected_registry_key(name: &ConnectedRegistryName) -> Vec<u8> {
    key(Kind::ConnectedRegistry, &[name.as_str().as_bytes()])
}

/// The key of the activation of a connected registry.
pub fn activation_key(name: &ConnectedRegistryName) -> Vec<u8> {
    key(Kind::Activation, &[name.as_str().as_bytes()])
}

/// The key of the last status report of a connected registry.
pub fn status_key(name: &ConnectedRegistryName) -> Vec<u8> {
    key(Kind::Status, &[name.as_str().as_bytes()])
}
