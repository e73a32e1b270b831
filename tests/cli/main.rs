//! The command line from outside: what it refuses, what it prints, and the status it ends with. That trees come back as
//! they were is with the behaviours.

mod arguments;
mod choosing;
mod dry_runs;
mod endings;
mod exit_codes;
mod keys;
mod listing;
mod passwords;
mod profiling;
mod records;
mod removing;
mod restoring;
mod results;
mod streams;
mod support;
mod terminal;
mod transcripts;
