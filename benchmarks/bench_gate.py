"""What a wrong credential betrays by the time it takes, and what the gate costs.

Each guess is compared in turns with the others, so that what the machine does meanwhile falls on
all of them alike. A control, ``==`` on the token itself, shows what would be seen if it were there.

    python benchmarks/bench_gate.py [ROUNDS]
"""

import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from starlette.requests import HTTPConnection

from hybrid_detect.server.api_keys import ApiKeyFile
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.credentials import Credentials, WrongCredentialError

ROUNDS = 2000
BATCH = 20
"""Calls timed together: one takes microseconds, which a clock's own noise would hide."""


def changed(text: str, place: int) -> str:
    return text[:place] + ("x" if text[place] != "x" else "y") + text[place + 1 :]


def asking(credentials: Credentials, given: str) -> Callable[[], None]:
    """A call that asks `credentials` about `given`."""
    headers = [(b"authorization", f"Bearer {given}".encode())]
    scope = {"type": "http", "client": ("203.0.113.7", 1), "headers": headers}

    def ask() -> None:
        with suppress(WrongCredentialError, StopIteration):
            credentials.caller(HTTPConnection(scope)).send(None)  # it waits for nothing here

    return ask


def medians_us(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median microseconds of each call, measured in turns, in another order each time."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        secrets.SystemRandom().shuffle(order)
        for name in order:
            call = calls[name]
            started_s = time.perf_counter()
            for _ in range(BATCH):
                call()
            taken[name].append((time.perf_counter() - started_s) / BATCH * 1e6)
    return {name: statistics.median(values) for name, values in taken.items()}


def show(title: str, calls: dict[str, Callable[[], object]], rounds: int) -> None:
    found = medians_us(calls, rounds)
    base = next(iter(found.values()))
    print(f"\n{title}\n{'':34}{'us':>8}  ratio to the first")
    for name, value in found.items():
        print(f"{name:34}{value:8.3f}  {value / base:.3f}")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    token = secrets.token_urlsafe(32)
    with_token = Credentials(ServerConfig(auth_token=token))
    last = len(token) - 1
    guesses = {
        "wrong at the first character": changed(token, 0),
        "wrong at the last character": changed(token, last),
        "one character short": token[:-1],
        "ten times as long": token * 10,
    }
    calls: dict[str, Callable[[], object]] = {
        name: asking(with_token, guess) for name, guess in guesses.items()
    }
    show("a wrong bearer token", calls, rounds)
    show(
        "control: == on 64 KiB of text (what an early exit looks like)",
        {
            "different at the first character": lambda a="x" + "a" * 65535, b="a" * 65536: a == b,
            "different at the last character": lambda a="a" * 65535 + "x", b="a" * 65536: a == b,
        },
        rounds,
    )
    with tempfile.TemporaryDirectory() as folder:
        keys = ApiKeyFile(Path(folder) / "keys.json")
        key = [keys.add(f"caller {number}") for number in range(100)][50]
        with_keys = Credentials(ServerConfig(api_keys=Path(folder) / "keys.json"))
        show(
            "a wrong API key, among 100",
            {
                "of a key that exists, wrong early": asking(with_keys, changed(key, 17)),
                "of a key that exists, wrong late": asking(with_keys, changed(key, len(key) - 1)),
                "of a key that does not exist": asking(with_keys, "hdk_" + "0" * 12 + key[16:]),
                "the right one": asking(with_keys, key),
            },
            rounds,
        )


if __name__ == "__main__":
    main()
