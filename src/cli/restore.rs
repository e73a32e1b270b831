//! What the two commands that restore files, `extract` and `get`, have in common: their options, and how these become the
//! library's.

use std::path::PathBuf;

use clap::ValueEnum;
use flint_pipe::{ExtractOptions, Overwrite, Preserve, Workers};

use crate::cli::args::{AtArg, DryRunArg, OutputArgs, PasswordArgs, PipelineArgs, RecordArgs, RestoreWorkers};
use crate::cli::record::Records;
use crate::cli::session::Session;

/// The options of a command that restores files.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    at: AtArg,
    /// Replace files: always [default], if-changed, never
    #[arg(long, value_name = "WHEN", default_value = "always", hide_default_value = true, hide_possible_values = true)]
    overwrite: OverwriteMode,
    /// Leave out owner,mode,times,xattr,acl,devices
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        hide_possible_values = true,
        help_heading = "What is restored"
    )]
    no_preserve: Vec<Attribute>,
    /// End when what was restored is on the disk
    #[arg(long)]
    sync: bool,
    #[command(flatten)]
    dry_run: DryRunArg,
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    #[command(flatten)]
    workers: RestoreWorkers,
    #[command(flatten)]
    pub(crate) password: PasswordArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) record: RecordArgs,
}

impl RestoreArgs {
    /// Whether nothing is to be written.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run.dry_run
    }

    /// These options in the library's words, for the entries of these names.
    pub(crate) fn options(&self, files: Vec<PathBuf>, session: &Session) -> ExtractOptions {
        let mut options = ExtractOptions::default();
        options.pipeline = self.pipeline.config(Workers::from(&self.workers), session.cancel());
        Records::ask(&self.record, &mut options.pipeline);
        options.files = files;
        options.at = self.at.at;
        options.overwrite = self.overwrite.into();
        options.preserve = preserve(&self.no_preserve);
        options.sync = self.sync;
        options.dry_run = self.dry_run.dry_run;
        options
    }
}

/// `--overwrite`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum OverwriteMode {
    /// Files that are there are replaced.
    Always,
    /// They are replaced unless they look like the entry.
    IfChanged,
    /// Files that are there are left.
    Never,
}

impl From<OverwriteMode> for Overwrite {
    fn from(mode: OverwriteMode) -> Self {
        match mode {
            OverwriteMode::Always => Self::Always,
            OverwriteMode::IfChanged => Self::IfChanged,
            OverwriteMode::Never => Self::Never,
        }
    }
}

/// What `--no-preserve` can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Attribute {
    Owner,
    Mode,
    Times,
    Xattr,
    Acl,
    Devices,
}

/// Everything but what is named.
fn preserve(left_out: &[Attribute]) -> Preserve {
    let is_kept = |attribute| !left_out.contains(&attribute);
    Preserve {
        owner: is_kept(Attribute::Owner),
        mode: is_kept(Attribute::Mode),
        times: is_kept(Attribute::Times),
        xattr: is_kept(Attribute::Xattr),
        acl: is_kept(Attribute::Acl),
        devices: is_kept(Attribute::Devices),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_preserved_but_what_is_named() {
        assert_eq!(preserve(&[]), Preserve::default());
        for attribute in Attribute::value_variants() {
            let Preserve { owner, mode, times, xattr, acl, devices } = preserve(&[*attribute, *attribute]);
            let kept = [owner, mode, times, xattr, acl, devices];
            assert_eq!(kept.iter().filter(|kept| !**kept).count(), 1, "{attribute:?}");
        }
        assert!(!preserve(&[Attribute::Times]).times && !preserve(&[Attribute::Devices]).devices);
    }
}
