"""The pytest plugin: the marker and the fixture ``memory_budget``.

pytest loads it in every run of everyone who has this package, so it imports nothing but pytest:
the measuring comes with the first test that asks for it. What is measured: see `memory`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hybrid_detect.testing.memory_budget import MemoryBudget

NAME = "memory_budget"
"""The name of both, the marker and the fixture."""

HELP = (
    "memory_budget(limit, frames=1000, warm_up=50, children=False, control=None): call the test "
    'warm_up + frames times and fail if it comes to hold more than limit (such as "10 MB") above '
    "the level after the warm-up. With the fixture memory_budget the test makes the calls itself, "
    "and these are the fixture's defaults (hybrid-detect)."
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, and let the contract's failures show their values."""
    pytest.register_assert_rewrite("hybrid_detect.testing.backend_contract")
    config.addinivalue_line("markers", HELP)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Find markers that cannot be obeyed: their tests fail before any of them is set up."""
    for item in items:
        if (marker := item.get_closest_marker(NAME)) is None:
            continue
        refusal = _budget(_arguments(marker)) if _is_callable_by_us(item) else NOT_OURS
        if isinstance(refusal, str):
            # No error here: it would end the whole run, and pytest-xdist would not show why.
            item.stash[_REFUSAL] = refusal


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose marker cannot be obeyed."""
    if (refusal := item.stash.get(_REFUSAL, None)) is not None:
        pytest.fail(refusal, pytrace=False)


_REFUSAL = pytest.StashKey[str]()

NOT_OURS = (
    "the marker memory_budget calls plain test functions; in an asynchronous test take the "
    "fixture ('await memory_budget().run_async(call)'), in a unittest.TestCase the class "
    "hybrid_detect.testing.MemoryBudget"
)


def _is_callable_by_us(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or getattr(item.cls, "assertDictEqual", None):
        return False
    return NAME in item.fixturenames or not inspect.iscoroutinefunction(item.obj)


def _arguments(marker: pytest.Mark) -> dict[str, Any]:
    # Whatever is wrong with them, one too many included, is said by the budget itself.
    names = ("limit", *(f"argument {n}" for n in range(2, len(marker.args) + 1)))
    return {**dict(zip(names, marker.args, strict=False)), **marker.kwargs}


def _budget(arguments: dict[str, Any]) -> MemoryBudget | str:
    """The budget, or why there can be none."""
    from hybrid_detect.testing.memory_budget import MemoryBudget

    if "limit" not in arguments:
        return "memory_budget needs a limit, such as '10 MB'"
    try:
        return MemoryBudget(**arguments)
    except (TypeError, ValueError) as error:
        return f"memory_budget: {error}"


@pytest.fixture
def memory_budget(request: pytest.FixtureRequest) -> Callable[..., MemoryBudget]:
    """Makes a memory budget: ``memory_budget("10 MB", frames=1000).run(call)``.

    Takes what `hybrid_detect.testing.MemoryBudget` takes; the test's marker ``memory_budget``
    gives the defaults.
    """
    made: list[MemoryBudget] = []
    request.node.stash[_MADE] = made
    marker = request.node.get_closest_marker(NAME)
    defaults = {} if marker is None else _arguments(marker)

    def make(limit: str | int | None = None, **arguments: Any) -> MemoryBudget:
        __tracebackhide__ = True
        given = arguments if limit is None else {"limit": limit, **arguments}
        budget = _budget({**defaults, **given})
        if isinstance(budget, str):
            raise pytest.UsageError(budget)
        made.append(budget)
        return budget

    return make


_MADE = pytest.StashKey[list["MemoryBudget"]]()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Call a marked test as often as its marker says, unless it makes the calls itself."""
    marker = pyfuncitem.get_closest_marker(NAME)
    if marker is None or NAME in pyfuncitem.fixturenames:
        return None
    from hybrid_detect.testing.memory_budget import MemoryBudgetError

    budget = _budget(_arguments(marker))
    if isinstance(budget, str):
        raise pytest.UsageError(budget)
    # Only what the function itself asks for: a fixture may be there for its effect alone.
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    test = pyfuncitem.obj
    failure = ""
    try:
        budget.run(lambda: test(**arguments))
    except MemoryBudgetError as error:
        failure = str(error)
    if failure:  # out here, so that it is not told as an error while handling another
        pytest.fail(failure, pytrace=False)
    return True


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fail a test with a budget that passed without measuring anything: it only looks guarded."""
    made = item.stash.get(_MADE, None)
    if made is None or not (made or item.get_closest_marker(NAME)):
        return
    if not any(budget.report for budget in made):
        msg = "it has a memory budget, but nothing was measured: memory_budget(...).run(call)"
        pytest.fail(msg, pytrace=False)
