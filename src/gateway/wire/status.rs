//! What an instance reports of itself.

use serde::{Deserialize, Serialize};

use super::envelope::{Element, Head, Kind, WireError, append, body_of, divided, number_of};
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
        match format {
            Format::V2 => write_v2(self),
            Format::V1 | Format::Json => format.write(Kind::StatusReport, &ReportV1::from(self)),
        }
    }

    fn read(format: Format, bytes: &[u8]) -> Result<StatusReport, WireError> {
        if format == Format::V2 {
            let (head, elements) = divided::<HeadV2>(bytes)?;
            return read_v2(head, elements);
        }
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

/// The state travels as a word.
#[derive(Serialize, Deserialize)]
struct HeadV2 {
    elements: u32,
    version: String,
    login_server: String,
    tls: bool,
    state: String,
    #[serde(default)]
    last_sync: Option<UnixSeconds>,
}

#[derive(Serialize, Deserialize)]
struct DetailV2 {
    kind: String,
    code: String,
    description: String,
    timestamp: UnixSeconds,
    #[serde(default)]
    correlation_id: String,
}

impl Head for HeadV2 {
    const KIND: Kind = Kind::Status;

    fn elements(&self) -> u32 {
        self.elements
    }
}

fn write_v2(report: StatusReport) -> Result<Vec<u8>, WireError> {
    let StatusReport { version, login_server, tls, state, details, last_sync } = report;
    let (elements, state) = (number_of(&[details.len()])?, state.name().to_owned());
    let head = HeadV2 { elements, version, login_server, tls, state, last_sync };
    let mut bytes = Vec::new();
    append(&mut bytes, Kind::Status, &head)?;
    for detail in details {
        append(&mut bytes, Kind::StatusDetail, &DetailV2::from(detail))?;
    }
    Ok(bytes)
}

fn read_v2(head: HeadV2, elements: Vec<Element<'_>>) -> Result<StatusReport, WireError> {
    let HeadV2 { elements: _, version, login_server, tls, state, last_sync } = head;
    let states = [
        ConnectionState::Offline,
        ConnectionState::Online,
        ConnectionState::Syncing,
        ConnectionState::Unhealthy,
    ];
    // A state that a newer version has says no more here than that the instance is in contact: that
    // is what Offline in a report comes to.
    let state = states.into_iter().find(|known| known.name() == state).unwrap_or_default();
    let mut details = Vec::new();
    for (kind, body) in elements {
        // What an instance of a newer version tells beside its details is not shown here, and
        // nothing follows from it.
        if kind == Some(Kind::StatusDetail) {
            details.push(body_of::<DetailV2>(body)?.into());
        }
    }
    Ok(StatusReport { version, login_server, tls, state, details, last_sync })
}

impl From<StatusDetail> for DetailV2 {
    fn from(detail: StatusDetail) -> DetailV2 {
        let StatusDetail { kind, code, description, timestamp, correlation_id } = detail;
        DetailV2 { kind, code, description, timestamp, correlation_id }
    }
}

impl From<DetailV2> for StatusDetail {
    fn from(detail: DetailV2) -> StatusDetail {
        let DetailV2 { kind, code, description, timestamp, correlation_id } = detail;
        StatusDetail { kind, code, description, timestamp, correlation_id }
    }
}
