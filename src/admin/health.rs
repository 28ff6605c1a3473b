//! `/healthz`, `/readyz`, `/metrics`, and `status`.

use serde_json::{Value, json};

use super::Admin;
use super::fault::Fault;
use super::print::print_detail;
use super::summary::summary;
use super::tokens::Nothing;
use crate::http::{Method, Reply, Request};
use crate::store::content::unreadable::UNREADABLE_REMEDY;
use crate::store::recovery::loss::LOSS_REASON;
use crate::store::replica::node::SyncFailure;
use crate::sync::status_details;
use crate::sys::spawn;
use crate::types::connected_registry::ParentContact;
use crate::types::connection_string::FINGERPRINT_PREFIX;
use crate::types::schedule::Window;
use crate::types::time::format_duration;
use crate::types::{NodeState, Role, UnixSeconds};

/// The Prometheus text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Changes on their way up that `status` counts. Over it: it says that there are as many or more.
const COUNTED_MAX: usize = 1_000;
/// Damaged content that `status` names, and repositories of each; the content is counted in any
/// case.
const DAMAGED_SHOWN: usize = 10;

/// What is to be done about a connection string that is there and cannot be used.
const FAULT_REMEDY: &str = "the connection string cannot be used: mend what `reason` names, which \
                            is noticed by itself, but of the credential skerry.connection-string, \
                            which needs a restart of the service; a connection string is taken \
                            from `skerry connected-registry get-settings --name NAME` at the root";

impl Admin {
    /// The answer to a health or metrics request; `None` for any other path.
    pub(super) async fn health(&self, request: &Request) -> Option<Reply> {
        let reply = match request.path.as_str() {
            "/healthz" => text(200, "ok\n"),
            "/readyz" => match self.unready() {
                // What is here is served. A gate of an update sees a rollback that keeps the newer
                // version's store.
                None => match self.unwritable().await {
                    Some((cause, _)) => text(200, &format!("ready, but {cause}\n")),
                    None => text(200, "ready\n"),
                },
                Some(why) => text(503, &format!("not ready: {why}\n")).with("retry-after", "5"),
            },
            "/metrics" => Reply::bytes(200, METRICS_TYPE, self.metrics()),
            _ => return None,
        };
        Some(match request.method {
            Method::Get | Method::Head => reply,
            _ => text(405, "use GET or HEAD\n").with("allow", "GET, HEAD"),
        })
    }

    /// Why the node cannot serve clients just now.
    fn unready(&self) -> Option<&'static str> {
        match (self.store.self_node(), self.store.node_state()) {
            (Err(_), _) | (_, Err(_)) => Some("the store cannot be read"),
            (Ok(Some(_)), _) | (_, Ok(NodeState::Root)) => None,
            (Ok(None), Ok(state)) => Some(state.remedy().unwrap_or("it is being activated")),
        }
    }

    /// Why the store takes no changes or no pushes just now, and what is to be done about it.
    async fn unwritable(&self) -> Option<(String, &'static str)> {
        let store = self.store.clone();
        let found = spawn::blocking(move || store.hindrance()).await?;
        Some((found.cause(), found.remedy()))
    }

    /// What the node is and how it does.
    pub(super) async fn status(&self, _: Nothing) -> Result<Value, Fault> {
        let config = self.store.self_config()?;
        let view = self.store.sync_view();
        let state = self.store.node_state()?;
        let (rows, rows_max) = self.store.index_rows();
        let mut value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "role": self.manage.options().role.name(),
            "state": state.name(),
            "summary": self.summary(),
            "registry": self.manage.registry_name(),
            "loginServer": self.manage.options().login_server,
            "ready": self.unready().is_none(),
            "readOnly": self.store.read_only(),
            "storeSequence": self.store.sequence(),
            "storeFormat": self.print_format(),
            "indexRows": rows,
            "indexRowsMax": rows_max,
            "damagedBlobs": self.store.damaged_count(),
            "blobsToVerify": self.store.doubted(),
            "clockTrusted": self.store.sys().clock.wall().is_some(),
        });
        if let Some(hex) = &self.manage.options().ca_fingerprint {
            value["caFingerprint"] = format!("{FINGERPRINT_PREFIX}{hex}").into();
        }
        if let Some(remedy) = state.remedy() {
            value["remedy"] = remedy.into();
        }
        let is_out = [ParentContact::OutOfContact, ParentContact::WaitingForWindow];
        let failure = match &state {
            NodeState::Activating | NodeState::Refused(_) => view.failure.as_ref(),
            NodeState::Active if is_out.contains(&view.contact) => view.failure.as_ref(),
            _ => None,
        };
        if let Some(failure) = failure {
            value["reason"] = failure.text.clone().into();
        }
        if let (Some(failure), NodeState::Active) = (failure, &state) {
            value["remedy"] = out_of_contact_remedy(failure).into();
        }
        let fault = self.store.credential_fault();
        if let Some(fault) = fault.filter(|_| view.contact != ParentContact::InContact) {
            value["reason"] = fault.into();
            if matches!(state, NodeState::Unprovisioned | NodeState::CredentialMissing) {
                value["remedy"] = FAULT_REMEDY.into();
            }
        }
        self.add_damage(&mut value).await?;
        if let Some((text, _)) = self.store.unreadable_content() {
            add(&mut value["reason"], &text);
            add(&mut value["remedy"], UNREADABLE_REMEDY);
        }
        // It stands above what the parent or a connection string may want: no change counts.
        if let Some((cause, remedy)) = self.unwritable().await {
            value["reason"] = cause.into();
            value["remedy"] = remedy.into();
        }
        if let Some(loss) = self.store.loss() {
            value["lostRecords"] = loss.into();
            add(&mut value["reason"], LOSS_REASON);
            let remedy = self.store.loss_remedy();
            add(&mut value["remedy"], &format!("for the lost records: {remedy}"));
        }
        if let NodeState::Refused(hurdle) = state {
            value["parentSays"] = hurdle.text.into();
        }
        if self.manage.options().role == Role::Root {
            value["gatewayEndpoint"] = self.manage.options().gateway_endpoint.clone().into();
            value["connectedRegistries"] = self.store.connected_registries_count().await?.into();
        } else {
            let now = self.store.sys().clock.wall();
            let node = config.as_ref().map(|config| &config.node);
            let window =
                node.zip(now).map(|(node, now)| node.schedule.window(node.sync_window_s, now));
            let (next, end) = match window {
                Some(Window::Closed { next }) => (next, None),
                Some(Window::Open { until }) => (None, Some(until)),
                Some(Window::Always) | None => (None, None),
            };
            value["connectedRegistry"] = config.map_or(Value::Null, |config| {
                let window_s = config.node.schedule.window_s(config.node.sync_window_s);
                json!({
                    "name": config.node.name,
                    "mode": config.node.mode.name(),
                    "parent": config.node.parent,
                    "schedule": config.node.schedule.to_string(),
                    "syncWindow": window_s.map(format_duration),
                    "clientTokens": config.node.client_tokens,
                    "children": config.children.len(),
                })
            });
            let details = status_details(&self.store, view.problems.clone())?;
            value["sync"] = json!({
                "parentOnline": view.contact == ParentContact::InContact,
                "contact": view.contact.name(),
                "waitingForWindow": view.waiting_for_window,
                "nextWindowTime": next.map(UnixSeconds::rfc3339),
                "windowEndTime": end.map(UnixSeconds::rfc3339),
                "lastSyncTime": view.last_sync.map(UnixSeconds::rfc3339),
                "repositories": self.store.synced_repositories().await?,
                "waitingChanges": print_count(self.store.outbox(COUNTED_MAX)?.len()),
                "refusedChanges": print_count(self.store.refused_changes(COUNTED_MAX)?.len()),
                "statusDetails": details.iter().map(print_detail).collect::<Vec<_>>(),
            });
        }
        Ok(value)
    }

    fn summary(&self) -> String {
        summary(
            &self.store,
            &self.manage.options().login_server,
            &self.manage.options().gateway_endpoint,
        )
    }

    /// What of the content is damaged, where it is needed, and what heals it.
    async fn add_damage(&self, value: &mut Value) -> Result<(), Fault> {
        let damaged = self.store.damaged_where(DAMAGED_SHOWN).await?;
        if damaged.is_empty() {
            return Ok(());
        }
        let named = damaged.iter().map(|(digest, repositories)| {
            let repositories: Vec<_> = repositories.iter().take(DAMAGED_SHOWN).collect();
            json!({ "digest": digest, "repositories": repositories })
        });
        value["damagedContent"] = named.collect();
        if value["reason"].is_null() {
            value["reason"] = "content is damaged or missing, and is not served".into();
            value["remedy"] = self.damage_remedy().into();
        }
        Ok(())
    }

    /// What brings damaged content back.
    pub(super) fn damage_remedy(&self) -> &'static str {
        match self.manage.options().role {
            Role::Root => "push the images again that need it, which replaces what is damaged",
            Role::Connected => {
                "it is fetched again from the parent as soon as that has it and can be reached; \
                 what the parent never had comes back when the images are pushed here again"
            }
        }
    }

    /// Every counter in the Prometheus text format.
    fn metrics(&self) -> String {
        let metrics = &self.store.sys().metrics;
        let mut text = String::new();
        let mut sample = |name: &str, kind: &str, help: &str, value: u64| {
            text.push_str(&format!(
                "# HELP skerry_{name} {help}\n# TYPE skerry_{name} {kind}\nskerry_{name} {value}\n"
            ));
        };
        for (name, help, counter) in [
            ("requests_total", "Requests answered.", &metrics.requests),
            ("requests_refused_total", "Requests answered with 4xx.", &metrics.requests_refused),
            ("requests_failed_total", "Requests answered with 5xx.", &metrics.requests_failed),
            ("panics_total", "Handlers that panicked.", &metrics.panics),
            ("sent_bytes_total", "Body bytes sent.", &metrics.bytes_sent),
            ("received_bytes_total", "Body bytes received.", &metrics.bytes_received),
            ("journal_groups_total", "Journal groups made durable.", &metrics.journal_groups),
            ("journal_bytes_total", "Journal bytes written.", &metrics.journal_bytes),
            (
                "sync_fetched_bytes_total",
                "Content bytes fetched from the parent.",
                &metrics.sync_bytes_fetched,
            ),
            ("blobs_damaged_total", "Content found damaged or missing.", &metrics.blobs_damaged),
            ("blobs_healed_total", "Damaged content that came again.", &metrics.blobs_healed),
            (
                "gc_disagreements_total",
                "Content seen as garbage that the index knows to be needed: a defect.",
                &metrics.gc_disagreements,
            ),
            ("scrub_bytes_total", "Content bytes hashed by scrubs.", &metrics.scrub_bytes),
            ("sync_requests_total", "Requests sent to the parent.", &metrics.sync_requests),
        ] {
            sample(name, "counter", help, counter.get());
        }
        let turn_rows = self.store.sys().spawner.turn_rows();
        let help = "Most rows of the store that a task read before others went on.";
        sample("turn_rows_max", "gauge", help, turn_rows);
        let turn_cpu_us = self.store.sys().spawner.turn_cpu_us();
        let help = "Most processor time that a task needed before others went on.";
        sample("turn_cpu_microseconds_max", "gauge", help, turn_cpu_us);
        let help = "Most rows that a command of the store read and changed.";
        sample("command_rows_max", "gauge", help, metrics.command_rows.get());
        let sequence = self.store.sequence();
        sample("store_sequence", "gauge", "Sequence of the last durable record.", sequence);
        let damaged = self.store.damaged_count() as u64;
        sample("blobs_damaged", "gauge", "Content that waits to be healed.", damaged);
        let ready = u64::from(self.unready().is_none());
        let frozen = u64::from(self.store.read_only());
        sample("read_only", "gauge", "Whether the store takes no changes.", frozen);
        let lost = u64::from(self.store.loss().is_some());
        sample("records_lost", "gauge", "Whether a loss waits for an operator.", lost);
        sample("ready", "gauge", "Whether the node can serve clients.", ready);
        text
    }
}

/// Adds a sentence to what a field says already, if anything.
fn add(field: &mut Value, text: &str) {
    *field = match field.as_str() {
        None => text.into(),
        Some(said) => format!("{said}; {text}").into(),
    };
}

/// What is to be done on an active node that gets nothing from its parent.
fn out_of_contact_remedy(failure: &SyncFailure) -> &'static str {
    match failure.unreachable {
        true => {
            "this node serves what it has and goes on trying to reach its parent: check that the \
             parent runs, its address in the connection string, the network, its certificate \
             (parent.ca_file, if it is of a private authority) and the clocks of both; another \
             connection string counts after a restart"
        }
        false => {
            "this node serves what it has and goes on trying to sync: check the parent for this \
             reason; the log has what came before"
        }
    }
}

/// A count that ends at [`COUNTED_MAX`].
fn print_count(count: usize) -> Value {
    if count < COUNTED_MAX { count.into() } else { format!("{COUNTED_MAX} or more").into() }
}

fn text(status: u16, body: &str) -> Reply {
    Reply::bytes(status, "text/plain; charset=utf-8", body)
}
