//! Changes of a set: some of it, or all of it at once.

use std::collections::BTreeSet;

/// A change of a set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change<T> {
    /// These come and those go, whatever else is there.
    Delta {
        /// What comes.
        add: Vec<T>,
        /// What goes.
        remove: Vec<T>,
    },
    /// After it these are there, and nothing else.
    Replace(Vec<T>),
}

impl<T> Default for Change<T> {
    fn default() -> Change<T> {
        Change::Delta { add: Vec::new(), remove: Vec::new() }
    }
}

impl<T: Ord> Change<T> {
    /// Whether it names nothing that comes or goes.
    pub fn is_empty(&self) -> bool {
        matches!(self, Change::Delta { add, remove } if add.is_empty() && remove.is_empty())
    }

    /// What it says is there after it.
    pub fn wanted(&self) -> &[T] {
        match self {
            Change::Delta { add, .. } => add,
            Change::Replace(all) => all,
        }
    }

    /// All that it names.
    pub fn named(&self) -> impl Iterator<Item = &T> {
        let gone = match self {
            Change::Delta { remove, .. } => &remove[..],
            Change::Replace(_) => &[],
        };
        self.wanted().iter().chain(gone)
    }

    /// What both comes and goes.
    pub fn ambiguous(&self) -> impl Iterator<Item = &T> {
        let gone: BTreeSet<&T> = match self {
            Change::Delta { remove, .. } => remove.iter().collect(),
            Change::Replace(_) => BTreeSet::new(),
        };
        self.wanted().iter().filter(move |one| gone.contains(one))
    }

    /// What is there after it, where this is there before it; some of it perhaps twice.
    pub fn apply(self, mut there: Vec<T>) -> Vec<T> {
        match self {
            Change::Delta { add, remove } => {
                let gone: BTreeSet<T> = remove.into_iter().collect();
                there.retain(|one| !gone.contains(one));
                there.extend(add);
                there
            }
            Change::Replace(all) => all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_of_a_set_or_all_of_it_changes() {
        let delta = Change::Delta { add: vec![3, 4], remove: vec![1, 4] };
        assert_eq!(delta.ambiguous().collect::<Vec<_>>(), [&4]);
        assert_eq!((delta.wanted(), delta.is_empty()), (&[3, 4][..], false));
        assert_eq!(delta.named().collect::<Vec<_>>(), [&3, &4, &1, &4]);
        assert_eq!(delta.apply(vec![1, 2]), [2, 3, 4]);
        let all = Change::Replace(vec![2]);
        assert_eq!(all.ambiguous().next(), None);
        assert_eq!((all.wanted(), all.is_empty()), (&[2][..], false));
        assert_eq!(all.apply(vec![1, 2]), [2]);
        assert!(Change::<u8>::default().is_empty() && !Change::<u8>::Replace(vec![]).is_empty());
    }
}
