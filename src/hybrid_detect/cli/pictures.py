"""The pictures that a command line names, and the files that drawings of them go to."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hybrid_detect.errors import ConfigurationError, StorageError

__all__ = ["DrawnFiles", "NamedPicture", "named_pictures"]

STANDARD_INPUT = "-"

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Files of a folder that are taken for pictures; a file named itself may have any."""

DRAWN_FORMATS = {
    ".jpg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"quality": 92}),
}
"""How a drawing is written, by its suffix: with full chroma, else thin coloured lines smear."""


@dataclass(frozen=True, slots=True)
class NamedPicture:
    """A picture and the name that the user knows it by."""

    name: str

    def read(self) -> bytes | Path:
        """What `process_image` takes: the path, or the bytes of standard input."""
        if self.name == STANDARD_INPUT:
            return sys.stdin.buffer.read()
        return Path(self.name)

    @property
    def stem(self) -> str:
        """The start of a drawing's name."""
        return "stdin" if self.name == STANDARD_INPUT else Path(self.name).stem

    @property
    def suffix(self) -> str:
        """The suffix of a drawing: the picture's own where drawings are written in that format."""
        suffix = Path(self.name).suffix.lower()
        return suffix if suffix in DRAWN_FORMATS else ".png"


def named_pictures(names: Iterable[str]) -> Iterator[NamedPicture]:
    """The pictures that `names` stand for, in their order.

    Args:
        names: Files, folders (all pictures below them, sorted), patterns such as ``*.jpg`` or
            ``**/*.jpg`` that the shell has left alone, and ``-`` for standard input.

    Raises:
        ConfigurationError: If a folder or pattern holds no picture.
    """
    for name in names:
        path = Path(name)
        if name == STANDARD_INPUT:
            yield NamedPicture(name)
        elif path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            if not found:
                msg = f"{name}: there is no picture in this folder"
                raise ConfigurationError(msg)
            yield from (NamedPicture(str(file)) for file in found)
        elif glob.has_magic(name) and not path.exists():
            matches = sorted(m for m in glob.glob(name, recursive=True) if Path(m).is_file())
            if not matches:
                msg = f"{name}: no file matches this pattern"
                raise ConfigurationError(msg)
            yield from (NamedPicture(match) for match in matches)
        else:
            yield NamedPicture(name)


class DrawnFiles:
    """Where drawings are written: one file, or a folder with a file for each picture.

    No file that is there already is ever written over.

    Args:
        out: A file with the suffix of a picture, or a folder, which is made if need be.

    Raises:
        ConfigurationError: If it cannot be written to.
    """

    def __init__(self, out: Path) -> None:
        self._file = out if out.suffix.lower() in DRAWN_FORMATS and not out.is_dir() else None
        self._folder = out.parent if self._file else out
        if self._file is not None and self._file.exists():
            msg = f"--out: {out} is there already; remove it, or choose another name"
            raise ConfigurationError(msg)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"--out: cannot make the folder: {error.strerror}"
            raise ConfigurationError(msg) from None

    @property
    def is_one_file(self) -> bool:
        """Whether there is room for the drawing of one picture only."""
        return self._file is not None

    def write(self, drawing: Image.Image, picture: NamedPicture) -> Path:
        """Write the `drawing` of `picture` and return its path.

        Raises:
            StorageError: If it cannot be written.
        """
        for path in self._candidates(picture):
            format_, options = DRAWN_FORMATS[path.suffix.lower()]
            try:
                with path.open("xb") as file:  # `x` fails where a file is: none is written over
                    drawing.save(file, format_, **options)
            except FileExistsError:
                continue
            except OSError as error:
                msg = f"{path}: cannot be written: {error.strerror}"
                raise StorageError(msg) from None
            return path
        msg = f"{self._file}: is there already"
        raise StorageError(msg)

    def _candidates(self, picture: NamedPicture) -> Iterator[Path]:
        if self._file is not None:
            yield self._file
            return
        yield self._folder / f"{picture.stem}.faces{picture.suffix}"
        number = 2
        while True:
            yield self._folder / f"{picture.stem}-{number}.faces{picture.suffix}"
            number += 1
