//! An instance becomes the one of its connected registry. These messages have no lists, and are the
//! same in both versions.

use serde::{Deserialize, Serialize};

use super::envelope::{Kind, WireError};
use super::{Format, Wire};
use crate::types::Cursor;
use crate::types::message::{ActivationAnswer, ActivationRequest};

#[derive(Serialize, Deserialize)]
struct Request {
    instance_id: String,
    version: String,
    login_server: String,
    #[serde(default)]
    accepted_epoch: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    activation_epoch: u64,
    feed: Cursor,
}

impl Wire for ActivationRequest {
    fn write(self, format: Format) -> Result<Vec<u8>, WireError> {
        format.write(Kind::ActivationRequest, &Request::from(self))
    }

    fn read(format: Format, bytes: &[u8]) -> Result<ActivationRequest, WireError> {
        format.read::<Request>(Kind::ActivationRequest, bytes).map(ActivationRequest::from)
    }
}

impl Wire for ActivationAnswer {
    fn write(self, format: Format) -> Result<Vec<u8>, WireError> {
        format.write(Kind::ActivationAnswer, &Answer::from(self))
    }

    fn read(format: Format, bytes: &[u8]) -> Result<ActivationAnswer, WireError> {
        format.read::<Answer>(Kind::ActivationAnswer, bytes).map(ActivationAnswer::from)
    }
}

impl From<ActivationRequest> for Request {
    fn from(request: ActivationRequest) -> Request {
        let ActivationRequest { instance_id, version, login_server, accepted_epoch } = request;
        Request { instance_id, version, login_server, accepted_epoch }
    }
}

impl From<Request> for ActivationRequest {
    fn from(request: Request) -> ActivationRequest {
        let Request { instance_id, version, login_server, accepted_epoch } = request;
        ActivationRequest { instance_id, version, login_server, accepted_epoch }
    }
}

impl From<ActivationAnswer> for Answer {
    fn from(answer: ActivationAnswer) -> Answer {
        let ActivationAnswer { activation_epoch, feed } = answer;
        Answer { activation_epoch, feed }
    }
}

impl From<Answer> for ActivationAnswer {
    fn from(answer: Answer) -> ActivationAnswer {
        let Answer { activation_epoch, feed } = answer;
        ActivationAnswer { activation_epoch, feed }
    }
}
