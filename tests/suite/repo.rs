//! Files of this repository, and the simple formats that several tests read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A path below the top of the repository.
pub fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// A text file of the repository.
#[allow(clippy::disallowed_methods, reason = "tests read the repository itself")]
pub fn read(relative: &str) -> String {
    let path = path(relative);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a directory, relative to the top, sorted.
#[allow(clippy::disallowed_methods, reason = "tests read the repository itself")]
pub fn files(relative: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![relative.to_owned()];
    while let Some(dir) = left.pop() {
        let entries = std::fs::read_dir(path(&dir)).unwrap_or_else(|e| panic!("{dir}: {e}"));
        for entry in entries {
            let entry = entry.unwrap();
            let name = format!("{dir}/{}", entry.file_name().to_string_lossy());
            match entry.file_type().unwrap().is_dir() {
                true => left.push(name),
                false => found.push(name),
            }
        }
    }
    found.sort();
    found
}

/// A unit file: the values of each `Section.Key`, in order; an empty value stands too.
pub struct Unit(pub BTreeMap<String, Vec<String>>);

impl Unit {
    /// Parses the syntax of systemd.syntax(7); a continued line is joined with the next one.
    pub fn parse(text: &str) -> Unit {
        let mut section = String::new();
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in text.replace("\\\n", " ").lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                name.clone_into(&mut section);
                continue;
            }
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("no key: {line}"));
            values.entry(format!("{section}.{key}")).or_default().push(value.to_owned());
        }
        Unit(values)
    }

    /// Every value of a key.
    pub fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// The one value of a key.
    pub fn get(&self, key: &str) -> &str {
        match self.all(key) {
            [value] => value,
            other => panic!("{key} must stand once: {other:?}"),
        }
    }
}

/// A BitBake file: variables as last assigned, with continued lines joined. Enough for our own
/// recipes, which have no expressions.
pub fn bitbake(text: &str) -> BTreeMap<String, String> {
    let joined = text.replace("\\\n", " ");
    let mut variables = BTreeMap::new();
    for line in joined.lines().filter(|line| !line.starts_with(['#', ' ', '\t', '}'])) {
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        let name = name.trim_end_matches([' ', '?', '+', ':', '.']).to_owned();
        let value = value.trim().trim_matches('"');
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        variables.insert(name, value);
    }
    variables
}
