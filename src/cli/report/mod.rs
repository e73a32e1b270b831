//! What a run did, a form a file.

pub(crate) mod comparison;
pub(crate) mod json;
mod plan;
pub(crate) mod profile;
pub(crate) mod profile_json;
pub(crate) mod text;

/// A line of a summary, or several, if `value` is too long for 80 columns.
pub(crate) fn wrapped(name: &str, value: &str) -> String {
    const NAMES: usize = 15;
    let mut lines = format!("  {name:<13}");
    let mut width = NAMES;
    for word in value.split_whitespace() {
        let len = word.chars().count();
        if width > NAMES && width + 1 + len > 80 {
            lines.push('\n');
            lines.push_str(&" ".repeat(NAMES));
            width = NAMES;
        }
        lines.push(' ');
        lines.push_str(word);
        width += 1 + len;
    }
    lines.push('\n');
    lines
}
