//! What was packed comes back: every type, attribute and length, by any way in and at any level.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use flint_pipe::{AddOptions, ExtractOptions, Level, ReadMode};
use proptest::prelude::*;
use rustix::fs::{FileType, Mode, OFlags};

use crate::support::disk::Disk;
use crate::support::tree::{
    Tree, assert_same_for_rsync, assert_same_sight, assert_same_trees, disk_usage, is_root, look, noise, set_mode,
    set_mtime, set_owner, set_xattr, text,
};
use crate::support::{
    add, add_with, assert_sound, contents, entries, extract, names, simple, vault_at, vault_in, within,
};

/// Packs `.` of a tree into a vault of its own and restores it; answers where.
fn there_and_back(tree: &Tree) -> Tree {
    let out = Tree::new();
    let vault = vault_at(&out.path("vault"));
    add(&vault, tree.root(), &["."]);
    assert_sound(&vault);
    extract(&vault, &out.path("out"));
    out
}

#[test]
fn types_modes_owners_and_times_come_back() {
    within(120, || {
        let tree = Tree::new();
        for (name, mode) in [("plain", 0o644), ("tight", 0o400), ("none", 0o000), ("all", 0o777)] {
            set_mode(&tree.file(name, text(1, 1000)), mode);
        }
        for (name, mode) in [("setuid", 0o4755), ("setgid", 0o2755), ("every", 0o7777)] {
            let path = tree.file(name, b"#!");
            if is_root() {
                set_owner(&path, 1234, 5678);
            }
            set_mode(&path, mode);
        }
        set_mode(&tree.directory("sticky"), 0o1777);
        set_mode(&tree.directory("setgid directory"), 0o2750);
        tree.file("no/way/in/file", "inside");
        set_mode(&tree.path("no/way/in"), 0o500);
        tree.node("fifo", FileType::Fifo, 0);
        if is_root() {
            tree.node("zero", FileType::CharacterDevice, rustix::fs::makedev(1, 5));
            tree.node("loop", FileType::BlockDevice, rustix::fs::makedev(7, 77));
            set_owner(&tree.file("theirs", "x"), 65_534, 65_534);
            set_owner(&tree.directory("their directory"), 4_000_000_000, 3_999_999_999);
            set_owner(&tree.symlink("their link", "nowhere"), 1, 2);
        }
        tree.symlink("link", "plain");
        tree.symlink("dangling", "/does/not/exist");
        tree.symlink("self", "self");
        set_mtime(&tree.path("plain"), 1_600_000_000, 123_456_789);
        set_mtime(&tree.path("link"), 1_500_000_000, 1);
        set_mtime(&tree.path("dangling"), -1, 999_999_999);
        set_mtime(&tree.path("tight"), -86_400 * 365 * 20, 1);
        set_mtime(&tree.path("none"), 0, 0);
        set_mtime(&tree.path("fifo"), 7, 7);
        set_mtime(&tree.path("no/way/in"), 1_000_000_000, 5);
        set_mtime(&tree.path("no/way"), 1_000_000_001, 6);
        set_mtime(&tree.path("sticky"), -5, 500_000_000);
        set_mtime(tree.root(), 1_234_567_890, 987_654_321);
        let out = there_and_back(&tree);
        assert_same_trees(tree.root(), &out.path("out"));
    });
}

#[test]
fn extended_attributes_come_back() {
    within(120, || {
        let tree = Tree::new();
        let file = tree.file("file", "content");
        let directory = tree.directory("directory");
        let empty = tree.file("empty", "");
        if !set_xattr(&file, "user.colour", b"green") {
            eprintln!("skipped: this file system has no extended attributes");
            return;
        }
        assert!(set_xattr(&file, "user.empty", b""));
        assert!(set_xattr(&file, "user.bytes", &[0, 1, 2, 255, 10, 27]));
        assert!(set_xattr(&directory, "user.of a directory", &noise(1, 900)));
        assert!(set_xattr(&empty, "user.long", &noise(2, 2000)));
        set_xattr(tree.root(), "user.root", b"yes");
        // user::rw- user:1:r-- group::r-- mask::r-- other::--- ; a chmod after it would change it.
        let acl = [
            2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 1, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0,
            4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
        ];
        set_xattr(&tree.file("acl", "x"), "system.posix_acl_access", &acl);
        set_xattr(&tree.directory("acl directory"), "system.posix_acl_default", &acl);
        if is_root() {
            set_xattr(&tree.file("trusted", "x"), "trusted.flint", b"only root");
            // cap_net_raw+ep; a chown after it would take it away.
            let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let capable = tree.file("capable", "x");
            set_owner(&capable, 33, 33);
            set_xattr(&capable, "security.capability", &capability);
            set_xattr(&tree.symlink("link", "file"), "trusted.of a link", b"its own");
        }
        let out = there_and_back(&tree);
        assert_same_trees(tree.root(), &out.path("out"));
    });
}

#[test]
fn hard_links_come_back_as_one_file_and_take_its_space_once() {
    within(120, || {
        let tree = Tree::new();
        let data = noise(3, 700_000);
        let first = tree.file("a/first", &data);
        tree.directory("b/deep");
        for name in ["a/second", "b/third", "b/deep/fourth"] {
            std::fs::hard_link(&first, tree.path(name)).unwrap();
        }
        let empty = tree.file("empty", "");
        std::fs::hard_link(&empty, tree.path("empty too")).unwrap();
        let fifo = tree.node("fifo", FileType::Fifo, 0);
        std::fs::hard_link(&fifo, tree.path("fifo too")).unwrap();
        let link = tree.symlink("link", "a/first");
        std::fs::hard_link(&link, tree.path("link too")).unwrap();
        let out = there_and_back(&tree);
        assert_same_trees(tree.root(), &out.path("out"));
        let stored = std::fs::metadata(out.path("vault")).unwrap().len();
        assert!(stored < 2 * data.len() as u64, "stored {stored} bytes for one file of {}", data.len());
    });
}

#[test]
fn a_part_of_the_names_of_a_hard_linked_file_can_be_restored() {
    within(120, || {
        let tree = Tree::new();
        let data = noise(4, 600_000);
        let first = tree.file("a", &data);
        for name in ["b", "c", "d"] {
            std::fs::hard_link(&first, tree.path(name)).unwrap();
        }
        // A second name that lies outside of what is packed.
        let outside = Tree::new();
        std::fs::hard_link(tree.path("a"), outside.path("elsewhere")).unwrap();
        let out = Tree::new();
        let vault = vault_at(&out.path("vault"));
        add(&vault, tree.root(), &["."]);
        for (number, part) in [vec!["a"], vec!["d"], vec!["b", "c"], vec!["a", "d"]].into_iter().enumerate() {
            let place = out.path(format!("out {number}"));
            let mut options = ExtractOptions::default();
            options.files = part.iter().map(PathBuf::from).collect();
            let report = vault.extract(&place, &options, &()).unwrap();
            assert!(report.is_complete(), "{part:?}: {:?}", report.errors);
            for name in &part {
                assert_eq!(std::fs::read(place.join(name)).unwrap(), data, "{part:?}");
                let links = std::fs::metadata(place.join(name)).unwrap().nlink();
                assert_eq!(links, part.len() as u64, "{part:?}");
            }
            assert_eq!(std::fs::read_dir(&place).unwrap().count(), part.len());
        }
    });
}

#[test]
fn holes_are_neither_stored_nor_written() {
    within(120, || {
        use std::os::unix::fs::FileExt as _;
        const HOLE: u64 = 8 << 30;
        let tree = Tree::new();
        let file = std::fs::File::create(tree.path("sparse")).unwrap();
        file.set_len(HOLE).unwrap();
        let file = std::fs::File::create(tree.path("islands")).unwrap();
        file.write_all_at(&noise(5, 10_000), 0).unwrap();
        file.write_all_at(&noise(6, 70_000), (1 << 30) + 4096).unwrap();
        file.write_all_at(b"end", HOLE - 3).unwrap();
        let file = std::fs::File::create(tree.path("hole at the end")).unwrap();
        file.write_all_at(&noise(7, 300_000), 0).unwrap();
        file.set_len(HOLE).unwrap();
        let file = std::fs::File::create(tree.path("small with a hole")).unwrap();
        file.write_all_at(b"x", 100_000).unwrap();
        for chunk in [256 << 10, 16 << 20] {
            let out = Tree::new();
            let vault = vault_at(&out.path("vault"));
            let mut options = simple();
            options.pipeline.chunk_size = Some(chunk);
            let report = add_with(&vault, tree.root(), &["."], options).unwrap();
            assert!(report.is_complete(), "{:?}", report.errors);
            assert!(std::fs::metadata(out.path("vault")).unwrap().len() < 2 << 20);
            assert_sound(&vault);
            extract(&vault, &out.path("out"));
            assert_same_sight(&look(tree.root()), &look(&out.path("out")));
            for name in ["sparse", "islands", "hole at the end", "small with a hole"] {
                let (was, is) = (disk_usage(&tree.path(name)), disk_usage(&out.path("out").join(name)));
                assert!(is <= was + 64 * 1024, "{name} takes {is} bytes of the disk, took {was}");
            }
        }
    });
}

#[test]
fn names_of_any_bytes_come_back() {
    within(120, || {
        let tree = Tree::new();
        let names: [&[u8]; 14] = [
            b"new\nline",
            b"\x1b[31mred\x1b[0m",
            b"\xff\xfe not UTF-8",
            b"\xc3\x28",
            "ünïcödé".as_bytes(),
            "a\u{202e}b".as_bytes(),
            b" leading and trailing ",
            b"-v",
            b"--help",
            b"...",
            b"back\\slash",
            b"quote\"'`$(x)",
            b"\x01\x7f\x80",
            b"comma,comma",
        ];
        for (number, name) in (0..).zip(names) {
            tree.file(OsStr::from_bytes(name), text(number, 100));
            let mut directory = b"directory ".to_vec();
            directory.extend_from_slice(name);
            directory.extend_from_slice(b"/inside ");
            directory.extend_from_slice(name);
            tree.file(OsStr::from_bytes(&directory), name);
            let mut link = b"link ".to_vec();
            link.extend_from_slice(name);
            tree.symlink(OsStr::from_bytes(&link), OsStr::from_bytes(name));
        }
        tree.file("n".repeat(255), "a long name");
        let out = there_and_back(&tree);
        assert_same_trees(tree.root(), &out.path("out"));
    });
}

/// Opens the directory at the bottom of `depth` directories of long names, making them if `make`.
fn deep(root: &Path, depth: usize, make: bool) -> std::os::fd::OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(root, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        let name = "d".repeat(200);
        if make {
            rustix::fs::mkdirat(&at, &name, Mode::from_raw_mode(0o755)).unwrap();
        }
        at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
    }
    at
}

#[test]
fn paths_longer_than_the_system_takes_come_back() {
    within(120, || {
        const DEPTH: usize = 40;
        let tree = Tree::new();
        tree.file("beside", "x");
        let bottom = deep(tree.root(), DEPTH, true);
        let create = OFlags::CREATE | OFlags::WRONLY;
        let file = rustix::fs::openat(&bottom, "file", create, Mode::from_raw_mode(0o600)).unwrap();
        let data = noise(8, 5000);
        assert_eq!(rustix::io::write(&file, &data).unwrap(), data.len());
        rustix::fs::symlinkat("file", &bottom, "link").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        let has_xattrs = rustix::fs::fsetxattr(&file, "user.deep", b"value", flags).is_ok();
        drop(file);
        let out = there_and_back(&tree);
        let bottom = deep(&out.path("out"), DEPTH, false);
        let file = rustix::fs::openat(&bottom, "file", OFlags::RDONLY, Mode::empty()).unwrap();
        let mut found = vec![0; data.len() + 1];
        let len = rustix::io::read(&file, &mut found[..]).unwrap();
        assert!(found[..len] == data[..]);
        if has_xattrs {
            let mut value = [0; 6];
            assert_eq!(rustix::fs::fgetxattr(&file, "user.deep", &mut value).unwrap(), 5);
            assert_eq!(&value[..5], b"value");
        }
        assert_eq!(rustix::fs::readlinkat(&bottom, "link", Vec::new()).unwrap().to_bytes(), b"file");
    });
}

#[test]
fn a_directory_of_50_000_entries_comes_back() {
    within(180, || {
        let tree = Tree::new();
        tree.directory("many");
        for number in 0..50_000 {
            std::fs::File::create(tree.path(format!("many/{number}"))).unwrap();
        }
        set_mtime(&tree.path("many"), 1_000_000_000, 1);
        let out = Tree::new();
        let vault = vault_at(&out.path("vault"));
        let report = add_with(&vault, tree.root(), &["many"], AddOptions::default()).unwrap();
        assert_eq!((report.successful_files, report.failed_files, report.directories), (50_000, 0, 1));
        assert_sound(&vault);
        extract(&vault, &out.path("out"));
        assert_same_sight(&look(&tree.path("many")), &look(&out.path("out/many")));
    });
}

#[test]
fn empty_things_come_back() {
    within(60, || {
        let tree = Tree::new();
        tree.file("empty file", "");
        tree.directory("empty directory");
        tree.directory("a/b/c/d");
        set_mtime(&tree.path("a/b"), 12, 34);
        let out = there_and_back(&tree);
        assert_same_trees(tree.root(), &out.path("out"));

        let nothing = Tree::new();
        set_mtime(nothing.root(), 1_111_111_111, 2);
        let out = there_and_back(&nothing);
        assert_same_trees(nothing.root(), &out.path("out"));
    });
}

#[test]
fn a_root_that_is_stored_gives_the_destination_its_attributes_and_a_name_does_not() {
    within(60, || {
        let tree = Tree::new();
        tree.file("named/file", "x");
        set_mode(tree.root(), 0o711);
        set_mode(&tree.path("named"), 0o751);
        set_mtime(&tree.path("named"), 1_000_000, 11);
        set_mtime(tree.root(), 2_000_000, 22);
        let out = there_and_back(&tree);
        let root = std::fs::metadata(out.path("out")).unwrap();
        assert_eq!((root.mtime(), root.mtime_nsec(), root.mode() & 0o7777), (2_000_000, 22, 0o711));

        let vault = vault_at(&out.path("vault of a name"));
        add(&vault, tree.root(), &["named"]);
        assert_eq!(names(&vault, None), ["named", "named/file"]);
        extract(&vault, &out.path("out of a name"));
        assert_same_trees(&tree.path("named"), &out.path("out of a name/named"));
        let root = std::fs::metadata(out.path("out of a name")).unwrap();
        assert_ne!(root.mtime(), 2_000_000);
    });
}

#[test]
fn every_chunk_size_takes_files_around_its_length_by_either_way_in() {
    within(180, || {
        for chunk in [256 << 10, 4 << 20, 16 << 20_u32] {
            let size = usize::try_from(chunk).unwrap();
            let tree = Tree::new();
            let many = noise(9, 3 * size + 5);
            for (name, len) in
                [("1", 1), ("less", size - 1), ("same", size), ("more", size + 1), ("many", 3 * size + 5)]
            {
                // Half noise, half text: some records shrink, some do not.
                let mut data = many[..len].to_vec();
                let half = len / 2;
                data[..half].copy_from_slice(&text(10, half));
                tree.file(name, data);
            }
            for mode in [ReadMode::Mmap, ReadMode::Read] {
                let out = Tree::new();
                let vault = vault_at(&out.path("vault"));
                let mut options = AddOptions::default();
                options.pipeline.chunk_size = Some(chunk);
                options.read_mode = mode;
                options.level = Level::Zstd(1);
                let report = add_with(&vault, tree.root(), &["."], options).unwrap();
                assert!(report.is_complete(), "{:?}", report.errors);
                extract(&vault, &out.path("out"));
                assert_same_sight(&look(tree.root()), &look(&out.path("out")));
            }
        }
    });
}

#[test]
fn every_level_brings_the_same_back() {
    within(120, || {
        let tree = Tree::new();
        tree.file("text", text(11, 900_000));
        tree.file("noise", noise(12, 900_000));
        tree.file("zeros", vec![0; 900_000]);
        for number in 0..200 {
            tree.file(format!("small/{number}"), text(number, 37 * usize::try_from(number).unwrap()));
        }
        let expected = look(tree.root());
        let mut sizes = Vec::new();
        let levels = [
            Level::Store,
            Level::Zstd(-7),
            Level::Zstd(1),
            Level::Zstd(3),
            Level::Zstd(19),
            Level::Zstd(22),
            Level::Auto,
        ];
        for level in levels {
            let out = Tree::new();
            let vault = vault_at(&out.path("vault"));
            let mut options = simple();
            options.level = level;
            let report = add_with(&vault, tree.root(), &["."], options).unwrap();
            assert!(report.is_complete(), "{level:?}: {:?}", report.errors);
            assert_sound(&vault);
            extract(&vault, &out.path("out"));
            assert_same_sight(&expected, &look(&out.path("out")));
            sizes.push(report.stored_size);
        }
        assert!(sizes[0] >= 2_700_000, "{sizes:?}");
        assert!(sizes[1..].iter().all(|&size| size < 1_800_000), "{sizes:?}");
    });
}

#[test]
fn what_is_listed_is_what_was_packed() {
    within(60, || {
        let tree = Tree::new();
        set_mode(&tree.file("d/file", text(1, 12_345)), 0o640);
        set_mtime(&tree.path("d/file"), -3, 5);
        tree.symlink("d/link", "file");
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["d"]);
        let listed = entries(&vault, None).unwrap();
        let shown: Vec<_> = listed.iter().map(|entry| (entry.path.to_str().unwrap(), entry.size)).collect();
        assert_eq!(shown[1..], [("d/file", 12_345), ("d/link", 4)]);
        assert_eq!(shown[0].0, "d");
        assert_eq!((listed[1].mode & 0o7777, listed[1].mtime.secs, listed[1].mtime.nanos), (0o640, -3, 5));
        assert_eq!(listed[2].target.as_deref(), Some(Path::new("file")));
    });
}

/// One entry of a random tree.
#[derive(Debug, Clone)]
enum Kind {
    Empty,
    Noise(usize),
    Text(usize),
    Sparse(u64),
    Directory,
    Symlink(Vec<u8>),
    Fifo,
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Empty),
        (1_usize..700_000).prop_map(Kind::Noise),
        (1_usize..700_000).prop_map(Kind::Text),
        (1_u64..1 << 25).prop_map(Kind::Sparse),
        Just(Kind::Directory),
        proptest::collection::vec(1_u8.., 1..200).prop_map(Kind::Symlink),
        Just(Kind::Fifo),
    ]
}

fn components() -> impl Strategy<Value = Vec<Vec<u8>>> {
    // Few letters, so that names meet; bytes on either side of '/', since order is by component.
    let letter = proptest::sample::select(vec![b'a', b'b', b'.', b'!', b'0', 0x01, 0xff]);
    let name = proptest::collection::vec(letter, 1..4).prop_filter("reserved", |name| name != b"." && name != b"..");
    proptest::collection::vec(name, 1..5)
}

type Entry = (Vec<Vec<u8>>, Kind, u32, i64, i64);

/// Makes what can be made; what is in another's way is left out.
fn make(tree: &Tree, entries: &[Entry]) {
    let path_of = |components: &[Vec<u8>]| tree.path(OsStr::from_bytes(&components.join(&b'/')));
    let mut made = Vec::new();
    for (number, (components, kind, mode, secs, nanos)) in (0..).zip(entries) {
        let path = path_of(components);
        if std::fs::create_dir_all(path.parent().unwrap()).is_err() || std::fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        let name = path.strip_prefix(tree.root()).unwrap().to_owned();
        match kind {
            Kind::Empty => drop(tree.file(&name, "")),
            Kind::Noise(len) => drop(tree.file(&name, noise(number, *len))),
            Kind::Text(len) => drop(tree.file(&name, text(number, *len))),
            Kind::Sparse(len) => std::fs::File::create(&path).unwrap().set_len(*len).unwrap(),
            Kind::Directory => drop(tree.directory(&name)),
            Kind::Symlink(target) => drop(tree.symlink(&name, OsStr::from_bytes(target))),
            Kind::Fifo => drop(tree.node(&name, FileType::Fifo, 0)),
        }
        if !matches!(kind, Kind::Symlink(_)) && is_root() {
            set_mode(&path, *mode);
        }
        made.push((path, *secs, *nanos));
    }
    // Last, and the deepest first: what is made in a directory changes its time.
    made.sort_by(|a, b| b.0.cmp(&a.0));
    made.iter().for_each(|(path, secs, nanos)| set_mtime(path, *secs, *nanos));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(
        entries in proptest::collection::vec(
            (components(), kinds(), 0_u32..0o10000, -10_000_000_000_i64..10_000_000_000, 0_i64..1_000_000_000), 0..30),
        workers in 1_u16..5,
    ) {
        within(60, move || {
            let tree = Tree::new();
            make(&tree, &entries);
            let out = Tree::new();
            let vault = vault_in(Disk::new().dir());
            let mut options = simple();
            options.pipeline.workers = crate::support::workers(workers);
            let report = add_with(&vault, tree.root(), &["."], options).unwrap();
            assert!(report.is_complete(), "{:?}", report.errors);
            assert_sound(&vault);
            extract(&vault, &out.path("out"));
            assert_same_sight(&look(tree.root()), &look(&out.path("out")));
            assert_same_for_rsync(tree.root(), &out.path("out"));
            let packed = contents(&vault, None).unwrap();
            let files = look(tree.root()).values().filter(|seen| seen.is_file()).count();
            assert_eq!(packed.len(), files);
        });
    }
}
