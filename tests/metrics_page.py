"""Writes `docs/reference/metrics.md` from the metrics themselves: ``nox -s reference``.

To add metrics for Prometheus, add what makes them to `PROMETHEUS`: the page asks their registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from hybrid_detect.backends.device.model_registry import MODELS
from hybrid_detect.charges import SentRequest
from hybrid_detect.monitoring.events import BackendEvent, FrameEvent, FrameOutcome
from hybrid_detect.monitoring.exporters.opentelemetry import OpenTelemetryHook
from hybrid_detect.monitoring.exporters.prometheus import PrometheusHook
from hybrid_detect.server.metrics import DetectorState, ServerMetrics, ServerState
from hybrid_detect.types import Attempt, BackendKind, QualityLevel

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def _of_server(registry: CollectorRegistry) -> ServerMetrics:
    """The metrics of a server that stands still and has the models of this package."""
    still = ServerState(
        waiting=lambda: 0,
        max_waiting=1,
        looking=lambda: 0,
        is_stopping=lambda: False,
        detectors=lambda: DetectorState(wanted=0, pids=(), restarts=0, places=0),
    )
    made = ServerMetrics(still, registry)
    made.offer((model, level.value) for model in MODELS for level in QualityLevel)
    return made


PROMETHEUS: dict[str, Callable[[CollectorRegistry], object]] = {
    "The client, for Prometheus": PrometheusHook,
    "The server, for Prometheus": _of_server,
}
"""By the title of their section: what registers the metrics in an empty registry."""

INSTALLED = dict.fromkeys(("version", "python"), "the installed one")
"""Labels with values that are not this page's."""

HEAD = """\
# Metrics

<!-- Made from the metrics themselves by `nox -s reference`. -->

How to get them: [of the client](../how-to/observe.md), [of the
server](../how-to/serve.md#metrics), which has `prometheus_client`'s own of its process as well.
Times are in seconds and sizes in bytes, by the conventions of Prometheus and OpenTelemetry; all
else are counts, and what is paid is in units of its currency. Labels and attributes have few
values, which are known beforehand: no session, host, message or picture is in any. Counters and
histograms are there at zero before anything happens.
"""

OPENTELEMETRY_HEAD = """
## The client, for OpenTelemetry

"""


def metrics() -> str:
    """`docs/reference/metrics.md`."""
    sections = (_of_prometheus(title, make) for title, make in PROMETHEUS.items())
    return HEAD + "".join(sections) + OPENTELEMETRY_HEAD + _of_opentelemetry()


def _of_prometheus(title: str, make: Callable[[CollectorRegistry], object]) -> str:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    made = make(registry)  # kept: a registry does not keep what fills it alive
    rows, values = [], dict[str, set[str]]()
    for family in sorted(registry.collect(), key=lambda family: str(family.name)):
        if family.name.startswith("process_"):  # prometheus_client's own, which differ by system
            continue
        collector = registry._names_to_collectors.get(family.name)
        # In the order in which the metric has them; a gauge may have no sample yet.
        labels: dict[str, None] = dict.fromkeys(getattr(collector, "_labelnames", ()))
        bounds: dict[float, None] = {}
        for sample in family.samples:
            for name, value in sample.labels.items():
                if name == "le":
                    bounds[float(value)] = None
                    continue
                labels[name] = None
                values.setdefault(name, set()).add(INSTALLED.get(name, f"`{value}`"))
        suffix = "_total" if family.type == "counter" else ""
        told = ", ".join(f"`{name}`" for name in labels)
        about = f"{family.documentation}{_bounds(bounds)}"
        rows.append((f"`{family.name}{suffix}`", family.type, told, about))
    del made
    listed = [(f"`{name}`", ", ".join(sorted(found))) for name, found in sorted(values.items())]
    return (
        f"\n## {title}\n\n"
        + _table(("metric", "type", "labels", "what it is"), rows)
        + "\n"
        + _table(("label", "its values"), listed)
    )


def _bounds(bounds: Iterable[float]) -> str:
    finite = [f"{bound:g}" for bound in bounds if bound != float("inf")]
    return f" Buckets end at {', '.join(finite)}." if finite else ""


class _Meter:
    """Stands in for OpenTelemetry's, and writes down what is made of it and with which words."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[str, str, str, set[str]]] = {}

    def get_meter(self, *_: Any, **__: Any) -> _Meter:
        return self

    def _make(self, kind: str, name: str, unit: str, description: str) -> _Instrument:
        attributes: set[str] = set()
        self.made[name] = (kind, unit, description, attributes)
        return _Instrument(attributes)

    def create_counter(self, name: str, unit: str, description: str) -> _Instrument:
        return self._make("counter", name, unit, description)

    def create_gauge(self, name: str, unit: str, description: str) -> _Instrument:
        return self._make("gauge", name, unit, description)

    def create_histogram(
        self,
        name: str,
        unit: str,
        description: str,
        *,
        explicit_bucket_boundaries_advisory: Iterable[float],
    ) -> _Instrument:
        bounds = _bounds(explicit_bucket_boundaries_advisory)
        return self._make("histogram", name, unit, description + bounds)


class _Instrument:
    def __init__(self, attributes: set[str]) -> None:
        self._attributes = attributes

    def add(self, _amount: float, attributes: Any = None, context: Any = None) -> None:
        self._attributes.update(attributes or ())

    record = set = add


def _of_opentelemetry() -> str:
    meter = _Meter()
    hook = OpenTelemetryHook(meter)  # type: ignore[arg-type]  # as far as the hook needs it
    for event in _frames():
        hook.on_frame(event)
    hook.on_backend(BackendEvent(at_s=0.0, backend=BackendKind.CLOUD, usable=True))
    rows = [
        (
            f"`{name}`",
            kind,
            f"`{unit}`",
            ", ".join(f"`{attribute}`" for attribute in sorted(attributes)),
            description,
        )
        for name, (kind, unit, description, attributes) in sorted(meter.made.items())
    ]
    return _table(("instrument", "kind", "unit", "attributes", "what it is"), rows)


def _frames() -> Iterable[FrameEvent]:
    """Frames of which every instrument measures something."""
    for backend in (BackendKind.CLOUD, BackendKind.STREAMING):
        request = SentRequest(at_s=0.0, backend=backend.value, price_nanos=1)
        yield FrameEvent(
            at_s=0.0,
            outcome=FrameOutcome.ANSWERED,
            degraded=True,
            dropped_before=1,
            planned=BackendKind.CLOUD,
            backend=backend,
            attempts=(Attempt("cloud", "BackendTimeoutError", "", 0.1),),
            requests=(request,),
            bytes_sent=1,
            faces=1,
            detect_s=0.1,
        )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
