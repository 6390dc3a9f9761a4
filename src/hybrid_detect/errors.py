"""Every error this library raises on purpose.

::

    HybridDetectError
      ConfigurationError (ValueError)      cannot work as configured; raised at construction
        MissingExtraError (ImportError)    .extra; the message ends in the pip line that cures it
      ClosedError (RuntimeError)           used before it was opened or after it was closed
      InvalidFrameError (ValueError)       .expected .actual
      SourceError                          a source of frames was lost or went silent
      ModelError                           .name
        ModelIntegrityError                the hash differs; the file was not kept
      StorageError                         what is kept cannot be read, written or erased
      BackendError                         .backend .retryable .elapsed_s .retry_after_s
        BackendUnavailableError            refused, closed, not found, not ready
        BackendTimeoutError (TimeoutError) .deadline_s
        BackendResponseError               .status_code .refusal .code .request_id .by_server
        ProtocolError                      the peer's bytes break the wire format
        EncryptionError                    could not be sealed or opened; nothing went in the clear
          UnknownKeyError                  .key_id; sealed to a key that is not there
          StaleRequestError                sealed too long ago, or by a clock that is ahead
          ReplayError                      the same sealed request has come before
        SupersededError                    a newer frame took this one's place
      AllBackendsFailedError               .attempts, in the order tried

Only a `BackendError` makes the service try the next backend; anything else is a bug or a bad
input and is seen by the caller. Messages carry sizes, names and reasons: never pixels,
keys, tokens or what a provider's server wrote.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "AllBackendsFailedError",
    "BackendError",
    "BackendResponseError",
    "BackendTimeoutError",
    "BackendUnavailableError",
    "ClosedError",
    "ConfigurationError",
    "EncryptionError",
    "HybridDetectError",
    "InvalidFrameError",
    "MissingExtraError",
    "ModelError",
    "ModelIntegrityError",
    "ProtocolError",
    "Refusal",
    "ReplayError",
    "SourceError",
    "StaleRequestError",
    "StorageError",
    "SupersededError",
    "UnknownKeyError",
]


# Facts beside the message are keyword arguments with defaults, so that an error survives
# pickling (BaseException rebuilds from positional arguments, then restores __dict__).


class HybridDetectError(Exception):
    """The root of this library's errors."""


class ConfigurationError(HybridDetectError, ValueError):
    """The library cannot work as configured. Raised at construction, never mid-stream."""


class MissingExtraError(ConfigurationError, ImportError):
    """An optional dependency is not installed."""

    extra: str
    """The extra that brings the dependency, as in ``pip install 'hybrid-detect[extra]'``."""

    def __init__(self, message: str = "", *, extra: str = "") -> None:
        super().__init__(message)
        self.extra = extra


class ClosedError(HybridDetectError, RuntimeError):
    """The object was used before it was opened or after it was closed."""


class InvalidFrameError(HybridDetectError, ValueError):
    """The input is not an image this library can look at."""

    expected: str
    """What would have been accepted."""
    actual: str
    """What was given: types, sizes and names, never pixels."""

    def __init__(self, message: str = "", *, expected: str = "", actual: str = "") -> None:
        if not message:
            message = f"expected {expected}, got {actual}"
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class SourceError(HybridDetectError):
    """A source of frames was lost, or has given none for a long time.

    Args:
        message: What happened.
        goes_on: See the attribute.
    """

    goes_on: bool
    """Whether frames may still come: the source is silent, or it is being opened again."""

    def __init__(self, message: str = "", *, goes_on: bool = False) -> None:
        super().__init__(message)
        self.goes_on = goes_on


class ModelError(HybridDetectError):
    """A face model could not be found, fetched or loaded."""

    name: str
    """The model's name in the registry."""

    def __init__(self, message: str = "", *, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class ModelIntegrityError(ModelError):
    """A model file is not the published one. A fetched file is not kept."""


class StorageError(HybridDetectError):
    """What is kept on disk (results, consents) cannot be read, written or erased."""


class BackendError(HybridDetectError):
    """One backend could not answer for this frame."""

    backend: str
    """The backend: a value of `BackendKind`."""
    retryable: bool
    """Whether the same request may succeed when sent again."""
    elapsed_s: float
    """Seconds spent before giving up."""
    retry_after_s: float | None
    """Seconds the other side asked to wait; `None` when it did not say."""

    def __init__(
        self,
        message: str = "",
        *,
        backend: str = "",
        retryable: bool = False,
        elapsed_s: float = 0.0,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.backend = backend
        self.retryable = retryable
        self.elapsed_s = elapsed_s
        self.retry_after_s = retry_after_s

    @property
    def is_configuration(self) -> bool:
        """Whether every further frame would fail as well, until its configuration is changed."""
        return False


class BackendUnavailableError(BackendError):
    """The backend is not there: refused, closed, not found, not started."""


class BackendTimeoutError(BackendError, TimeoutError):
    """No answer came inside the frame's deadline."""

    deadline_s: float
    """Seconds this backend was given."""

    def __init__(
        self,
        message: str = "",
        *,
        backend: str = "",
        retryable: bool = True,
        elapsed_s: float = 0.0,
        deadline_s: float = 0.0,
    ) -> None:
        super().__init__(message, backend=backend, retryable=retryable, elapsed_s=elapsed_s)
        self.deadline_s = deadline_s


class Refusal(StrEnum):
    """Why a server refused a request, whatever status its provider uses to say so."""

    THROTTLED = "throttled"
    """Too many requests; the same one may succeed later."""
    TRANSIENT = "transient"
    """The server or a gateway has trouble of its own; the same request may succeed later."""
    UNAUTHENTICATED = "unauthenticated"
    """The credentials are missing, wrong or have ended; new ones may be accepted."""
    FORBIDDEN = "forbidden"
    """The credentials are known and do not permit this, or the account is not paid for."""
    CLOCK = "clock"
    """The request was signed by a clock that is wrong."""
    ADDRESS = "address"
    """There is no such service, model or key here."""
    PICTURE = "picture"
    """This picture cannot be read; every other target would say the same."""
    SIZE = "size"
    """This picture is larger or smaller than the server takes."""
    CONTRACT = "contract"
    """The request is not what the server expects: a fault of this library or its settings."""

    @classmethod
    def of_status(cls, status: int) -> Refusal:
        """What an HTTP status means where the provider says nothing more.

        Source: RFC 9110, 15; RFC 6585 (429); RFC 8470 (425).
        """
        if status in _OF_STATUS:
            return _OF_STATUS[status]
        # A gateway's own statuses (520 to 527) count as 500.
        return cls.TRANSIENT if status >= 500 and status not in LASTING else cls.CONTRACT


LASTING = frozenset({501, 505, 511})
"""Not implemented, a wrong version of HTTP, a network that asks to sign in: they do not pass by
themselves within a frame's time."""

_OF_STATUS = {
    400: Refusal.PICTURE,
    401: Refusal.UNAUTHENTICATED,
    402: Refusal.FORBIDDEN,
    403: Refusal.FORBIDDEN,
    404: Refusal.ADDRESS,
    405: Refusal.ADDRESS,
    407: Refusal.ADDRESS,  # a proxy's user is wrong
    408: Refusal.TRANSIENT,
    413: Refusal.SIZE,
    415: Refusal.PICTURE,
    421: Refusal.ADDRESS,
    422: Refusal.PICTURE,
    425: Refusal.TRANSIENT,
    429: Refusal.THROTTLED,
}

_LASTING_REFUSALS = frozenset({Refusal.UNAUTHENTICATED, Refusal.FORBIDDEN, Refusal.ADDRESS})


class BackendResponseError(BackendError):
    """The other side answered, and the answer is an error."""

    status_code: int
    """HTTP status, or its nearest equivalent on a stream."""
    refusal: Refusal
    """What it means. The status alone does not tell: Rekognition throttles with 400."""
    code: str
    """The provider's word for programs, such as ``unauthorized``; empty if there was none."""
    request_id: str
    """What the provider's support asks for; empty if there was none."""
    server_time_s: float | None
    """The time on the server's clock, in seconds since 1970; `None` if it did not say."""
    by_server: bool
    """Whether the server said it, in its own protocol; else something in between may have, such as
    a gateway or a captive portal."""
    is_passing: bool
    """Whether the server had answered before, and something in between says this now: its trouble,
    not a verdict. Set by the backend."""

    def __init__(
        self,
        message: str = "",
        *,
        backend: str = "",
        retryable: bool = False,
        elapsed_s: float = 0.0,
        retry_after_s: float | None = None,
        status_code: int = 0,
        refusal: Refusal | None = None,
        code: str = "",
        request_id: str = "",
        server_time_s: float | None = None,
        by_server: bool = True,
    ) -> None:
        super().__init__(
            message,
            backend=backend,
            retryable=retryable,
            elapsed_s=elapsed_s,
            retry_after_s=retry_after_s,
        )
        self.status_code = status_code
        self.refusal = Refusal.of_status(status_code) if refusal is None else refusal
        self.code = code
        self.request_id = request_id
        self.server_time_s = server_time_s
        self.by_server = by_server
        self.is_passing = False

    @property
    def is_configuration(self) -> bool:
        """Whether every further frame would be refused as well: wrong key, wrong address."""
        return not self.is_passing and self.refusal in _LASTING_REFUSALS


class ProtocolError(BackendError):
    """The peer's bytes are not the wire format."""


class EncryptionError(BackendError):
    """A message could not be sealed or opened. Nothing of it was sent in the clear."""


class UnknownKeyError(EncryptionError):
    """A request is sealed to a key that the server does not have, or has no longer."""

    key_id: str
    """The key's id, which is public."""

    def __init__(
        self,
        message: str = "",
        *,
        backend: str = "",
        retryable: bool = False,
        elapsed_s: float = 0.0,
        key_id: str = "",
    ) -> None:
        super().__init__(message, backend=backend, retryable=retryable, elapsed_s=elapsed_s)
        self.key_id = key_id

    @property
    def is_configuration(self) -> bool:
        """Always: the key does not come back by itself."""
        return True


class StaleRequestError(EncryptionError):
    """A request was sealed too long ago, or by a clock that is ahead of the server's."""


class ReplayError(EncryptionError):
    """The same sealed request has come before."""


class SupersededError(BackendError):
    """A newer frame took this one's place before it was sent."""


class AllBackendsFailedError(HybridDetectError):
    """No backend could answer for this frame."""

    attempts: tuple[BackendError, ...]
    """What each backend raised, in the order tried; empty when none was usable at all."""

    def __init__(self, message: str = "", *, attempts: tuple[BackendError, ...] = ()) -> None:
        super().__init__(message)
        self.attempts = attempts


def error_from_text(text: str | None) -> HybridDetectError | None:
    """The error of ``"Name: message"``, without its other facts; `None` for no text.

    One that has no name of `__all__` keeps it in its message.
    """
    if not text:
        return None
    name, _, message = text.partition(": ")
    found = globals()[name] if name in __all__ else None
    if isinstance(found, type) and issubclass(found, HybridDetectError):
        return found(message)
    return HybridDetectError(text)
