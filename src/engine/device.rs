//! What kind of device is something on, as far as that decides how many threads should read it?

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::primitives::fs::{FsKind, file_system_kind, open_place};

/// What stands in the places of virtual disks below `/sys/devices`: KVM, Xen, Hyper-V.
const VIRTUAL: [&str; 4] = ["/virtio", "/vbd-", "/xen", "/VMBUS"];

/// Kinds of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Device {
    /// Nobody can tell, or it is none.
    Unknown,
    /// Flash, or memory.
    Flash,
    /// Another machine, or a program.
    Network,
    /// Turns, or says that it does.
    Rotational,
}

impl Device {
    /// What it is, for a reason.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Unknown => "a device of an unknown kind",
            Self::Flash => "a device that does not turn",
            Self::Network => "a network file system",
            Self::Rotational => "a device that turns, or says so",
        }
    }

    /// Of what is at this path.
    pub(crate) fn of(path: &Path) -> Self {
        let Ok(place) = open_place(path) else { return Self::Unknown };
        match file_system_kind(&place) {
            Ok(FsKind::Network) => return Self::Network,
            Ok(FsKind::Local) => {}
            _ => return Self::Unknown,
        }
        std::fs::metadata(path).map_or(Self::Unknown, |found| Self::of_number(found.dev()))
    }

    /// Of several paths: the one that asks for most care.
    pub(crate) fn of_all(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        paths.into_iter().map(|path| Self::of(&path)).max().unwrap_or(Self::Unknown)
    }

    fn of_number(dev: u64) -> Self {
        let (major, minor) = (libc::major(dev), libc::minor(dev));
        // The disk of a virtual machine says that it turns if nobody told it otherwise, and nobody does.
        let place = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).unwrap_or_default();
        if VIRTUAL.iter().any(|part| place.to_string_lossy().contains(part)) {
            return Self::Unknown;
        }
        // Of a partition, its disk says it. What has no device of its own (overlays, tmpfs, btrfs) has major number 0.
        ["queue/rotational", "../queue/rotational"]
            .iter()
            .find_map(|file| std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{file}")).ok())
            .map_or(Self::Unknown, |answer| if answer.trim() == "1" { Self::Rotational } else { Self::Flash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_disk_is_unknown_and_the_most_careful_kind_counts() {
        assert_eq!(Device::of(Path::new("/proc")), Device::Unknown);
        assert_eq!(Device::of(Path::new("/no/such/path")), Device::Unknown);
        assert!(Device::Rotational > Device::Network && Device::Network > Device::Flash);
        assert_eq!(Device::of_all([PathBuf::from("/proc"), PathBuf::from("/nowhere")]), Device::Unknown);
    }
}
