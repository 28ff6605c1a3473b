//! The rows of messages from the parent that wait to be applied, and of positions in feeds.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, key, stored_as};
use crate::types::message::Message;
use crate::types::{ConnectedRegistryName, Cursor, Digest, RepositoryName, Tag};

/// A [`Message`]; its sequence is in the key. Never renumber.
#[derive(Serialize, Deserialize)]
enum MessageRow {
    Tag { repository: RepositoryName, tag: Tag, digest: Option<Digest> },
    ManifestAdded { repository: RepositoryName, digest: Digest },
    ManifestDeleted { repository: RepositoryName, digest: Digest },
    ConfigChanged { name: ConnectedRegistryName },
}

impl Row for MessageRow {
    const VERSION: u8 = 1;
}

impl From<&Message> for MessageRow {
    fn from(message: &Message) -> MessageRow {
        match message.clone() {
            Message::Tag { repository, tag, digest } => MessageRow::Tag { repository, tag, digest },
            Message::ManifestAdded { repository, digest } => {
                MessageRow::ManifestAdded { repository, digest }
            }
            Message::ManifestDeleted { repository, digest } => {
                MessageRow::ManifestDeleted { repository, digest }
            }
            Message::ConfigChanged { name } => MessageRow::ConfigChanged { name },
        }
    }
}

impl From<MessageRow> for Message {
    fn from(row: MessageRow) -> Message {
        match row {
            MessageRow::Tag { repository, tag, digest } => Message::Tag { repository, tag, digest },
            MessageRow::ManifestAdded { repository, digest } => {
                Message::ManifestAdded { repository, digest }
            }
            MessageRow::ManifestDeleted { repository, digest } => {
                Message::ManifestDeleted { repository, digest }
            }
            MessageRow::ConfigChanged { name } => Message::ConfigChanged { name },
        }
    }
}

stored_as!(Message, MessageRow);

/// A [`Cursor`].
#[derive(Serialize, Deserialize)]
struct PositionRow {
    epoch: u64,
    sequence: u64,
}

impl Row for PositionRow {
    const VERSION: u8 = 1;
}

impl From<&Cursor> for PositionRow {
    fn from(cursor: &Cursor) -> PositionRow {
        let Cursor { epoch, sequence } = *cursor;
        PositionRow { epoch, sequence }
    }
}

impl From<PositionRow> for Cursor {
    fn from(row: PositionRow) -> Cursor {
        let PositionRow { epoch, sequence } = row;
        Cursor { epoch, sequence }
    }
}

stored_as!(Cursor, PositionRow);

/// Several messages may come from one record: the second number tells them apart.
pub(in crate::store) fn item_key(sequence: u64, number: u64) -> Vec<u8> {
    let mut id = sequence.to_be_bytes().to_vec();
    id.extend_from_slice(&number.to_be_bytes());
    key(Kind::Inbox, &[&id])
}
