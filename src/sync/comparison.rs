//! Compares a repository with what the parent has of it and makes it like that: a stretch of its
//! tags at a time, so that very many tags take no more memory than few.

use std::collections::BTreeSet;

use super::debts::Item;
use super::error::SyncError;
use super::offers::Standing;
use super::plan::{self, Fate, Page, Stretch, Tags, Waiting};
use super::worker::{PAGES_MAX, Worker};
use crate::gateway::feed::Scope;
use crate::store::replica::offers::Withheld;
use crate::sys::spawn::blocking;
use crate::types::limits::PAGE_MAX;
use crate::types::{Digest, RepositoryName, Tag};

/// Tags of this node, and changes of tags on their way up, that are in memory at once. Tests have
/// fewer, so that a few tags are several stretches.
const STRETCH_MAX: usize = if cfg!(test) { 2 } else { PAGE_MAX };

/// Tags whose missing content is compared at once, to fetch the smallest first.
const WORKING_SET: usize = 16;

/// Bytes of closures in memory beside the last one. When there are more, what they lack is fetched
/// before the next tag is looked at.
const WORKING_SET_BYTES: usize = 8 * 1024 * 1024;

/// A manifest to fetch, and the tag that shall name it, with what it named before.
type Wanted = (Option<(Tag, Option<Digest>)>, Digest);

/// A stretch of a repository with what else its listing tells.
pub(super) struct Section {
    stretch: Stretch,
    /// In the last one: the manifests at the parent that refer to another one. They need no tag.
    referrers: Vec<Digest>,
    /// The parent has not got all of the repository yet: what it lacks was not deleted.
    is_partial: bool,
    /// There is no other section.
    is_all: bool,
}

/// The sections of a repository that were not compared yet. Each is asked for when its turn comes,
/// and is not older than that: what a listing that proves to be faulty has told first was followed.
struct Walk<'a> {
    worker: &'a Worker,
    repository: &'a RepositoryName,
    after: Option<Tag>,
    /// How many may come yet.
    left: usize,
}

impl Section {
    /// Manifests that the parent has, as far as this tells.
    pub(super) fn manifests(&self) -> BTreeSet<&Digest> {
        self.stretch.there.values().chain(&self.referrers).collect()
    }
}

impl Walk<'_> {
    /// The next one in the order of the tags; `None`: that was the last.
    async fn next(&mut self) -> Result<Option<Section>, SyncError> {
        if self.left == 0 {
            return Ok(None);
        }
        let section = self.worker.section(self.repository, self.after.as_ref()).await?;
        self.left -= 1;
        let Some(end) = &section.stretch.end else {
            self.left = 0;
            return Ok(Some(section));
        };
        if self.left == 0 || self.after.as_ref().is_some_and(|after| end <= after) {
            let text = format!("the tags of {} do not end, here or at the parent", self.repository);
            return Err(SyncError::Content(text));
        }
        self.after = Some(end.clone());
        Ok(Some(section))
    }
}

impl Worker {
    /// Makes a repository like the parent's. What cannot be had is set aside; an error concerns the
    /// whole repository, or more.
    pub(super) async fn reconcile_repository(
        &self,
        repository: &RepositoryName,
    ) -> Result<(), SyncError> {
        let comparison = self.state.debts().begin_compare(repository);
        // Asked once: a grant that comes meanwhile counts in the comparison that it asks for.
        let standing = self.standing(repository)?;
        let (mut is_partial, mut only) = (false, None);
        // Removals come first: they cost nothing, and make room.
        let mut walk = self.walk(repository);
        while let Some(section) = walk.next().await? {
            is_partial |= section.is_partial;
            if !is_partial {
                self.hear_on(repository, standing).await?;
                self.follow_removals(repository, &section.stretch, standing).await?;
            }
            let (tags, referrers) = (section.stretch.there.iter(), &section.referrers);
            self.release_what_is_there(repository, tags, referrers).await?;
            only = section.is_all.then_some(section);
        }
        match is_partial {
            true => self.follow_told(repository).await?,
            false => self.offer_manifests(repository, standing).await?,
        }
        match &only {
            Some(section) => self.fetch_different(repository, section).await?,
            None => {
                let mut walk = self.walk(repository);
                while let Some(section) = walk.next().await? {
                    is_partial |= section.is_partial;
                    self.fetch_different(repository, &section).await?;
                }
            }
        }
        if is_partial {
            return Err(SyncError::Content("the parent has not got all of it yet".to_owned()));
        }
        if !standing.is_new_parent {
            self.drop_deleted(repository, only.as_ref()).await?;
        }
        self.state.debts().compared(repository, comparison);
        Ok(())
    }

    fn walk<'a>(&'a self, repository: &'a RepositoryName) -> Walk<'a> {
        Walk { worker: self, repository, after: None, left: PAGES_MAX }
    }

    /// The section behind a tag.
    async fn section(
        &self,
        repository: &RepositoryName,
        after: Option<&Tag>,
    ) -> Result<Section, SyncError> {
        // What waited before may be delivered while the parent is asked.
        let before = self.waiting(repository, after).await?;
        let (listing, is_partial) = self.upstream.listing(repository, after).await?;
        self.state.note_listed(listing.at);
        let tags = listing.tags.into_iter().map(|entry| (entry.tag, entry.digest));
        let there = Page { of: tags.collect(), end: listing.next };
        let here = self.tags_here(repository, after).await?;
        let stretch = Stretch::new(after, there, here, before);
        let is_last = stretch.end.is_none();
        let referrers = if is_last { listing.referrers } else { Vec::new() };
        Ok(Section { is_all: is_last && after.is_none(), is_partial, stretch, referrers })
    }

    async fn waiting(
        &self,
        repository: &RepositoryName,
        after: Option<&Tag>,
    ) -> Result<Waiting, SyncError> {
        let last = self.store.outbox_last()?;
        let (store, repository, after) = (self.store.clone(), repository.clone(), after.cloned());
        let tags = move || store.outbox_tags(&repository, after.as_ref(), STRETCH_MAX);
        let (of, end) = blocking(tags).await?;
        Ok(Waiting { tags: Page { of, end }, last })
    }

    async fn tags_here(
        &self,
        repository: &RepositoryName,
        after: Option<&Tag>,
    ) -> Result<Page<Tags>, SyncError> {
        let (store, repository, after) = (self.store.clone(), repository.clone(), after.cloned());
        let rows = move || store.tags(&repository, after.as_ref().map(Tag::as_str), STRETCH_MAX);
        let rows = blocking(rows).await?;
        let end = rows.last().filter(|_| rows.len() == STRETCH_MAX).map(|(tag, _)| tag.clone());
        let of = rows.into_iter().map(|(tag, row)| (tag, row.digest)).collect();
        Ok(Page { of, end })
    }

    /// Follows what the parent has removed of a stretch. What it may have lost is offered, or kept.
    async fn follow_removals(
        &self,
        repository: &RepositoryName,
        stretch: &Stretch,
        standing: Standing,
    ) -> Result<(), SyncError> {
        let (mut rising, mut kept) = (Vec::new(), Withheld::default());
        for (tag, base) in stretch.unknown_there() {
            let lacked = self.lacked_tag(repository, tag, standing.is_new_parent)?;
            let fate = lacked.fate(standing.may_push);
            match fate {
                Fate::Goes => {}
                Fate::Rises => rising.push((tag.clone(), base.clone())),
                Fate::Stays => drop(kept.tags.insert(tag.clone())),
            }
            if self.store.outbox_holds_tag(repository, tag)? {
                self.state.hold_back(repository, Item::Tag(tag.clone()));
            } else if fate == Fate::Goes && stretch.is_old(tag, self.store.outbox_last()?) {
                // What counts is what the tag names at the parent now.
                self.follow_tag(repository, tag, None, true).await?;
            } else if fate == Fate::Goes {
                self.remove_tag(repository, tag, base.clone()).await?;
            }
        }
        self.store.offer_tags(repository, &rising).await?;
        Ok(self.store.withhold(repository, &kept).await?)
    }

    /// Fetches what the parent has of a section, and is not here.
    async fn fetch_different(
        &self,
        repository: &RepositoryName,
        section: &Section,
    ) -> Result<(), SyncError> {
        let (stretch, mut wanted) = (&section.stretch, Vec::new());
        for (tag, digest, base) in stretch.different() {
            if self.store.outbox_holds_tag(repository, tag)? {
                // The parent is asked again when it has answered what is on its way up.
                self.state.hold_back(repository, Item::Tag(tag.clone()));
            } else if stretch.is_old(tag, self.store.outbox_last()?) {
                self.follow_tag(repository, tag, Some(digest.clone()), true).await?;
            } else {
                wanted.push((Some((tag.clone(), base.cloned())), digest.clone()));
            }
        }
        self.fetch(repository, wanted).await?;
        for page in section.referrers.chunks(STRETCH_MAX) {
            let (store, name, page) = (self.store.clone(), repository.clone(), page.to_vec());
            let missing = move || store.manifests_missing(&name, page);
            let wanted = blocking(missing).await?.into_iter().map(|digest| (None, digest));
            self.fetch(repository, wanted.collect()).await?;
        }
        Ok(())
    }

    /// Fetches manifests and lets tags name them. An item that cannot be fetched is set aside.
    async fn fetch(
        &self,
        repository: &RepositoryName,
        wanted: Vec<Wanted>,
    ) -> Result<(), SyncError> {
        let mut pending = wanted.into_iter().peekable();
        while pending.peek().is_some() {
            let (mut work, mut held) = (Vec::new(), 0);
            while work.len() < WORKING_SET
                && held < WORKING_SET_BYTES
                && let Some(wanted) = pending.next()
            {
                match self.fetcher.resolve(repository, &wanted.1).await {
                    Ok(closure) => {
                        held += closure.held_bytes();
                        work.push((closure.missing_bytes, (wanted, closure)));
                    }
                    Err(error) => self.left_out(repository, &wanted, error).await?,
                }
            }
            for (wanted, closure) in plan::cheapest_first(work) {
                let target = wanted.0.as_ref().map(|(tag, base)| (tag, base.clone()));
                match self.fetcher.complete(repository, closure, target).await {
                    Ok(done) => {
                        self.state.set(|now| now.faults = 0);
                        if let (false, Some((tag, _))) = (done, &wanted.0) {
                            self.state.hold_back(repository, Item::Tag(tag.clone()));
                        }
                    }
                    Err(error) => self.left_out(repository, &wanted, error).await?,
                }
            }
        }
        Ok(())
    }

    /// Sets an item aside when only the item is at fault, and the parent still has it.
    async fn left_out(
        &self,
        repository: &RepositoryName,
        (tag, digest): &Wanted,
        error: SyncError,
    ) -> Result<(), SyncError> {
        // Nothing of a repository that was withdrawn is tried, or owed, one by one.
        let is_withdrawn =
            error.is_about_rights() && !Scope::of_config(&self.config()?).covers(repository);
        if is_withdrawn || !error.sets_aside() {
            return Err(error);
        }
        let item = match tag {
            Some((tag, _)) => Item::Tag(tag.clone()),
            None => Item::Manifest(digest.clone()),
        };
        self.set_aside(repository, item, Some(digest), &error).await.map(|_| ())
    }
}
