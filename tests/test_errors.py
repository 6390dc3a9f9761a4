import pickle
import re

import pytest

from hybrid_detect import errors
from hybrid_detect.errors import (
    AllBackendsFailedError,
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    BackendUnavailableError,
    HybridDetectError,
    InvalidFrameError,
    MissingExtraError,
    ModelError,
    ModelIntegrityError,
    ProtocolError,
    SupersededError,
)

ALL = [
    value
    for name in errors.__all__
    if issubclass(value := getattr(errors, name), HybridDetectError)
]
BACKEND_FACTS = {"backend": "cloud", "elapsed_s": 0.25}
SAMPLES: list[HybridDetectError] = [
    *(cls("what happened") for cls in ALL),
    MissingExtraError("no mediapipe", extra="device"),
    InvalidFrameError(expected="uint8", actual="float32"),
    ModelError("gone", name="short_range"),
    ModelIntegrityError("forged", name="short_range"),
    BackendError("down", retryable=True, retry_after_s=2.0, **BACKEND_FACTS),
    BackendUnavailableError("refused", retryable=True, **BACKEND_FACTS),
    BackendTimeoutError("late", deadline_s=1.0, **BACKEND_FACTS),
    BackendResponseError("no", status_code=503, code="overloaded", retry_after_s=1.0),
    ProtocolError("garbage", **BACKEND_FACTS),
    SupersededError("newer", **BACKEND_FACTS),
]


def drawn_tree() -> dict[str, tuple[str, set[str]]]:
    """Each error of the docstring's drawing: its parent there, and its other bases."""
    parents: list[tuple[int, str]] = []
    tree = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"( +)(\w+Error)(?: \((\w+)\))?", line)
        if match is None:
            continue
        indent, name = len(match[1]), match[2]
        parents = [parent for parent in parents if parent[0] < indent]
        tree[name] = (parents[-1][1] if parents else "Exception", {match[3]} - {None})
        parents.append((indent, name))
    return tree


def test_the_tree_is_as_drawn() -> None:
    actual = {
        cls.__name__: (cls.__bases__[0].__name__, {base.__name__ for base in cls.__bases__[1:]})
        for cls in ALL
    }
    assert drawn_tree() == actual


def test_every_error_class_is_exported() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert defined == {cls.__name__ for cls in ALL}


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_message_and_facts(error: HybridDetectError, protocol: int) -> None:
    copy = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - made one line above
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_pickling_keeps_the_attempts() -> None:
    error = AllBackendsFailedError("none", attempts=(BackendTimeoutError("late", backend="cloud"),))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made one line above
    assert [(type(a), str(a), a.backend) for a in copy.attempts] == [
        (BackendTimeoutError, "late", "cloud")
    ]


def test_an_invalid_frame_says_what_was_expected_and_given() -> None:
    assert str(InvalidFrameError(expected="uint8", actual="float32")) == (
        "expected uint8, got float32"
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, True), (402, True), (403, True), (404, True), (405, True)]
    + [(status, False) for status in (400, 408, 413, 422, 429, 500, 503, 504)],
)
def test_only_a_wrong_key_or_address_is_a_configuration_error(status: int, expected: bool) -> None:
    assert BackendResponseError("no", status_code=status).is_configuration is expected


def test_a_timeout_is_a_timeout_error_and_a_missing_extra_an_import_error() -> None:
    with pytest.raises(TimeoutError):
        raise BackendTimeoutError("late")
    with pytest.raises(ImportError):
        raise MissingExtraError("none")
