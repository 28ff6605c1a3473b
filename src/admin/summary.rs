//! The state of a node in one line, as `status`, the log and the service manager have it.

use crate::store::Store;
use crate::types::NodeState;
use crate::types::connected_registry::ParentContact;
use crate::types::schedule::Window;

/// One line for people: what this node is and how it does. A root names where clients and children
/// reach it.
pub fn summary(store: &Store, login: &str, gateway: &str) -> String {
    let view = store.sync_view();
    let state = match store.node_state() {
        Ok(NodeState::Root) => return format!("root, clients at {login}, children at {gateway}"),
        Ok(state) => state,
        Err(error) => return format!("the store cannot be read: {error}"),
    };
    let contact = match state {
        NodeState::Active => match view.contact {
            ParentContact::Connecting if is_between_windows(store) => {
                ParentContact::WaitingForWindow.name()
            }
            ParentContact::Connecting => "connecting to its parent",
            ParentContact::InContact => "parent in contact",
            ParentContact::OutOfContact => "parent out of contact",
            contact => contact.name(),
        },
        _ => state.name(),
    };
    match store.self_node() {
        Ok(Some(node)) => {
            let synced = store.synced_count().unwrap_or(0);
            format!("{}: {synced} repositories, {contact}", node.name)
        }
        _ => format!("connected registry, {contact}"),
    }
}

/// Whether the schedule keeps this node from calling its parent now.
fn is_between_windows(store: &Store) -> bool {
    let (node, now) = (store.self_node(), store.sys().clock.wall());
    let (Ok(Some(node)), Some(now)) = (node, now) else { return false };
    let window = node.schedule.window(node.sync_window_s, now);
    matches!(window, Window::Closed { .. })
}
