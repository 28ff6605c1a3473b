//! Management over the admin socket, and health and metrics for everyone.
//!
//! `POST /admin/v1/<noun>/<verb>` takes a JSON object whose fields are named like the long flags of
//! `az acr`, and answers what that prints with `-o json`. Who can open the socket may do
//! everything: its file mode is the lock.

mod also;
mod audit;
mod backup;
mod certificate;
mod confirm;
mod fault;
mod garbage;
mod health;
mod print;
mod registries;
mod scrub;
mod settings;
mod summary;
mod tokens;

pub use summary::summary;

use std::sync::Arc;

use fault::Fault;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokens::Nothing;

use crate::http::BodyError;
use crate::http::{Account, Method, Reply, Request, Sender};
use crate::manage::{Asked, Changes, Error, Manage};
use crate::store::Store;
use crate::store::gc::GcOptions;
use crate::types::limits::SMALL_BODY_BYTES_MAX;

/// Where the verbs are.
const PREFIX: &str = "/admin/v1/";

/// What the management interface does beside management.
pub struct AdminOptions {
    /// What `gc` may remove.
    pub gc: GcOptions,
    /// What a scrub may read, bytes per second.
    pub scrub_rate: u64,
    /// The certificate that this node has made for itself, PEM.
    pub certificate: Option<String>,
}

/// Answers management calls; a clone answers alike.
#[derive(Clone)]
pub struct Admin {
    store: Store,
    manage: Manage,
    options: Arc<AdminOptions>,
    backups: Arc<backup::Backups>,
}

impl Admin {
    /// Answers for `store`, which `manage` manages.
    pub fn new(store: Store, manage: Manage, options: AdminOptions) -> Admin {
        Admin { store, manage, options: Arc::new(options), backups: Arc::default() }
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
        let asked = Asked {
            actor: request.peer.to_string(),
            action: verb.replace('/', " "),
            subject: body["name"].as_str().unwrap_or_default().to_owned(),
        };
        let change = |changes| async move { self.change(&changes, verb, body).await };
        Ok(self.manage.change(asked, change).await?)
    }

    async fn dispatch(&self, verb: &str, body: Value) -> Result<Value, Fault> {
        match verb {
            "status" => self.status(parse(body)?).await,
            "gc" => self.collect_garbage(parse(body)?).await,
            "confirm" => {
                parse::<Nothing>(body)?;
                self.confirm().await
            }
            "accept-loss" => {
                parse::<Nothing>(body)?;
                self.accept_loss().await
            }
            "ca" => {
                parse::<Nothing>(body)?;
                self.certificate()
            }
            "backup/begin" => self.backup_begin().await,
            "backup/keep" => self.backup_keep(&parse(body)?),
            "backup/end" => self.backup_end(&parse(body)?).await,
            "backup/verify" => self.backup_verify(&parse(body)?).await,
            "fsck" => Ok(serde_json::to_value(self.store.fsck(false).await?).unwrap_or_default()),
            "scrub" => self.scrub(&parse(body)?),
            _ => Ok(self.show(verb, body).await?),
        }
    }

    async fn show(&self, verb: &str, body: Value) -> Result<Value, Error> {
        match verb {
            "audit" => self.audit(parse(body)?).await,
            "scope-map/show" => self.scope_map_show(&parse(body)?),
            "scope-map/list" => self.scope_map_list(parse(body)?).await,
            "token/show" => self.token_show(&parse(body)?),
            "token/list" => self.token_list(parse(body)?).await,
            "connected-registry/show" => self.registry_show(&parse(body)?),
            "connected-registry/list" => self.registry_list(&parse(body)?).await,
            "connected-registry/list-client-tokens" => self.client_tokens(&parse(body)?),
            "connected-registry/permissions-show" => self.permissions_show(&parse(body)?),
            _ => Err(no_command(verb)),
        }
    }

    async fn change(&self, changes: &Changes, verb: &str, body: Value) -> Result<Value, Error> {
        match verb {
            "scope-map/create" => self.scope_map_create(changes, parse(body)?).await,
            "scope-map/update" => self.scope_map_update(changes, parse(body)?).await,
            "scope-map/delete" => tokens::scope_map_delete(changes, parse(body)?).await,
            "token/create" => self.token_create(changes, parse(body)?).await,
            "token/update" => self.token_update(changes, parse(body)?).await,
            "token/delete" => tokens::token_delete(changes, parse(body)?).await,
            "token/credential-generate" => tokens::credential_generate(changes, parse(body)?).await,
            "token/credential-delete" => self.credential_delete(changes, parse(body)?).await,
            "connected-registry/create" => self.registry_create(changes, parse(body)?).await,
            "connected-registry/update" => self.registry_update(changes, parse(body)?).await,
            "connected-registry/delete" => registries::registry_delete(changes, parse(body)?).await,
            "connected-registry/deactivate" => {
                self.registry_deactivate(changes, parse(body)?).await
            }
            "connected-registry/get-settings" => {
                settings::get_settings(changes, parse(body)?).await
            }
            "connected-registry/permissions-update" => {
                self.permissions_update(changes, parse(body)?).await
            }
            _ => Err(no_command(verb)),
        }
    }
}

fn no_command(verb: &str) -> Error {
    Error::not_found(format!("There is no command '{verb}'."))
}

/// Whether a verb changes something, so that it is the root's.
fn changes(verb: &str) -> bool {
    let action = verb.rsplit('/').next().unwrap_or_default();
    let reads = [
        "begin",
        "keep",
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
        BodyError::Io(_) => Error::invalid("The body ended early.").into(),
    })?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(json!({}));
    }
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid(format!("The body is no JSON: {error}.")))?;
    match value.is_object() {
        true => Ok(value),
        false => Err(Error::invalid("The body is no JSON object.").into()),
    }
}

fn parse<T: DeserializeOwned>(body: Value) -> Result<T, Error> {
    serde_json::from_value(body).map_err(|error| Error::invalid(format!("{error}.")))
}

#[cfg(test)]
mod tests;
