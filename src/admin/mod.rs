//! Management over the admin socket, and health and metrics for everyone.
//!
//! `POST /admin/v1/<noun>/<verb>` takes a JSON object whose fields are named like the long flags of
//! `az acr`, and answers what that prints with `-o json`. Who can open the socket may do
//! everything: its file mode is the lock.

mod also;
mod audit;
mod backup;
mod confirm;
mod fault;
mod garbage;
mod health;
mod late;
mod print;
mod registries;
mod scrub;
mod settings;
mod summary;
mod tokens;
mod view;

pub use summary::summary;

use std::sync::Arc;

use fault::Fault;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokens::Nothing;

use crate::http::BodyError;
use crate::http::{Account, Method, Reply, Request, Sender};
use crate::store::Store;
use crate::store::gc::GcOptions;
use crate::types::connected_registry::ConnectionState;
use crate::types::deed::Deed;
use crate::types::limits::SMALL_BODY_BYTES_MAX;
use crate::types::schedule::Schedule;
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Role, UnixSeconds};

/// Where the verbs are.
const PREFIX: &str = "/admin/v1/";

/// What the management interface tells of the node.
pub struct AdminOptions {
    /// What the node is.
    pub role: Role,
    /// The root's name; on a connected registry the name in its desired state comes first.
    pub registry_name: String,
    /// Where clients log in, `host[:port]`.
    pub login_server: String,
    /// What `get-settings` names as the gateway of the root, `host[:port]`.
    pub gateway_endpoint: String,
    /// Why children do not reach this root there.
    pub gateway_warning: Option<String>,
    /// `http` or `https`, as devices see that gateway.
    pub scheme: String,
    /// SHA-256 of the certificate that the gateway shows, 64 hex digits, when no public authority
    /// vouches for it: devices are told to trust it.
    pub ca_fingerprint: Option<String>,
    /// What `gc` may remove.
    pub gc: GcOptions,
    /// What a scrub may read, bytes per second.
    pub scrub_rate: u64,
}

/// Who was in contact when; only the gateway knows, because a poll writes nothing.
pub trait Contact: Send + Sync {
    /// What to call a child's state: its own word while it is in contact, Offline otherwise.
    /// `stored` is the last contact known from before this process.
    fn state(
        &self,
        node: &ConnectedRegistry,
        reported: ConnectionState,
        stored: Option<UnixSeconds>,
    ) -> ConnectionState;

    /// When a child was last in contact. `stored` is the last contact known from before this
    /// process.
    fn last_seen(
        &self,
        name: &ConnectedRegistryName,
        stored: Option<UnixSeconds>,
    ) -> Option<UnixSeconds>;

    /// The schedule and its window that a child was last sent by this process.
    fn told(&self, name: &ConnectedRegistryName) -> Option<(Schedule, Option<u64>)>;
}

/// Answers management calls; a clone answers alike.
#[derive(Clone)]
pub struct Admin {
    store: Store,
    options: Arc<AdminOptions>,
    contact: Arc<dyn Contact>,
    backups: Arc<backup::Backups>,
    refused: Arc<audit::Refused>,
}

impl Admin {
    /// Manages what is in `store`.
    pub fn new(store: Store, options: AdminOptions, contact: Arc<dyn Contact>) -> Admin {
        Admin {
            store,
            options: Arc::new(options),
            contact,
            backups: Arc::default(),
            refused: Arc::default(),
        }
    }

    /// Answers `/healthz`, `/readyz` and `/metrics`, and with `management` (the admin socket)
    /// `/admin/v1/`; anything else is 404.
    pub async fn handle(&self, request: &mut Request, management: bool) -> Reply {
        if let Some(reply) = self.health(request).await {
            return reply;
        }
        if let Some(piece) =
            request.path.strip_prefix(PREFIX).and_then(|p| p.strip_prefix("backup/"))
            && management
            && request.method == Method::Get
        {
            let piece = piece.to_owned();
            return self.backup_piece(&piece).await.unwrap_or_else(Reply::from);
        }
        let answer = match request.path.strip_prefix(PREFIX) {
            Some(verb) if management => {
                let verb = verb.to_owned();
                self.manage(&verb, request).await
            }
            _ => Err(Fault::not_found(format!("There is nothing at {}.", request.path))),
        };
        match answer {
            Ok(value) => Reply::json(200, &value),
            Err(fault) => fault.into(),
        }
    }

    async fn manage(&self, verb: &str, request: &mut Request) -> Result<Value, Fault> {
        if request.method != Method::Post {
            return Err(Fault {
                status: 405,
                code: "MethodNotAllowed",
                message: "Use POST.".into(),
            });
        }
        let body = read_body(request).await?;
        if !changes(verb) {
            return self.dispatch(verb, body).await;
        }
        let deed = audit::deed(verb, request.peer, &body, self.store.sys().clock.wall_or_floor());
        let done = self.change(verb, body, &deed).await;
        if let Err(fault) = &done {
            self.refused.note(deed, fault);
        }
        done
    }

    async fn change(&self, verb: &str, body: Value, deed: &Deed) -> Result<Value, Fault> {
        if self.options.role == Role::Connected {
            return Err(Fault::conflict(
                "ManagedAtRoot",
                format!(
                    "This node is a connected registry and takes its settings from its parent. \
                     Run the command at the root of its tree, the registry '{}'.",
                    self.registry_name()
                ),
            ));
        }
        let doing = Admin { store: self.store.doing(deed.clone()), ..self.clone() };
        doing.dispatch(verb, body).await
    }

    async fn dispatch(&self, verb: &str, body: Value) -> Result<Value, Fault> {
        match verb {
            "status" => self.status(parse(body)?).await,
            "audit" => {
                parse::<Nothing>(body)?;
                self.audit().await
            }
            "gc" => self.collect_garbage(parse(body)?).await,
            "confirm" => {
                parse::<Nothing>(body)?;
                self.confirm().await
            }
            "accept-loss" => {
                parse::<Nothing>(body)?;
                self.accept_loss().await
            }
            "backup/begin" => self.backup_begin().await,
            "backup/end" => self.backup_end(&parse(body)?).await,
            "backup/verify" => self.backup_verify(&parse(body)?).await,
            "fsck" => Ok(serde_json::to_value(self.store.fsck(false).await?).unwrap_or_default()),
            "scrub" => self.scrub(&parse(body)?),
            "scope-map/create" => self.scope_map_create(parse(body)?).await,
            "scope-map/update" => self.scope_map_update(parse(body)?).await,
            "scope-map/delete" => self.scope_map_delete(parse(body)?).await,
            "scope-map/show" => self.scope_map_show(&parse(body)?),
            "scope-map/list" => self.scope_map_list(parse(body)?).await,
            "token/create" => self.token_create(parse(body)?).await,
            "token/update" => self.token_update(parse(body)?).await,
            "token/delete" => self.token_delete(parse(body)?).await,
            "token/show" => self.token_show(&parse(body)?),
            "token/list" => self.token_list(parse(body)?).await,
            "token/credential-generate" => self.credential_generate(parse(body)?).await,
            "token/credential-delete" => self.credential_delete(parse(body)?).await,
            "connected-registry/create" => self.registry_create(parse(body)?).await,
            "connected-registry/update" => self.registry_update(parse(body)?).await,
            "connected-registry/delete" => self.registry_delete(parse(body)?).await,
            "connected-registry/deactivate" => self.registry_deactivate(parse(body)?).await,
            "connected-registry/show" => self.registry_show(&parse(body)?),
            "connected-registry/list" => self.registry_list(&parse(body)?).await,
            "connected-registry/list-client-tokens" => self.client_tokens(&parse(body)?),
            "connected-registry/get-settings" => self.get_settings(parse(body)?).await,
            "connected-registry/permissions-show" => self.permissions_show(&parse(body)?),
            "connected-registry/permissions-update" => self.permissions_update(parse(body)?).await,
            _ => Err(Fault::not_found(format!("There is no command '{verb}'."))),
        }
    }

    /// The root's name, as the node's desired state says or the configuration.
    fn registry_name(&self) -> String {
        match self.store.self_registry() {
            Ok(Some(registry)) => registry,
            _ => self.options.registry_name.clone(),
        }
    }
}

/// Whether a verb changes something, so that it is the root's.
fn changes(verb: &str) -> bool {
    let action = verb.rsplit('/').next().unwrap_or_default();
    let reads = [
        "begin",
        "end",
        "verify",
        "status",
        "show",
        "list",
        "list-client-tokens",
        "permissions-show",
    ];
    verb.contains('/') && !reads.contains(&action)
}

/// Reads a JSON object; no body is an empty one.
async fn read_body(request: &mut Request) -> Result<Value, Fault> {
    // The file mode of the socket is the login.
    let body = request.body.receive(Sender::LoggedIn(Account::of("admin")), SMALL_BODY_BYTES_MAX);
    let bytes = body.await.map_err(|error| match error {
        BodyError::TooLarge(max) => Fault {
            status: 413,
            code: "TooLarge",
            message: format!("The body is longer than {max} bytes."),
        },
        BodyError::TooSlow => Fault {
            status: 408,
            code: "RequestTimeout",
            message: "The body did not arrive in time.".into(),
        },
        BodyError::Busy => Fault {
            status: 503,
            code: "TooManyRequests",
            message: "Other requests take all memory for bodies; try again soon.".into(),
        },
        BodyError::Io(_) => Fault::invalid("The body ended early."),
    })?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(json!({}));
    }
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Fault::invalid(format!("The body is no JSON: {error}.")))?;
    if value.is_object() { Ok(value) } else { Err(Fault::invalid("The body is no JSON object.")) }
}

fn parse<T: DeserializeOwned>(body: Value) -> Result<T, Fault> {
    serde_json::from_value(body).map_err(|error| Fault::invalid(format!("{error}.")))
}

#[cfg(test)]
mod tests;
