"""The one writer of files: in one step, private, locked, and nothing left of a killed one."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_detect.errors import StorageError
from hybrid_detect.storage.private_files import locked, remove_leftovers, replace_file
from hybrid_detect.storage.reserve import Reserve

from ..small_disk import SmallDisk
from ..waiting import wait_until

posix = pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can give files to other users"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.json"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_and_nothing_else_is_left(path: Path) -> None:
    for content in (b"one", b"two"):
        replace_file(path, [content[:1], content[1:]])
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_missing_is_not_made(path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        replace_file(path.parent / "mistyped" / "file", [b"x"])
    assert list(path.parent.iterdir()) == []


@posix
def test_a_new_file_is_its_owner_s_and_so_is_a_replaced_one(path: Path) -> None:
    replace_file(path, [b"x"])
    assert mode(path) == 0o600
    path.chmod(0o644)
    replace_file(path, [b"x"])
    assert mode(path) == 0o600


@posix
@pytest.mark.parametrize(
    ("before", "kept_mode", "after"),
    [
        (0o640, 0o640, 0o640),
        (0o440, 0o640, 0o440),
        (0o644, 0o640, 0o600),
        (0o644, 0o777, 0o644),
        (0o4755, 0o777, 0o600),
    ],
)
def test_a_mode_is_kept_if_it_is_not_too_wide(
    path: Path, before: int, kept_mode: int, after: int
) -> None:
    path.touch()
    path.chmod(before)
    replace_file(path, [b"x"], kept_mode=kept_mode)
    assert mode(path) == after


@root
def test_root_leaves_a_file_to_its_owner_and_a_new_one_to_the_folder_s(path: Path) -> None:
    os.chown(path.parent, 1234, 4321)
    replace_file(path, [b"x"], kept_mode=0o640)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)
    os.chown(path, 99, 98)
    replace_file(path, [b"y"], kept_mode=0o640)
    assert (path.stat().st_uid, path.stat().st_gid) == (99, 98)
    assert path.read_bytes() == b"y"


@root
def test_a_user_who_cannot_keep_the_owner_changes_nothing() -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from hybrid_detect.storage.private_files import replace_file\n"
        "from hybrid_detect.errors import StorageError\n"
        "os.setuid(65534)\n"
        "try:\n    replace_file(Path(sys.argv[1]), [b'x'], kept_mode=0o640)\n"
        "except StorageError:\n    print('refused')\n"
    )
    # Not pytest's folder, which no other user may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        path = Path(folder) / "file.json"
        path.write_bytes(b"root's")
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=30
        )
        assert done.stdout == "refused\n", done.stderr
        assert path.read_bytes() == b"root's"
        assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ValueError

    replace_file(path, [b"whole"])
    with pytest.raises(ValueError):
        replace_file(path, broken())
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_what_was_there(small_disk: SmallDisk) -> None:
    path = small_disk.path / "file"
    replace_file(path, [b"whole"])
    small_disk.fill()
    with pytest.raises(StorageError, match="No space left"):
        replace_file(path, [bytes(100_000)])
    assert path.read_bytes() == b"whole"
    assert {each.name for each in small_disk.path.iterdir()} == {"file", "ballast"}


WRITER = """
import sys
from pathlib import Path
from hybrid_detect.storage.private_files import locked, replace_file
path = Path(sys.argv[1])
def pieces():
    yield b"half"
    print("half", flush=True)
    sys.stdin.read()
    yield b" and half"
with locked(path):
    replace_file(path, pieces())
"""


def half_written(path: Path) -> subprocess.Popen[str]:
    """A process that has written half of the file at `path` and goes on when its input ends."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    return writer


def test_a_killed_writer_leaves_the_old_file_no_lock_and_no_part(path: Path) -> None:
    replace_file(path, [b"old"])
    with half_written(path) as writer:
        writer.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old"
    assert len(list(path.parent.iterdir())) == 3
    with locked(path, wait_s=0):
        replace_file(path, [b"new"])
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_only_the_parts_of_killed_writers_are_removed(path: Path) -> None:
    other = path.with_name(".another-program.part")
    other.touch()
    with half_written(path) as dead:
        dead.send_signal(signal.SIGKILL)
    with half_written(path) as living:
        assert len(list(path.parent.glob(".hybrid-detect-*"))) == 1
        remove_leftovers(path.parent)
        assert len(list(path.parent.glob(".hybrid-detect-*"))) == 1
        living.communicate("", timeout=30)
    assert path.read_bytes() == b"half and half"
    assert sorted(path.parent.iterdir()) == sorted([other, path])


def test_removing_leftovers_never_fails(tmp_path: Path) -> None:
    (tmp_path / ".hybrid-detect-00.part").mkdir()
    (tmp_path / ".hybrid-detect-01.part").symlink_to("elsewhere")
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "nowhere")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_lock_keeps_others_out_until_its_block_ends(path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def work() -> None:
        with locked(path):
            inside.set()
            go_on.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(30)
    with pytest.raises(StorageError, match="in use"), locked(path, wait_s=0):
        pass
    go_on.set()
    with locked(path):
        pass
    thread.join()
    assert list(path.parent.iterdir()) == []


def test_no_change_of_several_processes_is_lost(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from hybrid_detect.storage.private_files import locked, replace_file\n"
        "path = Path(sys.argv[1])\n"
        "for _ in range(50):\n"
        "    with locked(path):\n"
        "        replace_file(path, [b'%d' % (int(path.read_bytes()) + 1)])\n"
    )
    path.write_bytes(b"0")
    workers = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert path.read_bytes() == b"150"
    assert list(path.parent.iterdir()) == [path]


def test_a_lock_that_cannot_be_made_is_a_typed_error(path: Path) -> None:
    with pytest.raises(StorageError, match="cannot lock"), locked(path.parent / "no" / "file"):
        pass


def test_a_reserve_takes_room_and_gives_it_back(small_disk: SmallDisk) -> None:
    reserve = Reserve(small_disk.path / ".reserve", 64 * 1024)
    assert reserve.keep()
    assert reserve.keep(128 * 1024)
    small_disk.fill()
    assert reserve.release()
    assert not reserve.release()
    (small_disk.path / "needed").write_bytes(bytes(100_000))
    assert not reserve.keep()
    small_disk.empty()
    assert reserve.keep()
    assert mode(reserve.path) == 0o600


@pytest.mark.hostile
def test_a_file_is_whole_whenever_its_writer_is_killed(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from hybrid_detect.storage.private_files import replace_file\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    replace_file(Path(sys.argv[1]), [b'%08d' % number] * 10_000)\n"
    )
    for _ in range(30):
        with subprocess.Popen([sys.executable, "-c", code, str(path)]) as writer:
            before = path.read_bytes() if path.exists() else b""
            wait_until(lambda before=before: path.exists() and path.read_bytes() != before)
            writer.send_signal(signal.SIGKILL)
        content = path.read_bytes()
        assert content == content[:8] * 10_000
        remove_leftovers(path.parent)
        assert list(path.parent.iterdir()) == [path]
