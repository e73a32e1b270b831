//! What may the user choose about what is restored?

/// What happens to files that are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// They are replaced, each in one step.
    #[default]
    Always,
    /// They are replaced, but for regular files of one name whose size and time of the last change, to the nanosecond, are
    /// those of the entry: their content is left alone and not even read from the vault, their attributes are set.
    IfChanged,
    /// They are left as they are.
    Never,
}

/// What is restored of an entry beside its name and content. Everything by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preserve {
    /// Owner and group; without it no setuid or setgid bits either.
    pub owner: bool,
    /// All mode bits as stored; without it the permissions less the umask.
    pub mode: bool,
    /// The time of the last change of content.
    pub times: bool,
    /// Extended attributes but ACLs.
    pub xattr: bool,
    /// POSIX ACLs.
    pub acl: bool,
    /// Device nodes; without it they are left out.
    pub devices: bool,
}

impl Default for Preserve {
    fn default() -> Self {
        Self { owner: true, mode: true, times: true, xattr: true, acl: true, devices: true }
    }
}

/// The rules of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RestorePolicy {
    pub(crate) overwrite: Overwrite,
    pub(crate) preserve: Preserve,
    /// [`Destination::sync`](super::destination::Destination::sync) is going to be asked for.
    pub(crate) sync: bool,
}
