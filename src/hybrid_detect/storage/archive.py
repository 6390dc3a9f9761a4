"""A session as a ZIP archive, made piece by piece: it may be larger than memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from hybrid_detect.charges import CostRow, amount, in_full
from hybrid_detect.storage.records import StoredResult
from hybrid_detect.usage import UsageRow

__all__ = ["archive"]

SUFFIXES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp"}
"""By the first bytes; Source: ITU T.81, PNG 1.2 (5.2), WebP container specification."""

_HEAD = '{\n"session": %s,\n"results": ['
_TAIL = "\n]\n}\n"


def archive(
    session: str,
    results: Callable[[], Iterator[StoredResult]],
    *,
    costs: Sequence[CostRow] = (),
    usage: Sequence[UsageRow] = (),
) -> Iterator[bytes]:
    """The pieces of a ZIP archive: results, a folder of images, costs and usage.

    What is deleted meanwhile is left out, wherever the archive has got to.

    Args:
        session: The session's name, for the archive's reader.
        results: Reads the session's results; called twice.
        costs: What the session's frames have cost.
        usage: How they fared.
    """
    sink = _Sink()
    names: dict[int, str] = {}
    with ZipFile(sink, "w") as bundle:  # type: ignore[call-overload]
        for stored in results():
            if stored.image is not None:
                name = f"images/{stored.number:08}.{_suffix(stored.image)}"
                bundle.writestr(ZipInfo(name), stored.image)  # as it is: pictures do not shrink
                names[stored.number] = name
                yield sink.take()
        listing = ZipInfo("results.json")
        listing.compress_type = ZIP_DEFLATED
        with bundle.open(listing, "w", force_zip64=True) as file:
            file.write((_HEAD % json.dumps(session)).encode())
            between = "\n"
            for stored in results():
                line = {
                    "recorded_at": stored.recorded_at.isoformat(),
                    "image": names.get(stored.number),
                    "result": stored.result,
                }
                file.write((between + json.dumps(line)).encode())
                between = ",\n"
                yield sink.take()
            file.write(_TAIL.encode())
        if costs:
            bundle.writestr(ZipInfo("costs.json"), json.dumps([_plain(row) for row in costs]))
        if usage:
            bundle.writestr(ZipInfo("usage.json"), json.dumps([_counted(row) for row in usage]))
    yield sink.take()


def _plain(row: CostRow) -> dict[str, Any]:
    return {
        "hour": _hour(row.key.hour),
        **{name: getattr(row.key, name) for name in ("backend", "target", "provider", "region")},
        **{name: getattr(row, name) for name in ("frames", "requests", "images", "bytes_sent")},
        "price": in_full(amount(row.price_nanos)),
        "currency": row.key.currency,
    }


def _counted(row: UsageRow) -> dict[str, Any]:
    what = {name: getattr(row.key, name) for name in ("user_region", "measure", "backend", "label")}
    return {"hour": _hour(row.key.hour), **what, "count": row.number}


def _hour(hour: int) -> str:
    return datetime.fromtimestamp(hour * 3600, UTC).isoformat()


def _suffix(image: bytes) -> str:
    return next((name for start, name in SUFFIXES.items() if image.startswith(start)), "bin")


class _Sink:
    """What a `ZipFile` writes to that is taken away as it comes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken
