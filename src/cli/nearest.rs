//! Which file may somebody have meant who named one that is not there?

use std::path::{Path, PathBuf};

/// The most names of one directory that are looked at.
const MAX_LOOKED_AT: usize = 10_000;
/// How vaults are usually called.
const VAULT_EXTENSION: &str = "flint";

/// The file in the same directory whose name is most like that of `path`, written as `path` is.
pub(crate) fn file(path: &Path) -> Option<PathBuf> {
    let wanted = path.file_name()?.to_string_lossy().to_lowercase();
    let letters = wanted.chars().count();
    let farthest = letters.div_ceil(3).min(letters.saturating_sub(1));
    let distance = |name: &Path| strsim::osa_distance(&wanted, &name.to_string_lossy().to_lowercase());
    let names = names_beside(path).into_iter().map(|name| (distance(&name), name));
    let (_, nearest) = names.filter(|(distance, _)| *distance <= farthest).min()?;
    Some(path.with_file_name(nearest))
}

/// The vault that may have been meant: the most similar file, else the only one in the directory that is called like one.
pub(crate) fn vault(path: &Path) -> Option<PathBuf> {
    file(path).or_else(|| {
        let mut vaults = names_beside(path);
        vaults.retain(|name| name.extension().is_some_and(|extension| extension == VAULT_EXTENSION));
        match &vaults[..] {
            [only] => Some(path.with_file_name(only)),
            _ => None,
        }
    })
}

/// The names in the directory where `path` would be; none where it cannot be listed.
fn names_beside(path: &Path) -> Vec<PathBuf> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let listed = std::fs::read_dir(directory).into_iter().flatten().take(MAX_LOOKED_AT);
    listed.filter_map(|entry| Some(PathBuf::from(entry.ok()?.file_name()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(names: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in names {
            std::fs::write(directory.path().join(name), b"").expect("a small file");
        }
        directory
    }

    #[test]
    fn the_most_similar_file_is_named_as_the_path_was_written() {
        let place = place(&["documents", "document.txt", "x"]);
        let found = |name: &str| file(&place.path().join(name));
        assert_eq!(found("Documents"), Some(place.path().join("documents")));
        assert_eq!(found("documnets"), Some(place.path().join("documents")));
        assert_eq!(found("photos"), None);
        assert_eq!(found("y"), None);
        assert_eq!(file(Path::new("no/such/directory/x")), None);
        assert_eq!(file(Path::new("carg.toml")), Some("Cargo.toml".into()));
    }

    #[test]
    fn the_only_vault_may_be_called_anything() {
        let one = place(&["backup.flint", "notes"]);
        assert_eq!(vault(&one.path().join("v")), Some(one.path().join("backup.flint")));
        let two = place(&["a.flint", "b.flint"]);
        assert_eq!(vault(&two.path().join("v")), None);
        assert_eq!(vault(&two.path().join("b.flnt")), Some(two.path().join("b.flint")));
    }
}
