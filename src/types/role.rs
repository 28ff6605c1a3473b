//! What a node is, and what keeps it from being more.

use std::fmt;

use super::ConnectedRegistryName;

/// What a node does in its tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The root of a tree: everything is managed here.
    Root,
    /// A connected registry: it does what its parent says.
    Connected,
}

impl Role {
    /// As `registry.role` and `status` write it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Connected => "connected",
        }
    }
}

/// What the store in a state directory belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreRole {
    /// Nobody yet.
    New,
    /// A connected registry that no parent has accepted yet, and there is nothing in it.
    Unprovisioned,
    /// The same with something in it: it was adopted.
    Adopted,
    /// A root.
    Root,
    /// This connected registry.
    Connected(ConnectedRegistryName),
}

impl fmt::Display for StoreRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreRole::New => f.write_str("new"),
            StoreRole::Unprovisioned | StoreRole::Adopted => f.write_str("connected"),
            StoreRole::Root => f.write_str("root"),
            StoreRole::Connected(name) => write!(f, "connected {name}"),
        }
    }
}

impl StoreRole {
    /// Reads what `Display` writes; `None` for any other text. What is in the store is not there.
    pub fn parse(text: &str) -> Option<StoreRole> {
        match text.trim_end() {
            "root" => Some(StoreRole::Root),
            "connected" => Some(StoreRole::Unprovisioned),
            other => Some(StoreRole::Connected(other.strip_prefix("connected ")?.parse().ok()?)),
        }
    }

    /// The one place where the role of a node is decided: the store says what it is, and the
    /// configuration may name a role only to a store that has none yet. `named` is the role that
    /// the configuration names, if any; `credential` the connected registry that the connection
    /// string is for. The error names the contradiction and the cure.
    pub fn decide(
        &self,
        named: Option<Role>,
        credential: Option<&ConnectedRegistryName>,
    ) -> Result<Role, String> {
        match (self, named, credential) {
            (StoreRole::Root, Some(Role::Connected), _) => {
                Err(contradiction("of a root", "a connected registry", Role::Connected))
            }
            (StoreRole::Connected(name), Some(Role::Root), _) => {
                Err(contradiction(&format!("of connected registry {name}"), "a root", Role::Root))
            }
            (StoreRole::Adopted, Some(Role::Root), _) => {
                Err(contradiction("of a connected registry", "a root", Role::Root))
            }
            (StoreRole::Connected(name), _, Some(other)) if name != other => Err(contradiction(
                &format!("of connected registry {name}"),
                &format!("connected registry {other}"),
                Role::Connected,
            )),
            (StoreRole::Root, ..) => Ok(Role::Root),
            (StoreRole::Connected(_) | StoreRole::Adopted, ..) => Ok(Role::Connected),
            (StoreRole::Unprovisioned, named, _) => Ok(named.unwrap_or(Role::Connected)),
            (StoreRole::New, named, _) => Ok(named.unwrap_or(Role::Root)),
        }
    }
}

fn contradiction(store: &str, configured: &str, role: Role) -> String {
    format!(
        "the store is that {store}, and the configuration (registry.role, [parent] or the \
         connection string) makes this node {configured}; mend the configuration, set another \
         storage.state_dir, or, after a backup, run `skerry state adopt --role {}`",
        role.name()
    )
}

/// What the parent refuses until somebody acts at the root; this node goes on trying.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hurdle {
    /// What is wrong.
    pub kind: HurdleKind,
    /// The parent's words.
    pub text: String,
}

/// The kinds of refusals that somebody has to act on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HurdleKind {
    /// Another instance is active as this connected registry.
    AlreadyActivated,
    /// This instance was active and was deactivated.
    Deactivated,
    /// The sync token's password is wrong, or the token is disabled.
    Unauthorized,
    /// The parent does not know this connected registry, which was active, or denies it its
    /// configuration.
    Unknown,
    /// What answers is not a gateway.
    NotAGateway,
    /// Any other refusal of an activation.
    ActivationRefused,
}

/// What a node is and does just now; `status`, health and the log ask for this.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeState {
    /// A root.
    Root,
    /// A connected registry without a desired state and without a connection string: it serves
    /// status and health only.
    Unprovisioned,
    /// A connected registry whose parent has not accepted it yet.
    Activating,
    /// A connected registry that serves what it has: it has no connection string that can be used.
    CredentialMissing,
    /// The parent refuses this instance; it serves what it has, which may be nothing.
    Refused(Hurdle),
    /// A connected registry that its parent has accepted.
    Active,
}

impl NodeState {
    /// The word that `status` prints.
    pub fn name(&self) -> &'static str {
        match self {
            NodeState::Root => "Root",
            NodeState::Unprovisioned => "Unprovisioned",
            NodeState::Activating => "Activating",
            NodeState::CredentialMissing => "CredentialMissing",
            NodeState::Active => "Active",
            NodeState::Refused(hurdle) => match hurdle.kind {
                HurdleKind::AlreadyActivated => "AlreadyActivated",
                HurdleKind::Deactivated => "Deactivated",
                HurdleKind::Unauthorized => "Unauthorized",
                HurdleKind::Unknown => "UnknownToParent",
                HurdleKind::NotAGateway => "NotAGateway",
                HurdleKind::ActivationRefused => "ActivationRefused",
            },
        }
    }

    /// What is to be done about it, for people; `None` when nothing is.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            NodeState::Root | NodeState::Active => None,
            NodeState::Unprovisioned => Some(
                "this node waits for its connection string: take it from `skerry \
                 connected-registry get-settings --name NAME` at the root, and put it into the \
                 file of parent.connection_string_file, which the user of the service must be \
                 able to read and which is noticed by itself, or into the credential \
                 skerry.connection-string, which needs a restart of the service",
            ),
            NodeState::CredentialMissing => Some(
                "the connection string is missing or cannot be used: this node serves what it \
                 has and does not sync; put it back into the file of \
                 parent.connection_string_file, which is noticed by itself, or into the credential \
                 skerry.connection-string, which needs a restart of the service",
            ),
            NodeState::Activating => Some(
                "this connected registry has not been activated yet: its parent must be \
                 reachable; check ParentGatewayEndpoint in the connection string, the network, the \
                 clock of this node and, if the parent's certificate is of a private authority, \
                 parent.ca_file; `skerry status` and the log have the error; what is changed in \
                 the configuration or the connection string counts when you restart this node",
            ),
            NodeState::Refused(hurdle) => Some(match hurdle.kind {
                HurdleKind::AlreadyActivated => {
                    "another instance serves this connected registry: remove that instance, or \
                     run `skerry connected-registry deactivate --name NAME` at the root; this \
                     node goes on trying, but if it was active before, it is `Deactivated` then: \
                     restart it. Where that instance is gone, or the root was restored from \
                     before this one took its place, the root alone can help: `skerry \
                     connected-registry delete --name NAME` (after those below it) and `create \
                     --name NAME --sync-token TOKEN ...`; this node then activates by itself"
                }
                HurdleKind::Deactivated => {
                    "this connected registry was deactivated at the root: restart this instance \
                     to activate it again, or remove it if another one takes its place: pushes \
                     that wait here (`waitingChanges`) reach the parent only after that restart. \
                     Where nobody can restart it: delete the connected registry at the root and \
                     create it again with the same sync token (`skerry connected-registry create \
                     --name NAME --sync-token TOKEN ...`)"
                }
                HurdleKind::Unauthorized => {
                    "the parent does not accept the sync token: enable it at the root, or give \
                     this node a new connection string from `skerry connected-registry \
                     get-settings --name NAME --generate-password 1` and restart it; if the \
                     connected registry was deleted at the root, create it again there first; if \
                     this node is below one that is outside its sync window, that one has not \
                     heard of a new password yet: wait for its window, or give it a new \
                     connection string too and restart it first; \
                     until then this node serves what it has and goes on trying, outside a sync \
                     window once an hour at most; a restart with a new connection string tries \
                     at once"
                }
                HurdleKind::Unknown => {
                    "the parent does not know this connected registry, or its sync token may not \
                     read its configuration. Where `skerry connected-registry show --name NAME` at \
                     the root knows it, its sync scope map lacks gateway actions: `skerry \
                     scope-map update --name MAP --add-gateway NAME config/read config/write \
                     message/read message/write`. Where it was deleted, create it again with the \
                     same sync token (`skerry connected-registry create --name NAME --sync-token \
                     TOKEN ...`), or give this node another connection string and restart it. \
                     Until then it serves what it has and goes on trying"
                }
                HurdleKind::NotAGateway => {
                    "what answers at the parent's address is not a gateway: check host, port and \
                     protocol (ParentGatewayEndpoint and ParentEndpointProtocol in the connection \
                     string, or parent.gateway_endpoint), and the login server that it names \
                     (listen.login there); a root has both on ports of their own; this node goes \
                     on trying, and takes a changed configuration when it is restarted"
                }
                HurdleKind::ActivationRefused => {
                    "the parent refuses the activation: check at the root that the connected \
                     registry exists, that its sync token is the one that the connection string \
                     names, and that the string is of its parent (a new one: `skerry \
                     connected-registry get-settings --name NAME`); this node goes on trying"
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ConnectedRegistryName {
        text.parse().unwrap()
    }

    #[test]
    fn f166_the_store_decides_and_a_new_one_takes_what_is_named() {
        use Role::{Connected, Root};
        let device = StoreRole::Connected(name("dock01"));
        let (own, other) = (name("dock01"), name("dock02"));
        for (store, named, credential, wanted) in [
            (&StoreRole::New, None, None, Some(Root)),
            (&StoreRole::New, Some(Root), None, Some(Root)),
            (&StoreRole::New, Some(Connected), None, Some(Connected)),
            (&StoreRole::New, Some(Connected), Some(&own), Some(Connected)),
            (&StoreRole::Unprovisioned, None, None, Some(Connected)),
            (&StoreRole::Unprovisioned, Some(Connected), Some(&own), Some(Connected)),
            (&StoreRole::Unprovisioned, Some(Root), None, Some(Root)),
            (&StoreRole::Adopted, None, None, Some(Connected)),
            (&StoreRole::Adopted, Some(Connected), Some(&own), Some(Connected)),
            (&StoreRole::Adopted, Some(Root), None, None),
            (&StoreRole::Root, None, None, Some(Root)),
            (&StoreRole::Root, Some(Root), None, Some(Root)),
            (&StoreRole::Root, Some(Connected), None, None),
            (&StoreRole::Root, Some(Connected), Some(&own), None),
            (&device, None, None, Some(Connected)),
            (&device, Some(Connected), None, Some(Connected)),
            (&device, Some(Connected), Some(&own), Some(Connected)),
            (&device, Some(Connected), Some(&other), None),
            (&device, Some(Root), None, None),
        ] {
            let decided = store.decide(named, credential);
            assert_eq!(decided.ok(), wanted, "{store} {named:?} {credential:?}");
        }
        let error = device.decide(Some(Root), None).unwrap_err();
        assert!(error.contains("dock01") && error.contains("adopt --role root"), "{error}");
    }

    #[test]
    fn the_role_of_a_store_is_read_as_it_is_written() {
        for role in
            [StoreRole::Unprovisioned, StoreRole::Root, StoreRole::Connected(name("dock01"))]
        {
            assert_eq!(StoreRole::parse(&format!("{role}\n")), Some(role));
        }
        for text in ["", "new", "something", "connected x", "connected dock01 dock02"] {
            assert_eq!(StoreRole::parse(text), None, "{text}");
        }
    }
}
