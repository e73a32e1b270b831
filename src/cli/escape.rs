//! How a name that anybody may have chosen is shown on a terminal: nothing in it may move the cursor, colour the screen,
//! or make it read as something else.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A path as it is shown: control characters, what changes the direction of writing, and bytes that are not UTF-8 as
/// `\xNN` or `\u{N}`.
pub(crate) fn path(path: &Path) -> String {
    let mut shown = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        push_text(&mut shown, chunk.valid());
        for byte in chunk.invalid() {
            push_byte(&mut shown, u32::from(*byte));
        }
    }
    shown
}

/// A text as it is shown, by the same rules.
pub(crate) fn text(text: &str) -> String {
    let mut shown = String::new();
    push_text(&mut shown, text);
    shown
}

/// JSON that looks on a terminal like what it says: what JSON itself lets stand, and a terminal acts on, as `\uNNNN`. Such
/// characters come in strings alone, so the value is the same.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let is_kept = |c: char| c != '\x7f' && !is_unsafe(c);
    if text.chars().all(is_kept) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_kept(c) {
            true => shown.push(c),
            false => {
                // Writing to a String cannot fail.
                let _ = write!(shown, "\\u{:04x}", u32::from(c));
            }
        }
    }
    Cow::Owned(shown)
}

fn push_text(shown: &mut String, text: &str) {
    for c in text.chars() {
        match u32::from(c) {
            code @ (0x00..=0x1f | 0x7f) => push_byte(shown, code),
            code if is_unsafe(c) => {
                // Writing to a String cannot fail.
                let _ = write!(shown, "\\u{{{code:x}}}");
            }
            _ => shown.push(c),
        }
    }
}

fn push_byte(shown: &mut String, code: u32) {
    // Writing to a String cannot fail.
    let _ = write!(shown, "\\x{code:02x}");
}

/// Characters above ASCII that act on a terminal: C1 controls, the marks and embeddings of bidirectional text, and the
/// separators that some terminals take for line ends.
fn is_unsafe(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}'
        | '\u{61c}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn an_ordinary_name_is_shown_as_it_is() {
        for name in ["a b/c", "größe", "日本", "back\\slash", "🦀", ""] {
            assert_eq!(path(Path::new(name)), name);
            assert_eq!(text(name), name);
        }
    }

    #[test]
    fn control_characters_are_shown_by_number() {
        assert_eq!(path(Path::new("a\nb\x1b[31m\x7f\0")), r"a\x0ab\x1b[31m\x7f\x00");
        assert_eq!(text("\u{9b}2J\u{85}"), r"\u{9b}2J\u{85}");
    }

    #[test]
    fn what_turns_the_direction_of_writing_is_shown_by_number() {
        assert_eq!(text("a\u{202e}txt.exe"), r"a\u{202e}txt.exe");
        for c in ['\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{2066}', '\u{2069}', '\u{2028}'] {
            assert_eq!(text(&c.to_string()), format!("\\u{{{:x}}}", u32::from(c)));
        }
    }

    #[test]
    fn json_is_the_same_value_without_what_a_terminal_acts_on() {
        let value = "a\u{9b}2J\u{202e}\x7f\n größe 🦀 \\ \u{2028}";
        let plain = serde_json::to_string(value).expect("a string");
        let shown = json(&plain);
        assert!(shown.chars().all(|c| !c.is_control() && !is_unsafe(c)), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).expect("it is JSON"), value);
        assert!(matches!(json("{\"a\":1}"), Cow::Borrowed(_)));
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_shown_by_number() {
        assert_eq!(path(Path::new(OsStr::from_bytes(b"a\xff\xc3(b\xe2\x82"))), r"a\xff\xc3(b\xe2\x82");
    }
}
