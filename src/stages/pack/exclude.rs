//! Which entries does the user want left out?

use crate::error::{Error, Result};
use crate::format::entry::EntryPath;
use crate::primitives::glob::Glob;

/// Patterns by gitignore's rules, each what a line of such a file would be, matched against the name under which an entry
/// would be stored.
///
/// The root of the vault stands where the `.gitignore` would: `*.o` and `target/` match at any depth, `/a` and `a/b` only
/// there. So what a pattern with a slash in it is compared with depends on how the source was typed: of `-s .` it is the
/// path below the working directory, of `-s /home/u` the path from `/` on, which is why `/home/u/tmp` means just that; at
/// any depth it is `**/tmp/x`. A pattern that ends in `/` matches directories alone, `!` takes an earlier match back, the
/// last match counts, and a line that is blank or begins with `#` says nothing. Braces stand for themselves.
#[derive(Debug)]
pub(crate) struct Excludes(Vec<Glob>);

impl Excludes {
    /// Compiles the patterns, in the order given.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the pattern that is none.
    pub(crate) fn new(patterns: &[String]) -> Result<Self> {
        Self::compile("exclude", patterns)
    }

    /// The same for patterns that say something else than what is left out: `kind`, in a word, for messages.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the pattern that is none.
    pub(crate) fn compile(kind: &str, patterns: &[String]) -> Result<Self> {
        let mut globs = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            let refused = |why| Error::Usage(format!("bad {kind} pattern {pattern:?}: {why}"));
            globs.extend(Glob::parse(pattern.as_bytes()).map_err(refused)?);
        }
        Ok(Self(globs))
    }

    /// Whether the last pattern that matches this very name leaves it out. What lies below an excluded directory is the
    /// caller's to leave out, by not going there; hence `!` brings nothing back from there, as in gitignore.
    pub(crate) fn matches(&self, name: &EntryPath, is_dir: bool) -> bool {
        // The root of the vault has no name that a pattern could match.
        !name.is_root()
            && self
                .0
                .iter()
                .rev()
                .find(|glob| glob.matches(name.as_bytes(), is_dir))
                .is_some_and(|glob| !glob.is_negated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(patterns: &[&str], name: &[u8], is_dir: bool) -> bool {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        Excludes::new(&patterns).unwrap().matches(&EntryPath::parse(name).unwrap(), is_dir)
    }

    #[test]
    fn a_pattern_without_a_slash_matches_at_any_depth() {
        assert!(matches(&["*.o"], b"x.o", false));
        assert!(matches(&["*.o"], b"a/b/x.o", false));
        assert!(!matches(&["*.o"], b"a/b/x.c", false));
        assert!(!matches(&["*.o"], b"x.o/y", false));
    }

    #[test]
    fn a_pattern_with_a_slash_is_anchored_at_the_root_of_the_vault() {
        assert!(matches(&["/a"], b"a", false));
        assert!(!matches(&["/a"], b"b/a", false));
        assert!(matches(&["b/*"], b"b/a", false));
        assert!(!matches(&["b/*"], b"c/b/a", false));
        assert!(matches(&["**/b/a"], b"c/b/a", false));
    }

    #[test]
    fn a_trailing_slash_matches_directories_only() {
        assert!(matches(&["target/"], b"x/target", true));
        assert!(!matches(&["target/"], b"x/target", false));
    }

    #[test]
    fn the_last_match_counts_and_an_exclamation_mark_takes_back() {
        assert!(!matches(&["*.o", "!keep.o"], b"a/keep.o", false));
        assert!(matches(&["!keep.o", "*.o"], b"a/keep.o", false));
    }

    #[test]
    fn names_that_are_not_utf_8_are_matched() {
        assert!(matches(&["*.o"], b"\xFF\xFE.o", false));
        assert!(matches(&["d"], b"\xFF/d", true));
    }

    #[test]
    fn comments_blanks_and_the_root_match_nothing() {
        assert!(!matches(&["#x", "", "  "], b"#x", false));
        assert!(matches(&["\\#x"], b"#x", false));
        assert!(!matches(&["*", "**"], b"", true));
    }

    #[test]
    fn a_bad_pattern_is_wrong_usage_and_is_named() {
        let patterns = ["*.o".to_string(), "a[b".to_string()];
        let error = Excludes::new(&patterns).unwrap_err();
        assert!(matches!(&error, Error::Usage(message) if message.contains("a[b")), "{error}");
    }
}
