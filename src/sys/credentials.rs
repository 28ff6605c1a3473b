//! Credentials that the service manager passes as files (systemd.exec(5), "CREDENTIALS").

use std::path::{Path, PathBuf};

/// The variable that names their directory.
pub const VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// Where the credential `name` is, if the service manager passed any; the file may be missing.
/// `directory` is the value of [`VARIABLE`]; a relative one is not believed.
pub fn path(directory: Option<&Path>, name: &str) -> Option<PathBuf> {
    let directory = directory.filter(|directory| directory.is_absolute())?;
    let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    plain.then(|| directory.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_in_an_absolute_directory() {
        let directory = Some(Path::new("/run/credentials/skerry.service"));
        let found = path(directory, "skerry.connection-string").unwrap();
        assert!(found.ends_with("skerry.service/skerry.connection-string"));
        assert_eq!(path(directory, "../x"), None);
        assert_eq!(path(directory, ""), None);
        assert_eq!(path(Some(Path::new("relative")), "x"), None);
        assert_eq!(path(None, "x"), None);
    }
}
