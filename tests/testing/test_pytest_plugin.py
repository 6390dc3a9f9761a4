"""The plugin as pytest runs it: each test writes a test file and runs pytest on it."""

import os
import subprocess
import sys

import pytest

HEAD = """
import mmap, unittest
import numpy as np
import pytest

held = []

def fill(size):
    held.append(np.full(size, 7, np.uint8))
"""


@pytest.fixture
def run(tmp_path):
    """Runs pytest on the text of a test file; returns exit status and output."""

    def run(code, *options):
        (tmp_path / "test_it.py").write_text(HEAD + code)
        (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -W error\n")
        # Other plugins take a second to load: most tests do without xdist and all the others.
        alone = () if options else ("-p", "hybrid_detect.testing.pytest_plugin")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *alone, *options]
        env = {**os.environ, **({} if options else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})}
        # On build machines pytest repeats a failure's whole text in its summary.
        for name in ("CI", "BUILD_NUMBER"):
            env.pop(name, None)
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=50
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_entry_point_makes_the_marker_call_a_test_as_often_as_it_says(run):
    status, text = run(
        """
@pytest.mark.memory_budget("5 MB", frames=20, warm_up=3)
def test_it(tmp_path):
    held.append(tmp_path)

def test_count():
    assert len(held) == 23 and len(set(held)) == 1
""",
        "-p",
        "no:hypothesispytest",
    )
    assert status == 0, text
    assert "2 passed" in text


def test_a_leak_fails_with_the_whole_story(run):
    status, text = run("""
@pytest.mark.memory_budget("10 MB", frames=1000, warm_up=5)
def test_it():
    fill(1_000_000)

def test_it_was_stopped_early():
    assert len(held) < 70
""")
    assert status == 1, text
    assert "1 failed, 1 passed" in text
    for words in (
        "memory grew past its budget of 10.00 MB (1 MB = 1,000,000 bytes)",
        "baseline",
        "peak",
        "growth",
        "per 1000 calls",
        "rose      evenly, +",
        "far over the budget",
        "calls\n",
    ):
        assert words in text
    assert text.count("rose      evenly") == 1
    assert "memory.py" not in text, "the library's own frames are of no use to the reader"


def test_the_fixture_in_its_three_forms(run):
    status, text = run("""
import asyncio

def test_run(memory_budget):
    report = memory_budget("5 MB", frames=20, warm_up=3).run(lambda: None)
    assert report.calls == 20

def test_loop(memory_budget):
    with memory_budget(limit="5 MB", warm_up=3) as budget:
        for _ in range(10):
            budget.sample()
    assert budget.report.calls == 7

def test_async(memory_budget):
    async def call():
        await asyncio.sleep(0)

    report = asyncio.run(memory_budget("5 MB", frames=20, warm_up=3).run_async(call))
    assert report.calls == 20

@pytest.mark.memory_budget("5 MB", frames=30, warm_up=3)
def test_defaults_of_the_marker(memory_budget):
    assert memory_budget(warm_up=4).run(lambda: None).calls == 30
    assert memory_budget().warm_up == 3
""")
    assert status == 0, text
    assert "4 passed" in text


def test_a_failure_in_the_fixture_points_at_the_test_s_own_line(run):
    status, text = run("""
def test_it(memory_budget):
    memory_budget("2 MB", warm_up=3).run(lambda: fill(1_000_000))
""")
    assert status == 1, text
    assert '>   memory_budget("2 MB"' in text.replace(" " * 4, " " * 2).replace(">     ", ">   ")
    assert "grew past its budget of 2.00 MB" in text
    assert "def run" not in text


def test_children_and_control_are_passed_on(run):
    status, text = run("""
def control():
    block = mmap.mmap(-1, 12_000_000)
    block.write(b"x" * 12_000_000)
    block.close()

@pytest.mark.memory_budget("5 MB", frames=20, warm_up=3, children=True, control=control)
def test_it():
    control()
""")
    assert status == 0, text


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ('"ten MB"', "expected a size like '10 MB'"),
        ('"10"', "expected a size like '10 MB'"),
        ("", "needs a limit"),
        ('"1 MB", 1000', "argument 2"),
        ('"1 MB", frame=1000', "frame"),
        ('"1 MB", frames=0', "frames: expected a whole number of at least 1"),
    ],
)
def test_a_marker_that_cannot_be_obeyed_is_an_error_of_its_test(run, marker, words):
    status, text = run(f"""
@pytest.fixture
def costly():
    pytest.fail("there was no need to set it up")

@pytest.mark.memory_budget({marker})
def test_it(costly):
    pass

def test_other():
    pass
""")
    assert status == pytest.ExitCode.TESTS_FAILED, text
    assert "1 passed, 1 error" in text
    assert words in text
    assert "setup of test_it" in text
    assert "no need" not in text
    assert "Traceback" not in text


def test_the_fixture_refuses_wrong_sizes_too(run):
    status, text = run("""
def test_text(memory_budget):
    with pytest.raises(pytest.UsageError, match="expected a size like"):
        memory_budget("ten MB")

def test_nothing(memory_budget):
    with pytest.raises(pytest.UsageError, match="needs a limit"):
        memory_budget()
""")
    assert status == 0, text


@pytest.mark.parametrize(
    "code",
    [
        "@pytest.mark.memory_budget('1 MB')\nasync def test_it(): pass",
        "class TestIt(unittest.TestCase):\n"
        "    @pytest.mark.memory_budget('1 MB')\n"
        "    def test_it(self): pass",
    ],
    ids=["async", "unittest"],
)
def test_a_test_that_the_marker_could_not_guard_is_refused(run, code):
    status, text = run(code)
    assert status == pytest.ExitCode.TESTS_FAILED, text
    assert "the marker memory_budget calls plain test functions" in text


def test_a_test_that_measures_nothing_fails(run):
    status, text = run("""
@pytest.mark.memory_budget("5 MB")
def test_marked(memory_budget):
    pass

def test_made(memory_budget):
    memory_budget("5 MB")

def test_only_asks_for_it(memory_budget):
    pass
""")
    assert status == 1, text
    assert "2 failed, 1 passed" in text
    assert text.count("but nothing was measured") >= 2


def test_an_error_of_the_test_itself_is_shown_without_the_library_s_frames(run):
    status, text = run("""
@pytest.mark.memory_budget("5 MB", frames=3)
def test_marked():
    1 / 0

def test_fixture(memory_budget):
    memory_budget("5 MB", frames=3).run(lambda: 1 / 0)
""")
    assert status == 1, text
    assert "2 failed" in text
    assert "ZeroDivisionError: division by zero" in text
    assert "memory.py" not in text


def test_classes_parameters_and_other_outcomes_work_as_ever(run):
    status, text = run("""
@pytest.mark.memory_budget("5 MB", frames=3, warm_up=1)
class TestThem:
    @pytest.mark.parametrize("size", [1, 2])
    def test_parameters(self, size):
        assert size in (1, 2)

    def test_skips(self):
        pytest.skip("because")

    @pytest.mark.xfail(strict=True)
    def test_leaks(self):
        fill(10_000_000)

    def test_raises(self):
        with pytest.raises(ZeroDivisionError):
            1 / 0

def test_without(): pass
""")
    assert status == 0, text
    assert "4 passed, 1 skipped, 1 xfailed" in text


def test_the_plugin_is_light():
    """It is imported in every pytest run of everyone who has the package."""
    code = (
        "import sys, pytest; before = set(sys.modules);"
        "import hybrid_detect.testing.pytest_plugin;"
        "print(*sorted(m for m in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "hybrid_detect",
        "hybrid_detect.testing",
        "hybrid_detect.testing.pytest_plugin",
    ]


def test_a_run_that_does_not_use_it_loads_nothing(run):
    status, text = run(
        """
import sys

def test_it():
    for name in ("psutil", "httpx", "PIL", "hybrid_detect.testing.memory_budget"):
        assert name not in sys.modules
""",
        "-p",
        "no:hypothesispytest",
    )
    assert status == 0, text


def test_public_names_load_on_use():
    code = (
        "import sys; import hybrid_detect.testing as t; assert 'numpy' not in sys.modules;"
        "t.MemoryBudget; assert 'numpy' not in sys.modules; assert 'psutil' not in sys.modules;"
        "from hybrid_detect.testing import FakeBackend; assert FakeBackend().kind == 'device'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import hybrid_detect.testing

    with pytest.raises(AttributeError, match="nothing_such"):
        _ = hybrid_detect.testing.nothing_such
