"""Mount a disk whose power can be cut: a file system in an image file.

::

    powered() ──▶ mounted ──cut()──▶ dead: nothing that was not synced reaches the image any more
                     ▲                 │
                     └──── remount() ──┘ as after a reboot: the journal is replayed

The cut is the kernel's own (EXT4_IOC_SHUTDOWN without flushing the journal; XFS has the same call).
What is only in the page cache or in an uncommitted part of the journal is lost; what was fsynced
stays. It cannot show a disk with a volatile cache that ignores flushes, or a half-written sector.

Linux and root only. A small shell process waits for the end of a pipe and then unmounts, so it also
does so if this process is killed. The unmount frees the loop device. Processes with open files on
the disk must end before `remount`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

KINDS = {"ext4": ("-q", "-F", "-m", "0"), "xfs": ("-q", "-f")}  # the first that works is taken
SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), of ext4 and of xfs
WITHOUT_THE_JOURNAL = 2

BUSY_TIMEOUT = 20.0

# The read ends when this process ends, for any reason. A lazy unmount is for a server that still
# runs then.
_CLEAR_AWAY = """
read -r _
umount "$1/disk" 2>/dev/null || umount -l "$1/disk" 2>/dev/null
rm -rf --one-file-system "$1"
"""


class NoDisk(Exception):
    """Raised if the power of a disk cannot be cut on this machine; names what is missing."""


class Disk:
    """Represent a mounted image; see `powered`.

    Attributes:
        path: the mount point.
        kind: the type of the file system.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.path = folder / "disk"
        self.kind = kind
        self._image = folder / "image"

    def cut(self) -> None:
        """Cut the power: from now on every write and every sync fails."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", WITHOUT_THE_JOURNAL))
        finally:
            os.close(folder)

    def remount(self) -> None:
        """Restore the power, after processes that were killed have closed their files.

        Raises:
            NoDisk: a process still uses the disk, or it cannot be mounted.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT
        while failed := _run("umount", self.path):
            if time.monotonic() > deadline:
                raise NoDisk(f"the disk was still in use after {BUSY_TIMEOUT:g} s: {failed}")
            time.sleep(0.02)
        self.mount()

    def mount(self) -> None:
        """Mount the image.

        Raises:
            NoDisk: it cannot be mounted.
        """
        failed = _run("mount", "-t", self.kind, "-o", "loop", self._image, self.path)
        if failed:
            raise NoDisk(f"no loop mount of {self.kind}: {failed}")


@contextlib.contextmanager
def powered(megabytes: int) -> Iterator[Disk]:
    """Create a disk for the block.

    Args:
        megabytes: its capacity; the image takes only the space of what is written to it.

    Raises:
        NoDisk: it cannot be made here.
    """
    kinds = _kinds()
    folder = Path(tempfile.mkdtemp(prefix="pgmem-disk-"))
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", _CLEAR_AWAY, "sh", folder],
        cwd="/",
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C stops this process only
    )
    try:
        folder.chmod(0o711)  # a server of another user passes here
        (folder / "disk").mkdir()
        yield _made(folder, kinds, megabytes)
    finally:
        keeper.communicate()


def _kinds() -> list[str]:
    if sys.platform != "linux":
        raise NoDisk("needs Linux")
    if os.geteuid() != 0:
        raise NoDisk("needs root, to mount an image")
    if not Path("/dev/loop-control").exists():
        raise NoDisk("needs loop devices, and there is no /dev/loop-control")
    found = [kind for kind in KINDS if shutil.which(f"mkfs.{kind}", path=_path())]
    if not found:
        raise NoDisk("needs mkfs.ext4 (of e2fsprogs) or mkfs.xfs (of xfsprogs)")
    return found


def _made(folder: Path, kinds: list[str], megabytes: int) -> Disk:
    reasons = []
    for kind in kinds:
        with (folder / "image").open("wb") as image:
            image.truncate(megabytes << 20)
        disk = Disk(folder, kind)
        if failed := _run(f"mkfs.{kind}", *KINDS[kind], folder / "image"):
            reasons.append(f"no {kind} made: {failed}")
            continue
        try:
            disk.mount()
        except NoDisk as error:
            reasons.append(str(error))
        else:
            return disk
    raise NoDisk("; ".join(reasons))


def _path() -> str:
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def _run(*command: str | Path) -> str:
    """Run a command; return its error output, or "" if it worked."""
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": _path(), "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return ""
    return " ".join((done.stderr or done.stdout).split()) or f"status {done.returncode}"
