//! The rows of the audit: the last changes of what the root manages.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, key, stored_as};
use crate::types::UnixSeconds;
use crate::types::deed::Deed;

/// A [`Deed`].
#[derive(Serialize, Deserialize)]
struct DeedRow {
    at: UnixSeconds,
    actor: String,
    action: String,
    subject: String,
}

impl Row for DeedRow {
    const VERSION: u8 = 1;
}

impl From<&Deed> for DeedRow {
    fn from(deed: &Deed) -> DeedRow {
        let Deed { at, actor, action, subject } = deed.clone();
        DeedRow { at, actor, action, subject }
    }
}

impl From<DeedRow> for Deed {
    fn from(DeedRow { at, actor, action, subject }: DeedRow) -> Deed {
        Deed { at, actor, action, subject }
    }
}

stored_as!(Deed, DeedRow);

/// The key of a deed; they are in the order in which they were done.
pub(in crate::store) fn deed_key(number: u64) -> Vec<u8> {
    key(Kind::Deed, &[&number.to_be_bytes()])
}

/// How many deeds were ever written.
#[derive(Default, Serialize, Deserialize)]
pub(in crate::store) struct Deeds(pub(in crate::store) u64);

impl Row for Deeds {
    const VERSION: u8 = 1;
}

pub(in crate::store) fn deeds_key() -> Vec<u8> {
    key(Kind::Node, &[b"deeds"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rows::{decode, encode};

    #[test]
    fn p062_a_deed_is_written_as_ever() {
        let [actor, action, subject] = ["uid 0", "a b", "c"].map(str::to_owned);
        let deed = Deed { at: UnixSeconds(300), actor, action, subject };
        let bytes = b"\x01\xac\x02\x05uid 0\x03a b\x01c";
        assert_eq!(encode(&deed).unwrap(), bytes);
        assert!(decode::<Deed>(bytes).unwrap() == deed);
        assert_eq!(deed_key(1), [24, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
}
