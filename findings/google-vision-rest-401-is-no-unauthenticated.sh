#!/usr/bin/env bash
# Expected: a server's 401 reaches a caller of Google's Vision client as google.api_core.exceptions.Unauthenticated, as 403 does as
#           PermissionDenied; a test against a server of one's own uses AnonymousCredentials, as Google's clients do for emulators.
# Really:   over REST the transport first tries to refresh the credentials, which anonymous ones refuse: the caller gets
#           google.auth.exceptions.InvalidOperation, no GoogleAPICallError at all, and what the server wrote is lost.
# Version:  google-cloud-vision==3.16.0, google-auth as pip resolves it (printed).
# Source:   seen here, a server on loopback; google.auth.transport.requests refreshes on 401.
# Cares:    authors of tests and fakes of Google's services: "except GoogleAPICallError" and "except Unauthenticated" are both passed by.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet google-cloud-vision==3.16.0 requests
cat > show.py <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.cloud.vision_v1.services.image_annotator import ImageAnnotatorClient
from google.cloud.vision_v1.services.image_annotator.transports import (
    ImageAnnotatorRestTransport,
)


class Refusing(BaseHTTPRequestHandler):
    status, word = 401, "UNAUTHENTICATED"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        error = {"code": self.status, "message": "no", "status": self.word}
        body = json.dumps({"error": error}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Refusing)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = ImageAnnotatorClient(
    transport=ImageAnnotatorRestTransport(
        host=f"127.0.0.1:{server.server_port}",
        url_scheme="http",
        credentials=AnonymousCredentials(),
    )
)
print("google-cloud-vision", version("google-cloud-vision"), "google-auth", version("google-auth"))
request = {"requests": [{"image": {"content": b"any picture"}, "features": [{"type_": 4}]}]}
seen = {}
for status, word in ((403, "PERMISSION_DENIED"), (401, "UNAUTHENTICATED")):
    Refusing.status, Refusing.word = status, word
    try:
        client.batch_annotate_images(request=request)
    except Exception as error:
        kind = "a GoogleAPICallError" if isinstance(error, GoogleAPICallError) else "none of them"
        seen[status] = (type(error).__name__, kind)
    print(status, "is", *seen.get(status, ("no error", "")))
assert seen[403][1] == "a GoogleAPICallError"
assert seen[401] == ("InvalidOperation", "none of them"), "this finding is out of date"
PYTHON
venv/bin/python show.py
