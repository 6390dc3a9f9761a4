"""Files that only their owner may read, replaced in one step and locked between processes.

Every file that this library writes goes through this module: consents, keys, known keys, API keys,
exports and fetched models. It keeps three promises:

- A reader sees the old content or the new one, never a part, even after a crash or a power cut.
- A writer that was killed leaves no lock, and the unfinished file that it leaves is removed by
  the next writer in the same folder or by `remove_leftovers`.
- No other user can read a private file, at any moment of its making.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hybrid_detect.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["lock", "locked", "make_private", "remove_leftovers", "replace_file", "unlock"]

logger = logging.getLogger("hybrid_detect")

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""The permissions of every user but the owner."""

LOCK_WAIT_S = 10.0
"""How long to wait for another process; a locked section takes milliseconds."""

LOCK_POLL_S = 0.02

PART_PREFIX, PART_SUFFIX = ".hybrid-detect-", ".part"
"""Name of an unfinished file: it can be told from other programs' files."""

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def make_private(path: Path) -> None:
    """Make the file at `path` unless it is there, and close it to other users in either case.

    A link is not followed: it may have been put there to have another file overwritten.

    Raises:
        StorageError: If it cannot be made or closed to others, or is not a plain file.
    """
    try:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            # Not opened, even to look at it: closing a file gives up all locks of this process.
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode):
                msg = f"cannot open {path}: expected a plain file"
                raise StorageError(msg) from None
            if os.name == "posix" and mode & OTHERS:
                path.chmod(stat.S_IMODE(mode) & ~OTHERS)
                logger.warning("%s could be read by others; now it cannot", path)
    except OSError as error:
        msg = f"cannot make or close to others {path}: {error.strerror}"
        raise StorageError(msg) from error


def replace_file(path: Path, content: Iterable[bytes], *, kept_mode: int = 0) -> None:
    """Write the file `path` in one step, readable by its owner alone (mode 0600).

    The content is on the disk before the file has its name. If it fails, what was there stays.

    Args:
        path: The file. Its folder has to be there.
        content: The pieces, in order.
        kept_mode: The widest mode that is kept from the file that is replaced, together with its
            owner and group; 0 keeps nothing. A new file that root makes gets its folder's owner.
            So ``sudo hybrid-detect ...`` locks no server out that runs under a user of its own.

    Raises:
        StorageError: If it cannot be written, or belongs to a user that this one cannot give it
            to. What `content` raises passes through.
    """
    folder = path.parent
    descriptor, part = -1, None
    try:
        remove_leftovers(folder)
        descriptor, part = _open_part(folder)
        if kept_mode:
            _keep_access(descriptor, path, kept_mode)
        with open(descriptor, "wb", closefd=False) as file:
            file.writelines(content)
            file.flush()
            os.fsync(descriptor)
        if fcntl is None:  # Windows renames no open file
            os.close(descriptor)
            descriptor = -1
        part.replace(path)
        _sync_folder(folder)
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror or error}"
        raise StorageError(msg) from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> int:
    """Remove from `folder` the unfinished files whose writers were killed.

    Returns:
        How many stay: those of living writers, and what this user may not remove.
    """
    staying = 0
    with suppress(OSError, ValueError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(PART_PREFIX) and entry.name.endswith(PART_SUFFIX):
                try:
                    _remove_dead(entry.path)
                except OSError:
                    staying += 1
    return staying


@contextmanager
def locked(path: Path, *, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Keep other threads and processes that lock `path` out while the block runs.

    The system ends the lock with the process that has it, so a killed one blocks no other. The
    lock is a file of its own beside `path`, which is removed with the block.

    Args:
        path: What is read and written in the block; it need not be there.
        wait_s: Seconds to wait for the others.

    Raises:
        StorageError: If the others take longer, or the lock cannot be made.
    """
    where = path.with_name(f".{path.name}.lock")
    ends_s = time.monotonic() + wait_s
    while (descriptor := _try_lock(where)) < 0:
        if time.monotonic() >= ends_s:
            msg = f"{path} is in use: another process has been changing it for {wait_s:g} s"
            raise StorageError(msg)
        time.sleep(LOCK_POLL_S)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            where.unlink()
        os.close(descriptor)


def lock(descriptor: int) -> None:
    """Lock an open file against other openings of it, where the system can.

    Raises:
        BlockingIOError: If another opening has the lock.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock(descriptor: int) -> None:
    """Give the lock of an open file up, for the copies that forked children have of it, too."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _try_lock(where: Path) -> int:
    """The lock at `where`, opened and locked; -1 if another has it."""
    flags = os.O_RDWR | os.O_CREAT | _NO_FOLLOW
    if fcntl is None:  # Windows: what exists is locked, and what a killed process left is removed
        with suppress(OSError):
            where.unlink(missing_ok=True)
        flags |= os.O_EXCL
    try:
        descriptor = os.open(where, flags, 0o600)
    except FileExistsError:
        return -1
    except OSError as error:
        msg = f"cannot lock {where}: {error.strerror}"
        raise StorageError(msg) from error
    try:
        lock(descriptor)
        # The one that had the lock may have removed the file while this one opened it.
        if os.path.samestat(os.fstat(descriptor), os.stat(where, follow_symlinks=False)):
            _give_to_folder_owner(descriptor, where.parent)
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(descriptor)
        msg = f"cannot lock {where}: {error.strerror}"
        raise StorageError(msg) from error
    os.close(descriptor)
    return -1


def _open_part(folder: Path) -> tuple[int, Path]:
    """A new unfinished file, locked: the lock says that its writer lives."""
    while True:
        part = folder / f"{PART_PREFIX}{secrets.token_hex(8)}{PART_SUFFIX}"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
        try:
            lock(descriptor)
            if part.exists():
                return descriptor, part
        except BlockingIOError:
            pass  # a `remove_leftovers` met it before it was locked
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _remove_dead(part: str) -> None:
    if fcntl is None:  # Windows refuses to remove the file of a living writer
        os.unlink(part)
        return
    descriptor = os.open(part, os.O_RDWR | _NO_FOLLOW)
    try:
        lock(descriptor)
        os.unlink(part)
    finally:
        os.close(descriptor)


def _keep_access(descriptor: int, path: Path, kept_mode: int) -> None:
    """Give the new file the owner and group of the one it replaces, and a mode it may have."""
    if os.name != "posix":
        return
    try:
        old = path.lstat()
    except FileNotFoundError:
        _give_to_folder_owner(descriptor, path.parent)
        return
    if not stat.S_ISREG(old.st_mode):
        return
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    mode = stat.S_IMODE(old.st_mode)
    os.fchmod(descriptor, 0o600 if mode & ~kept_mode else mode)


def _give_to_folder_owner(descriptor: int, folder: Path) -> None:
    """What root makes in a user's folder is the user's."""
    if os.name == "posix" and os.geteuid() == 0:
        owner = folder.stat()
        if owner.st_uid != 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _sync_folder(folder: Path) -> None:
    """Have the new name outlive a power cut, where the system can say so."""
    if os.name != "posix":
        return
    with suppress(OSError):  # some file systems cannot; the file itself is on the disk
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
