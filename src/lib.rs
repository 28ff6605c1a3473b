//! skerry, a connected container registry for the edge.
//!
//! One binary is the root of a tree of registries and every tier between the root and a device.
//!
#![doc = include_str!("tree.svg")]
//!
//! The modules form a tower; each may use only what stands below it, and a test holds the edges:
//!
//! - [`types`]: domain values, pure, no input or output.
//! - [`sys`]: every contact with the operating system, each behind a small trait.
//! - [`config`]: one typed configuration, merged from its layers.
//! - [`store`]: all persistence; the journal is the promise, the index answers.
//! - [`http`]: bytes to requests and replies to bytes; knows no routes.
//! - [`auth`]: who may do what.
//! - [`registry`], [`token`], [`gateway`]: the three protocols.
//! - [`sync`]: drives a connected registry to the state its parent grants.
//! - [`manage`]: the rules of management, once.
//! - [`admin`]: management over the admin socket, health and metrics.
//! - [`app`]: wires it all in one function.
//! - [`cli`]: parses the command line and calls `app` or the admin socket.

pub mod types;

pub mod sys;

pub mod config;
pub mod http;
pub mod store;

pub mod auth;

pub mod gateway;
pub mod registry;
pub mod token;

pub mod sync;

pub mod manage;

pub mod admin;

pub mod app;

pub mod cli;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
