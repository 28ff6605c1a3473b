//! `ca`: what clients of a node that made its own certificate have to trust.

use serde_json::{Value, json};

use super::Admin;
use super::fault::Fault;

impl Admin {
    /// The certificate, PEM. `NotFound` where this node has made none.
    pub(super) fn certificate(&self) -> Result<Value, Fault> {
        match &self.options.certificate {
            Some(pem) => Ok(json!({ "certificate": pem })),
            None => Err(Fault::not_found(
                "This node has made no certificate: tls.mode is not \"self-signed\". Where it is \
                 \"files\", clients trust the authority of tls.certificate.",
            )),
        }
    }
}
