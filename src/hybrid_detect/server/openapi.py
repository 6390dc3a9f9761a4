"""The OpenAPI 3.1 description of the server, for people, generators and fuzzers."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from hybrid_detect.exchange.batch import BATCH_CONTENT_TYPE, BATCH_PATH, MAX_BATCH
from hybrid_detect.exchange.envelope import KEYS_PATH, SEALED_CONTENT_TYPE
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DETECT_PATH,
    HEALTH_PATH,
    LIVE_PAGE_PATH,
    SESSIONS_PATH,
    STREAM_PATH,
    SUBPROTOCOL,
)
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.observation import LIVE_PATH, OPENAPI_PATH
from hybrid_detect.server.openapi_schemas import (
    QUALITY,
    SCHEMAS,
    SECOND_LOOK,
    SESSION,
    SESSION_IN_PATH,
    ref,
)

__all__ = ["openapi"]

_PICTURES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")

_MESSAGES = (CONTENT_TYPE, SEALED_CONTENT_TYPE)

_ERRORS = {
    "400": "The message is not of the wire format, or the request not HTTP.",
    "401": "No credential, a wrong one, or more than one.",
    "403": "A page of an origin that is not allowed, or a picture that must be sealed.",
    "404": "There is nothing at this path.",
    "405": "Not with this method.",
    "408": "The body did not come in time.",
    "409": "This sealed message came before.",
    "412": "This sealed message is too old, or from the future.",
    "413": "The body is too large.",
    "415": "Not a picture's bytes but a form or another container; the detail says how to send it.",
    "421": "Sealed to a key that this server does not have.",
    "422": "The body is no picture, or one with too many pixels.",
    "429": "More than this caller may send; see Retry-After.",
    "500": "A bug of the server.",
    "503": "Overloaded, or a detector failed; see Retry-After.",
    "504": "The request's own deadline passed before a detector was free.",
}

_ALWAYS = ("401", "403", "429", "500")


def openapi(config: ServerConfig) -> dict[str, Any]:
    """The document for a server with these limits, as JSON values."""
    picture = {"schema": {"type": "string", "format": "binary", "maxLength": config.max_body_bytes}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hybrid-detect",
            "version": version("hybrid-detect"),
            "summary": "Finds faces in pictures; keeps "
            + ("none." if config.history_path is None else "what it found, for a time."),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": {
            DETECT_PATH: {
                "post": {
                    "operationId": "detect",
                    "summary": "Find the faces in one picture.",
                    "description": "A bare picture is answered in JSON. A message of the wire "
                    f"format ({CONTENT_TYPE}) is answered in that format if Accept asks for it.",
                    "parameters": [SESSION, QUALITY, SECOND_LOOK],
                    "requestBody": {
                        "required": True,
                        "content": dict.fromkeys((*_PICTURES, *_MESSAGES), picture),
                    },
                    "responses": {
                        "200": _answer("The faces, in the picture's pixels.", "Result"),
                        **_errors(
                            "400", "408", "409", "412", "413", "415", "421", "422", "503", "504"
                        ),
                    },
                }
            },
            BATCH_PATH: {
                "post": {
                    "operationId": "detectBatch",
                    "summary": "Find the faces in several pictures.",
                    "description": f"A list of 1 to {MAX_BATCH} messages of the wire format, each "
                    "after its length. The answer is a list of as many replies in the same order: "
                    "a result or an error for each.",
                    "requestBody": {"required": True, "content": {BATCH_CONTENT_TYPE: picture}},
                    "responses": {
                        "200": {
                            "description": "A reply for each picture.",
                            "content": {BATCH_CONTENT_TYPE: picture},
                        },
                        **_errors("400", "408", "413", "503"),
                    },
                }
            },
            STREAM_PATH: {
                "get": {
                    "operationId": "stream",
                    "summary": "Many pictures over one WebSocket.",
                    "description": f"Subprotocol {SUBPROTOCOL}. Each binary message is a detect "
                    "message of the wire format, and is answered by a result or an error of the "
                    "same request id. Other methods than a WebSocket's opening find nothing.",
                    "responses": {
                        "101": {"description": "The WebSocket is open."},
                        **_errors("404", "405", "503"),
                    },
                }
            },
            KEYS_PATH: {
                "get": {
                    "operationId": "keys",
                    "summary": "The public keys that pictures can be sealed to.",
                    "responses": {
                        "200": {
                            "description": "The keys; none if the server has none.",
                            "content": {"application/json": {"schema": ref("Keys")}},
                        },
                        **_errors(),
                    },
                }
            },
            HEALTH_PATH: {
                "get": {
                    "operationId": "health",
                    "summary": "Whether the server is up. Public; a wrong credential is refused.",
                    "security": [{}, {"bearer": []}, {"apiKey": []}],
                    "responses": {
                        "200": {
                            "description": "The server is up.",
                            "content": {"application/json": {"schema": ref("Health")}},
                        },
                        **_errors("503"),
                    },
                }
            },
            LIVE_PATH: {
                "get": {
                    "operationId": "live",
                    "summary": "Whether the server runs, a stopping one included. Public; a wrong "
                    "credential is refused.",
                    "security": [{}, {"bearer": []}, {"apiKey": []}],
                    "responses": {
                        "200": {
                            "description": "The server runs.",
                            "content": {"application/json": {"schema": {"type": "object"}}},
                        },
                        **_errors(),
                    },
                }
            },
            LIVE_PAGE_PATH: {
                "get": {
                    "operationId": "livePage",
                    "summary": "A page that shows a session live. Public; it asks for a token.",
                    "security": [{}, {"bearer": []}, {"apiKey": []}],
                    "responses": {
                        "200": {
                            "description": "The page, which loads nothing from elsewhere.",
                            "content": {"text/html": {"schema": {"type": "string"}}},
                        },
                        **_errors(),
                    },
                }
            },
            SESSIONS_PATH + "/{session}/live": {
                "get": {
                    "operationId": "live",
                    "summary": "The results of one of your sessions as they come; no pictures.",
                    "description": "As server-sent events: `result` with a Result, and `end` with "
                    f"a reason. As a WebSocket of the subprotocol {SUBPROTOCOL}: result messages "
                    "of the wire format. It lasts as long as the session; who is slow gets the "
                    "newest results.",
                    "parameters": [SESSION_IN_PATH],
                    "responses": {
                        "101": {"description": "The WebSocket is open."},
                        "200": {
                            "description": "The events.",
                            "content": {"text/event-stream": {"schema": {"type": "string"}}},
                        },
                        **_errors("400", "503"),
                    },
                }
            },
            **(_sessions() if config.history_path is not None else {}),
            OPENAPI_PATH: {
                "get": {
                    "operationId": "description",
                    "summary": "This document. Public; a wrong credential is refused.",
                    "security": [{}, {"bearer": []}, {"apiKey": []}],
                    "responses": {
                        "200": {
                            "description": "An OpenAPI document.",
                            "content": {"application/json": {"schema": {"type": "object"}}},
                        },
                        **_errors(),
                    },
                }
            },
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
            "schemas": SCHEMAS,
        },
    }


def _sessions() -> dict[str, Any]:
    """What is kept, where something is kept."""
    archive = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}
    erased = {"application/json": {"schema": ref("Erased")}}
    return {
        SESSIONS_PATH + "/{session}/export": {
            "get": {
                "operationId": "export",
                "summary": "What is kept of one of your sessions, as a ZIP archive.",
                "parameters": [SESSION_IN_PATH],
                "responses": {
                    "200": {"description": "results.json and images.", "content": archive},
                    **_errors("400", "404", "503"),
                },
            }
        },
        SESSIONS_PATH + "/{session}": {
            "delete": {
                "operationId": "erase",
                "summary": "Erase what is kept of one of your sessions.",
                "parameters": [SESSION_IN_PATH],
                "responses": {
                    "200": {"description": "How much there was.", "content": erased},
                    **_errors("400", "404", "503"),
                },
            }
        },
    }


def _answer(description: str, schema: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {
            "application/json": {"schema": ref(schema)},
            CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}},
        },
    }


def _errors(*statuses: str) -> dict[str, Any]:
    return {status: _answer(_ERRORS[status], "Error") for status in sorted({*_ALWAYS, *statuses})}
