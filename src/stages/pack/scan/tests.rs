use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat};
use tempfile::TempDir;

use super::*;
use crate::error::{ErrorKind, FileOp};
use crate::format::entry::Xattr;
use crate::primitives::fs::StatKind;
use crate::primitives::xattr::set_xattr_path;
use crate::stages::ScannedEntry;
use crate::stages::pack::names::name_sources;

const FAR: usize = 1 << 20;

fn options(workers: usize, look_ahead: usize) -> ScanOptions {
    ScanOptions { workers, look_ahead, ..ScanOptions::default() }
}

/// A scan of `sources` in `dir`.
fn start(dir: &Path, sources: &[&str], options: ScanOptions) -> Scan {
    let sources: Vec<PathBuf> = sources.iter().map(PathBuf::from).collect();
    scan(name_sources(&sources, Some(dir)).unwrap(), options).unwrap()
}

/// The names of the entries, one that failed as `! path`, one left out as `# path`, both below `dir`.
fn told(dir: &Path, scan: impl Iterator<Item = Scanned>) -> Vec<String> {
    let below = |path: PathBuf| path.strip_prefix(dir).unwrap().display().to_string();
    scan.map(|scanned| match scanned {
        Scanned::Entry(entry) => entry.name.as_bytes().escape_ascii().to_string(),
        Scanned::Failed { path, .. } => format!("! {}", below(path)),
        Scanned::Note { path, .. } => format!("# {}", below(path)),
    })
    .collect()
}

fn make_dir(path: impl AsRef<Path>) {
    std::fs::create_dir_all(path).unwrap();
}

fn make_file(path: impl AsRef<Path>) {
    std::fs::write(path, b"x").unwrap();
}

/// A tree of three levels, `width` directories and `width` files in each directory of the upper two.
fn make_tree(dir: &Path, width: usize) {
    for a in 0..width {
        for b in 0..width {
            make_dir(dir.join(format!("t/d{a}/d{b}")));
            make_file(dir.join(format!("t/d{a}/d{b}/f")));
            make_file(dir.join(format!("t/d{a}/f{b}")));
        }
        make_file(dir.join(format!("t/f{a}")));
    }
}

/// Fails, rather than hang, if `work` does.
fn within_a_minute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(Duration::from_secs(60)).expect("hangs")
}

#[test]
fn a_scan_travels_to_another_thread() {
    fn assert_send<T: Send>() {}
    assert_send::<Scan>();
}

#[test]
fn entries_come_in_the_order_of_the_index_whatever_their_names() {
    let dir = TempDir::new().unwrap();
    let names = [&b"a"[..], b"a.b", b"a-", b"a\x01", b"a b", b"A", b".hidden", b"\xFF\xFE", b"\xC3\xA4", b"z"];
    for name in names {
        let below = dir.path().join("s").join(OsStr::from_bytes(name));
        make_dir(&below);
        for name in names {
            make_file(below.join(OsStr::from_bytes(name)));
        }
    }
    for workers in [1, 2, 4] {
        let found: Vec<EntryPath> = start(dir.path(), &["s"], options(workers, FAR))
            .map(|scanned| match scanned {
                Scanned::Entry(entry) => entry.name,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(found.len(), 1 + names.len() + names.len() * names.len());
        assert!(found.is_sorted_by(|left, right| left < right), "{found:?}");
    }
}

#[test]
fn what_is_told_does_not_depend_on_workers_or_look_ahead() {
    let dir = TempDir::new().unwrap();
    make_tree(dir.path(), 9);
    let expected = format!("{:?}", start(dir.path(), &["t"], options(1, FAR)).collect::<Vec<_>>());
    for workers in [1, 2, 5] {
        for look_ahead in [0, 1, 7, 20, 100, FAR] {
            let path = dir.path().to_owned();
            let (found, queued) = within_a_minute(move || {
                let mut scan = start(&path, &["t"], options(workers, look_ahead));
                let found: Vec<Scanned> = scan.by_ref().collect();
                (format!("{found:?}"), scan.ahead.queued.load(Ordering::Relaxed))
            });
            assert!(found == expected, "{workers} workers, look-ahead {look_ahead}");
            assert_eq!(queued, 0, "{workers} workers, look-ahead {look_ahead}");
        }
    }
}

#[test]
fn what_is_queued_ahead_is_bounded_while_nobody_takes_entries() {
    const WIDTH: usize = 40;
    let dir = TempDir::new().unwrap();
    for d in 0..WIDTH {
        make_dir(dir.path().join(format!("t/d{d}")));
        for f in 0..WIDTH {
            make_file(dir.path().join(format!("t/d{d}/f{f}")));
        }
    }
    for (look_ahead, most) in [
        // The root's listing is within the bound, so all directories are entered; one goes beyond it, and one that was put
        // off may be due while those after it are queued.
        (100, 100 + WIDTH + WIDTH),
        // The root's listing goes beyond it, so directories are put off until their turn has come.
        (10, WIDTH + WIDTH),
    ] {
        let mut scan = start(dir.path(), &["t"], options(2, look_ahead));
        assert!(scan.next().is_some());
        assert!(scan.next().is_some());
        // Time enough to run away; a bound that holds does so however long this is.
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(scan.by_ref().count(), WIDTH + WIDTH * WIDTH - 1);
        let peak = scan.ahead.peak.load(Ordering::Relaxed);
        assert!(peak <= most, "look-ahead {look_ahead}: {peak}");
    }
}

#[test]
fn dropping_a_scan_early_ends_it() {
    let dir = TempDir::new().unwrap();
    make_tree(dir.path(), 12);
    for workers in [1, 2, 4] {
        for look_ahead in [0, 30, FAR] {
            for taken in [0, 1, 2, 100] {
                let path = dir.path().to_owned();
                within_a_minute(move || {
                    let mut scan = start(&path, &["t"], options(workers, look_ahead));
                    assert_eq!(scan.by_ref().take(taken).count(), taken);
                });
            }
        }
    }
}

#[test]
fn a_scan_that_is_stopped_looks_at_nothing_more() {
    let dir = TempDir::new().unwrap();
    make_tree(dir.path(), 3);
    for workers in [1, 2] {
        let mut scan = start(dir.path(), &["t"], options(workers, FAR));
        scan.looker.stop.store(true, Ordering::Relaxed);
        assert_eq!(told(dir.path(), scan.by_ref()), ["t"]);
    }
}

#[test]
fn a_root_is_stored_with_its_attributes_and_contents() {
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("e"));
    make_file(dir.path().join("f"));
    assert_eq!(told(dir.path(), start(dir.path(), &["."], options(2, FAR))), ["", "e", "f"]);
    assert_eq!(told(dir.path(), start(dir.path(), &["f", "e"], options(2, FAR))), ["e", "f"]);
    let entry = start(dir.path(), &["f"], options(1, FAR)).next();
    let Some(Scanned::Entry(entry)) = entry else { panic!("{entry:?}") };
    assert_eq!((entry.stat.kind, entry.stat.size), (StatKind::File, 1));
    assert_eq!(*entry.path, dir.path().join("f"));
}

#[test]
fn a_symlink_named_as_a_source_is_stored_as_a_link_unless_a_slash_follows() {
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("d"));
    make_file(dir.path().join("d/f"));
    symlink("d", dir.path().join("link")).unwrap();
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    for workers in [1, 2] {
        let found: Vec<Scanned> = start(dir.path(), &["link", "dangling"], options(workers, FAR)).collect();
        let targets: Vec<&[u8]> = found
            .iter()
            .map(|scanned| match scanned {
                Scanned::Entry(entry) if entry.stat.kind == StatKind::Symlink => &entry.target[..],
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(targets, [&b"nowhere"[..], b"d"]);
        assert_eq!(told(dir.path(), start(dir.path(), &["link/"], options(workers, FAR))), ["link", "link/f"]);
    }
}

#[test]
fn links_below_a_root_are_not_followed() {
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("d"));
    symlink(".", dir.path().join("d/loop")).unwrap();
    assert_eq!(told(dir.path(), start(dir.path(), &["d"], options(2, FAR))), ["d", "d/loop"]);
}

#[test]
fn special_files_are_entries_and_sockets_are_noted() {
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("s"));
    mknodat(CWD, dir.path().join("s/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    // Only root may make a device node.
    let null = rustix::fs::makedev(1, 3);
    let is_root = mknodat(CWD, dir.path().join("s/null"), FileType::CharacterDevice, Mode::RUSR, null).is_ok();
    let _listener = UnixListener::bind(dir.path().join("s/socket")).unwrap();
    for workers in [1, 2] {
        let mut expected = vec!["s", "s/fifo", "s/null", "# s/socket"];
        expected.retain(|name| is_root || *name != "s/null");
        assert_eq!(told(dir.path(), start(dir.path(), &["s"], options(workers, FAR))), expected);
        assert_eq!(told(dir.path(), start(dir.path(), &["s/fifo"], options(workers, FAR))), ["s/fifo"]);
        assert_eq!(told(dir.path(), start(dir.path(), &["s/socket"], options(workers, FAR))), ["# s/socket"]);
    }
}

#[test]
fn many_sockets_are_one_note_at_the_end() {
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("s"));
    let _listeners: Vec<UnixListener> =
        (0..3).map(|number| UnixListener::bind(dir.path().join(format!("s/{number}"))).unwrap()).collect();
    make_file(dir.path().join("s/z"));
    for workers in [1, 2] {
        let found: Vec<Scanned> = start(dir.path(), &["s"], options(workers, FAR)).collect();
        let Some(Scanned::Note { message, .. }) = found.last() else { panic!("{found:?}") };
        assert_eq!(message, "3 sockets are left out, the first of them");
        assert_eq!(told(dir.path(), found.into_iter()), ["s", "s/z", "# s/0"]);
    }
}

#[test]
fn the_vault_itself_is_left_out_wherever_it_is_met() {
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("s"));
    make_file(dir.path().join("s/vault"));
    make_file(dir.path().join("s/w"));
    std::fs::hard_link(dir.path().join("s/vault"), dir.path().join("s/x")).unwrap();
    let vault = fs::lstat(&dir.path().join("s/vault")).unwrap();
    let options = ScanOptions { skip: vec![(vault.dev, vault.ino)], ..options(2, FAR) };
    assert_eq!(told(dir.path(), start(dir.path(), &["s"], options.clone())), ["s", "# s/vault", "s/w", "# s/x"]);
    assert_eq!(told(dir.path(), start(dir.path(), &["s/vault"], options)), ["# s/vault"]);
}

#[test]
fn extended_attributes_come_sorted() {
    let dir = TempDir::new().unwrap();
    make_file(dir.path().join("f"));
    let path = dir.path().join("f");
    if set_xattr_path(&path, b"user.b", b"2").is_err() {
        // This file system has none.
        return;
    }
    set_xattr_path(&path, b"user.a", b"1").unwrap();
    let entry = start(dir.path(), &["f"], options(1, FAR)).next();
    let Some(Scanned::Entry(entry)) = entry else { panic!("{entry:?}") };
    let ours: Vec<_> = entry.xattrs.iter().filter(|xattr| xattr.name.starts_with(b"user.")).cloned().collect();
    let xattr = |name: &[u8], value: &[u8]| Xattr { name: name.to_vec(), value: value.to_vec() };
    assert_eq!(ours, [xattr(b"user.a", b"1"), xattr(b"user.b", b"2")]);
}

#[test]
fn excluded_directories_are_not_entered() {
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("s/target/keep"));
    make_dir(dir.path().join("s/src"));
    make_file(dir.path().join("s/src/a.o"));
    make_file(dir.path().join("s/src/keep.o"));
    make_file(dir.path().join("s/src/target"));
    // A look into the directory would tell of this.
    let _listener = UnixListener::bind(dir.path().join("s/target/socket")).unwrap();
    for (workers, look_ahead) in [(1, FAR), (2, FAR), (2, 0)] {
        let exclude = ["target/", "!keep", "*.o", "!keep.o"].map(str::to_owned).to_vec();
        let mut scan = start(dir.path(), &["s"], ScanOptions { exclude, ..options(workers, look_ahead) });
        assert_eq!(told(dir.path(), scan.by_ref()), ["s", "s/src", "s/src/keep.o", "s/src/target"]);
        assert_eq!(scan.ahead.queued.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_source_is_excluded_only_by_its_own_name_and_that_is_said() {
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("a/b"));
    make_file(dir.path().join("a/b/c"));
    let scan = |pattern: &str| {
        let options = ScanOptions { exclude: vec![pattern.to_owned()], ..options(1, FAR) };
        told(dir.path(), start(dir.path(), &["a/b"], options))
    };
    assert_eq!(scan("a"), ["a/b", "a/b/c"]);
    assert_eq!(scan("b/"), ["# a/b"]);
    assert_eq!(scan("c"), ["a/b"]);
}

#[test]
fn a_bad_pattern_is_wrong_usage() {
    let options = ScanOptions { exclude: vec!["[".to_owned()], ..options(1, FAR) };
    assert_eq!(scan(Vec::new(), options).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn what_is_not_there_fails_and_the_rest_is_told() {
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("b"));
    make_file(dir.path().join("c"));
    let found: Vec<Scanned> = start(dir.path(), &["a", "b", "b/gone", "c/"], options(2, FAR)).collect();
    let Scanned::Failed { error: Error::Io { op: FileOp::Stat, source, .. }, .. } = &found[0] else {
        panic!("{found:?}")
    };
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
    assert_eq!(told(dir.path(), found.into_iter()), ["! a", "b", "! b/gone", "! c"]);
}

#[test]
fn what_appears_below_another_source_after_the_naming_is_not_told_twice() {
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("b"));
    let roots = name_sources(&["b".into(), "b/late".into()], Some(dir.path())).unwrap();
    make_file(dir.path().join("b/late"));
    let scan = scan(roots, options(1, FAR)).unwrap();
    assert_eq!(told(dir.path(), scan), ["b", "b/late", "! b/late"]);
}

#[test]
fn a_directory_that_cannot_be_listed_is_an_entry_followed_by_its_failure() {
    let dir = TempDir::new().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["s/a", "s/b", "s/c"] {
        make_dir(dir.path().join(name));
        make_file(dir.path().join(name).join("f"));
    }
    std::fs::set_permissions(dir.path().join("s/b"), std::fs::Permissions::from_mode(0o000)).unwrap();
    let path = dir.path().to_owned();
    let found = within_a_minute(move || {
        // Root may list anything, so this thread, and those it starts, become somebody else.
        let nobody = rustix::process::Uid::from_raw(65534);
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        [(1, FAR), (2, FAR), (2, 0)]
            .map(|(workers, look_ahead)| start(&path, &["s"], options(workers, look_ahead)).collect::<Vec<_>>())
    });
    std::fs::set_permissions(dir.path().join("s/b"), std::fs::Permissions::from_mode(0o700)).unwrap();
    for found in found {
        let Scanned::Failed { error: Error::Io { op: FileOp::ListDirectory, source, .. }, .. } = &found[4] else {
            panic!("{found:?}")
        };
        assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(told(dir.path(), found.into_iter()), ["s", "s/a", "s/a/f", "s/b", "! s/b", "s/c", "s/c/f"]);
    }
}

#[test]
fn a_directory_that_became_a_link_or_went_away_is_not_walked() {
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("s/d"));
    make_file(dir.path().join("s/d/f"));
    symlink("d", dir.path().join("s/link")).unwrap();
    for workers in [1, 2] {
        for way in [Way::Any, Way::ByDescriptor] {
            for name in ["link", "gone", "d/f"] {
                let mut scan = scan(Vec::new(), options(workers, FAR)).unwrap();
                let root = Arc::new(fs::open_place(&dir.path().join("s")).unwrap());
                let stat = fs::fstat(&root).unwrap();
                let mut place = scan.places.add(&dir.path().join("s"), root, &stat);
                for component in name.split('/') {
                    place = place.join(component.as_bytes());
                }
                let later = Arc::new(Dir::new(EntryPath::parse(b"d").unwrap(), place, &stat));
                scan.follow(Found { later: Some((later, way)), ..Found::default() });
                let found: Vec<Scanned> = scan.collect();
                let [Scanned::Failed { path: failed, subtree: true, error: Error::Io { source, .. }, .. }] = &found[..]
                else {
                    panic!("{found:?}")
                };
                assert_eq!((failed, source.kind()), (&dir.path().join("s").join(name), io::ErrorKind::NotFound));
            }
        }
    }
}

/// Goes down from `top` by directories named `component`, which it makes; answers the last.
fn make_long(top: &Path, component: &str, depth: usize) -> OwnedFd {
    let mut here = openat(CWD, top, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&here, component, Mode::RWXU).unwrap();
        here = openat(&here, component, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
    here
}

#[test]
fn paths_longer_than_the_system_takes_are_told_with_all_that_belongs_to_them() {
    const DEPTH: usize = 40;
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("s/z"));
    make_file(dir.path().join("s/z/f"));
    let component = "x".repeat(250);
    let bottom = make_long(&dir.path().join("s"), &component, DEPTH);
    // By way of a descriptor a path can be long.
    let below = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&bottom)));
    std::fs::write(below.join("file"), "x").unwrap();
    symlink("target", below.join("link")).unwrap();
    let has_xattrs = set_xattr_path(&below.join("file"), b"user.a", b"1").is_ok();
    for (workers, look_ahead) in [(1, FAR), (2, FAR), (2, 3)] {
        let found: Vec<Scanned> = start(dir.path(), &["s"], options(workers, look_ahead)).collect();
        assert_eq!(found.len(), 1 + DEPTH + 2 + 2);
        let entries: Vec<&ScannedEntry> = found
            .iter()
            .map(|scanned| match scanned {
                Scanned::Entry(entry) => &**entry,
                other => panic!("{other:?}"),
            })
            .collect();
        let [.., file, link, z, f] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!((file.name.as_bytes().len(), file.stat.size), (1 + DEPTH * 251 + 5, 1));
        assert_eq!(file.xattrs.len(), usize::from(has_xattrs));
        assert_eq!(file.path.open_read().unwrap().metadata().unwrap().len(), 1);
        assert_eq!((&link.target[..], link.stat.kind), (&b"target"[..], StatKind::Symlink));
        assert_eq!((z.name.as_bytes(), f.name.as_bytes()), (&b"s/z"[..], &b"s/z/f"[..]));
    }
    // `TempDir` goes by path.
    std::fs::remove_file(below.join("file")).unwrap();
    std::fs::remove_file(below.join("link")).unwrap();
    drop(bottom);
    remove_long(&dir.path().join("s"), &component, DEPTH);
}

/// Removes `depth` directories named `component`, each in the one before, going by descriptors.
fn remove_long(top: &Path, component: &str, depth: usize) {
    let mut chain = vec![openat(CWD, top, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()];
    for _ in 1..depth {
        let last = chain.last().unwrap();
        chain.push(openat(last, component, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap());
    }
    for parent in chain.iter().rev() {
        rustix::fs::unlinkat(parent, component, AtFlags::REMOVEDIR).unwrap();
    }
}

#[test]
fn a_tree_deeper_than_a_vault_takes_is_told_as_far_as_it_goes() {
    const DEPTH: usize = 4100;
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("s"));
    drop(make_long(&dir.path().join("s"), "d", DEPTH));
    for workers in [1, 2] {
        let (path, sources) = (dir.path().to_owned(), ["s"]);
        let found = within_a_minute(move || start(&path, &sources, options(workers, FAR)).collect::<Vec<_>>());
        // The source itself is the first of 4,096 components.
        assert_eq!(found.len(), 4096 + 1);
        let Some(Scanned::Failed { name: None, error: Error::Io { source, .. }, .. }) = found.last() else { panic!() };
        assert_eq!(source.kind(), io::ErrorKind::InvalidFilename);
    }
    remove_deep(&dir.path().join("s"), "d");
}

/// Removes a chain of directories that is deeper than there are descriptors: its end goes to the top, piece by piece.
fn remove_deep(top: &Path, component: &str) {
    let top = openat(CWD, top, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    loop {
        let Ok(first) = openat(&top, component, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else { break };
        match rustix::fs::renameat(&first, component, &top, "next") {
            Ok(()) => {
                rustix::fs::unlinkat(&top, component, AtFlags::REMOVEDIR).unwrap();
                rustix::fs::renameat(&top, "next", &top, component).unwrap();
            }
            Err(_) => rustix::fs::unlinkat(&top, component, AtFlags::REMOVEDIR).unwrap(),
        }
    }
}

#[test]
fn a_listing_from_elsewhere_is_not_believed() {
    let dir = TempDir::new().unwrap();
    for name in ["s/d/mine", "s/d/sub/mine", "outside/theirs", "outside/mine"] {
        make_dir(dir.path().join(name).parent().unwrap());
        make_file(dir.path().join(name));
    }
    // The path leads elsewhere from the start, and the descriptor does not: as if it were swapped back after a listing.
    for elsewhere in ["outside", "gone"] {
        let mut scan = scan(Vec::new(), options(2, FAR)).unwrap();
        let root = Arc::new(fs::open_place(&dir.path().join("s/d")).unwrap());
        let stat = fs::fstat(&root).unwrap();
        let place = scan.places.add(&dir.path().join(elsewhere), root, &stat);
        let later = Arc::new(Dir::new(EntryPath::parse(b"d").unwrap(), place, &stat));
        scan.follow(Found { later: Some((later, Way::Any)), ..Found::default() });
        assert!(matches!(scan.walks[..], [Walk::Parallel(_)]));
        let found: Vec<Scanned> = scan.by_ref().collect();
        assert_eq!(told(dir.path(), found.into_iter()), ["d/mine", "d/sub", "d/sub/mine"], "{elsewhere}");
        assert_eq!(scan.ahead.queued.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn of_a_cache_only_its_tag_is_told() {
    let dir = TempDir::new().unwrap();
    let signature = "Signature: 8a477f597d28d172789f06886806bc55";
    for (name, tag) in [
        ("s/cache", format!("{signature}\n# made by somebody")),
        ("s/exact", signature.to_owned()),
        ("s/other", signature.replace('8', "9")),
        ("s/short", signature[..42].to_owned()),
    ] {
        make_dir(dir.path().join(name).join("sub"));
        make_file(dir.path().join(name).join("sub/f"));
        std::fs::write(dir.path().join(name).join("CACHEDIR.TAG"), tag).unwrap();
    }
    make_dir(dir.path().join("s/linked"));
    make_file(dir.path().join("s/linked/f"));
    symlink("../cache/CACHEDIR.TAG", dir.path().join("s/linked/CACHEDIR.TAG")).unwrap();
    let not_caches = ["linked", "other", "short"];
    for (workers, look_ahead) in [(1, FAR), (2, FAR), (2, 0)] {
        let options = ScanOptions { exclude_caches: true, ..options(workers, look_ahead) };
        let told_now = told(dir.path(), start(dir.path(), &["s"], options.clone()));
        let of = |cache: &str| {
            let below = format!("s/{cache}/");
            told_now.iter().filter_map(|name| name.strip_prefix(&below)).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of("cache"), ["CACHEDIR.TAG"]);
        assert_eq!(of("exact"), ["CACHEDIR.TAG"]);
        for name in not_caches {
            assert!(of(name).len() > 1, "{name}: {told_now:?}");
        }
        assert_eq!(
            told(dir.path(), start(dir.path(), &["s/cache"], options.clone())),
            ["s/cache", "s/cache/CACHEDIR.TAG"]
        );
        let exclude = vec!["CACHEDIR.TAG".to_owned()];
        let without_tag = ScanOptions { exclude, ..options };
        assert_eq!(told(dir.path(), start(dir.path(), &["s/cache"], without_tag)), ["s/cache"]);
    }
    assert!(told(dir.path(), start(dir.path(), &["s/cache"], options(1, FAR))).len() > 2, "only if it is asked for");
}

#[test]
fn on_one_file_system_what_is_mounted_is_a_directory_and_nothing_else() {
    // proc has what others are mounted on, where there is no right to mount.
    let Some(below) = ["/proc", "/sys", "/dev"].into_iter().find(|path| {
        let (Ok(root), Ok(other)) = (fs::lstat("/".as_ref()), fs::lstat(path.as_ref())) else { return false };
        other.dev != root.dev
    }) else {
        return;
    };
    let mut one = Scan::of_root(ScanOptions { one_file_system: true, ..options(1, FAR) });
    let entry = one.child_of_root(&below[1..]);
    assert!(matches!(entry.first, Some(Scanned::Entry(_))) && entry.later.is_none(), "{entry:?}");
    let mut all = Scan::of_root(options(1, FAR));
    assert!(all.child_of_root(&below[1..]).later.is_some());
}

impl Scan {
    /// A scan of `/` whose first step has been made.
    fn of_root(options: ScanOptions) -> Self {
        let mut scan = start(Path::new("/"), &["/"], options);
        assert!(scan.next().is_some());
        scan
    }

    /// What it finds of a name in `/`.
    fn child_of_root(&mut self, leaf: &str) -> Found {
        let dir = fs::open_place("/".as_ref()).unwrap();
        let stat = fs::fstat(&dir).unwrap();
        let place = self.places.add("/".as_ref(), Arc::new(dir), &stat);
        let at = place.open(OFlags::PATH).unwrap();
        let dir = Dir::new(EntryPath::default(), place, &stat);
        match self.looker.child(&dir, std::os::fd::AsFd::as_fd(&at), leaf.as_bytes(), true) {
            look::Look::Found(found) => found,
            _ => Found::default(),
        }
    }
}

#[test]
fn a_name_too_long_for_a_vault_fails() {
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("d/e"));
    make_file(dir.path().join("d/f"));
    // As near to the longest path as components allow, so that no child has a name.
    let name = vec![vec![b'x'; 255]; 256].join(&b'/');
    let name = EntryPath::parse(&name).unwrap();
    let root = SourceRoot { given: "d".into(), path: dir.path().join("d"), name, within: Vec::new() };
    let found: Vec<Scanned> = scan(vec![root], options(2, FAR)).unwrap().collect();
    assert_eq!(told(dir.path(), found.into_iter())[1..], ["! d/e", "! d/f"]);
}

#[test]
fn a_directory_of_fifty_thousand_files_is_told_in_full() {
    const FILES: usize = 50_000;
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("s"));
    let name = |number: usize| format!("s/{number:05}");
    // Names of one file: quicker to make than so many files.
    make_file(dir.path().join(name(0)));
    for number in 1..FILES {
        std::fs::hard_link(dir.path().join(name(0)), dir.path().join(name(number))).unwrap();
    }
    let mut expected = vec!["s".to_owned()];
    expected.extend((0..FILES).map(name));
    for (workers, look_ahead) in [(1, FAR), (2, FAR), (2, 10)] {
        assert!(told(dir.path(), start(dir.path(), &["s"], options(workers, look_ahead))) == expected);
    }
}

#[test]
fn a_panic_in_a_callback_goes_on_in_the_thread_that_takes_entries() {
    let dir = TempDir::new().unwrap();
    make_dir(dir.path().join("s"));
    let mut scan = start(dir.path(), &["s"], options(2, FAR));
    *scan.ahead.panic.lock().unwrap() = Some(Box::new("a defect"));
    let panic = catch_unwind(AssertUnwindSafe(|| scan.by_ref().count())).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"a defect"));
}
