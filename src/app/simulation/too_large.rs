//! A desired state that cannot be delivered: an earlier version let it grow.

use super::scenarios::in_tree;
use crate::store::replica::node::testing;
use crate::store::rows::connected_registry::connected_registry_key;
use crate::store::rows::scope_map::scope_map_key;
use crate::store::rows::token::token_key;
use crate::types::RepositoryAction;
use crate::types::connected_registry::ConnectionState;
use crate::types::limits::DESIRED_STATE_BYTES_MAX;

/// Children of the device, each with 500 grants of the longest names.
const CHILDREN: usize = 150;

/// It called now and then, so that the root showed it online, and nobody heard that no change
/// reached it any more.
#[test]
fn f035_f209_a_node_that_cannot_take_its_desired_state_says_so_at_the_root() {
    in_tree(async |tree, engine| {
        let root = &tree.world.root;
        let name = tree.world.device().self_config().unwrap().unwrap().node.name;
        let grants: Vec<String> = (0..100)
            .flat_map(|n| {
                let path = format!("repositories/line-{n:03}/{}", "x".repeat(230));
                RepositoryAction::ALL.map(|action| format!("{path}/{}", action.name()))
            })
            .collect();
        let grants: Vec<&str> = grants.iter().map(String::as_str).collect();
        for number in 0..CHILDREN {
            let child = format!("child{number:03}");
            let map = testing::map(&format!("{child}-sync-map"), &grants);
            let token = testing::token(&format!("{child}-sync"));
            let node = testing::connected_registry(&child, Some(name.as_str()));
            let put = root.commit(move |txn| {
                txn.put(scope_map_key(&map.name), &map)?;
                txn.put(token_key(&token.name), &token)?;
                txn.put(connected_registry_key(&node.name), &node)
            });
            put.await.unwrap();
        }
        let bytes = root.desired_state_bytes(&name).await.unwrap();
        assert!(bytes > DESIRED_STATE_BYTES_MAX + 1024 * 1024, "{bytes}");
        for _ in 0..3 {
            engine.fail_once().await;
        }
        let told = root.status(&name).unwrap().expect("it has reported").report;
        assert_eq!(told.state, ConnectionState::Unhealthy);
        let detail = told.details.iter().find(|detail| detail.code == "SyncFailed");
        let text = &detail.expect("it says what fails").description;
        assert!(text.contains("more than 16 MiB") && text.contains("wildcard"), "{text}");
    });
}
