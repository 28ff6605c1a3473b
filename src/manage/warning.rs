//! What whoever asked for a change should know, beside what they asked for.

use std::fmt;

use super::Error;
use super::late::Late;
use super::other::Actions;
use crate::store::StoreError;
use crate::types::connection_string::Protocol;
use crate::types::schedule::Schedule;
use crate::types::time::format_duration;
use crate::types::{
    ConnectedRegistryName, GatewayAction, Mode, RepositoryAction, RepositoryPattern, ScopeMapName,
    TokenName,
};

/// Repositories, or devices, that a warning names. Over it: it says how many more there are; the
/// answer has all repositories.
const NAMED_MAX: usize = 10;

/// What whoever asked for a change should know; it prints as a sentence.
pub enum Warning {
    /// The scope map of one above was granted these too.
    GrantedAbove {
        /// Its name.
        scope_map: ScopeMapName,
        /// Whose sync token has it.
        connected_registry: ConnectedRegistryName,
        /// What it was granted.
        actions: Actions,
    },
    /// The scope map of one below lost these too.
    LostBelow {
        /// Its name.
        scope_map: ScopeMapName,
        /// Whose sync token has it.
        connected_registry: ConnectedRegistryName,
        /// What it lost.
        actions: Actions,
        /// What of that it has still: the rest of a wildcard.
        kept: Actions,
    },
    /// So many more scope maps below lost something.
    MoreLostBelow(usize),
    /// Why some below have not lost yet what was taken from one above.
    StillLosing(StoreError),
    /// Devices that go by a token and hear of its change later.
    HeardLate(Vec<Late>),
    /// Why it is not known which devices hear of a change later.
    HeardLateUnknown(Error),
    /// A device that hears later that it was deactivated.
    EndHeardLate(Late),
    /// The parent of a device hears later of its new password.
    PasswordHeardLate(Late),
    /// Those below the device of this one may trust its certificate alone.
    ChildrenTrustCertificate(ConnectedRegistryName),
    /// A device that hears of another schedule later.
    ScheduleHeardLate {
        /// When.
        late: Late,
        /// The schedule that this process last sent it.
        told: Option<Schedule>,
        /// The one that it had before this change.
        stored: Schedule,
    },
    /// A new connected registry has this mode, because none was given.
    ModeChosen {
        /// Its name.
        name: ConnectedRegistryName,
        /// Its mode.
        mode: Mode,
    },
    /// Its schedule has this window, because none was given.
    WindowChosen {
        /// Its name.
        name: ConnectedRegistryName,
        /// How long a sync may last, seconds.
        window_s: u64,
    },
    /// A ReadWrite one mirrors repositories for another one, and may not write there.
    RefusesPushes {
        /// Which.
        ancestor: ConnectedRegistryName,
        /// What it mirrors.
        repositories: Vec<RepositoryPattern>,
    },
    /// A connected registry was deleted, and its sync token was not.
    SyncTokenKept {
        /// Which was deleted.
        connected_registry: ConnectedRegistryName,
        /// Its sync token.
        token: TokenName,
        /// The scope map of that.
        scope_map: ScopeMapName,
        /// The scope maps of those above that still grant gateway actions on it.
        above: Vec<(ScopeMapName, Vec<GatewayAction>)>,
    },
    /// The device of this connected registry goes by a password that was replaced.
    DeviceRefused(ConnectedRegistryName),
    /// The parent's gateway speaks otherwise than was asked for.
    ProtocolIgnored {
        /// How it speaks.
        known: Protocol,
        /// What was asked for.
        asked: Protocol,
    },
    /// The device and its parent speak without TLS.
    NotEncrypted,
    /// The parent listens on a loopback address.
    LoopbackGateway(String),
    /// Why the device would not find the gateway of the root.
    GatewayNotFound(String),
    /// The root's gateway can be reached, and its login server cannot.
    LoopbackLogin {
        /// Where the gateway is.
        gateway: String,
        /// Where clients log in.
        login: String,
    },
    /// The parent reports an address of no machine.
    UnspecifiedGateway {
        /// The parent.
        parent: ConnectedRegistryName,
        /// What it reports.
        endpoint: String,
    },
    /// The parent has not reported its address.
    GatewayUnknown(ConnectedRegistryName),
    /// Only the parent itself knows whether its certificate is self-signed, and which.
    CertificateUnknown(ConnectedRegistryName),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::GrantedAbove { scope_map, connected_registry, actions } => write!(
                f,
                "The scope map '{scope_map}' of connected registry '{connected_registry}' was \
                 given {} too: a parent is granted what is granted below it.",
                list(actions)
            ),
            Warning::LostBelow { scope_map, connected_registry, actions, kept } => {
                let kept = match kept.is_empty() {
                    true => String::new(),
                    false => format!(", and keeps {} of it", list(kept)),
                };
                write!(
                    f,
                    "The scope map '{scope_map}' of connected registry '{connected_registry}' lost \
                     {} too{kept}: what is taken above is taken from all below. Adding it above \
                     again does not give it back there; what is granted above can be added with \
                     `skerry connected-registry permissions update --name {connected_registry} \
                     --add`.",
                    list(actions)
                )
            }
            Warning::MoreLostBelow(more) => write!(
                f,
                "{more} more scope maps of connected registries below lost what is not granted \
                 above; `skerry scope-map list` shows what each has."
            ),
            Warning::StillLosing(error) => write!(
                f,
                "It is not yet taken from all connected registries below: {error}; this node goes \
                 on by itself, also after a restart."
            ),
            Warning::HeardLate(late) => write!(
                f,
                "Not every device goes by this yet: {}, or at the daily look at the \
                 configuration. Until then all is there as it was. Sooner: make a new connection \
                 string for a device, and first for each one above it that is outside its window \
                 (skerry connected-registry get-settings --name NAME --generate-password 2), and \
                 restart them with these, from above to below.",
                devices(late)
            ),
            Warning::HeardLateUnknown(error) => {
                write!(f, "Which devices hear of this later is not known: {error}")
            }
            Warning::EndHeardLate(late) => write!(
                f,
                "The device of '{}' hears of this {} or at its daily look at the configuration. \
                 Until then it does not say so, and serves what it has. Tokens that are disabled \
                 or deleted meanwhile stay good there unless it is activated again.",
                late.name,
                late.when()
            ),
            Warning::PasswordHeardLate(late) => write!(
                f,
                "The parent '{0}' hears of this password {1} or at its daily look at the \
                 configuration, and refuses it until then. Sooner: make a new connection string \
                 for '{0}' too (skerry connected-registry get-settings --name {0} \
                 --generate-password 2), and restart it with that first.",
                late.name,
                late.when()
            ),
            Warning::ChildrenTrustCertificate(name) => write!(
                f,
                "If the certificate of '{name}' is self-signed, those below it trust that one \
                 alone: give the device that takes its place the other's identity/tls.pem, or \
                 them new connection strings."
            ),
            Warning::ScheduleHeardLate { late, told, stored } => {
                let Late { name, .. } = late;
                match told {
                    Some(schedule) => write!(
                        f,
                        "The schedule '{schedule}' is in force at the device of '{name}'."
                    ),
                    None => write!(
                        f,
                        "The schedule '{stored}', or an earlier one, may be in force at the \
                         device of '{name}', which has not asked this node for its configuration \
                         since this node was started."
                    ),
                }?;
                write!(
                    f,
                    " It learns of the new one {} or at its daily look at the configuration. \
                     Sooner: make a new connection string for it, and first for each one above it \
                     that is outside its window (skerry connected-registry get-settings --name \
                     {name} --generate-password 2), and restart them with these, from above to \
                     below.",
                    late.when()
                )
            }
            Warning::ModeChosen { name, mode } => write!(
                f,
                "No mode was given: '{name}' is {mode}. The mode cannot be changed later; --mode \
                 names it when a connected registry is created."
            ),
            Warning::WindowChosen { name, window_s } => write!(
                f,
                "No sync window was given: each sync of '{name}' may last {}. --sync-window sets \
                 another one.",
                format_duration(*window_s)
            ),
            Warning::RefusesPushes { ancestor, repositories } => {
                let list = repositories.iter().map(ToString::to_string).collect::<Vec<_>>();
                let list = list.join(" ");
                write!(
                    f,
                    "'{ancestor}' is ReadWrite and mirrors {list} now, but may not write there: \
                     it refuses pushes to it. To allow them: skerry connected-registry \
                     permissions update --name {ancestor} --add {list}"
                )
            }
            Warning::SyncTokenKept { connected_registry, token, scope_map, above } => {
                write!(
                    f,
                    "The sync token '{token}' and the scope map '{scope_map}' are kept, and the \
                     token can still log in; `--cleanup` deletes them with the connected \
                     registry. To delete them now: skerry token delete --name {token}; skerry \
                     scope-map delete --name {scope_map}"
                )?;
                above.iter().try_for_each(|(map, actions)| {
                    let actions = actions.iter().map(|action| action.name()).collect::<Vec<_>>();
                    write!(
                        f,
                        "; skerry scope-map update --name {map} --remove-gateway \
                         {connected_registry} {}",
                        actions.join(" ")
                    )
                })
            }
            Warning::DeviceRefused(name) => write!(
                f,
                "The device of '{name}' goes by this token: with the password that was replaced \
                 it is refused until it has another connection string (skerry connected-registry \
                 get-settings --name {name} --generate-password 1, or 2)."
            ),
            Warning::ProtocolIgnored { known, asked } => write!(
                f,
                "The parent's gateway speaks {}; the wish for {} is ignored.",
                known.name(),
                asked.name()
            ),
            Warning::NotEncrypted => f.write_str(
                "The connection to the parent is not encrypted: its listener has no TLS. \
                 Passwords and content can be read on the way.",
            ),
            Warning::LoopbackGateway(endpoint) => write!(
                f,
                "Devices on other machines cannot reach {endpoint}: set listen.gateway at a root, \
                 or listen.login at a connected registry, to an address of the network."
            ),
            Warning::GatewayNotFound(why) => {
                write!(f, "The device would not find its parent: {why}.")
            }
            Warning::LoopbackLogin { gateway, login } => write!(
                f,
                "Devices on other machines find {gateway}, and not {login}, where they get their \
                 tokens and content: set listen.login to an address of the network too."
            ),
            Warning::UnspecifiedGateway { parent, endpoint } => write!(
                f,
                "The parent '{parent}' listens on {endpoint}, an address of no machine: the device \
                 would connect to itself. Set registry.login_server at '{parent}' to a name or \
                 address of that machine and the port, restart it and run this again, or set \
                 parent.gateway_endpoint at the device."
            ),
            Warning::GatewayUnknown(parent) => write!(
                f,
                "The parent '{parent}' has not reported its address, so ParentGatewayEndpoint is a \
                 placeholder, and the protocol a guess: activate '{parent}' first and run this \
                 again, or set parent.gateway_endpoint at the device."
            ),
            Warning::CertificateUnknown(parent) => write!(
                f,
                "The certificate of the parent '{parent}' is not known here, and the device must \
                 trust it. When it is self-signed, append to the connection string \
                 ;ParentCaFingerprint= and the caFingerprint that `skerry status` shows at \
                 '{parent}'; when a private authority signed it, set parent.ca_file at the device \
                 to the certificate of that authority."
            ),
        }
    }
}

/// `app (content/read metadata/read), team/* (content/read)`
fn list(actions: &Actions) -> String {
    let text = |(name, actions): (&String, &Vec<_>)| {
        let actions: Vec<_> = actions.iter().copied().map(RepositoryAction::name).collect();
        format!("{name} ({})", actions.join(" "))
    };
    let mut texts: Vec<String> = actions.iter().take(NAMED_MAX).map(text).collect();
    if actions.len() > NAMED_MAX {
        texts.push(format!("and {} more", actions.len() - NAMED_MAX));
    }
    texts.join(", ")
}

fn devices(late: &[Late]) -> String {
    let named = late.iter().take(NAMED_MAX);
    let mut devices: Vec<_> =
        named.map(|late| format!("'{}' hears of it {}", late.name, late.when())).collect();
    if late.len() > NAMED_MAX {
        devices.push(format!("{} more hear of it later too", late.len() - NAMED_MAX));
    }
    devices.join("; ")
}
