//! Which names does a line of a `.gitignore` match?
//!
//! By the rules of gitignore(5), and by what git does where that page is silent, in bytes: a test asks git itself. A pattern
//! is compiled into steps, and all places that a match can have reached are followed at once, so that no pattern and no name
//! makes it take long.

/// What follows in a name that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// This byte.
    Byte(u8),
    /// One byte but `/`.
    Any,
    /// One byte of these.
    Class(Box<Set>),
    /// Bytes but `/`, or nothing: `*`.
    Star,
    /// Any bytes, or nothing: `**`.
    Rest,
    /// This and the next two steps may be left out: those are `**` and the `/` behind it.
    MayLeaveOut,
}

/// How many steps one `**/` becomes.
const DIRECTORIES: usize = 3;

/// A set of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set([bool; 256]);

impl Set {
    fn add(&mut self, bytes: impl IntoIterator<Item = u8>) {
        bytes.into_iter().for_each(|byte| self.0[usize::from(byte)] = true);
    }
}

/// One pattern.
#[derive(Debug, Clone)]
pub(crate) struct Glob {
    /// It takes back what an earlier one matched.
    pub(crate) is_negated: bool,
    /// It matches directories alone.
    is_for_directories: bool,
    /// It is about whole paths; if not, about the last component.
    is_path: bool,
    /// It begins with these bytes, each of which stands for itself.
    literal: Vec<u8>,
    /// What comes behind them.
    steps: Vec<Step>,
}

impl Glob {
    /// Compiles a line; `None` if it is blank or a comment.
    ///
    /// # Errors
    /// Why it can never match anything: git ignores such a line without a word.
    pub(crate) fn parse(line: &[u8]) -> Result<Option<Self>, &'static str> {
        if line.starts_with(b"#") {
            return Ok(None);
        }
        let mut pattern = without_trailing_spaces(line.strip_suffix(b"\r").unwrap_or(line));
        if pattern.is_empty() {
            return Ok(None);
        }
        let is_negated = pattern.starts_with(b"!");
        pattern = &pattern[usize::from(is_negated)..];
        let is_for_directories = pattern.ends_with(b"/");
        pattern = &pattern[..pattern.len() - usize::from(is_for_directories)];
        let is_path = pattern.contains(&b'/');
        pattern = pattern.strip_prefix(b"/").unwrap_or(pattern);
        let literal_len = pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len());
        let (literal, rest) = pattern.split_at(literal_len);
        Ok(Some(Self { is_negated, is_for_directories, is_path, literal: literal.to_vec(), steps: compile(rest)? }))
    }

    /// Whether it matches this name: components joined by `/`.
    pub(crate) fn matches(&self, name: &[u8], is_directory: bool) -> bool {
        if self.is_for_directories && !is_directory {
            return false;
        }
        let name = match name.iter().rposition(|&byte| byte == b'/') {
            Some(slash) if !self.is_path => &name[slash + 1..],
            _ => name,
        };
        name.strip_prefix(&self.literal[..]).is_some_and(|rest| match &self.steps[..] {
            [] => rest.is_empty(),
            // The most common one of all, as in `*.o`.
            [Step::Star, tail @ ..] if !self.is_path && tail.iter().all(|step| matches!(step, Step::Byte(_))) => {
                let bytes = tail.iter().rev().map(|step| if let Step::Byte(byte) = step { *byte } else { 0 });
                tail.len() <= rest.len() && rest.iter().rev().copied().zip(bytes).all(|(left, right)| left == right)
            }
            steps => follow(steps, rest),
        })
    }
}

/// Spaces at the end say nothing, unless a backslash stands before them.
fn without_trailing_spaces(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut at = 0;
    while at < line.len() {
        let len = if line[at] == b'\\' { 2 } else { 1 };
        if line[at] != b' ' {
            end = (at + len).min(line.len());
        }
        at += len;
    }
    &line[..end]
}

/// Turns what stands behind the literal beginning into steps.
fn compile(pattern: &[u8]) -> Result<Vec<Step>, &'static str> {
    let mut steps = Vec::new();
    let mut at = 0;
    while let Some(&byte) = pattern.get(at) {
        match byte {
            b'\\' => {
                let escaped = pattern.get(at + 1).ok_or("a backslash stands at its end")?;
                steps.push(Step::Byte(*escaped));
                at += 2;
            }
            b'?' => {
                steps.push(Step::Any);
                at += 1;
            }
            b'[' => {
                let (set, len) = class(&pattern[at..])?;
                steps.push(Step::Class(Box::new(set)));
                at += len;
            }
            b'*' => {
                let len = pattern[at..].iter().take_while(|&&byte| byte == b'*').count();
                let begins = at == 0 || pattern[at - 1] == b'/';
                at += len;
                let after = &pattern[at..];
                let ends = after.is_empty() || after.starts_with(b"/") || after.starts_with(b"\\/");
                if len == 1 || !begins || !ends {
                    steps.push(Step::Star);
                } else if after.starts_with(b"/") {
                    steps.extend([Step::MayLeaveOut, Step::Rest, Step::Byte(b'/')]);
                    at += 1;
                } else {
                    steps.push(Step::Rest);
                }
            }
            _ => {
                steps.push(Step::Byte(byte));
                at += 1;
            }
        }
    }
    Ok(steps)
}

/// Compiles a class, which begins with `[`; answers how long it is as well. No class matches a slash.
fn class(pattern: &[u8]) -> Result<(Set, usize), &'static str> {
    const OPEN: &str = "a class is not closed by ]";
    let mut set = Set([false; 256]);
    let is_negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = 1 + usize::from(is_negated);
    let mut at = first;
    // What a `-` would make the begin of a range.
    let mut low = None;
    let next = |at: &mut usize| {
        let byte = pattern.get(*at).copied().ok_or(OPEN);
        *at += 1;
        byte
    };
    loop {
        let byte = next(&mut at)?;
        match (byte, low) {
            // As the first of its class it stands for itself.
            (b']', _) if at - 1 > first => break,
            (b'-', Some(from)) if !matches!(pattern.get(at), None | Some(b']')) => {
                let to = match next(&mut at)? {
                    b'\\' => next(&mut at)?,
                    to => to,
                };
                set.add(from..=to);
                low = None;
            }
            (b'[', _) if pattern.get(at) == Some(&b':') => {
                let end = pattern[at..].iter().position(|&byte| byte == b']').ok_or(OPEN)?;
                // Without a second colon it is a bracket and nothing else.
                if end >= 2 && pattern[at + end - 1] == b':' {
                    add_named(&mut set, &pattern[at + 1..at + end - 1])?;
                    at += end + 1;
                    low = None;
                } else {
                    set.add([byte]);
                    low = Some(byte);
                }
            }
            (b'\\', _) => {
                let escaped = next(&mut at)?;
                set.add([escaped]);
                low = Some(escaped);
            }
            _ => {
                set.add([byte]);
                low = Some(byte);
            }
        }
    }
    if is_negated {
        set.0.iter_mut().for_each(|is_in| *is_in = !*is_in);
    }
    set.0[usize::from(b'/')] = false;
    Ok((set, at))
}

/// Adds the ASCII characters of a POSIX class.
fn add_named(set: &mut Set, name: &[u8]) -> Result<(), &'static str> {
    let is_in: fn(&u8) -> bool = match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return Err("there is no class of this name"),
    };
    set.add((0..=u8::MAX).filter(is_in));
    Ok(())
}

/// Whether the steps lead through the whole text.
fn follow(steps: &[Step], text: &[u8]) -> bool {
    let end = steps.len();
    // Which steps may come next; `end` says that there is none left.
    let mut may = vec![false; end + 1];
    let mut then = vec![false; end + 1];
    may[0] = true;
    pass_by(steps, &mut may);
    for &byte in text {
        then.fill(false);
        for (at, step) in steps.iter().enumerate().filter(|(at, _)| may[*at]) {
            let (goes_on, stays) = match step {
                Step::Byte(wanted) => (byte == *wanted, false),
                Step::Any => (byte != b'/', false),
                Step::Class(set) => (set.0[usize::from(byte)], false),
                Step::Star => (false, byte != b'/'),
                Step::Rest => (false, true),
                Step::MayLeaveOut => (false, false),
            };
            then[at] |= stays;
            then[at + 1] |= goes_on;
        }
        if !then.contains(&true) {
            return false;
        }
        pass_by(steps, &mut then);
        std::mem::swap(&mut may, &mut then);
    }
    may[end]
}

/// Adds the steps that come next when those that take nothing have been passed by.
fn pass_by(steps: &[Step], may: &mut [bool]) {
    for (at, step) in steps.iter().enumerate() {
        if may[at] {
            match step {
                Step::Star | Step::Rest => may[at + 1] = true,
                Step::MayLeaveOut => {
                    may[at + 1] = true;
                    may[at + DIRECTORIES] = true;
                }
                Step::Byte(_) | Step::Any | Step::Class(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(pattern: &str) -> Glob {
        Glob::parse(pattern.as_bytes()).unwrap().unwrap()
    }

    fn matches(pattern: &str, name: &str) -> bool {
        glob(pattern).matches(name.as_bytes(), false)
    }

    #[test]
    fn wildcards_match_as_the_manual_says() {
        for (pattern, good, bad) in [
            ("a", &["a", "b/a"][..], &["ab", "a/b"][..]),
            ("/a", &["a"], &["b/a"]),
            ("a/b", &["a/b"], &["c/a/b", "a/b/c"]),
            ("*.o", &["a.o", ".o", "b/a.o"], &["a.c", "a.o/b"]),
            ("a*/b", &["a/b", "ax/b"], &["a/x/b"]),
            ("a?", &["ab", "x/ab"], &["a", "abc"]),
            ("**/a/b", &["a/b", "x/a/b", "x/y/a/b"], &["xa/b"]),
            ("a/**", &["a/b", "a/b/c"], &["a", "b/a/b"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["axb", "a/xb"]),
            ("x**y", &["xy", "xzzy"], &["x/y"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "/x"]),
            ("/a[!x]b", &["ayb"], &["a/b", "axb"]),
            ("[!a-c]x", &["dx"], &["ax"]),
            ("[]-]", &["]", "-"], &["a"]),
            ("[[:digit:]x]", &["1", "x"], &["a", ":"]),
            ("\\*", &["*"], &["a"]),
            ("{a,b}", &["{a,b}"], &["a"]),
            ("a\\ ", &["a "], &["a"]),
            ("a   ", &["a"], &["a   "]),
            ("\\#a", &["#a"], &["a"]),
            ("\\!a", &["!a"], &["a"]),
        ] {
            for name in good {
                assert!(matches(pattern, name), "{pattern} {name}");
            }
            for name in bad {
                assert!(!matches(pattern, name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn a_slash_at_the_end_is_for_directories_and_an_exclamation_mark_negates() {
        assert!(glob("a/").matches(b"x/a", true) && !glob("a/").matches(b"x/a", false));
        assert!(glob("!a").is_negated && glob("!a").matches(b"a", false));
        assert!(!glob("a!").is_negated);
    }

    #[test]
    fn what_says_nothing_is_no_pattern_and_what_matches_nothing_is_an_error() {
        for line in ["", " ", "   ", "# a", "#", "\r"] {
            assert!(Glob::parse(line.as_bytes()).unwrap().is_none(), "{line:?}");
        }
        for line in ["a\\", "[", "[a", "a[!", "[]", "[[:alpha:]", "[[:nothing:]]", "[a\\", "[a-", "a\\/"] {
            assert!(Glob::parse(line.as_bytes()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_bytes() {
        assert!(glob("*.o").matches(b"\xFF\xFE.o", false));
        assert!(glob("a?b").matches(b"a\xFFb", false));
        assert!(Glob::parse(b"\xFF*").unwrap().unwrap().matches(b"x/\xFF\xFE", false));
    }

    #[test]
    fn many_stars_on_a_long_name_take_no_time() {
        let name = vec![b'a'; 60_000];
        let (sender, done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let pattern = format!("/{}b", "**/*a*a".repeat(20));
            sender.send(glob(&pattern).matches(&name, false))
        });
        assert!(!done.recv_timeout(std::time::Duration::from_secs(60)).expect("hangs"));
    }

    /// A directory for git, which knows nothing of what this machine or user has configured.
    struct Git {
        directory: tempfile::TempDir,
    }

    impl Git {
        fn new() -> Option<Self> {
            let git = Self { directory: tempfile::tempdir().unwrap() };
            match git.command().args(["init", "--quiet", "--bare", "repository"]).output() {
                Ok(output) if output.status.success() => Some(git),
                _ => None,
            }
        }

        fn command(&self) -> std::process::Command {
            let mut command = std::process::Command::new("git");
            command
                .current_dir(self.directory.path())
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env("GIT_CONFIG_GLOBAL", "/dev/null");
            command
        }

        /// Which of these names git ignores in directories that have these patterns each, one directory after another.
        /// Names that end in a slash are directories.
        fn ignored(&self, sets: &[Vec<String>], names: &[String]) -> Vec<bool> {
            use std::io::Write as _;
            let tree = tempfile::tempdir_in(self.directory.path()).unwrap();
            for (number, patterns) in sets.iter().enumerate() {
                for name in names {
                    let path = tree.path().join(number.to_string()).join(name);
                    if name.ends_with('/') {
                        std::fs::create_dir_all(path).unwrap();
                    } else {
                        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                        std::fs::write(path, "").unwrap();
                    }
                }
                let rules = tree.path().join(number.to_string()).join(".gitignore");
                std::fs::write(rules, patterns.join("\n") + "\n").unwrap();
            }
            let mut command = self.command();
            command.arg("--git-dir").arg(self.directory.path().join("repository"));
            command.arg("--work-tree").arg(tree.path());
            command.args(["check-ignore", "--no-index", "-v", "-n", "-z", "--stdin"]).current_dir(tree.path());
            command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            for number in 0..sets.len() {
                for name in names {
                    write!(stdin, "{number}/{}\0", name.trim_end_matches('/')).unwrap();
                }
            }
            drop(stdin);
            let output = child.wait_with_output().unwrap();
            // Source, line, pattern and path of each.
            let fields: Vec<&[u8]> = output.stdout.split(|&byte| byte == 0).collect();
            let ignored: Vec<bool> =
                fields.chunks_exact(4).map(|of| !of[2].is_empty() && !of[2].starts_with(b"!")).collect();
            assert_eq!(ignored.len(), sets.len() * names.len(), "{}", String::from_utf8_lossy(&output.stdout));
            ignored
        }
    }

    /// Whether the last pattern that matches is not negated.
    fn is_ignored(globs: &[Glob], name: &str, is_dir: bool) -> bool {
        globs.iter().rev().find(|glob| glob.matches(name.as_bytes(), is_dir)).is_some_and(|glob| !glob.is_negated)
    }

    /// Whether a walk that does not enter ignored directories leaves this name out.
    fn is_left_out(globs: &[Glob], name: &str) -> bool {
        let is_dir = name.ends_with('/');
        let name = name.trim_end_matches('/');
        let ends = name.match_indices('/').map(|(at, _)| (at, true)).chain([(name.len(), is_dir)]);
        ends.into_iter().any(|(end, is_dir)| is_ignored(globs, &name[..end], is_dir))
    }

    fn patterns() -> impl Strategy<Value = String> {
        let token = proptest::sample::select(vec![
            "a",
            "b",
            "ab",
            "*",
            "*",
            "**",
            "?",
            "[ab]",
            "[!a]",
            "[^b]",
            "[a-b]",
            "[]a]",
            "[[:alpha:]]",
            "[b-]",
            "/",
            "/",
            "/",
            "\\a",
            "\\*",
            "\\[",
            "{a,b}",
            "{",
            "}",
            ",",
            " ",
            "\\ ",
            "!",
            "#",
            ".o",
            "\\\\",
            "\u{e9}",
            "[\u{e9}]",
            "-",
            "]",
            "**/",
            "/**",
        ]);
        let middle = proptest::collection::vec(token, 1..5).prop_map(|tokens| tokens.concat());
        let first = proptest::sample::select(vec!["", "", "", "!", "/", "**/", "\\!", "\\#"]);
        let last = proptest::sample::select(vec!["", "", "", "/", " ", "\\ ", "/**", "*"]);
        (first, middle, last).prop_map(|(first, middle, last)| format!("{first}{middle}{last}"))
    }

    fn names() -> impl Strategy<Value = Vec<String>> {
        let component = proptest::sample::select(vec![
            "a", "b", "ab", "ba", "aab", "a.o", ".o", "a b", "a ", " ", "!a", "#a", "*", "[a]", "{a,b}", "{a", "\\a",
            "\u{e9}", "a,b", "-", "]", "[", "a*", "!", "#",
        ]);
        let name = (proptest::collection::vec(component, 1..4), any::<bool>())
            .prop_map(|(components, is_dir)| components.join("/") + if is_dir { "/" } else { "" });
        proptest::collection::vec(name, 1..12).prop_map(|names| {
            // No name is a file and a directory at once.
            let mut kept: Vec<String> = Vec::new();
            for name in names {
                let leaf = |name: &str| name.trim_end_matches('/').to_owned();
                let clash = kept.iter().any(|other| {
                    leaf(other) == leaf(&name)
                        || (!other.ends_with('/') && name.starts_with(&format!("{other}/")))
                        || (!name.ends_with('/') && other.starts_with(&format!("{name}/")))
                });
                if !clash {
                    kept.push(name);
                }
            }
            kept
        })
    }

    #[test]
    fn git_answers_the_same() {
        // CI has git; where there is none, nobody can be asked.
        let Some(git) = Git::new() else { return };
        let sets = proptest::collection::vec(proptest::collection::vec(patterns(), 1..4), 20..30);
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10) };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let result = runner.run(&(sets, names()), |(sets, names)| {
            let ignored = git.ignored(&sets, &names);
            for (lines, ignored) in sets.iter().zip(ignored.chunks(names.len())) {
                // A line that is refused here matches nothing there.
                let globs: Vec<Glob> =
                    lines.iter().filter_map(|line| Glob::parse(line.as_bytes()).ok().flatten()).collect();
                for (name, ignored) in names.iter().zip(ignored) {
                    prop_assert_eq!(is_left_out(&globs, name), *ignored, "{:?} by {:?}", name, lines);
                }
            }
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    }
}
