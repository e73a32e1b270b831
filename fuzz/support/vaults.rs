//! Which vaults do targets begin with? The golden vectors and vaults of tests/, in memory.

use std::path::{Path, PathBuf};

use flint_pipe::{Password, Vault};

use crate::support::disk::Disk;
use crate::vector::Vector;

/// A vault to begin with.
pub(crate) struct Seed {
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) bytes: Vec<u8>,
}

fn listed(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").join(directory);
    let files = std::fs::read_dir(directory).expect("the targets are run where they were built");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("it is listed").path()).collect();
    files.sort();
    files
}

/// All of them, in the order of their names, the golden vaults last; without the bombs, of which each takes the time of a
/// thousand others and is refused the same way every time.
pub(crate) fn all() -> Vec<Seed> {
    let name = |path: &Path| path.file_stem().expect("it has a name").to_string_lossy().into_owned();
    let vectors = listed("vectors").into_iter().filter(|path| !name(path).contains("bomb"));
    let vectors = vectors.map(|path| {
        let vector = Vector::parse(&std::fs::read_to_string(&path).expect("it is read"));
        Seed { name: name(&path), password: vector.one("password").to_owned(), bytes: vector.vault }
    });
    let vaults = listed("vaults").into_iter().filter(|path| path.extension().is_some_and(|end| end == "flint"));
    let vaults = vaults.map(|path| Seed {
        name: name(&path),
        password: "correct horse".to_owned(),
        bytes: std::fs::read(&path).expect("it is read"),
    });
    vectors.chain(vaults).collect()
}

impl Seed {
    pub(crate) fn open(&self, disk: &Disk) -> flint_pipe::Result<Vault> {
        Vault::open_in("memory.flint", disk.dir(), &Password::new(self.password.as_str()), None)
    }
}

/// A disk with these bytes as the vault.
pub(crate) fn disk_with(bytes: &[u8]) -> Disk {
    use flint_pipe::VaultDir as _;
    let disk = Disk::new();
    let file = disk.create_unlinked().expect("a disk in memory takes it");
    disk.link(&*file).expect("the name is free");
    disk.set_bytes(bytes);
    disk
}
