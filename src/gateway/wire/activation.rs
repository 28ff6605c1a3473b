//! An instance becomes the one of its connected registry.

use serde::{Deserialize, Serialize};

use super::envelope::{Kind, WireError};
use super::{Format, Wire};
use crate::types::Cursor;
use crate::types::message::{ActivationAnswer, ActivationRequest};

#[derive(Serialize, Deserialize)]
struct RequestV1 {
    instance_id: String,
    version: String,
    login_server: String,
    accepted_epoch: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct AnswerV1 {
    activation_epoch: u64,
    feed: Cursor,
}

impl Wire for ActivationRequest {
    fn write(self, format: Format) -> Result<Vec<u8>, WireError> {
        format.write(Kind::ActivationRequest, &RequestV1::from(self))
    }

    fn read(format: Format, bytes: &[u8]) -> Result<ActivationRequest, WireError> {
        format.read::<RequestV1>(Kind::ActivationRequest, bytes).map(ActivationRequest::from)
    }
}

impl Wire for ActivationAnswer {
    fn write(self, format: Format) -> Result<Vec<u8>, WireError> {
        format.write(Kind::ActivationAnswer, &AnswerV1::from(self))
    }

    fn read(format: Format, bytes: &[u8]) -> Result<ActivationAnswer, WireError> {
        format.read::<AnswerV1>(Kind::ActivationAnswer, bytes).map(ActivationAnswer::from)
    }
}

impl From<ActivationRequest> for RequestV1 {
    fn from(request: ActivationRequest) -> RequestV1 {
        let ActivationRequest { instance_id, version, login_server, accepted_epoch } = request;
        RequestV1 { instance_id, version, login_server, accepted_epoch }
    }
}

impl From<RequestV1> for ActivationRequest {
    fn from(request: RequestV1) -> ActivationRequest {
        let RequestV1 { instance_id, version, login_server, accepted_epoch } = request;
        ActivationRequest { instance_id, version, login_server, accepted_epoch }
    }
}

impl From<ActivationAnswer> for AnswerV1 {
    fn from(answer: ActivationAnswer) -> AnswerV1 {
        let ActivationAnswer { activation_epoch, feed } = answer;
        AnswerV1 { activation_epoch, feed }
    }
}

impl From<AnswerV1> for ActivationAnswer {
    fn from(answer: AnswerV1) -> ActivationAnswer {
        let AnswerV1 { activation_epoch, feed } = answer;
        ActivationAnswer { activation_epoch, feed }
    }
}
