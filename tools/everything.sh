#!/usr/bin/env bash
# Makes a tree with one of everything that a file system of Linux can hold: what a backup has to bring back.
#
#   tools/everything.sh DIR
#
# DIR must not exist yet. As root, with devices, other owners and what only root may set; as a user, what a user may.
# What the file system does not take is left out and said. Beside the ordinary parts:
#
#   DIR/long    a path of more than 6,000 bytes, which only chdir and descriptors reach: rsync and find do not
#   *.socket    sockets, which no backup keeps
set -euo pipefail

if (($# != 1)); then
    echo 'usage: tools/everything.sh DIR' >&2
    exit 2
fi
umask 022
mkdir -- "$1"
cd -- "$1"
is_root=$((EUID == 0))
note() { echo "note: everything.sh: $*"; }

# Regular files: lengths about the ends of a chunk (256 KiB, see tools/round_trip.sh) and of a page.
mkdir sizes
for size in 0 1 4095 4096 4097 262143 262144 262145 524288 1000003; do
    head -c "$size" /dev/urandom >"sizes/$size"
done
head -c 700000 /dev/zero >sizes/zeros
yes 'all work and no play' | head -c 900000 >sizes/text || true

# Holes: at the beginning, in the middle, at the end, and nothing else.
mkdir sparse
truncate --size=32M sparse/all
head -c 100000 /dev/urandom | dd of=sparse/first bs=64K seek=100 conv=notrunc status=none iflag=fullblock
head -c 100000 /dev/urandom >sparse/middle
head -c 5000 /dev/urandom | dd of=sparse/middle bs=1M seek=20 conv=notrunc status=none iflag=fullblock
head -c 300000 /dev/urandom >sparse/last
truncate --size=40M sparse/last
truncate --size=300000000 sparse/far
printf 'the end' | dd of=sparse/far bs=1 seek=299999993 conv=notrunc status=none

# Several names.
mkdir -p links/deep/er
head -c 300000 /dev/urandom >links/file
ln links/file links/deep/file
ln links/file links/deep/er/file
: >links/empty
ln links/empty links/deep/empty
ln -s file links/symlink
ln -P links/symlink links/deep/symlink
mkfifo links/fifo
ln -P links/fifo links/deep/fifo

mkdir symlinks
ln -s ../sizes/1 symlinks/relative
ln -s /etc/hostname symlinks/absolute
ln -s nowhere symlinks/dangling
ln -s loop-b symlinks/loop-a
ln -s loop-a symlinks/loop-b
ln -s self symlinks/self
ln -s ../sizes symlinks/directory
ln -s "$(printf 'x%.0s' {1..4095})" symlinks/long

mkdir special
mkfifo special/fifo
mkfifo -m 0000 special/closed-fifo
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("special/one.socket")'
if ((is_root)); then
    mknod special/null c 1 3
    mknod -m 0600 special/loop b 7 77
    mknod special/large c 511 1048575
fi

mkdir modes
for mode in 0400 0444 0600 0644 0666 0755 0777 1644 2755 4755 6755 7777; do
    printf '%s' "$mode" >"modes/$mode"
    chmod "$mode" "modes/$mode"
done
for mode in 0500 0700 0755 0777 1777 2775 3770; do
    mkdir "modes/directory-$mode"
    printf 'inside' >"modes/directory-$mode/file"
    chmod "$mode" "modes/directory-$mode"
done
if ((is_root)); then
    # A user could not read these, and so not back them up.
    printf 'nobody' >modes/0000
    chmod 0000 modes/0000
    mkdir -p modes/directory-0000/below
    printf 'inside' >modes/directory-0000/below/file
    chmod 0000 modes/directory-0000/below modes/directory-0000
fi

if ((is_root)); then
    mkdir owners
    for owner in 0:0 1:1 65534:65534 12345:54321 4000000000:3999999999; do
        printf '%s' "$owner" >"owners/$owner"
        printf 'setuid' >"owners/setuid-$owner"
        ln -s "$owner" "owners/symlink-$owner"
        mkdir "owners/directory-$owner"
        chown --no-dereference "$owner" "owners/$owner" "owners/setuid-$owner" "owners/symlink-$owner" \
            "owners/directory-$owner"
        chmod 6755 "owners/setuid-$owner"
    done
fi

mkdir xattrs
printf 'x' >xattrs/file
mkdir xattrs/directory
if setfattr -n user.colour -v green xattrs/file; then
    setfattr -n user.empty xattrs/file
    setfattr -n user.bytes -v 0x00010aff1b xattrs/file
    setfattr -n user.directory -v yes xattrs/directory
    setfattr -n "user.$(printf 'n%.0s' {1..250})" -v long xattrs/file
    printf 'x' >xattrs/large
    large=0x$(head -c 60000 /dev/zero | tr '\0' 'z' | od -An -v -tx1 | tr -d ' \n')
    # Through a file: such an argument is longer than one may be.
    printf '# file: xattrs/large\nuser.large=%s\n' "$large" >list
    setfattr --restore=list 2>/dev/null || note 'no extended attributes of 60 KB here'
    rm list
    # As much of it as ext4 takes.
    setfattr -n user.some -v "0x$(printf '5a%.0s' {1..2000})" xattrs/large
    chmod 0444 xattrs/file
    if ((is_root)); then
        setfattr -n trusted.flint -v 'only root' xattrs/file
        setfattr -h -n trusted.flint -v 'its own' symlinks/dangling
        setfattr -n trusted.flint -v 'of a FIFO' special/fifo
        printf 'x' >xattrs/capable
        chown 33:33 xattrs/capable
        # cap_net_raw+ep
        setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 xattrs/capable
    fi
else
    note 'no extended attributes here'
fi

mkdir -p acls/directory/plain
printf 'x' >acls/file
printf 'x' >acls/closed
printf 'x' >acls/directory/plain-file
if setfacl -m u:1:rw,g:2:r,u:12345:rwx acls/file; then
    setfacl -m u:1:r acls/closed
    chmod 0600 acls/closed
    # Its children were made before, and have none of it.
    setfacl -m u:1:rx,d:u:1:rwx,d:g:2:rx,d:o::- acls/directory
    mkdir acls/default-only
    setfacl -m d:u:12345:rwx acls/default-only
    # This one got its ACLs from there.
    mkdir acls/default-only/inherited
    printf 'x' >acls/default-only/inherited/file
else
    note 'no ACLs here'
fi

mkdir names
for name in $'new\nline' $'\e[31mred\e[0m' $'\xff\xfe not UTF-8' $'\xc3\x28' 'ünïcödé' $'\u202e''bidi' ' leading and trailing ' \
    -v --help ... 'back\slash' "quote\"'\`\$(x)" $'\x01\x7f\t' 'a,b' '*' '?' '[a]' '{a,b}' '~' '#' '%s' \
    "$(printf 'n%.0s' {1..255})"; do
    printf 'x' >"names/$name"
done
mkdir -- $'names/directory \xff\n*'
printf 'x' >$'names/directory \xff\n*/ \xff\n*'

mkdir many
(cd many && seq 1500 | while read -r number; do printf '%s' "$number" >"$number"; done)

# Deeper than PATH_MAX: 4,096 bytes are the most that one call takes.
python3 - "$is_root" <<'PYTHON'
import os, subprocess, sys

os.mkdir("long")
os.chdir("long")
name = "d" * 200
for level in range(31):
    os.mkdir(name)
    os.chdir(name)
with open("file", "w") as file:
    file.write("at the bottom")
os.link("file", "hard link")
os.symlink("file", "symlink")
os.mkfifo("fifo", 0o640)
with open("large", "wb") as file:
    file.write(os.urandom(600_000))
    file.seek(1 << 20, os.SEEK_CUR)
    file.write(b"end")
os.mkdir("closed", 0o500)
try:
    os.setxattr("file", "user.deep", b"yes")
    os.setxattr(".", "user.deep", b"a directory")
    subprocess.run(["setfacl", "-m", "u:1:rw", "file"], check=False)
    subprocess.run(["setfacl", "-m", "d:u:1:rw", "closed"], check=False)
except OSError:
    pass
if sys.argv[1] == "1":
    os.mknod("null", 0o20666, os.makedev(1, 3))
    os.chown("file", 12345, 54321)
    os.chown("symlink", 12345, 54321, follow_symlinks=False)
for entry, second in (("file", 7), ("symlink", -7), ("fifo", 8), ("closed", 9)):
    os.utime(entry, ns=(0, second * 10**9 + 123456789), follow_symlinks=False)
for level in range(31):
    os.utime(".", ns=(0, (1_000_000_000 + level) * 10**9 + level))
    os.chdir("..")
PYTHON

mkdir times
for time in -2000000000.000000001 -1.999999999 -0.5 0 1.000000001 1600000000.123456789 4102444800.987654321; do
    printf 'x' >"times/$time"
    ln -s -- "$time" "times/symlink$time"
    mkdir "times/directory$time"
    touch --no-dereference --date="@$time" "times/$time" "times/symlink$time" "times/directory$time"
done
touch --no-dereference --date='@1500000000.5' special/fifo
# Directories last: whatever is made in them changes their times. Not below `long`, which has them.
find . -path ./long -prune -o -type d ! -path './times/*' -print0 |
    while IFS= read -r -d '' directory; do
        touch --date="@$((1200000000 + RANDOM)).$((RANDOM + 100000))" -- "$directory"
    done
