//! What is a source called in the vault, and which sources are the same?

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::entry::EntryPath;
use crate::primitives::fs::{self, Stat, StatKind};

/// A source as the user named it, where it is, and what it is called in the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceRoot {
    /// As typed, for messages.
    pub(crate) given: PathBuf,
    /// Where it is: as typed, a trailing `/` included, which makes a symlink the directory it leads to.
    pub(crate) path: PathBuf,
    /// What it is called in the vault.
    pub(crate) name: EntryPath,
    /// Sources that lie below it and are taken as part of it: their names, and the devices that they are on.
    pub(crate) within: Vec<(EntryPath, u64)>,
}

/// Names the sources by the rules of CLI.md, "Names inside a vault", in the order of their names. Relative ones are
/// looked up from `directory`.
///
/// A source that lies below another, in the vault and on the disk alike, or is the same again, is taken once: as part of
/// the upper one, with what is excluded there. What cannot be looked at stays in the list, so that the scan names it.
///
/// # Errors
/// [`Error::Usage`], naming both, if two sources are different and have one stored name, or if one would be stored below
/// another without being what is there: two trees under one name would have to be woven into each other, and which of
/// them a name came from could not be told.
pub(crate) fn name_sources(sources: &[PathBuf], directory: Option<&Path>) -> Result<Vec<SourceRoot>> {
    let mut found = Vec::with_capacity(sources.len());
    for given in sources {
        let name = stored_name(given)?;
        let path = directory.map_or_else(|| given.clone(), |directory| directory.join(given));
        let stat = fs::lstat(&path).ok();
        found.push((SourceRoot { given: given.clone(), path, name, within: Vec::new() }, stat));
    }
    // Of one name, what is there comes first: only that can be compared with the others.
    found.sort_by(|(left, left_stat), (right, right_stat)| {
        left.name.cmp(&right.name).then(left_stat.is_none().cmp(&right_stat.is_none()))
    });

    let mut roots: Vec<SourceRoot> = Vec::with_capacity(found.len());
    // The last root that is there. No other can be above what follows: roots of which one is above the other are merged or
    // refused, and in this order a subtree is contiguous.
    let mut upper: Option<(SourceRoot, Stat)> = None;
    for (root, stat) in found {
        // Not as paths: to those, `link/` and `link` are the same.
        if roots.last().is_some_and(|last| last.path.as_os_str() == root.path.as_os_str()) {
            continue;
        }
        if let Some(stat) = stat {
            if let Some((above, above_stat)) = &upper {
                if root.name == above.name {
                    if !is_same(above_stat, &stat) {
                        return Err(same_name(above, &root));
                    }
                    continue;
                }
                if root.name.is_below(&above.name) {
                    if !is_inside(above, above_stat, &root, &stat) {
                        return Err(below_another(above, &root));
                    }
                    let upper = roots.iter_mut().rev().find(|upper| upper.name == above.name);
                    upper.expect("it was put there").within.push((root.name, stat.dev));
                    continue;
                }
            }
            upper = Some((root.clone(), stat));
        }
        roots.push(root);
    }
    Ok(roots)
}

/// What `given` is called in the vault: without leading `/`, without anything up to the last `..`, without `.` and empty
/// components.
fn stored_name(given: &Path) -> Result<EntryPath> {
    let bytes = given.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(Error::Usage("a source has an empty name".to_owned()));
    }
    let components: Vec<&[u8]> = bytes.split(|&byte| byte == b'/').collect();
    let start = components.iter().rposition(|&component| component == b"..").map_or(0, |dots| dots + 1);
    let kept: Vec<&[u8]> =
        components[start..].iter().copied().filter(|component| !matches!(*component, b"" | b".")).collect();
    EntryPath::parse(&kept.join(&b'/'))
        .map_err(|_| Error::Usage(format!("no name for a vault, it is too long or holds a NUL: {}", given.display())))
}

/// Whether two looks saw one thing.
fn is_same(left: &Stat, right: &Stat) -> bool {
    (left.dev, left.ino) == (right.dev, right.ino)
}

/// Whether the scan of `above` comes by `root`: what has its name there is the same thing, and all between are directories.
/// Through a symlink the scan does not go.
fn is_inside(above: &SourceRoot, above_stat: &Stat, root: &SourceRoot, stat: &Stat) -> bool {
    let below = &root.name.as_bytes()[above.name.as_bytes().len()..];
    let mut path = above.path.clone();
    let mut here = Some(above_stat.clone());
    for component in below.split(|&byte| byte == b'/').filter(|component| !component.is_empty()) {
        if here.as_ref().is_none_or(|here| here.kind != StatKind::Directory) {
            return false;
        }
        path.push(OsStr::from_bytes(component));
        here = fs::lstat(&path).ok();
    }
    here.is_some_and(|here| is_same(&here, stat))
}

/// Two sources, one name.
fn same_name(left: &SourceRoot, right: &SourceRoot) -> Error {
    Error::Usage(format!(
        "two different sources would be stored as {}: {} and {}",
        printed(&left.name),
        left.given.display(),
        right.given.display()
    ))
}

/// A source in the midst of another one's tree.
fn below_another(above: &SourceRoot, root: &SourceRoot) -> Error {
    Error::Usage(format!(
        "two different sources would be stored as {} and, below it, as {}: {} and {}",
        printed(&above.name),
        printed(&root.name),
        above.given.display(),
        root.given.display()
    ))
}

/// A name for messages.
fn printed(name: &EntryPath) -> String {
    if name.is_root() { "the root of the vault".to_owned() } else { name.as_path().display().to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;
    use crate::error::ErrorKind;

    fn name_of(given: &[u8]) -> Vec<u8> {
        stored_name(Path::new(OsStr::from_bytes(given))).unwrap().as_bytes().to_vec()
    }

    /// What `sources`, looked up from `dir`, are called.
    fn names(dir: &Path, sources: &[&str]) -> Result<Vec<String>> {
        let sources: Vec<PathBuf> = sources.iter().map(PathBuf::from).collect();
        let roots = name_sources(&sources, Some(dir))?;
        Ok(roots.iter().map(|root| root.name.as_path().display().to_string()).collect())
    }

    /// Checks that `sources` are wrong usage, in words that name the two that clash.
    fn assert_clash(dir: &Path, sources: &[&str]) {
        let error = names(dir, sources).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        let said = error.to_string();
        assert!(sources.iter().all(|source| said.contains(source)), "{said}");
    }

    /// `a/b/c` and `q/a/b`, files but for the directories on the way, and links.
    fn make_tree() -> TempDir {
        let dir = TempDir::new().unwrap();
        for (parent, file) in [("a/b", "c"), ("q/a", "b"), ("x", "f"), ("y/x", "f")] {
            std::fs::create_dir_all(dir.path().join(parent)).unwrap();
            std::fs::write(dir.path().join(parent).join(file), b"x").unwrap();
        }
        symlink("b", dir.path().join("a/link")).unwrap();
        symlink("a", dir.path().join("link")).unwrap();
        dir
    }

    #[test]
    fn names_are_as_tar_makes_them() {
        for (given, name) in [
            (&b"a"[..], &b"a"[..]),
            (b"a/", b"a"),
            (b"./a", b"a"),
            (b"/a/b", b"a/b"),
            (b"//a///b//", b"a/b"),
            (b"a/./b/.", b"a/b"),
            (b"../a", b"a"),
            (b"/x/../../a/b", b"a/b"),
            (b"a/..b/...", b"a/..b/..."),
            (b".", b""),
            (b"./", b""),
            (b"..", b""),
            (b"a/..", b""),
            (b"/", b""),
            (b".a", b".a"),
            (b"\xFF/\xFE", b"\xFF/\xFE"),
        ] {
            assert_eq!(name_of(given), name, "{}", given.escape_ascii());
        }
    }

    #[test]
    fn a_source_without_a_name_that_fits_is_wrong_usage() {
        for given in ["", &"x".repeat(256), "a\0b"] {
            assert_eq!(stored_name(Path::new(given)).unwrap_err().kind(), ErrorKind::Usage);
        }
    }

    #[test]
    fn sources_come_in_the_order_of_their_names() {
        let dir = make_tree();
        assert_eq!(names(dir.path(), &["y/x", "x", "a"]).unwrap(), ["a", "x", "y/x"]);
        assert_eq!(names(dir.path(), &[]).unwrap(), [""; 0]);
    }

    #[test]
    fn paths_keep_what_was_typed_and_are_looked_up_from_the_directory() {
        let dir = make_tree();
        let roots = name_sources(&["link/".into()], Some(dir.path())).unwrap();
        assert!(roots[0].path.as_os_str().as_bytes().ends_with(b"/link/"));
        assert_eq!(roots[0].given, Path::new("link/"));
        let absolute = dir.path().join("a");
        let roots = name_sources(std::slice::from_ref(&absolute), Some(Path::new("elsewhere"))).unwrap();
        assert_eq!(roots[0].path, absolute);
    }

    #[test]
    fn the_same_place_is_taken_once() {
        let dir = make_tree();
        assert_eq!(names(dir.path(), &["a", "./a/", "a/../a"]).unwrap(), ["a"]);
        assert_eq!(names(dir.path(), &["a/b", "a", "a/b/c"]).unwrap(), ["a"]);
        assert_eq!(names(dir.path(), &["x", ".", "a/b"]).unwrap(), [""]);
        assert_eq!(names(dir.path(), &["a", "a/link"]).unwrap(), ["a"]);
        assert_eq!(names(dir.path(), &["x/f", "x/f"]).unwrap(), ["x/f"]);
    }

    #[test]
    fn a_name_that_only_begins_alike_is_not_below() {
        let dir = make_tree();
        std::fs::create_dir(dir.path().join("a.b")).unwrap();
        assert_eq!(names(dir.path(), &["a.b", "a", "a/b"]).unwrap(), ["a", "a.b"]);
    }

    #[test]
    fn two_places_with_one_name_are_wrong_usage() {
        let dir = make_tree();
        assert_clash(&dir.path().join("y"), &["./x", "../x"]);
        assert_clash(dir.path(), &["link", "link/"]);
        // The root of the vault is a name, too.
        assert_eq!(names(dir.path(), &[".", "a/.."]).unwrap(), [""]);
        assert_clash(dir.path(), &[".", "q/../.."]);
    }

    #[test]
    fn a_name_inside_another_source_that_is_not_what_is_there_is_wrong_usage() {
        let dir = make_tree();
        let q = dir.path().join("q");
        assert_clash(&q, &["a", "../a/b"]);
        // There is no `link` in the upper one.
        assert_clash(&q, &["a", "../a/link"]);
        // Nothing can be stored below a symlink, even if it can be found there.
        assert_clash(dir.path(), &["link", "link/b"]);
        assert_clash(dir.path(), &["a", "a/link/c"]);
        assert_clash(dir.path(), &["a", "a/link/"]);
        // Nor below a file: `q/a/b` is one, `a/b` a directory.
        assert_clash(&q, &["a/b", "../a/b/c"]);
    }

    #[test]
    fn what_is_not_there_stays_to_be_told_of() {
        let dir = make_tree();
        assert_eq!(names(dir.path(), &["gone", "a/gone", "a", "gone"]).unwrap(), ["a", "a/gone", "gone"]);
        // Of one name, what is there comes first.
        let roots = name_sources(&["../c".into(), "c".into()], Some(&dir.path().join("a/b"))).unwrap();
        let given: Vec<&Path> = roots.iter().map(|root| root.given.as_path()).collect();
        assert_eq!(given, [Path::new("c"), Path::new("../c")]);
        // What is not there has nothing below it.
        let q = dir.path().join("y");
        assert_eq!(names(&q, &["a", "../a/b"]).unwrap(), ["a", "a/b"]);
    }
}
