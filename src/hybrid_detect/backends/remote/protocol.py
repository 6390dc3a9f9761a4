"""The seam between a provider and a transport: HTTP requests and responses as plain values.

A protocol turns compressed pictures into a request and a response into faces; a transport carries
the one and brings the other. Neither knows the other, so a provider is one file without I/O and a
new transport never sees pixels.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.config import DEFAULT_MIN_CONFIDENCE
from hybrid_detect.errors import BackendError, ConfigurationError
from hybrid_detect.exchange.model_info import ModelInfo
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.exchange.wire_values import MAX_TEXT_CHARS
from hybrid_detect.types import QualityLevel

__all__ = [
    "Capabilities",
    "DetectParams",
    "HttpRequest",
    "HttpResponse",
    "Protocol",
    "TellsModel",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request before it is sent. Headers and body may hold a token and a picture: no repr."""

    url: str
    """A path below the target's URL, starting with a slash (or empty), until the backend has made
    it absolute."""
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    ssl_context: object = field(default=None, repr=False, compare=False)
    """The `ssl.SSLContext` of its target, `None` for the backend's own: it leaves only over a
    connection that was made with this one, as a server knows its client by the certificate too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """A whole response."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By name in lower case."""
    retry_after_s: float | None = None
    """Seconds the server asked to wait; `None` if it did not say."""

    @property
    def media_type(self) -> str:
        """The content type in lower case, without parameters; empty if there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectParams:
    """What is asked beside the pictures.

    Raises:
        ConfigurationError: If a value is out of range, so that every request would be refused.
    """

    min_confidence: float | None = None
    """Faces below this score are not wanted, 0 to 1; `None` leaves it to the model that looks."""
    deadline_s: float | None = None
    """Seconds until the answer is worth nothing any more; `None` if unknown."""
    session_id: str | None = None
    """The caller's own name for this run of the app."""
    quality: QualityLevel | None = None
    """How thoroughly to look, for a server of this project; `None` leaves it to the server."""
    second_look: bool = False
    """Whether a server of this project is to look again at the picture turned by 90, 180 and 270
    degrees if it found no face and has the time."""
    traceparents: Sequence[str] = ()
    """The W3C ``traceparent`` of each picture's request; empty if they are not traced."""
    tracestates: Sequence[str] = ()
    """The W3C ``tracestate`` of each, in the same order; empty if none has any."""

    def __post_init__(self) -> None:
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            msg = f"min_confidence: expected 0 to 1, got {self.min_confidence!r}"
            raise ConfigurationError(msg)
        if self.session_id is not None and len(self.session_id) > MAX_TEXT_CHARS:
            length = len(self.session_id)
            msg = f"session_id: expected at most {MAX_TEXT_CHARS} characters, got {length}"
            raise ConfigurationError(msg)

    @property
    def threshold(self) -> float:
        """`min_confidence`, or `DEFAULT_MIN_CONFIDENCE` without one.

        For a provider that has to be sent a number: its own default may be another with each
        version, or suit another purpose.
        """
        return DEFAULT_MIN_CONFIDENCE if self.min_confidence is None else self.min_confidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a provider takes, gives and does with pictures.

    A backend makes every picture and checks every request by it, for all providers alike: pictures
    leave as complete JPEG, upright and without metadata, within the limits named here.
    """

    formats: frozenset[str] = frozenset({"jpeg"})
    """Picture formats it takes, as `CompressedImage.format` names them."""
    max_picture_bytes: int | None = None
    """The most bytes a compressed picture may have; pictures are compressed to fit."""
    min_picture_bytes: int = 0
    """The least bytes it may have; smaller ones are filled up (`compression.filling`)."""
    min_side_px: int = 1
    """The least pixels of the shorter side; smaller frames are enlarged."""
    max_side_px: int | None = None
    """The most pixels of the longer side; larger frames are shrunk."""
    max_pixels: int | None = None
    """The most pixels of a picture; larger frames are shrunk."""
    max_pictures: int = 1
    """Pictures in one request."""
    max_request_bytes: int | None = None
    """The most bytes of a request's body; a larger one is not sent."""
    default_max_results: int | None = None
    """Faces that the provider returns where it is not told how many; `None` for all it finds. A
    protocol must ask for more."""
    max_results: int | None = None
    """The most faces that it returns for a picture; `None` for all it finds."""
    has_confidence: bool = True
    """Whether its faces have a score. Without, `Face.score` is `None`, never an invented one."""
    landmarks: tuple[str, ...] = ()
    """The keypoints that its faces have, by the names of `Keypoint.name`."""
    can_seal: bool = False
    """Whether its requests may be sealed to the server's key: our own server's alone."""

    takes_trace: bool = False
    """Whether its requests name the trace they belong to (W3C ``traceparent``): a server of one's
    own can add its parts to it. A provider is told nothing of the app's traces."""

    price_per_image: float = 0.0
    """What a picture costs, in USD, an attempt that fails on the way included. An estimate that
    configuration can replace: prices change, and depend on the contract."""
    price_as_of: date | None = None
    """When the price was looked up; `None` if there is none."""
    retention: str = "unknown"
    """Whether pictures are kept, and for how long, in the provider's own words."""
    trains_on_data: bool | None = None
    """Whether pictures may be used to train or improve models; `None` if that is unknown."""
    opt_out: str = ""
    """How to object to that; empty if there is nothing to object to."""
    regions: tuple[str, ...] = ()
    """The regions in which the provider promises to process pictures, if it lets one choose."""
    facts_from: str = ""
    """Where these facts are from."""
    facts_as_of: date | None = None
    """When they were looked up."""


@typing.runtime_checkable
class TellsModel(typing.Protocol):
    """A protocol whose answer to `Protocol.health` tells of the server's model."""

    def model_info(self, response: HttpResponse) -> ModelInfo | None:
        """What is told of the model; `None` if nothing usable."""


class Protocol(typing.Protocol):
    """How one kind of server is asked for faces. Pure: no I/O, no clock, no state per request.

    Three attributes are read where a protocol has them: ``key_header`` and ``key_field`` say where
    an API key goes (`key_credentials`); ``is_slow_to_encode`` that `encode` takes more than a
    millisecond or so, and is to be called in a thread instead of on the event loop.
    """

    @property
    def name(self) -> str:
        """The provider's name in configuration, such as ``custom_backend``."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can carry."""

    def encode(self, pictures: Sequence[CompressedImage], params: DetectParams) -> HttpRequest:
        """The request that asks for the faces in `pictures`."""

    def decode(
        self, response: HttpResponse, pictures: Sequence[CompressedImage]
    ) -> Sequence[ResultReply | BackendError]:
        """The reply for each of `pictures`, faces in that picture's pixels.

        A picture that the server could not look at has its error in the reply's place, so that the
        other pictures of the request keep their answers.

        Without pictures, `response` is the answer to `health`, and there are no replies.

        Raises:
            BackendResponseError: If the server refused.
            ProtocolError: If the response is not what this protocol expects. The message never
                repeats what the server wrote.
        """

    def health(self) -> HttpRequest | None:
        """The cheapest request that proves the server alive; `None` if there is none."""
