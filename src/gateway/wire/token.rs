//! Tokens and scope maps in a desired state.

use serde::{Deserialize, Serialize};

use super::envelope::Nested;
use crate::types::token::{ScopeMap, Token, Verifier};
use crate::types::{Grant, ScopeMapName, TokenName, UnixSeconds};

#[derive(Serialize, Deserialize)]
struct VerifierV1 {
    salt: [u8; 16],
    hash: [u8; 32],
    generation: u32,
    created: UnixSeconds,
    expires: Option<UnixSeconds>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct TokenV1 {
    name: TokenName,
    scope_map: ScopeMapName,
    enabled: bool,
    created: UnixSeconds,
    passwords: [Option<VerifierV1>; 2],
    generations: [u32; 2],
}

#[derive(Serialize, Deserialize)]
pub(super) struct ScopeMapV1 {
    name: ScopeMapName,
    description: String,
    grants: Vec<Grant>,
    created: UnixSeconds,
}

impl From<Verifier> for VerifierV1 {
    fn from(verifier: Verifier) -> VerifierV1 {
        let Verifier { salt, hash, generation, created, expires } = verifier;
        VerifierV1 { salt, hash, generation, created, expires }
    }
}

impl From<VerifierV1> for Verifier {
    fn from(verifier: VerifierV1) -> Verifier {
        let VerifierV1 { salt, hash, generation, created, expires } = verifier;
        Verifier { salt, hash, generation, created, expires }
    }
}

impl From<Token> for TokenV1 {
    fn from(token: Token) -> TokenV1 {
        let Token { name, scope_map, enabled, created, passwords, generations } = token;
        let passwords = passwords.map(|password| password.map(VerifierV1::from));
        TokenV1 { name, scope_map, enabled, created, passwords, generations }
    }
}

impl From<TokenV1> for Token {
    fn from(token: TokenV1) -> Token {
        let TokenV1 { name, scope_map, enabled, created, passwords, generations } = token;
        let passwords = passwords.map(|password| password.map(Verifier::from));
        Token { name, scope_map, enabled, created, passwords, generations }
    }
}

impl From<ScopeMap> for ScopeMapV1 {
    fn from(map: ScopeMap) -> ScopeMapV1 {
        let ScopeMap { name, description, grants, created } = map;
        ScopeMapV1 { name, description, grants, created }
    }
}

impl From<ScopeMapV1> for ScopeMap {
    fn from(map: ScopeMapV1) -> ScopeMap {
        let ScopeMapV1 { name, description, grants, created } = map;
        ScopeMap { name, description, grants, created }
    }
}

#[derive(Serialize, Deserialize)]
struct VerifierV2 {
    salt: [u8; 16],
    hash: [u8; 32],
    generation: u32,
    created: UnixSeconds,
    expires: Option<UnixSeconds>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct TokenV2 {
    name: TokenName,
    scope_map: ScopeMapName,
    enabled: bool,
    created: UnixSeconds,
    passwords: [Option<Nested<VerifierV2>>; 2],
    generations: [u32; 2],
}

/// Grants travel as words.
#[derive(Serialize, Deserialize)]
pub(super) struct ScopeMapV2 {
    name: ScopeMapName,
    grants: Vec<String>,
    created: UnixSeconds,
    #[serde(default)]
    description: String,
}

impl From<Verifier> for VerifierV2 {
    fn from(verifier: Verifier) -> VerifierV2 {
        let Verifier { salt, hash, generation, created, expires } = verifier;
        VerifierV2 { salt, hash, generation, created, expires }
    }
}

impl From<VerifierV2> for Verifier {
    fn from(verifier: VerifierV2) -> Verifier {
        let VerifierV2 { salt, hash, generation, created, expires } = verifier;
        Verifier { salt, hash, generation, created, expires }
    }
}

impl From<Token> for TokenV2 {
    fn from(token: Token) -> TokenV2 {
        let Token { name, scope_map, enabled, created, passwords, generations } = token;
        let passwords = passwords.map(|password| password.map(|password| Nested(password.into())));
        TokenV2 { name, scope_map, enabled, created, passwords, generations }
    }
}

impl From<TokenV2> for Token {
    fn from(token: TokenV2) -> Token {
        let TokenV2 { name, scope_map, enabled, created, passwords, generations } = token;
        let passwords = passwords.map(|password| password.map(|Nested(password)| password.into()));
        Token { name, scope_map, enabled, created, passwords, generations }
    }
}

impl From<ScopeMap> for ScopeMapV2 {
    fn from(map: ScopeMap) -> ScopeMapV2 {
        let ScopeMap { name, description, grants, created } = map;
        let grants = grants.iter().map(ToString::to_string).collect();
        ScopeMapV2 { name, grants, created, description }
    }
}

impl From<ScopeMapV2> for ScopeMap {
    fn from(map: ScopeMapV2) -> ScopeMap {
        let ScopeMapV2 { name, grants, created, description } = map;
        // Each allows something. What it is that a newer version allows nobody can do here.
        let grants = grants.iter().filter_map(|grant| grant.parse().ok()).collect();
        ScopeMap { name, description, grants, created }
    }
}
