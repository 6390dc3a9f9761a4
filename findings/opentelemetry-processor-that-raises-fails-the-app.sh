#!/usr/bin/env bash
# Expected: tracing never breaks what it traces: a span processor that raises, such as an exporter's with a bug, is logged by OpenTelemetry's
#           SDK, and the traced block goes on. The specification says that implementations must not throw unhandled exceptions at run time.
# Really:   the Python SDK passes on what a processor's on_start or on_end raises, out of start_as_current_span: the app's request fails after
#           its work was done.
# Version:  opentelemetry-sdk==1.45.2 on Linux x86-64, CPython 3.11.
# Source:   seen here; OpenTelemetry Specification, "Error handling in OpenTelemetry", basic error handling principles.
# Cares:    libraries that make spans on the way of a frame or a request, and apps with a processor of their own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet opentelemetry-sdk==1.45.2
cat > show.py <<'PYTHON'
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider


class Broken(SpanProcessor):
    def on_end(self, span):
        raise RuntimeError("a processor's bug")


provider = TracerProvider()
provider.add_span_processor(Broken())
work = []
try:
    with provider.get_tracer("app").start_as_current_span("request"):
        work.append("done")
except RuntimeError as error:
    met = str(error)
else:
    met = "nothing"
print(f"the work is {work[0]}, and the app meets: {met}")
assert met == "a processor's bug", "this finding is out of date"
PYTHON
venv/bin/python show.py
