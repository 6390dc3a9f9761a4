"""The table of limits in the guide is whole: no limit of the configuration is missing, none lies.

That the named tests exist is checked in `test_threat_model`.
"""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from hybrid_detect.exchange.batch import MAX_BATCH
from hybrid_detect.exchange.wire import MAX_FACES
from hybrid_detect.server.config import ServerConfig

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "serve.md"

OPTIONS = {
    "rate_per_s": "--rate",
    "burst": "--burst",
    "stream_rate_per_s": "--stream-rate",
    "max_connections_per_peer": "--connections-per-peer",
    "history_retention_s": "--retention-hours",
}
"""Fields that the table names by their option."""

OF_THE_OPERATOR = {"port", "metrics_port", "detectors", "min_confidence"}
"""Numbers that limit no client."""

DEFAULTS = {
    "rate_per_s": "30 a second",
    "burst": "60 at once",
    "stream_rate_per_s": "as many as its caller's",
    "stream_in_flight": "2 looked at",
    "stream_idle_s": "5 min",
    "history_retention_s": "24 h",
    "history_max_bytes": "256 MiB",
    "max_body_bytes": "4 MiB",
    "max_pixels": "16 million",
}
"""How the table writes a default that is not the number itself."""


def rows() -> list[list[str]]:
    section = PAGE.read_text(encoding="utf-8").partition("## Limits\n")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1:]]


def test_each_limit_says_what_a_client_sees_and_has_a_test() -> None:
    assert len(rows()) > 30
    for limit, default, _, seen, proof in rows():
        assert default, limit
        assert seen, limit
        assert re.search(r"`test_\w+`", proof), limit


NUMBERS = [
    field.name
    for field in fields(ServerConfig)
    if type(getattr(ServerConfig(), field.name)) in (int, float)
]


@pytest.mark.parametrize("field", sorted({*NUMBERS} - OF_THE_OPERATOR))
def test_each_number_of_the_configuration_is_in_it_with_its_default(field: str) -> None:
    name = OPTIONS.get(field, field)
    (row,) = [row for row in rows() if f"`{name}`" in row[2] and "probes" not in row[0]]
    assert DEFAULTS.get(field, str(getattr(ServerConfig(), field))) in row[1]


def test_the_numbers_of_the_wire_format_are_right() -> None:
    text = {row[0]: row[1] for row in rows()}
    assert text["pictures in a batch"].startswith(f"{MAX_BATCH},")
    assert text["header of a message of the wire format; faces in a reply"].endswith(str(MAX_FACES))
