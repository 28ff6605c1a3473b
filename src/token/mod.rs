//! The token endpoints: credentials in, access tokens out (distribution, "Token Authentication
//! Specification" and "OAuth2 Token Authentication").

mod form;

use form::Form;

use crate::auth::{Auth, Login, Presented};
use crate::http::{Method, Reply, Request, Sender};
use crate::store::Store;
use crate::types::limits::LOGIN_BODY_BYTES_MAX;
use crate::types::scope::Access;
use crate::types::{Reason, Refusal, TokenName};

/// Answers the token endpoints; a clone answers alike.
#[derive(Clone)]
pub struct Tokens {
    store: Store,
    auth: Auth,
}

/// The fields of a token request, for fuzzing: two values of every name in them are read.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_form(bytes: &[u8]) {
    if let Some(form) = Form::parse(bytes) {
        let scopes = Access::parse_list(form.all("scope"));
        assert!(form.get("scope").is_some() || scopes.is_ok_and(|scopes| scopes.is_empty()));
    }
}

impl Tokens {
    /// Issues what `auth` allows.
    pub fn new(store: &Store, auth: Auth) -> Tokens {
        Tokens { store: store.clone(), auth }
    }

    /// Whether a path belongs to these endpoints.
    pub fn serves(path: &str) -> bool {
        Endpoint::of(path).is_some()
    }

    /// Answers `/oauth2/token`, `/acr/oauth2/token`, `/oauth2/exchange` and
    /// `/.well-known/jwks.json`; anything else is 404.
    pub async fn handle(&self, request: &mut Request) -> Reply {
        let Some(endpoint) = Endpoint::of(&request.path) else {
            return Refusal::new(404, "NAME_UNKNOWN", Reason::NotFound, "no such page").into();
        };
        let answer = match (endpoint, request.method) {
            (Endpoint::Keys, Method::Get) => Ok(Reply::json(200, self.auth.jwks())),
            (Endpoint::Token, Method::Get) => self.get(request),
            (Endpoint::Token, Method::Post) => self.post(request).await,
            (Endpoint::Exchange, Method::Post) => self.exchange(request).await,
            _ => return not_allowed(endpoint),
        };
        match answer {
            // An answer with a token in it is for one client and one moment.
            Ok(reply) if endpoint != Endpoint::Keys => reply.with("cache-control", "no-store"),
            Ok(reply) => reply,
            Err(refusal) => refusal.into(),
        }
    }

    /// `GET /oauth2/token` with Basic credentials.
    fn get(&self, request: &Request) -> Result<Reply, Refusal> {
        let presented = presented(request);
        let asked = asked(request.query_all("scope"))?;
        let login = match presented.authorization.map(|text| text.split_once(' ')) {
            None => self.auth.login_anonymous(&presented, &asked)?,
            Some(Some((scheme, value))) if scheme.eq_ignore_ascii_case("Basic") => {
                self.auth.login_basic(&presented, value)?
            }
            Some(_) => return Err(self.auth.login_required(&presented)),
        };
        let offline = request.query("offline_token") == Some("true");
        self.answer(&presented, &login, &asked, offline)
    }

    /// `POST /oauth2/token` with a form.
    async fn post(&self, request: &mut Request) -> Result<Reply, Refusal> {
        let form = read_form(request).await?;
        let presented = presented(request);
        let asked = asked(form.all("scope"))?;
        let login = match form.get("grant_type") {
            Some("password") => match (form.get("username"), form.get("password")) {
                (Some(username), Some(password)) => {
                    self.auth.login_password(&presented, username, password)?
                }
                // As clients of the reference product ask that have no credentials.
                (None, None) => self.auth.login_anonymous(&presented, &asked)?,
                _ => return Err(self.auth.login_required(&presented)),
            },
            Some("refresh_token") => {
                let text = form.get("refresh_token").ok_or_else(|| missing("refresh_token"))?;
                self.auth.login_refresh(&presented, text)?
            }
            Some(_) => return Err(unsupported("grant_type is neither password nor refresh_token")),
            None => return Err(missing("grant_type")),
        };
        let offline =
            form.get("access_type") == Some("offline") || form.get("offline_token") == Some("true");
        self.answer(&presented, &login, &asked, offline)
    }

    /// `POST /oauth2/exchange`: a refresh token of ours for a fresh one.
    async fn exchange(&self, request: &mut Request) -> Result<Reply, Refusal> {
        let form = read_form(request).await?;
        let presented = presented(request);
        match form.get("grant_type") {
            Some("refresh_token") => {}
            Some(_) => {
                return Err(unsupported(
                    "this registry takes no external identities: grant_type must be \
                     refresh_token, with a token that it issued itself",
                ));
            }
            None => return Err(missing("grant_type")),
        }
        let text = form.get("refresh_token").ok_or_else(|| missing("refresh_token"))?;
        let login = self.auth.login_refresh(&presented, text)?;
        let refresh = self.auth.issue_refresh(&presented, &login)?;
        Ok(Reply::json(200, &serde_json::json!({ "refresh_token": refresh })))
    }

    fn answer(
        &self,
        presented: &Presented<'_>,
        login: &Login,
        asked: &[Access],
        offline: bool,
    ) -> Result<Reply, Refusal> {
        let issued = self.auth.issue(presented, login, asked)?;
        let mut answer = serde_json::json!({
            "access_token": issued.token,
            "token": issued.token,
            "expires_in": issued.expires_in_s,
        });
        // Left out while the clock is not to be trusted: a client would take it for now.
        if let Some(time) = self.store.sys().clock.wall() {
            answer["issued_at"] = time.rfc3339().into();
        }
        if offline && let Some(refresh) = self.auth.issue_refresh(presented, login)? {
            answer["refresh_token"] = refresh.into();
        }
        let token = login.token().map_or("(anonymous)", TokenName::as_str);
        log::debug!("issued an access token token={token}");
        Ok(Reply::json(200, &answer))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Token,
    Exchange,
    Keys,
}

impl Endpoint {
    fn of(path: &str) -> Option<Endpoint> {
        match path {
            "/oauth2/token" | "/acr/oauth2/token" => Some(Endpoint::Token),
            "/oauth2/exchange" | "/acr/oauth2/exchange" => Some(Endpoint::Exchange),
            "/.well-known/jwks.json" => Some(Endpoint::Keys),
            _ => None,
        }
    }
}

/// What a request says about its sender.
fn presented(request: &Request) -> Presented<'_> {
    Presented {
        authorization: request.header("authorization"),
        host: request.host.as_deref(),
        secure: request.secure,
        is_operator: false,
        peer: request.peer.ip(),
    }
}

/// The scopes that a request names.
fn asked<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Result<Vec<Access>, Refusal> {
    Access::parse_list(scopes).map_err(|too_many| {
        Refusal::new(400, "UNSUPPORTED", Reason::TooLarge, too_many.to_string())
    })
}

async fn read_form(request: &mut Request) -> Result<Form, Refusal> {
    let body = request.body.receive(Sender::Anyone, LOGIN_BODY_BYTES_MAX).await;
    let body = body.map_err(|error| error.refusal("UNSUPPORTED"))?;
    Form::parse(&body).ok_or_else(|| malformed("the form is not URL-encoded UTF-8"))
}

fn not_allowed(endpoint: Endpoint) -> Reply {
    let allow = match endpoint {
        Endpoint::Token => "GET, POST",
        Endpoint::Exchange => "POST",
        Endpoint::Keys => "GET",
    };
    let text = format!("use {allow}");
    Reply::from(Refusal::new(405, "UNSUPPORTED", Reason::Unsupported, text)).with("allow", allow)
}

fn missing(field: &str) -> Refusal {
    malformed(&format!("the form has no {field}"))
}

fn malformed(text: &str) -> Refusal {
    Refusal::new(400, "UNSUPPORTED", Reason::Malformed, text)
}

fn unsupported(text: &str) -> Refusal {
    Refusal::new(400, "UNSUPPORTED", Reason::Unsupported, text)
}

#[cfg(test)]
mod tests;
