//! What are the entries of an index called? As in a tree of sources, always the same.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::random::Random;

/// What names are made of.
const WORDS: [&str; 48] = [
    "address", "array", "block", "bounds", "buffer", "cache", "channel", "client", "codec", "config", "cursor",
    "decode", "device", "driver", "encode", "entry", "error", "event", "field", "filter", "format", "handle", "header",
    "index", "kernel", "layout", "linear", "locks", "merge", "model", "module", "parser", "policy", "queue", "range",
    "reader", "record", "render", "router", "schema", "server", "session", "socket", "state", "stream", "table",
    "thread", "writer",
];

/// The ends of names of files, the commoner ones more often.
const ENDS: [&str; 8] = [".c", ".c", ".rs", ".rs", ".h", ".md", ".json", ".toml"];

/// The path of an entry.
pub(crate) struct Name {
    pub(crate) path: String,
    pub(crate) is_directory: bool,
}

impl Name {
    /// Whether it lies below this directory, at any depth.
    pub(crate) fn is_below(&self, directory: &Self) -> bool {
        self.path.strip_prefix(&directory.path).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// So many names in the order of the index, the first that of the directory above all others: 12 to 48 files in most
/// directories, and 1 to 16 directories where there are more. Of ten thousand, a path has 53 bytes and 4 components on
/// average, of a million 79 and 6.
pub(crate) fn names(count: usize) -> Vec<Name> {
    let mut names = Vec::with_capacity(count);
    names.push(Name { path: "project".to_owned(), is_directory: true });
    fill("project", count - 1, &mut Random(11), &mut names);
    names
}

/// Puts so many names below a directory.
fn fill(directory: &str, count: usize, random: &mut Random, names: &mut Vec<Name>) {
    let files = count.min(12 + random.below(37));
    let deeper = count - files;
    let directories = if deeper == 0 { 0 } else { (deeper / 40).clamp(1, 16) };
    // With how many names a directory takes for itself and all below it; sorted, since a subtree follows its head.
    let mut children: BTreeMap<String, Option<usize>> = BTreeMap::new();
    while children.len() < files + directories {
        let number = children.len();
        let share =
            number.checked_sub(files).map(|number| deeper / directories + usize::from(number < deeper % directories));
        if let Entry::Vacant(vacant) = children.entry(name(share.is_some(), random)) {
            vacant.insert(share);
        }
    }
    for (name, share) in children {
        let path = format!("{directory}/{name}");
        names.push(Name { path: path.clone(), is_directory: share.is_some() });
        if let Some(share) = share {
            fill(&path, share - 1, random, names);
        }
    }
}

/// 11 to 20 characters; a directory has no end.
fn name(is_directory: bool, random: &mut Random) -> String {
    let (one, other) = (WORDS[random.below(WORDS.len())], WORDS[random.below(WORDS.len())]);
    let end = if is_directory { "" } else { ENDS[random.below(ENDS.len())] };
    format!("{one}_{other}{end}")
}
