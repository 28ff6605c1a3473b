//! What is in the repositories of a running node, as `/acr/v1/` at its admin socket tells.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;

use super::admin_client::Answer;
use super::{Failure, admin_client, output};
use crate::http::Method;
use crate::types::{Digest, Reference, RepositoryName, Tag};

/// Where that is.
const CONTENT: &str = "/acr/v1/";

/// Entries that are asked for at once.
const PAGE: usize = 100;

/// How long an image with very many tags, or a repository, may take to be deleted.
const DELETE_DEADLINE: Duration = Duration::from_secs(3600);

/// How images are named.
const FORMS: &str =
    "an image is named 'repository:tag' or 'repository@digest', without the registry";

/// Tags that a question names.
const NAMED_MAX: usize = 10;

/// An image of a repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Image {
    pub(super) repository: RepositoryName,
    pub(super) reference: Reference,
}

impl FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Image, String> {
        let (repository, reference) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.parse().map_err(|fault| format!("the digest: {fault}"))?;
                (name, Reference::Digest(digest))
            }
            None => {
                let both = text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
                let (name, tag) = both.ok_or(FORMS)?;
                (name, Reference::Tag(tag.parse().map_err(|fault| format!("the tag: {fault}"))?))
            }
        };
        let repository = repository.parse();
        let repository = repository.map_err(|fault| format!("the repository: {fault}; {FORMS}"))?;
        Ok(Image { repository, reference })
    }
}

/// In which order entries are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Order {
    /// What was changed first comes first.
    #[value(name = "time_asc")]
    Oldest,
    /// What was changed last comes first.
    #[value(name = "time_desc")]
    Newest,
}

/// The content of the node at an admin socket.
pub(super) struct Content {
    pub(super) socket: PathBuf,
}

impl Content {
    /// What is known of a repository, a tag or a manifest.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        Ok(self.page(&format!("{CONTENT}{path}"))?.value)
    }

    fn page(&self, path: &str) -> Result<Answer, Failure> {
        admin_client::ask(&self.socket, Method::Get, path, admin_client::DEADLINE)
    }

    /// The entries of all pages of a listing, which stand under `field`; at most `top`.
    pub(super) fn list(
        &self,
        path: &str,
        field: &str,
        order: Option<Order>,
        top: Option<usize>,
    ) -> Result<Vec<Value>, Failure> {
        let top = top.unwrap_or(usize::MAX);
        let order = match order {
            None => "",
            Some(Order::Oldest) => "&orderby=timeasc",
            Some(Order::Newest) => "&orderby=timedesc",
        };
        let mut next = Some(format!("{CONTENT}{path}?n={}{order}", top.min(PAGE)));
        let mut entries = Vec::new();
        while let Some(path) = next.take().filter(|_| entries.len() < top) {
            let mut page = self.page(&path)?;
            if let Value::Array(found) = page.value[field].take() {
                entries.extend(found);
            }
            next = page.next;
        }
        entries.truncate(top);
        Ok(entries)
    }

    /// What is known of an image: of a tag what it names and since when, of a digest its manifest.
    pub(super) fn image(&self, image: &Image) -> Result<Value, Failure> {
        let Image { repository, reference } = image;
        match reference {
            Reference::Tag(tag) => {
                Ok(self.get(&format!("{repository}/_tags/{tag}"))?["tag"].take())
            }
            Reference::Digest(_) => self.manifest(image),
        }
    }

    /// The manifest of an image.
    pub(super) fn manifest(&self, image: &Image) -> Result<Value, Failure> {
        let (repository, digest) = (&image.repository, self.digest(image)?);
        Ok(self.get(&format!("{repository}/_manifests/{digest}"))?["manifest"].take())
    }

    fn digest(&self, image: &Image) -> Result<Digest, Failure> {
        if let Reference::Digest(digest) = &image.reference {
            return Ok(digest.clone());
        }
        let tag = self.image(image)?;
        let digest = tag["digest"].as_str().and_then(|digest| digest.parse().ok());
        digest.ok_or_else(|| Failure::new("the node does not say what the tag names"))
    }

    /// Deletes a manifest with its tags, after a question unless `yes` answers it.
    pub(super) fn delete_image(&self, image: &Image, yes: bool) -> Result<(), Failure> {
        let manifest = self.manifest(image)?;
        let (name, digest) = (&image.repository, manifest["digest"].as_str().unwrap_or_default());
        let tags = manifest["tags"].as_array().map(Vec::as_slice).unwrap_or_default();
        let tags: Vec<&str> = tags.iter().filter_map(Value::as_str).collect();
        let named = match tags.as_slice() {
            [] => "which no tag names".to_owned(),
            tags if tags.len() > NAMED_MAX => {
                format!("with all its tags, among them {}", tags[..NAMED_MAX].join(", "))
            }
            tags => format!("with its tags: {}", tags.join(", ")),
        };
        let needed = match manifest["needed"].as_bool() {
            Some(true) => " An index needs it, and is of no use to its clients without it.",
            _ => "",
        };
        ask(yes, || Ok(format!("Delete {name}@{digest}, {named}?{needed}")))?;
        self.delete(&format!("/v2/{name}/manifests/{digest}"))
    }

    /// Deletes all that a repository holds, after a question unless `yes` answers it.
    pub(super) fn delete_repository(
        &self,
        name: &RepositoryName,
        yes: bool,
    ) -> Result<(), Failure> {
        ask(yes, || {
            let known = self.get(name.as_str())?;
            let (manifests, tags) = (&known["manifestCount"], &known["tagCount"]);
            Ok(format!("Delete all of {name} (manifests: {manifests}, tags: {tags})?"))
        })?;
        self.delete(&format!("{CONTENT}{name}"))
    }

    /// Removes a tag.
    pub(super) fn untag(&self, repository: &RepositoryName, tag: &Tag) -> Result<(), Failure> {
        self.delete(&format!("{CONTENT}{repository}/_tags/{tag}"))
    }

    /// Deletes what is at this path.
    fn delete(&self, path: &str) -> Result<(), Failure> {
        admin_client::ask(&self.socket, Method::Delete, path, DELETE_DEADLINE).map(|_| ())
    }
}

fn ask(yes: bool, question: impl FnOnce() -> Result<String, Failure>) -> Result<(), Failure> {
    match yes || output::confirm(&question()?)? {
        true => Ok(()),
        false => Err(Failure::new("nothing was changed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f185_an_image_is_named_by_its_tag_or_its_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let of_digest = format!("team/app@{digest}");
        for (text, name, reference) in [
            ("app:v1", "app", Reference::Tag("v1".parse().unwrap())),
            ("team/app:v1", "team/app", Reference::Tag("v1".parse().unwrap())),
            (of_digest.as_str(), "team/app", Reference::Digest(digest.parse().unwrap())),
        ] {
            let repository = name.parse().unwrap();
            assert_eq!(text.parse(), Ok(Image { repository, reference }));
        }
        for (text, why) in [
            ("app", "'repository:tag'"),
            ("reg.example:5000/app", "without the registry"),
            ("reg.example:5000/app:v1", "the repository"),
            ("app:-", "the tag"),
            ("app@sha256:x", "the digest"),
            ("App:v1", "the repository"),
        ] {
            let error = text.parse::<Image>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
