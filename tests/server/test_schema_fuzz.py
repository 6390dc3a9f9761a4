"""Schemathesis over the server's own OpenAPI document: `nox -s fuzz` installs and runs it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_detect.server import shared_state
from hybrid_detect.server.config import ServerConfig

from ..fuzzing import examples
from .loopback import Served, served_beside

TOKEN = "s3cret-token"
EXAMPLES = str(examples(50))
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_state, "FAILURES_AT_ONCE", 10**9)
        config = ServerConfig(
            auth_token=TOKEN,
            rate_per_s=0,
            max_watchers=0,  # events would not end
            max_body_bytes=100_000,
            history_path=tmp_path_factory.mktemp("history") / "history.db",
        )
        with served_beside(config) as running:
            yield running


@pytest.mark.timeout(0)  # as long as there are examples; each request has a limit of its own
@pytest.mark.parametrize("headers", [["-H", f"Authorization: Bearer {TOKEN}"], []])
def test_answers_are_as_described(server: Served, headers: list[str], tmp_path: Path) -> None:
    beside = Path(sys.executable).with_name("schemathesis")
    program = str(beside) if beside.exists() else shutil.which("schemathesis")
    if program is None:
        pytest.skip("schemathesis is not installed: pip install 'hybrid-detect[fuzz]'")
    url = f"http://127.0.0.1:{server.port}/v1/openapi.json"
    options = ["--checks", ",".join(CHECKS), "--max-examples", EXAMPLES, "--request-timeout", "5"]
    done = subprocess.run(
        [program, "run", url, *options, *headers], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
