//! Do the documents speak of what is there? Links lead somewhere, and the tests that promises rely on exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below `folder` whose name ends in `suffix`; not those of a build.
fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder of this repository") {
        let path = entry.expect("an entry of it").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, suffix));
        } else if name.ends_with(suffix) {
            found.push(path);
        }
    }
    found
}

/// The text without its blocks of code, in which nothing is a link or a heading.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// What a heading is called in a link, as the usual places that show Markdown have it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars().flat_map(char::to_lowercase);
    kept.filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// The targets of all links.
fn targets(prose: &str) -> impl Iterator<Item = &str> {
    prose.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let mut seen = 0;
    for document in files(root(), ".md") {
        let text = prose(&text(&document));
        for target in targets(&text).filter(|target| !target.contains("://")) {
            let (path, heading) = target.split_once('#').map_or((target, None), |(path, at)| (path, Some(at)));
            let folder = document.parent().expect("a file is in a folder");
            let there = if path.is_empty() { document.clone() } else { folder.join(path) };
            assert!(there.exists(), "{}: {target}", document.display());
            if let Some(heading) = heading {
                let other = prose(&self::text(&there));
                let found = other.lines().any(|line| line.starts_with('#') && anchor(line) == heading);
                assert!(found, "{}: {target} is no heading", document.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen} links are fewer than there were");
}

#[test]
fn every_document_can_be_reached_from_the_readme() {
    let mut reached = BTreeSet::new();
    let mut next = vec![root().join("README.md")];
    while let Some(document) = next.pop() {
        if !reached.insert(document.canonicalize().expect("it is there")) || !document.is_file() {
            continue;
        }
        let folder = document.parent().expect("a file is in a folder").to_owned();
        let text = prose(&text(&document));
        let paths = targets(&text).filter_map(|target| target.split('#').next());
        let links = paths.filter(|path| !path.is_empty() && !path.contains(':')).map(|path| folder.join(path));
        for link in links {
            // A link to a folder is a link to all that is in it.
            next.extend(if link.is_dir() { files(&link, "") } else { vec![link] });
        }
    }
    for document in files(root(), ".md") {
        assert!(reached.contains(&document.canonicalize().expect("it is there")), "{}", document.display());
    }
}

/// Documents that say what holds their promises, and how many names each has at least.
const PROMISES: [(&str, usize); 2] = [("docs/THREAT_MODEL.md", 60), ("docs/RELIABILITY.md", 35)];

#[test]
fn every_test_and_function_that_holds_a_promise_is_there() {
    let code: String = ["src", "tests"]
        .into_iter()
        .flat_map(|folder| files(&root().join(folder), ".rs"))
        .chain(files(&root().join("tools"), ".py"))
        .map(|path| text(&path))
        .collect();
    for (document, least) in PROMISES {
        let model = text(&root().join(document));
        let names: BTreeSet<&str> = model
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| {
                name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            })
            .collect();
        assert!(names.len() > least, "{document}: {} names are fewer than there were", names.len());
        for name in names {
            let is_there = ["fn", "def"].iter().any(|keyword| code.contains(&format!("{keyword} {name}(")));
            assert!(is_there, "{document}: {name}");
        }
    }
}
