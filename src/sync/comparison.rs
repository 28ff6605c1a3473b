//! Compares a repository with what the parent has of it and makes it like that: a stretch of its
//! tags at a time, so that very many tags take no more memory than few.

use std::collections::BTreeSet;

use super::debts::Item;
use super::error::SyncError;
use super::offers::Offer;
use super::plan::{self, Page, Stretch};
use super::worker::{PAGES_MAX, Worker};
use crate::gateway::feed::Scope;
use crate::sys::spawn::{blocking, yield_now};
use crate::types::limits::PAGE_MAX;
use crate::types::{Digest, RepositoryName, Tag};

/// Tags of this node, and changes of tags on their way up, that are in memory at once. So few in
/// tests that some tags are more than one stretch.
const STRETCH_MAX: usize = if cfg!(test) { 2 } else { PAGE_MAX };

/// Tags whose missing content is compared at once, to fetch the smallest first.
const WORKING_SET: usize = 16;

/// What is in memory of them, bytes, beside the last one. Over it: these are fetched first.
const WORKING_SET_BYTES: usize = 8 * 1024 * 1024;

/// A manifest to fetch, and the tag that shall name it, with what it named before.
type Wanted = (Option<(Tag, Option<Digest>)>, Digest);

/// A stretch of a repository with what else its listing tells.
pub(super) struct Part {
    pub(super) stretch: Stretch,
    /// In the last one: the manifests at the parent that refer to another one. They need no tag.
    pub(super) referrers: Vec<Digest>,
    /// There is no other one.
    is_all: bool,
}

/// The stretches of a repository that were not compared yet. Each is asked for when its turn comes,
/// and is not older than that.
struct Walk<'a> {
    worker: &'a Worker,
    repository: &'a RepositoryName,
    after: Option<Tag>,
    /// So many may come yet.
    left: usize,
}

impl Walk<'_> {
    /// The next one in the order of the tags; `None`: that was the last.
    async fn next(&mut self) -> Result<Option<Part>, SyncError> {
        if self.left == 0 {
            return Ok(None);
        }
        let part = self.worker.part(self.repository, self.after.as_ref()).await?;
        self.left -= 1;
        let Some(end) = &part.stretch.end else {
            self.left = 0;
            return Ok(Some(part));
        };
        if self.left == 0 || self.after.as_ref().is_some_and(|after| end <= after) {
            let text = format!("the listing of {} does not end", self.repository);
            return Err(SyncError::Content(text));
        }
        self.after = Some(end.clone());
        Ok(Some(part))
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
        let offer = self.offer(repository)?;
        let (mut is_partial, mut only) = (false, None);
        // Removals come first: they cost nothing, and make room.
        let mut walk = self.walk(repository);
        while let Some(part) = walk.next().await? {
            is_partial |= part.stretch.partial;
            self.follow_removals(repository, &part, offer).await?;
            only = part.is_all.then_some(part);
        }
        match is_partial {
            true => self.follow_told(repository).await?,
            false => self.offer_manifests(repository, offer).await?,
        }
        match &only {
            Some(part) => self.fetch_moved(repository, part).await?,
            None => {
                let mut walk = self.walk(repository);
                while let Some(part) = walk.next().await? {
                    is_partial |= part.stretch.partial;
                    self.fetch_moved(repository, &part).await?;
                }
            }
        }
        if is_partial {
            return Err(SyncError::Content("the parent has not got all of it yet".to_owned()));
        }
        if offer == Offer::None {
            self.drop_deleted(repository, only.as_ref()).await?;
        }
        self.state.debts().compared(repository, comparison);
        Ok(())
    }

    fn walk<'a>(&'a self, repository: &'a RepositoryName) -> Walk<'a> {
        Walk { worker: self, repository, after: None, left: PAGES_MAX }
    }

    /// The stretch behind a tag.
    async fn part(
        &self,
        repository: &RepositoryName,
        after: Option<&Tag>,
    ) -> Result<Part, SyncError> {
        let before = self.store.outbox_last()?;
        let (store, name, behind) = (self.store.clone(), repository.clone(), after.cloned());
        let waited = move || store.outbox_tags(&name, behind.as_ref(), STRETCH_MAX);
        let (of, end) = blocking(waited).await?;
        let waited = Page { of, end };
        let (listing, partial) = self.upstream.listing(repository, after).await?;
        self.state.note_listed(listing.at);
        let tags = listing.tags.into_iter().map(|entry| (entry.tag, entry.digest));
        let there = Page { of: tags.collect(), end: listing.next };
        let (store, name, behind) = (self.store.clone(), repository.clone(), after.cloned());
        let here = move || store.tags(&name, behind.as_ref().map(Tag::as_str), STRETCH_MAX);
        let here = blocking(here).await?;
        let end = here.last().filter(|_| here.len() == STRETCH_MAX).map(|(tag, _)| tag.clone());
        let of = here.into_iter().map(|(tag, row)| (tag, row.digest)).collect();
        let mut stretch = Stretch::new(after, there, Page { of, end }, waited);
        // The parent may have heard meanwhile of what a client has changed since, or of what waited
        // before: the listing is older than what is here then, and what counts is what the tag
        // names there now.
        stretch.has_news = self.store.outbox_last()? != before;
        stretch.partial = partial;
        let is_last = stretch.end.is_none();
        let referrers = if is_last { listing.referrers } else { Vec::new() };
        Ok(Part { is_all: is_last && after.is_none(), stretch, referrers })
    }

    /// Follows what the parent has removed of a stretch, unless it may have lost that.
    async fn follow_removals(
        &self,
        repository: &RepositoryName,
        part: &Part,
        offer: Offer,
    ) -> Result<(), SyncError> {
        let (stretch, mut lacked) = (&part.stretch, Vec::new());
        for (tag, base) in stretch.gone() {
            let may_be_lost = offer != Offer::None || self.store.withholds_tag(repository, tag)?;
            if may_be_lost {
                lacked.push((tag.clone(), base.clone()));
            }
            if self.store.outbox_holds_tag(repository, tag)? {
                self.state.hold_back(repository, Item::Tag(tag.clone()));
            } else if !may_be_lost && stretch.is_old(tag) {
                self.follow_tag(repository, tag, None, true).await?;
            } else if !may_be_lost {
                self.remove_tag(repository, tag, base.clone()).await?;
            }
        }
        self.offer_tags(repository, &lacked, offer).await?;
        if offer == Offer::None && self.store.withholds(repository)? {
            for (tag, digest) in &stretch.there {
                self.store.parent_has(repository, Some(tag), digest).await?;
            }
        }
        Ok(())
    }

    /// Fetches what the parent has of a stretch, and is not here.
    async fn fetch_moved(&self, repository: &RepositoryName, part: &Part) -> Result<(), SyncError> {
        let (stretch, mut wanted) = (&part.stretch, Vec::new());
        for (tag, digest, base) in stretch.moved() {
            if self.store.outbox_holds_tag(repository, tag)? {
                // The parent is asked again when it has answered what is on its way up.
                self.state.hold_back(repository, Item::Tag(tag.clone()));
            } else if stretch.is_old(tag) {
                self.follow_tag(repository, tag, Some(digest.clone()), true).await?;
            } else {
                wanted.push((Some((tag.clone(), base.cloned())), digest.clone()));
            }
        }
        self.fill(repository, wanted).await?;
        for page in part.referrers.chunks(PAGE_MAX) {
            let mut wanted = Vec::new();
            for digest in page {
                if self.store.manifest(repository, digest)?.is_none() {
                    wanted.push((None, digest.clone()));
                }
            }
            self.fill(repository, wanted).await?;
            yield_now().await;
        }
        Ok(())
    }

    /// Fetches manifests and lets tags name them. An item that cannot be fetched is set aside.
    async fn fill(
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

impl Part {
    /// Manifests that the parent has, as far as this tells.
    pub(super) fn manifests(&self) -> BTreeSet<&Digest> {
        self.stretch.there.values().chain(&self.referrers).collect()
    }
}
