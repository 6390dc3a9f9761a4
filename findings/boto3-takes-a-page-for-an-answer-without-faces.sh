#!/usr/bin/env bash
# Expected: a page of HTML with status 200, such as a captive portal or a proxy sends, is no answer of Amazon Rekognition, so boto3's
#           detect_faces raises an error when it cannot read it.
# Really:   for an empty body it returns a result as if all were well, and for a page of HTML as well: a dict without "FaceDetails". Code that
#           says response.get("FaceDetails", []) finds no face in every picture.
# Version:  boto3==1.44.8, botocore of the same release.
# Source:   seen here, a server on loopback; the service's model says that FaceDetails may be absent.
# Cares:    apps that send photos from phones and laptops in hotels, trains and offices: "no faces" is what they tell their users.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet boto3==1.44.8
cat > show.py <<'PYTHON'
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import boto3

PAGE = b"<!doctype html><html><body>Please accept our terms.</body></html>"


class Portal(BaseHTTPRequestHandler):
    body = PAGE

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Portal)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = boto3.client(
    "rekognition",
    region_name="eu-west-1",
    aws_access_key_id="AKIDEXAMPLE",
    aws_secret_access_key="an example",
    endpoint_url=f"http://127.0.0.1:{server.server_port}",
)
print("boto3", boto3.__version__)
for name, body in (("a page of HTML", PAGE), ("nothing", b"")):
    Portal.body = body
    try:
        response = client.detect_faces(Image={"Bytes": b"any picture"})
        seen = f"a result with {sorted(response)}"
    except Exception as error:
        seen = f"an error, {type(error).__name__}"
    print(f"200 with {name}: {seen}")
    assert seen == "a result with ['ResponseMetadata']", "this finding is out of date"
PYTHON
venv/bin/python show.py
