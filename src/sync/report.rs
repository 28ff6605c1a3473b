//! What this node tells its parent of itself and of the nodes below it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::engine::EngineOptions;
use super::error::SyncError;
use super::state::State;
use crate::gateway::contacts::CALL_INTERVAL;
use crate::gateway::feed::Scope;
use crate::gateway::{Upstream, UpstreamError};
use crate::store::content::unreadable::UNREADABLE_REMEDY;
use crate::store::recovery::loss::LOSS_REASON;
use crate::store::{Store, StoreError};
use crate::sys::clock::sleep;
use crate::types::connected_registry::{ConnectionState, DetailCode, StatusDetail, StatusReport};
use crate::types::time::format_duration;
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Digest, Mode, UnixSeconds};

/// Reports are at least this far apart.
const PAUSE: Duration = Duration::from_secs(1);

/// Refused changes, conflicts, and repositories with changes that wait at a ReadOnly node, that one
/// report lists. Over it: the rest follows when these are
/// resolved.
const REFUSED_MAX: usize = 10;

/// Notes of conflicts that are looked through for those: earlier versions left some behind.
const CONFLICTS_READ_MAX: usize = 256;

/// Damaged content that a report names; the number is told in any case.
const DAMAGED_SHOWN: usize = 3;

/// Reports upward.
pub(super) struct Reporter {
    pub(super) store: Store,
    pub(super) upstream: Arc<Upstream>,
    pub(super) state: Arc<State>,
    pub(super) options: EngineOptions,
    /// What the parent knows of the nodes below; told anew after a restart of either.
    pub(super) told: Mutex<BTreeMap<ConnectedRegistryName, Told>>,
    /// What was told of this node outside a session, since the last one.
    pub(super) failed: Mutex<Option<StatusReport>>,
}

#[derive(Clone, Default, PartialEq)]
pub(super) struct Told {
    /// The epoch of the feed of the parent that was told, and which start of it that was. Another
    /// one, or one that was restored or set back, may not know it.
    parent: (Option<u64>, Option<String>),
    /// When the connected registry was made. One that was deleted and made again is new to the
    /// parent, which has forgotten its instance, while this node may have heard of neither.
    created: Option<UnixSeconds>,
    activation: Option<(u64, String)>,
    report: Option<StatusReport>,
    /// Which instance of the node above it the parent knew of when it was told that report: of
    /// another one it has to hear it anew.
    under: Option<(u64, String)>,
}

impl Reporter {
    /// Reports at once, then whenever something changed, and now and then while a long fetch
    /// keeps the worker from polling, so that the parent sees that this node lives; ends with an
    /// error only.
    pub(super) async fn report_all(&self) -> Result<Infallible, SyncError> {
        let mut sent = None;
        *self.failed() = None;
        loop {
            let seen = self.store.sequence();
            match self.report(&mut sent).await {
                Ok(()) => {}
                Err(error) if error.ends_session() => return Err(error),
                Err(error) => log::debug!("cannot report to the parent just now: {error}"),
            }
            sleep(PAUSE).await;
            let damage = async {
                self.store.damage_changes().await;
                true
            };
            let news = smol::future::or(self.store.wait_after(seen, CALL_INTERVAL), damage);
            if !news.await {
                return std::future::pending().await;
            }
        }
    }

    /// Reports this node alone, once for each state that it is in.
    pub(super) async fn report_failure(&self) -> Result<(), SyncError> {
        let report = self.own_report()?;
        if self.failed().as_ref() != Some(&report) {
            self.upstream.put_status(self.upstream.name(), &report).await?;
            *self.failed() = Some(report);
        }
        Ok(())
    }

    pub(super) async fn report(
        &self,
        sent: &mut Option<(StatusReport, Duration)>,
    ) -> Result<(), SyncError> {
        let now = self.store.sys().clock.monotonic();
        let report = self.own_report()?;
        let due = sent.as_ref().is_none_or(|(last, at)| {
            let quiet = now.saturating_sub(*at) >= CALL_INTERVAL;
            let changed = *last != report;
            // A sync after each push somewhere is no news of its own: it can wait a little.
            let news = StatusReport { last_sync: last.last_sync, ..report.clone() } != *last;
            news || (quiet && (changed || !self.state.now().polling))
        });
        if due {
            self.upstream.put_status(self.upstream.name(), &report).await?;
            *sent = Some((report, now));
        }
        self.pass_on().await
    }

    fn own_report(&self) -> Result<StatusReport, StoreError> {
        let details = status_details(&self.store, self.state.problems())?;
        let state = match (details.is_empty(), self.state.now().syncing) {
            (false, _) => ConnectionState::Unhealthy,
            (true, true) => ConnectionState::Syncing,
            (true, false) => ConnectionState::Online,
        };
        Ok(StatusReport {
            version: self.options.version.clone(),
            login_server: self.options.login_server.clone(),
            tls: self.options.tls,
            state,
            details,
            last_sync: self.state.now().last_sync.max(self.store.last_sync()?),
        })
    }

    /// Passes on what is new of the nodes below: who serves them, and how they are.
    async fn pass_on(&self) -> Result<(), SyncError> {
        let Some(config) = self.store.self_config()? else {
            return Ok(());
        };
        let below: BTreeSet<_> = config.descendants.iter().map(|below| &below.name).collect();
        let parent = (self.store.parent_epoch()?, self.upstream.parent_start());
        self.told().retain(|name, told| below.contains(name) && told.parent == parent);
        let mut refused = None;
        for descendant in &config.descendants {
            let name = &descendant.name;
            let node = self.store.node_below(name)?;
            let created = node.as_ref().map(|node| node.created);
            let known = self.told().get(name).filter(|told| told.created == created).cloned();
            let known =
                known.unwrap_or(Told { created, parent: parent.clone(), ..Told::default() });
            let mut told = known.clone();
            let result = self.pass_on_one(name, node.as_ref(), &mut told).await;
            if told != known {
                self.told().insert(name.clone(), told);
            }
            match result {
                // It was deleted a moment ago.
                Err(SyncError::Upstream(
                    UpstreamError::NotFound(_) | UpstreamError::Forbidden(_),
                )) => {}
                // The parent knows better: a newer epoch, which will come down.
                Err(SyncError::Upstream(UpstreamError::AlreadyActivated(_))) => {}
                // Of this one it takes nothing, of others it may.
                Err(SyncError::Upstream(
                    error @ (UpstreamError::Refused(..) | UpstreamError::Busy(..)),
                )) => refused = refused.or(Some(error)),
                other => other?,
            }
        }
        refused.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn pass_on_one(
        &self,
        name: &ConnectedRegistryName,
        node: Option<&ConnectedRegistry>,
        told: &mut Told,
    ) -> Result<(), SyncError> {
        if let Some(activation) = self.store.activation(name)? {
            let now = Some((activation.epoch, activation.instance_id.clone()));
            if told.activation != now {
                self.upstream.report_activation(name, &activation).await?;
                told.activation = now;
            }
        }
        let Some(record) = self.store.status(name)? else {
            return Ok(());
        };
        if let Some(node) = node
            && !self.store.still_counts(node, &record)?
        {
            return Ok(());
        }
        let above = node.and_then(|node| node.parent.as_ref());
        let under = above.and_then(|above| self.told().get(above)?.activation.clone());
        let mut report = record.report;
        // Of a direct child this node knows itself whether it is in contact.
        if let Some(child) = self.store.connected_registry(name)? {
            let last = Some(record.last_contact);
            report.state = match self.store.is_admitted(&child)? {
                true => self.options.contacts.state(&child, report.state, last),
                false => ConnectionState::Offline,
            };
        }
        if told.report.as_ref() != Some(&report) || told.under != under {
            self.upstream.put_status(name, &report).await?;
            (told.report, told.under) = (Some(report), under);
        }
        Ok(())
    }

    fn failed(&self) -> MutexGuard<'_, Option<StatusReport>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<ConnectedRegistryName, Told>> {
        // A panic elsewhere leaves whole entries behind.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is wrong with this node, as it reports it upward and shows it itself: the `problems` of its
/// engine, and what its store tells.
pub fn status_details(
    store: &Store,
    problems: Vec<StatusDetail>,
) -> Result<Vec<StatusDetail>, StoreError> {
    let mut details = problems;
    let refused = store.refused_changes(REFUSED_MAX + 1)?;
    let more = refused.get(REFUSED_MAX).map(|(_, refusal)| refusal.at);
    for (number, refusal) in refused.into_iter().take(REFUSED_MAX) {
        details.push(StatusDetail {
            kind: DetailCode::PushRefused.kind().to_owned(),
            code: DetailCode::PushRefused.name().to_owned(),
            description: format!(
                "cannot push {} to the parent: {}; it stays here and is tried again when the \
                 configuration changes, when this node or its parent is restarted, by itself \
                 within an hour, and less often the longer it is refused",
                refusal.entry, refusal.reason
            ),
            timestamp: refusal.at,
            correlation_id: format!("outbox-{number}"),
        });
    }
    if let Some(timestamp) = more {
        details.push(StatusDetail {
            kind: DetailCode::PushRefused.kind().to_owned(),
            code: DetailCode::PushRefused.name().to_owned(),
            description: "more pushes are refused than are listed here; `skerry status` at the \
                          device counts them"
                .to_owned(),
            timestamp,
            correlation_id: "outbox-more".to_owned(),
        });
    }
    details.extend(unsent_details(store)?);
    for (repository, tag, at) in store.conflicts(CONFLICTS_READ_MAX)?.into_iter().take(REFUSED_MAX)
    {
        details.push(StatusDetail {
            kind: DetailCode::TagConflict.kind().to_owned(),
            code: DetailCode::TagConflict.name().to_owned(),
            description: format!(
                "{repository}:{tag} holds what was pushed here while the tag was moved or removed \
                 at the parent; delete it (with content/delete) when it is dealt with"
            ),
            timestamp: at,
            correlation_id: format!("conflict-{tag}"),
        });
    }
    if let Some(loss) = store.loss() {
        details.push(StatusDetail {
            kind: DetailCode::RecordsLost.kind().to_owned(),
            code: DetailCode::RecordsLost.name().to_owned(),
            description: format!("{loss}; {LOSS_REASON}; at this node: {}", store.loss_remedy()),
            timestamp: store.loss_since(),
            correlation_id: "records-lost".to_owned(),
        });
    }
    let is_known = details.iter().any(|detail| detail.code == DetailCode::DiskError.name());
    if let Some((description, timestamp)) = store.unwritable().filter(|_| !is_known) {
        details.push(StatusDetail {
            kind: DetailCode::DiskError.kind().to_owned(),
            code: DetailCode::DiskError.name().to_owned(),
            description,
            timestamp,
            correlation_id: "disk-takes-no-pushes".to_owned(),
        });
    }
    if let Some((text, timestamp)) = store.unreadable_content() {
        details.push(StatusDetail {
            kind: DetailCode::DiskError.kind().to_owned(),
            code: DetailCode::DiskError.name().to_owned(),
            description: format!("{text}; it is not served, other content is: {UNREADABLE_REMEDY}"),
            timestamp,
            correlation_id: "unreadable-content".to_owned(),
        });
    }
    let damaged = store.damaged(DAMAGED_SHOWN);
    if let Some(first) = damaged.first() {
        details.push(StatusDetail {
            kind: DetailCode::ContentDamaged.kind().to_owned(),
            code: DetailCode::ContentDamaged.name().to_owned(),
            description: format!(
                "{} damaged or missing and not served, among them {}",
                objects_are(store.damaged_count()),
                damaged.iter().map(Digest::to_string).collect::<Vec<_>>().join(", ")
            ),
            timestamp: store.damaged_since(),
            correlation_id: format!("content-{}", &first.hex()[..12]),
        });
    }
    Ok(details)
}

fn objects_are(count: usize) -> String {
    if count == 1 { "1 stored object is".to_owned() } else { format!("{count} stored objects are") }
}

/// The command that creates a connected registry again as it is, but ReadWrite.
fn create_again(node: &ConnectedRegistry) -> String {
    let mut command = format!(
        "skerry connected-registry create --name {} --sync-token {} --mode {}",
        node.name,
        node.sync_token,
        Mode::ReadWrite
    );
    if let Some(parent) = &node.parent {
        command.push_str(&format!(" --parent {parent}"));
    }
    if !node.client_tokens.is_empty() {
        command.push_str(" --client-tokens");
        node.client_tokens.iter().for_each(|token| command.push_str(&format!(" {token}")));
    }
    if !node.schedule.is_continuous() {
        command.push_str(&format!(" --sync-schedule '{}'", node.schedule));
    }
    if let Some(window_s) = node.sync_window_s {
        command.push_str(&format!(" --sync-window {}", format_duration(window_s)));
    }
    command
}

/// What a ReadOnly node has and does not deliver: it was ReadWrite when that was pushed. Its mode
/// is that with which the connected registry was created, so all of it waits since then.
fn unsent_details(store: &Store) -> Result<Vec<StatusDetail>, StoreError> {
    // Nearly all nodes have nothing like that, which is told without reading all that is desired.
    if store.self_node()?.is_none_or(|node| node.mode != Mode::ReadOnly) {
        return Ok(Vec::new());
    }
    let unsent = store.unsent(REFUSED_MAX + 1)?;
    let Some(config) = store.self_config()?.filter(|_| !unsent.is_empty()) else {
        return Ok(Vec::new());
    };
    let (scope, writes) = (Scope::of_config(&config), Scope::of_writes(&config));
    let node = &config.node;
    let detail = |description, id: &str| StatusDetail {
        kind: DetailCode::PushWaiting.kind().to_owned(),
        code: DetailCode::PushWaiting.name().to_owned(),
        description,
        timestamp: node.created,
        correlation_id: format!("unsent-{id}"),
    };
    let mut details = Vec::new();
    for repository in unsent {
        if details.len() == REFUSED_MAX {
            let more = "more repositories have changes that wait than are listed here".to_owned();
            details.push(detail(more, "more"));
            break;
        }
        let (name, create) = (&node.name, create_again(node));
        let mut text = format!(
            "{repository} has changes that the parent does not have, made while this connected \
             registry was ReadWrite: now it is ReadOnly and delivers nothing, so they wait here; \
             they go up when '{name}' is deleted at the root and created again with its sync \
             token: `skerry connected-registry delete --name {name}`, then `{create}`"
        );
        if !writes.covers(&repository) {
            text.push_str(&format!(
                " and granted the repository, by `skerry connected-registry permissions update \
                 --name {name} --add {repository}`"
            ));
        }
        if !scope.covers(&repository) {
            text.push_str("; it is not granted now, and is deleted here when they have gone");
        }
        details.push(detail(text, repository.as_str()));
    }
    Ok(details)
}
