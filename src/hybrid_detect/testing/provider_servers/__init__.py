"""Scripted provider servers: real HTTP servers on loopback that answer as a provider would.

Each checks what the provider checks (credentials, sizes, formats, how many pictures), answers with
the faces that a test gives it, records what it was sent, and fails on cue::

    with GoogleServer(api_key="k") as server:
        server.fail_next(Failure(429, "RESOURCE_EXHAUSTED"))
        cloud = CloudDetectionService("google", endpoint=server.url, api_key="k")

They know what is documented, not what a live service does beside that.
"""

from __future__ import annotations

from hybrid_detect.testing.provider_servers.aws import AwsServer
from hybrid_detect.testing.provider_servers.azure import AzureServer
from hybrid_detect.testing.provider_servers.base import (
    Answer,
    Failure,
    ProviderServer,
    ReceivedRequest,
    Refused,
    SeenPicture,
)
from hybrid_detect.testing.provider_servers.codeproject import CodeProjectServer
from hybrid_detect.testing.provider_servers.compreface import CompreFaceServer
from hybrid_detect.testing.provider_servers.google import GoogleServer
from hybrid_detect.testing.provider_servers.kserve import KServeServer
from hybrid_detect.testing.provider_servers.roboflow import RoboflowServer

__all__ = [
    "Answer",
    "AwsServer",
    "AzureServer",
    "CodeProjectServer",
    "CompreFaceServer",
    "Failure",
    "GoogleServer",
    "KServeServer",
    "ProviderServer",
    "ReceivedRequest",
    "Refused",
    "RoboflowServer",
    "SeenPicture",
]
