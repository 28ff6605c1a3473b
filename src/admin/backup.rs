//! `backup`: hands out what a backup consists of, piece by piece, while the node goes on.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use super::fault::Fault;
use crate::http::{Reply, ReplyBody};
use crate::store::StoreError;
use crate::store::backup::{Backup, BackupFile};
use crate::store::content::trust::Verdict;
use crate::store::content::unreadable::UNREADABLE_REMEDY;
use crate::sys::spawn;
use crate::types::Digest;

/// The backup under way; a new one takes the place of one that was given up.
#[derive(Default)]
pub(super) struct Backups(Mutex<Option<(String, Arc<Backup>)>>);

/// `backup/keep`, `backup/end`
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Named {
    id: String,
}

/// `backup/verify`
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Verify {
    digest: Digest,
}

impl Backups {
    fn named(&self, id: &str) -> Option<Arc<Backup>> {
        let cell = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cell.as_ref().filter(|(own, _)| own == id).map(|(_, backup)| backup.clone())
    }

    fn set(&self, backup: Option<(String, Arc<Backup>)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = backup;
    }

    /// Whoever asks for it goes on with it.
    fn find(&self, id: &str) -> Result<Arc<Backup>, Fault> {
        match self.named(id) {
            Some(backup) if backup.keep() => Ok(backup),
            // Not as what is missing: a backup goes on without that.
            _ => {
                let text = "This backup has ended: another one began, nobody went on with it for a \
                            minute, or the node was restarted. Run it again.";
                Err(Fault::conflict("BackupEnded", text))
            }
        }
    }
}

/// What cannot be read is left out of a backup.
fn unreadable(text: &str) -> Fault {
    Fault::not_found(format!("{text}: {UNREADABLE_REMEDY}."))
}

impl Admin {
    pub(super) async fn backup_begin(&self) -> Result<Value, Fault> {
        let backup = self.store.begin_backup().await?;
        let id = self.store.sys().rng.uuid();
        let files = backup.files.iter().map(|file| json!({ "name": file.name, "bytes": file.len }));
        let answer = json!({
            "id": id,
            "sequence": backup.sequence,
            "format": backup.format.to_string(),
            "stateDirectory": self.store.state_dir().display().to_string(),
            "end": backup.end,
            "lostRecords": backup.lost,
            "lossRemedy": self.store.loss_remedy(),
            "files": files.collect::<Vec<_>>(),
        });
        self.backups.set(Some((id, Arc::new(backup))));
        Ok(answer)
    }

    /// Somebody goes on with it.
    pub(super) fn backup_keep(&self, wanted: &Named) -> Result<Value, Fault> {
        self.backups.find(&wanted.id).map(|_| Value::Null)
    }

    pub(super) async fn backup_end(&self, wanted: &Named) -> Result<Value, Fault> {
        // What was asked for has come, however long nobody went on with it since.
        let backup = self.backups.named(&wanted.id);
        let backup = backup.map_or_else(|| self.backups.find(&wanted.id), Ok)?;
        self.backups.set(None);
        // A backup is no worse when the node cannot note what it lacks.
        if let Err(error) = backup.note_missing().await {
            log::warn!("what a backup found missing is not noted as damage: {error}");
        }
        Ok(Value::Null)
    }

    /// Content came with another digest: it is hashed here, and taken out of service when it is
    /// damaged.
    pub(super) async fn backup_verify(&self, wanted: &Verify) -> Result<Value, Fault> {
        match self.store.verify(&wanted.digest, |_| spawn::yield_now()).await {
            Err(StoreError::Unreadable(text)) => Err(unreadable(&text)),
            verdict => Ok(json!({ "good": matches!(verdict?, Verdict::Good(_)) })),
        }
    }

    /// `GET /admin/v1/backup/<id>/<number of a file, or a digest>`
    pub(super) async fn backup_piece(&self, path: &str) -> Result<Reply, Fault> {
        let nothing = || Fault::not_found("There is no such piece of a backup.");
        let (id, piece) = path.split_once('/').ok_or_else(nothing)?;
        let backup = self.backups.find(id)?;
        let file = if let Ok(digest) = piece.parse::<Digest>() {
            match backup.content(&digest).await {
                // The backup goes on without it, as without what is damaged.
                Err(StoreError::Unreadable(text)) => return Err(unreadable(&text)),
                content => content?.ok_or_else(|| {
                    let remedy = self.damage_remedy();
                    Fault::not_found(format!("{digest} is damaged or missing here: {remedy}."))
                })?,
            }
        } else {
            let number: usize = piece.parse().map_err(|_| nothing())?;
            backup.files.get(number).cloned().ok_or_else(nothing)?
        };
        let BackupFile { file, len, .. } = file;
        let mut reply = Reply::new(200).with("content-type", "application/octet-stream");
        reply.body = ReplyBody::File { file, offset: 0, len };
        Ok(reply)
    }
}
