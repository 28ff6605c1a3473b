//! The desired state of a node.

use serde::{Deserialize, Serialize};

use super::connected_registry::{ConnectedRegistryV1, ConnectedRegistryV2};
use super::envelope::{Element, Head, Kind, WireError, append, body_of, divided, number_of};
use super::token::{ScopeMapV1, ScopeMapV2, TokenV1, TokenV2};
use super::{Format, Wire, all};
use crate::types::ConnectedRegistryName;
use crate::types::message::{Descendant, NodeConfig};
use crate::types::token::Token;

#[derive(Serialize, Deserialize)]
struct ConfigV1 {
    registry: String,
    node: ConnectedRegistryV1,
    sync_token: TokenV1,
    client_tokens: Vec<TokenV1>,
    children: Vec<ConnectedRegistryV1>,
    child_tokens: Vec<TokenV1>,
    scope_maps: Vec<ScopeMapV1>,
    descendants: Vec<DescendantV1>,
}

#[derive(Serialize, Deserialize)]
struct DescendantV1 {
    name: ConnectedRegistryName,
    version: String,
}

impl Wire for NodeConfig {
    fn write(self, format: Format) -> Result<Vec<u8>, WireError> {
        match format {
            Format::V2 => write_v2(self),
            Format::V1 | Format::Json => format.write(Kind::NodeConfig, &ConfigV1::from(self)),
        }
    }

    fn read(format: Format, bytes: &[u8]) -> Result<NodeConfig, WireError> {
        let config = if format == Format::V2 {
            let (head, elements) = divided::<HeadV2>(bytes)?;
            read_v2(head, elements)?
        } else {
            format.read::<ConfigV1>(Kind::NodeConfig, bytes).map(NodeConfig::from)?
        };
        if config.registry.len() > REGISTRY_LEN_MAX {
            let text = format!("a registry's name has at most {REGISTRY_LEN_MAX} bytes");
            return Err(WireError(text));
        }
        Ok(config)
    }
}

/// Bytes of the name of a registry: more than a host name has.
const REGISTRY_LEN_MAX: usize = 255;

/// What the version of a desired state is a digest over. A node between two others computes it anew
/// from what it was sent, and so may one of an adjacent version: for a state that has nothing that
/// is newer these bytes never change.
/// Gives the state back.
pub fn versioned_bytes(config: NodeConfig) -> (NodeConfig, Result<Vec<u8>, WireError>) {
    let config = ConfigV1::from(config);
    let bytes = postcard::to_allocvec(&config).map_err(|error| WireError(error.to_string()));
    (config.into(), bytes)
}

impl From<NodeConfig> for ConfigV1 {
    fn from(config: NodeConfig) -> ConfigV1 {
        ConfigV1 {
            registry: config.registry,
            node: config.node.into(),
            sync_token: config.sync_token.into(),
            client_tokens: all(config.client_tokens),
            children: all(config.children),
            child_tokens: all(config.child_tokens),
            scope_maps: all(config.scope_maps),
            descendants: all(config.descendants),
        }
    }
}

impl From<ConfigV1> for NodeConfig {
    fn from(config: ConfigV1) -> NodeConfig {
        NodeConfig {
            registry: config.registry,
            node: config.node.into(),
            sync_token: config.sync_token.into(),
            client_tokens: all(config.client_tokens),
            children: all(config.children),
            child_tokens: all(config.child_tokens),
            scope_maps: all(config.scope_maps),
            descendants: all(config.descendants),
        }
    }
}

impl From<Descendant> for DescendantV1 {
    fn from(Descendant { name, version }: Descendant) -> DescendantV1 {
        DescendantV1 { name, version }
    }
}

impl From<DescendantV1> for Descendant {
    fn from(DescendantV1 { name, version }: DescendantV1) -> Descendant {
        Descendant { name, version }
    }
}

#[derive(Serialize, Deserialize)]
struct HeadV2 {
    elements: u32,
    registry: String,
}

#[derive(Serialize, Deserialize)]
struct DescendantV2 {
    name: ConnectedRegistryName,
    version: String,
}

impl Head for HeadV2 {
    const KIND: Kind = Kind::Desired;

    fn elements(&self) -> u32 {
        self.elements
    }
}

fn write_v2(config: NodeConfig) -> Result<Vec<u8>, WireError> {
    let lists = [
        2, // the node and its sync token
        config.client_tokens.len(),
        config.children.len(),
        config.child_tokens.len(),
        config.scope_maps.len(),
        config.descendants.len(),
    ];
    let head = HeadV2 { elements: number_of(&lists)?, registry: config.registry };
    let mut all = Vec::new();
    let bytes = &mut all;
    append(bytes, Kind::Desired, &head)?;
    append(bytes, Kind::Node, &ConnectedRegistryV2::from(config.node))?;
    append(bytes, Kind::SyncToken, &TokenV2::from(config.sync_token))?;
    for token in config.client_tokens {
        append(bytes, Kind::ClientToken, &TokenV2::from(token))?;
    }
    for child in config.children {
        append(bytes, Kind::Child, &ConnectedRegistryV2::from(child))?;
    }
    for token in config.child_tokens {
        append(bytes, Kind::ChildToken, &TokenV2::from(token))?;
    }
    for map in config.scope_maps {
        append(bytes, Kind::ScopeMap, &ScopeMapV2::from(map))?;
    }
    for Descendant { name, version } in config.descendants {
        append(bytes, Kind::Descendant, &DescendantV2 { name, version })?;
    }
    Ok(all)
}

fn read_v2(head: HeadV2, elements: Vec<Element<'_>>) -> Result<NodeConfig, WireError> {
    let (mut node, mut sync_token) = (None, None);
    let (mut client_tokens, mut children, mut child_tokens) = (vec![], vec![], vec![]);
    let (mut scope_maps, mut descendants) = (vec![], vec![]);
    let token = |body| body_of::<TokenV2>(body).map(Token::from);
    for (kind, body) in elements {
        match kind {
            Some(Kind::Node) => node = Some(body_of::<ConnectedRegistryV2>(body)?.try_into()?),
            Some(Kind::SyncToken) => sync_token = Some(token(body)?),
            Some(Kind::ClientToken) => client_tokens.push(token(body)?),
            // In a mode of a newer version it cannot be served from here.
            Some(Kind::Child) => {
                children.extend(body_of::<ConnectedRegistryV2>(body)?.try_into().ok());
            }
            Some(Kind::ChildToken) => child_tokens.push(token(body)?),
            Some(Kind::ScopeMap) => scope_maps.push(body_of::<ScopeMapV2>(body)?.into()),
            Some(Kind::Descendant) => {
                let DescendantV2 { name, version } = body_of(body)?;
                descendants.push(Descendant { name, version });
            }
            // A newer version desires something that this one cannot do, and the nodes below do not
            // hear of it. What is known stands by itself: nobody is allowed more than without it.
            _ => {}
        }
    }
    let missing = |what| move || WireError(format!("a desired state has no {what}"));
    Ok(NodeConfig {
        registry: head.registry,
        node: node.ok_or_else(missing("node"))?,
        sync_token: sync_token.ok_or_else(missing("sync token"))?,
        client_tokens,
        children,
        child_tokens,
        scope_maps,
        descendants,
    })
}
