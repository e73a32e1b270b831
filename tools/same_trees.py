#!/usr/bin/env python3
"""Are two trees the same, in everything that a file system knows?

  tools/same_trees.py A B

Compares names, types, modes, owners, times of the last change, content, symlinks' targets, device numbers, extended
attributes with ACLs, which names are one file, and that holes take no space. Sockets (*.socket) are left out. Goes down by
descriptors: paths may be longer than the system takes in one call. Exit status 1 and a line for each difference.
"""

import hashlib
import os
import stat
import sys

# What a copy may take more of the disk: blocks of its own map, and ends of runs that are no whole blocks.
SLACK = 256 * 1024


def digest(name, directory):
    found = hashlib.sha256()
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory), "rb") as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            try:
                data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            # Blocks by their place, those of zeros left out: then holes and zeros are the same.
            at = data - data % 4096
            for block in (os.pread(file.fileno(), 1 << 20, at)[n : n + 4096] for n in range(0, 1 << 20, 4096)):
                if block.strip(b"\0"):
                    found.update(b"%d:" % at + block)
                at += 4096
    return found.hexdigest()


def attributes(name, directory):
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    try:
        path = f"/proc/self/fd/{handle}"
        if stat.S_ISLNK(os.fstat(handle).st_mode):
            # Through the descriptor the target would be meant; by the directory's, the symlink itself.
            path = os.path.join(f"/proc/self/fd/{directory}".encode(), name)
            return {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
        return {key: os.getxattr(path, key) for key in os.listxattr(path)}
    finally:
        os.close(handle)


def look(root):
    """Everything below a directory, by its path in bytes."""
    seen, inodes, sizes = {}, {}, {}

    def below(directory, path):
        for name in sorted(os.listdir(directory)):
            name = os.fsencode(name)
            here = path + b"/" + name
            if name.endswith(b".socket"):
                continue
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            kind = stat.S_IFMT(found.st_mode)
            entry = {
                "mode": oct(found.st_mode),
                "owner": (found.st_uid, found.st_gid),
                "mtime": found.st_mtime_ns,
                "xattrs": attributes(name, directory),
            }
            if kind == stat.S_IFREG:
                entry["size"] = found.st_size
                entry["content"] = digest(name, directory)
                sizes[here] = found.st_blocks * 512
            if kind == stat.S_IFLNK:
                entry["target"] = os.readlink(name, dir_fd=directory)
            if kind in (stat.S_IFCHR, stat.S_IFBLK):
                entry["device"] = found.st_rdev
            if kind != stat.S_IFDIR and found.st_nlink > 1:
                entry["same as"] = inodes.setdefault((found.st_dev, found.st_ino), here)
            seen[here] = entry
            if kind == stat.S_IFDIR:
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
                below(inner, here)
                os.close(inner)

    sys.setrecursionlimit(10_000)
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    below(top, b"")
    return seen, sizes


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    (first, sizes), (second, other_sizes) = look(sys.argv[1]), look(sys.argv[2])
    differences = 0
    for path in sorted(first.keys() | second.keys()):
        left, right = first.get(path, {}), second.get(path, {})
        what = [key for key in sorted(left.keys() | right.keys()) if left.get(key) != right.get(key)]
        shown = ascii(path if len(path) < 300 else path[:100] + b"..." + path[-100:])
        if not left or not right:
            print(f"{shown}: only in the {'second' if right else 'first'}")
        for key in what if left and right else []:
            print(f"{shown}: {key} is {ascii(left.get(key))[:300]} and {ascii(right.get(key))[:300]}")
        differences += bool(what)
        if other_sizes.get(path, 0) > sizes.get(path, 0) + SLACK:
            print(f"{shown}: takes {sizes.get(path, 0)} bytes of the disk and {other_sizes[path]}")
            differences += 1
    if differences:
        sys.exit(f"{differences} of {len(first)} differ")
    print(f"{len(first)} entries are the same")


main()
