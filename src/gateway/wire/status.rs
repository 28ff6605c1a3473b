//! What an instance reports of itself.

use serde::{Deserialize, Serialize};

use super::envelope::{Kind, WireError};
use super::{Format, Wire, all};
use crate::types::UnixSeconds;
use crate::types::connected_registry::{ConnectionState, StatusDetail, StatusReport};

#[derive(Serialize, Deserialize)]
struct ReportV1 {
    version: String,
    login_server: String,
    tls: bool,
    state: StateV1,
    details: Vec<DetailV1>,
    last_sync: Option<UnixSeconds>,
}

#[derive(Serialize, Deserialize)]
enum StateV1 {
    Offline,
    Online,
    Syncing,
    Unhealthy,
}

#[derive(Serialize, Deserialize)]
struct DetailV1 {
    #[serde(rename = "type")]
    kind: String,
    code: String,
    description: String,
    timestamp: UnixSeconds,
    #[serde(rename = "correlationId")]
    correlation_id: String,
}

impl Wire for StatusReport {
    fn write(self, format: Format) -> Result<Vec<u8>, WireError> {
        format.write(Kind::StatusReport, &ReportV1::from(self))
    }

    fn read(format: Format, bytes: &[u8]) -> Result<StatusReport, WireError> {
        format.read::<ReportV1>(Kind::StatusReport, bytes).map(StatusReport::from)
    }
}

impl From<StatusReport> for ReportV1 {
    fn from(report: StatusReport) -> ReportV1 {
        let StatusReport { version, login_server, tls, state, details, last_sync } = report;
        let state = match state {
            ConnectionState::Offline => StateV1::Offline,
            ConnectionState::Online => StateV1::Online,
            ConnectionState::Syncing => StateV1::Syncing,
            ConnectionState::Unhealthy => StateV1::Unhealthy,
        };
        ReportV1 { version, login_server, tls, state, details: all(details), last_sync }
    }
}

impl From<ReportV1> for StatusReport {
    fn from(report: ReportV1) -> StatusReport {
        let ReportV1 { version, login_server, tls, state, details, last_sync } = report;
        let state = match state {
            StateV1::Offline => ConnectionState::Offline,
            StateV1::Online => ConnectionState::Online,
            StateV1::Syncing => ConnectionState::Syncing,
            StateV1::Unhealthy => ConnectionState::Unhealthy,
        };
        StatusReport { version, login_server, tls, state, details: all(details), last_sync }
    }
}

impl From<StatusDetail> for DetailV1 {
    fn from(detail: StatusDetail) -> DetailV1 {
        let StatusDetail { kind, code, description, timestamp, correlation_id } = detail;
        DetailV1 { kind, code, description, timestamp, correlation_id }
    }
}

impl From<DetailV1> for StatusDetail {
    fn from(detail: DetailV1) -> StatusDetail {
        let DetailV1 { kind, code, description, timestamp, correlation_id } = detail;
        StatusDetail { kind, code, description, timestamp, correlation_id }
    }
}
