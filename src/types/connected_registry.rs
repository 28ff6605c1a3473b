//! Connected registries: the resource, and what is known of the instance behind it.

use std::fmt;
use std::str::FromStr;

use super::limits::{REPORT_BYTES_MAX, REPORT_DETAILS_MAX, REPORT_TEXT_BYTES_MAX};
use super::schedule::Schedule;
use super::{ConnectedRegistryName, RepositoryAction, TokenName, UnixSeconds};

/// Whether clients of a connected registry may push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Clients may only pull (old name: mirror).
    ReadOnly,
    /// Clients may pull and push; pushes travel up (old name: registry).
    ReadWrite,
}

impl Mode {
    /// The repository actions that the sync scope map holds (ACR.md section 2.1, rule 7).
    pub fn sync_actions(self) -> &'static [RepositoryAction] {
        match self {
            Mode::ReadOnly => &[RepositoryAction::ContentRead, RepositoryAction::MetadataRead],
            Mode::ReadWrite => &RepositoryAction::ALL,
        }
    }

    /// As the management API prints it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::ReadOnly => "ReadOnly",
            Mode::ReadWrite => "ReadWrite",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        match text.to_ascii_lowercase().as_str() {
            "readonly" | "mirror" => Ok(Mode::ReadOnly),
            "readwrite" | "registry" => Ok(Mode::ReadWrite),
            _ => Err(format!("invalid mode '{text}': valid are ReadOnly, ReadWrite")),
        }
    }
}

/// The resource as managed at the root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectedRegistry {
    /// Unique in the tree.
    pub name: ConnectedRegistryName,
    /// Never changes.
    pub mode: Mode,
    /// `None`: a child of the root. Never changes.
    pub parent: Option<ConnectedRegistryName>,
    /// What it authenticates with at its parent.
    pub sync_token: TokenName,
    /// Tokens that its own clients may log in with.
    pub client_tokens: Vec<TokenName>,
    /// When it syncs.
    pub schedule: Schedule,
    /// How long each occurrence lasts, seconds; `None` in continuous mode.
    pub sync_window_s: Option<u64>,
    /// How long the parent keeps messages for it, seconds.
    pub message_ttl_s: u64,
    /// `Debug`, `Information`, `Warning`, `Error` or `None`.
    pub log_level: String,
    /// Raised by `deactivate`, to the time at least: an instance of an older epoch is refused.
    pub activation_epoch: u64,
    /// When it was made.
    pub created: UnixSeconds,
}

/// The instance that serves a connected registry, as its parent knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Activation {
    /// The epoch of the resource at activation.
    pub epoch: u64,
    /// Random, made by the device on its first start.
    pub instance_id: String,
    /// When.
    pub at: UnixSeconds,
}

/// Longest id of an instance, characters. Over it: its activation is refused.
const INSTANCE_ID_CHARS_MAX: usize = 64;

/// Whether an instance may go by this id: it travels in a header.
pub fn is_instance_id(id: &str) -> bool {
    (1..=INSTANCE_ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
}

/// What the parent last saw of a connected registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConnectionState {
    /// Not in contact, or never deployed.
    #[default]
    Offline,
    /// In contact and healthy.
    Online,
    /// A sync is running.
    Syncing,
    /// In contact and reporting errors.
    Unhealthy,
}

impl ConnectionState {
    /// As the management API prints it.
    pub fn name(self) -> &'static str {
        match self {
            ConnectionState::Offline => "Offline",
            ConnectionState::Online => "Online",
            ConnectionState::Syncing => "Syncing",
            ConnectionState::Unhealthy => "Unhealthy",
        }
    }
}

/// What a connected registry knows of its way to its parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ParentContact {
    /// No attempt has ended yet.
    #[default]
    Connecting,
    /// The parent answered the last call.
    InContact,
    /// No call is due before the next window.
    WaitingForWindow,
    /// The last attempt failed.
    OutOfContact,
    /// There is no connection string that can be used: nothing is attempted.
    NoConnectionString,
}

impl ParentContact {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            ParentContact::Connecting => "connecting",
            ParentContact::InContact => "in contact",
            ParentContact::WaitingForWindow => "waiting for the next sync window",
            ParentContact::OutOfContact => "out of contact",
            ParentContact::NoConnectionString => "no connection string",
        }
    }
}

/// One line of an unhealthy instance's report (ACR.md section 1.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusDetail {
    /// The component, for example `Disk`.
    pub kind: String,
    /// The kind of fault, for example `DiskError`.
    pub code: String,
    /// In words, with the cure where there is one.
    pub description: String,
    /// When it was seen.
    pub timestamp: UnixSeconds,
    /// Finds the matching line in the device's log.
    pub correlation_id: String,
}

/// What a status detail is about. A node of another version may know others, so that details
/// travel as text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DetailCode {
    /// The sync ended with an error.
    SyncFailed,
    /// Something that is granted cannot be fetched.
    SyncIncomplete,
    /// The parent refuses a push.
    PushRefused,
    /// A push waits at a node that is ReadOnly now.
    PushWaiting,
    /// Both sides moved a tag.
    TagConflict,
    /// The disk is full or fails.
    DiskError,
    /// Stored content is damaged or missing.
    ContentDamaged,
    /// Acknowledged changes may be lost.
    RecordsLost,
}

impl DetailCode {
    /// Every code, in the order of README.
    pub const ALL: [DetailCode; 8] = [
        DetailCode::SyncFailed,
        DetailCode::SyncIncomplete,
        DetailCode::PushRefused,
        DetailCode::PushWaiting,
        DetailCode::TagConflict,
        DetailCode::DiskError,
        DetailCode::ContentDamaged,
        DetailCode::RecordsLost,
    ];

    /// The word in a report.
    pub fn name(self) -> &'static str {
        match self {
            DetailCode::SyncFailed => "SyncFailed",
            DetailCode::SyncIncomplete => "SyncIncomplete",
            DetailCode::PushRefused => "PushRefused",
            DetailCode::PushWaiting => "PushWaiting",
            DetailCode::TagConflict => "TagConflict",
            DetailCode::DiskError => "DiskError",
            DetailCode::ContentDamaged => "ContentDamaged",
            DetailCode::RecordsLost => "RecordsLost",
        }
    }

    /// The component.
    pub fn kind(self) -> &'static str {
        match self {
            DetailCode::SyncFailed
            | DetailCode::SyncIncomplete
            | DetailCode::PushRefused
            | DetailCode::PushWaiting
            | DetailCode::TagConflict => "Sync",
            DetailCode::DiskError => "Disk",
            DetailCode::ContentDamaged | DetailCode::RecordsLost => "Storage",
        }
    }
}

/// What an instance reports upward.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatusReport {
    /// Version of the program.
    pub version: String,
    /// Where its clients log in.
    pub login_server: String,
    /// Whether that listener has TLS.
    pub tls: bool,
    /// Its own view.
    pub state: ConnectionState,
    /// Empty when healthy.
    pub details: Vec<StatusDetail>,
    /// End of the last sync that succeeded.
    pub last_sync: Option<UnixSeconds>,
}

impl StatusReport {
    /// Whether a node has told this: what it never told is empty.
    pub fn is_told(&self) -> bool {
        *self != StatusReport::default()
    }

    /// The same within [`REPORT_DETAILS_MAX`] and what belongs to it: a device may say anything,
    /// and the reports of very many are shown together.
    #[must_use]
    pub fn bounded(mut self) -> StatusReport {
        clip(&mut self.version);
        clip(&mut self.login_server);
        let mut bytes = 0;
        self.details.truncate(REPORT_DETAILS_MAX);
        for detail in &mut self.details {
            let texts = [&mut detail.kind, &mut detail.code, &mut detail.correlation_id];
            texts.into_iter().chain([&mut detail.description]).for_each(clip);
        }
        self.details.retain(|detail| {
            let texts = [&detail.kind, &detail.code, &detail.correlation_id, &detail.description];
            bytes += texts.iter().map(|text| text.len()).sum::<usize>();
            bytes <= REPORT_BYTES_MAX
        });
        self
    }
}

/// Leaves out what follows [`REPORT_TEXT_BYTES_MAX`].
fn clip(text: &mut String) {
    if text.len() > REPORT_TEXT_BYTES_MAX {
        let starts = |at: &usize| text.is_char_boundary(*at);
        let end = (0..=REPORT_TEXT_BYTES_MAX).rev().find(starts).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f209_of_a_report_a_bounded_part_is_kept() {
        let long = "\u{e4}".repeat(1_000_000);
        let detail = |text: &str| StatusDetail {
            kind: text.to_owned(),
            code: text.to_owned(),
            description: text.to_owned(),
            timestamp: UnixSeconds(1),
            correlation_id: text.to_owned(),
        };
        let report = |details| StatusReport {
            version: long.clone(),
            login_server: long.clone(),
            details,
            ..StatusReport::default()
        };
        let kept = report(vec![detail(&long); 100]).bounded();
        assert_eq!(kept.version.len(), REPORT_TEXT_BYTES_MAX);
        assert_eq!(kept.login_server.len(), REPORT_TEXT_BYTES_MAX);
        assert_eq!(kept.details.len(), REPORT_BYTES_MAX / REPORT_TEXT_BYTES_MAX / 4);
        let small = report(vec![detail("a"); 100]).bounded();
        assert_eq!(small.details.len(), REPORT_DETAILS_MAX);
        assert_eq!(small.clone().bounded(), small);
    }

    #[test]
    fn f212_every_status_detail_is_explained() {
        let readme = include_str!("../../README.md");
        let from = readme.find("\n| detail |").expect("the table");
        let rows = readme[from + 1..].lines().take_while(|line| line.starts_with('|')).skip(2);
        let words: Vec<(&str, &str)> = rows
            .map(|row| {
                let mut cells = row.split('|').map(str::trim).skip(1);
                let word = cells.next().unwrap_or_default().trim_matches('`');
                (word, cells.next().unwrap_or_default())
            })
            .collect();
        let ours: Vec<(&str, &str)> =
            DetailCode::ALL.iter().map(|code| (code.name(), code.kind())).collect();
        assert_eq!(words, ours);
        assert_eq!(DetailCode::RecordsLost as usize + 1, DetailCode::ALL.len(), "ALL has all");
    }
}
