//! What may somebody have meant who asked for a name that is not there? For hints: cheap, bounded, and never an error.

use crate::error::Result;
use crate::format::entry::EntryPath;
use crate::format::merge::Merge;

/// The most names of one directory that are compared.
const MAX_COMPARED: usize = 4096;
/// The most entries that are walked over in one directory; what lies deeper is jumped over where that is possible.
const MAX_WALKED: usize = 65_536;
/// The most components that are looked for: each costs a walk through a directory.
const MAX_COMPONENTS: usize = 32;

/// The entry whose name is most like `name`, as it is printed; `None` if there is nothing like it, or nothing can be read.
///
/// Each component in turn is taken as it is where that leads on, else as the most similar name in the same directory.
pub(crate) fn nearest(merge: &mut Merge, name: &EntryPath) -> Option<String> {
    if name.as_bytes().split(|&byte| byte == b'/').count() > MAX_COMPONENTS {
        return None;
    }
    let mut found = EntryPath::default();
    for component in name.as_bytes().split(|&byte| byte == b'/') {
        let exact = found.join(component).ok()?;
        found = match leads_on(merge, &exact).ok()? {
            true => exact,
            false => found.join(&most_similar(merge, &found, component).ok()??).ok()?,
        };
    }
    Some(found.as_path().display().to_string())
}

/// Whether there is an entry of this name or below it: parents of what was added are no entries.
fn leads_on(merge: &mut Merge, path: &EntryPath) -> Result<bool> {
    merge.seek(path)?;
    Ok(merge.next()?.is_some_and(|(_, entry)| entry.path == *path || entry.path.is_below(path)))
}

/// The name in `directory` that is most like `wanted`; of several the first.
fn most_similar(merge: &mut Merge, directory: &EntryPath, wanted: &[u8]) -> Result<Option<Vec<u8>>> {
    let wanted = Wanted::new(wanted);
    let mut best: Option<(usize, Vec<u8>)> = None;
    let mut last: Option<EntryPath> = None;
    let mut compared = 0;
    merge.seek(directory)?;
    for _ in 0..MAX_WALKED {
        let Some((_, entry)) = merge.next()? else { break };
        if entry.path == *directory {
            continue;
        }
        if !entry.path.is_below(directory) || compared == MAX_COMPARED {
            break;
        }
        if let Some(last) = last.as_ref().filter(|last| entry.path.is_below(last)) {
            // The lowest byte that a name may have: the first name behind all that is below `last`. A name that is as
            // long as names may be has no such successor, and is walked through.
            if let Ok(behind) = EntryPath::parse(&[last.as_bytes(), b"\x01"].concat()) {
                merge.seek(&behind)?;
            }
            continue;
        }
        let below = entry.path.as_bytes()[directory.as_bytes().len()..].strip_prefix(b"/");
        let below = below.unwrap_or(entry.path.as_bytes());
        let component = below.split(|&byte| byte == b'/').next().unwrap_or_default();
        compared += 1;
        if let Some(distance) = wanted.distance(component)
            && best.as_ref().is_none_or(|(least, _)| distance < *least)
        {
            best = Some((distance, component.to_vec()));
        }
        last = directory.join(component).ok();
    }
    Ok(best.map(|(_, component)| component))
}

/// A name that is looked for, and how far from it another may be.
struct Wanted {
    text: String,
    farthest: usize,
}

impl Wanted {
    fn new(name: &[u8]) -> Self {
        let text = lower(name);
        // A third of a name may differ, nothing of a single letter.
        let farthest = text.chars().count().div_ceil(3).min(text.chars().count().saturating_sub(1));
        Self { text, farthest }
    }

    /// How unlike a name is; `None` if too much so. What only goes on where the wanted name ends is just near enough.
    fn distance(&self, name: &[u8]) -> Option<usize> {
        let name = lower(name);
        let distance = strsim::osa_distance(&self.text, &name);
        if distance <= self.farthest {
            Some(distance)
        } else {
            (self.text.len() > 2 && name.starts_with(&self.text)).then_some(self.farthest)
        }
    }
}

/// Upper and lower case are alike; so are bytes that are not UTF-8.
fn lower(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::format::entry::EntryType;
    use crate::format::index::Item;
    use crate::format::tree::tests::{Blocks, build, entry};

    /// What is nearest to `name` among these names.
    fn among(names: &[&str], name: &str) -> Option<String> {
        let mut paths: Vec<EntryPath> = names.iter().map(|name| EntryPath::parse(name.as_bytes()).unwrap()).collect();
        paths.sort();
        let items: Vec<Item> = paths
            .iter()
            .map(|path| {
                let is_above = paths.iter().any(|other| other.is_below(path));
                let entry_type = if is_above { EntryType::Directory } else { EntryType::File };
                Item::Put(Box::new(entry(path.as_path().to_str().unwrap(), entry_type, 0)))
            })
            .collect();
        let blocks = Arc::new(Blocks::default());
        let mut merge = Merge::new(vec![build(&blocks, &items)], Arc::from(Path::new("v"))).unwrap();
        nearest(&mut merge, &EntryPath::parse(name.as_bytes()).unwrap())
    }

    #[test]
    fn a_slip_of_the_finger_is_mended() {
        let names = ["Makefile", "src", "src/lib.rs", "src/main.rs", "src/mian", "tests"];
        assert_eq!(among(&names, "makefile").as_deref(), Some("Makefile"));
        assert_eq!(among(&names, "src/mani.rs").as_deref(), Some("src/main.rs"));
        assert_eq!(among(&names, "scr/lib.rs").as_deref(), Some("src/lib.rs"));
        assert_eq!(among(&names, "test").as_deref(), Some("tests"));
        assert_eq!(among(&names, "src/main").as_deref(), Some("src/mian"));
    }

    #[test]
    fn a_name_that_goes_on_is_found_by_how_it_begins() {
        assert_eq!(among(&["documents-of-last-year"], "documents").as_deref(), Some("documents-of-last-year"));
        assert_eq!(among(&["documents"], "do").as_deref(), None);
    }

    #[test]
    fn what_is_nothing_alike_is_not_named() {
        assert_eq!(among(&["a", "b/c"], "x"), None);
        assert_eq!(among(&["src", "src/lib.rs"], "src/other"), None);
        assert_eq!(among(&[], "x"), None);
    }

    #[test]
    fn parents_that_are_no_entries_are_names_all_the_same() {
        assert_eq!(among(&["home/anna/notes", "home/bob/notes"], "home/ana/notes").as_deref(), Some("home/anna/notes"));
    }

    #[test]
    fn what_lies_deeper_is_jumped_over() {
        let deep: Vec<String> = (0..100).map(|n| format!("first/{n}")).collect();
        let mut names: Vec<&str> = deep.iter().map(String::as_str).collect();
        names.extend(["first", "second", "second/x", "third"]);
        assert_eq!(among(&names, "thrid").as_deref(), Some("third"));
        let longest = "y".repeat(255);
        let below = format!("{longest}/z");
        assert_eq!(among(&[&longest, &below, "zebra"], "zebar").as_deref(), Some("zebra"));
    }
}
