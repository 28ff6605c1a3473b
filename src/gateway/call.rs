//! The calls of the gateway and their words: what a parent and its child agree on.

use crate::http::Method;
use crate::types::{ConnectedRegistryName, GatewayAction, Reason, Refusal, RepositoryName};

/// Where the gateway's paths begin.
const PREFIX: &str = "/gateway/v1/";

/// The header in which an instance names itself, so that a copy of its disk is found out.
pub(super) const INSTANCE: &str = "skerry-instance";

/// The header in which an instance that was activated names the epoch of that: a parent without a
/// record of the instance sees whether it was deactivated since.
pub(super) const EPOCH: &str = "skerry-activation-epoch";

/// The header of a desired state in which a node says which start of it this is. A request that
/// names one is meant for no other.
pub(super) const START: &str = "skerry-start";
/// What time it is, seconds since 1970, where this node knows: for a child that does not.
pub(super) const TIME: &str = "skerry-time";

/// How the name of a start begins that its node remembers.
pub(super) const NOTED: char = 'n';

/// The header of messages in which a node says for which repositories it has looked: those that it
/// took the child to mirror then. A repository that it has removed, not granted any more, is one
/// more name there, which the child does not have.
pub(super) const PROJECTED: &str = "skerry-projected";

/// The header of the end of the feed in which a node says that it has never been where the child
/// knows it to have been: its state was set back since.
pub(super) const SET_BACK: &str = "skerry-set-back";

/// The header of messages in which a node says which desired state it has for the child and could
/// not write: its feed does not tell of that.
pub(super) const DESIRED: &str = "skerry-desired";

/// One of the gateway's calls.
#[allow(clippy::large_enum_variant, reason = "names are inline; there is one for each request")]
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Call {
    Activation,
    Config,
    Status,
    Messages,
    Repository(RepositoryName),
}

impl Call {
    /// What a sync token must be granted for it.
    pub(super) fn action(&self) -> GatewayAction {
        match self {
            Call::Activation | Call::Status => GatewayAction::ConfigWrite,
            Call::Config => GatewayAction::ConfigRead,
            Call::Messages | Call::Repository(_) => GatewayAction::MessageRead,
        }
    }
}

/// Which call a request is, and for which connected registry; 404 or 405 when it is none.
pub(super) fn route(method: Method, path: &str) -> Result<(ConnectedRegistryName, Call), Refusal> {
    let absent = || Refusal::new(404, "UNSUPPORTED", Reason::NotFound, "There is no such call.");
    let path = path.strip_prefix(PREFIX).ok_or_else(absent)?;
    let (name, call) = path.split_once('/').ok_or_else(absent)?;
    let name = name.parse().map_err(|_| absent())?;
    let (call, takes) = match call {
        "activation" => (Call::Activation, Method::Post),
        "config" => (Call::Config, Method::Get),
        "status" => (Call::Status, Method::Put),
        "messages" => (Call::Messages, Method::Get),
        _ => {
            let repository = call.strip_prefix("repositories/").ok_or_else(absent)?;
            (Call::Repository(repository.parse().map_err(|_| absent())?), Method::Get)
        }
    };
    if method != takes {
        let message = format!("This call takes {takes}.");
        return Err(Refusal::new(405, "UNSUPPORTED", Reason::Unsupported, message));
    }
    Ok((name, call))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found() {
        let found = |method, path| route(method, path).map_err(|refusal| refusal.status);
        let dock: ConnectedRegistryName = "dock01".parse().unwrap();
        for (method, path, call) in [
            (Method::Post, "/gateway/v1/Dock01/activation", Call::Activation),
            (Method::Get, "/gateway/v1/dock01/config", Call::Config),
            (Method::Put, "/gateway/v1/dock01/status", Call::Status),
            (Method::Get, "/gateway/v1/dock01/messages", Call::Messages),
            (
                Method::Get,
                "/gateway/v1/dock01/repositories/a/b",
                Call::Repository("a/b".parse().unwrap()),
            ),
        ] {
            assert_eq!(found(method, path), Ok((dock.clone(), call)), "{path}");
        }
        for (method, path, status) in [
            (Method::Get, "/gateway/v1/dock01/activation", 405),
            (Method::Post, "/gateway/v1/dock01/messages", 405),
            (Method::Get, "/gateway/v1/dock01", 404),
            (Method::Get, "/gateway/v1/x/config", 404),
            (Method::Get, "/gateway/v1/dock01/config/", 404),
            (Method::Get, "/gateway/v1/dock01/repositories/A", 404),
            (Method::Get, "/gateway/v2/dock01/config", 404),
        ] {
            assert_eq!(found(method, path), Err(status), "{path}");
        }
    }
}
