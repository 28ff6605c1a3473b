//! A change as a connected registry delivers it to its parent: its name, and the header fields that
//! say so, written and read here.

use std::fmt;
use std::str::FromStr;

use super::ConnectedRegistryName;

/// The field that names the change: origin and number.
const ID: &str = "skerry-outbox-id";

/// The start of the origin that numbered the change, 16 hexadecimal digits. Connected registries of
/// the first version do not send it.
const INCARNATION: &str = "skerry-outbox-incarnation";

/// The names of changes that this one takes the place of, with their incarnations, divided by
/// commas. Earlier versions neither send nor read it.
const INSTEAD_OF: &str = "skerry-outbox-instead-of";

/// Changes that one takes the place of, as far as they are remembered. Over it: the first are
/// forgotten, and take effect when a state in which they wait comes back from a backup or a copy.
pub const INSTEAD_OF_MAX: usize = 128;

/// Says that the change is none of its own: it makes those that it takes the place of once more.
/// Earlier versions neither send nor read it.
const ANEW: &str = "skerry-outbox-anew";

/// Says that the change was refused before.
const AGAIN: &str = "skerry-outbox-again";

/// Says that the change is an offer of what the parent, or one further up, lacks: [`PUSHED`] of
/// what a client had pushed there or further below, anything else of what came from the parent. The
/// first version sends the same for both.
const OFFER: &str = "skerry-offer";

/// See [`OFFER`].
const PUSHED: &str = "pushed";

/// No start has it: nodes note under it what they know of starts that are long over.
pub const NO_START: u64 = u64::MAX;

/// Names a change for ever, so that a replay has no second effect. It never changes once it is
/// written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutboxId {
    /// Where the change was first made.
    pub origin: ConnectedRegistryName,
    /// Which start of the store there gave the number: random, at each. 0: written before stores
    /// told.
    pub incarnation: u64,
    /// Its number there: counts the changes of the repository since that start, from 1 on.
    pub sequence: u64,
}

impl fmt::Display for OutboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.origin, self.sequence)
    }
}

impl FromStr for OutboxId {
    type Err = ();

    /// What `Display` writes. The incarnation is told apart: a parent that knows of none reads the
    /// rest.
    fn from_str(text: &str) -> Result<OutboxId, ()> {
        let (origin, sequence) = text.split_once(' ').ok_or(())?;
        Ok(OutboxId {
            origin: origin.parse().map_err(|_| ())?,
            incarnation: 0,
            sequence: sequence.parse().map_err(|_| ())?,
        })
    }
}

impl OutboxId {
    /// Whether the node `own` gave the number since it was started: `now` is the incarnation.
    pub fn is_of(&self, own: Option<&ConnectedRegistryName>, now: u64) -> bool {
        own == Some(&self.origin) && self.incarnation == now
    }
}

/// What an offer is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Offered {
    /// It is no offer: somebody has made the change.
    #[default]
    No,
    /// Of what came from the parent, which may have deleted it since.
    Mirrored,
    /// Of what a client had pushed here or further below, and the parent had taken.
    Pushed,
}

impl Offered {
    /// The kind of an offer of this node's.
    pub fn of(is_from_below: bool) -> Offered {
        if is_from_below { Offered::Pushed } else { Offered::Mirrored }
    }

    /// Whether it is one.
    pub fn is_offer(self) -> bool {
        self != Offered::No
    }
}

/// A change as it is delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Its name.
    pub id: OutboxId,
    /// Whether it is an offer: nobody makes this change.
    pub offered: Offered,
    /// It was refused before, here or further up.
    pub again: bool,
    /// Changes of the same repository that this one takes the place of: they were left out on their
    /// way. They are not to take effect later, from a state of the child that is lost.
    pub instead_of: Vec<OutboxId>,
    /// Nobody has made this change: it makes those once more, which were refused, or left out with
    /// one that was. When they have all taken effect, it is not to have one.
    pub anew: bool,
}

impl Delivery {
    /// Of a change that somebody made, for the first time.
    pub fn of(id: OutboxId) -> Delivery {
        Delivery { id, offered: Offered::No, again: false, instead_of: Vec::new(), anew: false }
    }

    /// The header fields that say this.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields =
            vec![(ID, self.id.to_string()), (INCARNATION, format!("{:016x}", self.id.incarnation))];
        match self.offered {
            Offered::No => {}
            Offered::Mirrored => fields.push((OFFER, "1".to_owned())),
            Offered::Pushed => fields.push((OFFER, PUSHED.to_owned())),
        }
        if self.again {
            fields.push((AGAIN, "1".to_owned()));
        }
        if self.anew {
            fields.push((ANEW, "1".to_owned()));
        }
        if !self.instead_of.is_empty() {
            let names = self.instead_of.iter().map(|id| format!("{id} {:x}", id.incarnation));
            fields.push((INSTEAD_OF, names.collect::<Vec<_>>().join(",")));
        }
        fields
    }

    /// Reads them, each as `field` has it; `None`: the request names no change. The error says what
    /// a field takes.
    pub fn read<'a>(
        field: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<Option<Delivery>, String> {
        let Some(value) = field(ID) else {
            return Ok(None);
        };
        let id =
            value.parse().map_err(|()| format!("{ID} takes a connected registry and a number"));
        let mut delivery = Delivery::of(id?);
        if let Some(value) = field(INCARNATION) {
            delivery.id.incarnation = start(value).map_err(|()| {
                format!("{INCARNATION} takes a hexadecimal number below {NO_START:x}")
            })?;
        }
        delivery.offered = match field(OFFER) {
            None => Offered::No,
            Some(PUSHED) => Offered::Pushed,
            Some(_) => Offered::Mirrored,
        };
        delivery.again = field(AGAIN).is_some();
        delivery.anew = field(ANEW).is_some();
        if let Some(value) = field(INSTEAD_OF) {
            let names = value.split(',').take(INSTEAD_OF_MAX).map(|name| {
                let (name, incarnation) = name.rsplit_once(' ').ok_or(())?;
                let incarnation = start(incarnation)?;
                Ok(OutboxId { incarnation, ..name.parse()? })
            });
            delivery.instead_of = names.collect::<Result<_, ()>>().map_err(|()| {
                format!("{INSTEAD_OF} takes connected registries, each with two numbers")
            })?;
            // One of those that are not read may be new.
            delivery.anew &= value.split(',').nth(INSTEAD_OF_MAX).is_none();
        }
        Ok(Some(delivery))
    }
}

/// An incarnation as a field has it.
fn start(text: &str) -> Result<u64, ()> {
    u64::from_str_radix(text, 16).ok().filter(|start| *start != NO_START).ok_or(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read from these fields.
    fn read(fields: &[(&'static str, &str)]) -> Result<Option<Delivery>, String> {
        Delivery::read(|name| {
            fields.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
        })
    }

    #[test]
    fn f130_what_a_delivery_says_is_read() {
        let id = OutboxId { origin: "crane7".parse().unwrap(), incarnation: 0xaf, sequence: 12 };
        for offered in [Offered::No, Offered::Mirrored, Offered::Pushed] {
            for (again, anew) in [(false, false), (true, false), (false, true), (true, true)] {
                let other = OutboxId { origin: "dock01".parse().unwrap(), ..id.clone() };
                for instead_of in [vec![], vec![OutboxId { incarnation: 0, ..id.clone() }, other]] {
                    let delivery = Delivery { id: id.clone(), offered, again, instead_of, anew };
                    let fields = delivery.fields();
                    let fields: Vec<_> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
                    assert_eq!(read(&fields), Ok(Some(delivery)));
                }
            }
        }
        let first = Delivery::of(OutboxId { incarnation: 0, ..id });
        assert_eq!(read(&[(ID, "crane7 12")]), Ok(Some(first.clone())), "of the first version");
        let offer = Delivery { offered: Offered::Mirrored, ..first };
        assert_eq!(read(&[(ID, "crane7 12"), (OFFER, "else")]), Ok(Some(offer)));
        assert_eq!(read(&[(INCARNATION, "1")]), Ok(None));
        for (count, anew) in [(INSTEAD_OF_MAX, true), (INSTEAD_OF_MAX + 1, false)] {
            let names = vec!["crane7 1 af"; count].join(",");
            let read = read(&[(ID, "crane7 12"), (ANEW, "1"), (INSTEAD_OF, &names)]);
            let read = read.unwrap().unwrap();
            assert_eq!((read.instead_of.len(), read.anew), (INSTEAD_OF_MAX, anew));
        }
    }

    #[test]
    fn f130_a_name_that_is_none_is_refused() {
        for bad in ["", "x", "-1", "+", "10000000000000000", "ffffffffffffffff"] {
            assert!(read(&[(ID, "crane7 12"), (INCARNATION, bad)]).is_err(), "{bad}");
        }
        for bad in [
            "",
            "crane7",
            "crane7 x",
            "crane7 -1",
            "c 1",
            "crane7  1",
            "crane7 1 ",
            "crane7 1 x",
            "crane7 1 ffffffffffffffff",
        ] {
            assert!(read(&[(ID, bad)]).is_err(), "{bad}");
            assert!(read(&[(ID, "crane7 12"), (INSTEAD_OF, bad)]).is_err(), "{bad}");
        }
    }
}
