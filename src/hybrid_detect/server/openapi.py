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
    STREAM_PATH,
    SUBPROTOCOL,
)
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.observation import LIVE_PATH, OPENAPI_PATH
from hybrid_detect.server.picture_requests import (
    QUALITY_HEADER,
    SECOND_LOOK_HEADER,
    SESSION_HEADER,
)
from hybrid_detect.types import QualityLevel

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
                    "parameters": [_SESSION, _QUALITY, _SECOND_LOOK],
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
                            "content": {"application/json": {"schema": _ref("Keys")}},
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
                            "content": {"application/json": {"schema": _ref("Health")}},
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
            "schemas": _SCHEMAS,
        },
    }


def _sessions() -> dict[str, Any]:
    """What is kept, where something is kept."""
    session = {
        "name": "session",
        "in": "path",
        "required": True,
        "description": "The session_id that the pictures were sent with.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 1024},
    }
    archive = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}
    erased = {"application/json": {"schema": _ref("Erased")}}
    return {
        "/v1/sessions/{session}/export": {
            "get": {
                "operationId": "export",
                "summary": "What is kept of one of your sessions, as a ZIP archive.",
                "parameters": [session],
                "responses": {
                    "200": {"description": "results.json and images.", "content": archive},
                    **_errors("400", "404", "503"),
                },
            }
        },
        "/v1/sessions/{session}": {
            "delete": {
                "operationId": "erase",
                "summary": "Erase what is kept of one of your sessions.",
                "parameters": [session],
                "responses": {
                    "200": {"description": "How much there was.", "content": erased},
                    **_errors("400", "404", "503"),
                },
            }
        },
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {
            "application/json": {"schema": _ref(schema)},
            CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}},
        },
    }


def _errors(*statuses: str) -> dict[str, Any]:
    return {status: _answer(_ERRORS[status], "Error") for status in sorted({*_ALWAYS, *statuses})}


_SESSION = {
    "name": SESSION_HEADER,
    "in": "header",
    "description": "The session that a bare picture belongs to, where the server keeps results: "
    "what can be exported and erased together. A message of the wire format carries its own.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 1024},
}

_LEVELS = {"type": "string", "enum": [*QualityLevel]}

_QUALITY = {
    "name": QUALITY_HEADER,
    "in": "header",
    "description": "How thoroughly to look at a bare picture; the server's own level without it. "
    "A message of the wire format carries its own. The answer tells the level that was used, which "
    "is a lower one where the model or the time for this one is missing.",
    "schema": _LEVELS,
}

_SECOND_LOOK = {
    "name": SECOND_LOOK_HEADER,
    "in": "header",
    "description": "Whether to look again at a bare picture turned by 90, 180 and 270 degrees "
    "if no face was found and there is time.",
    "schema": {"type": "string", "enum": ["true", "false"]},
}

_NUMBER = {"type": "number"}
_SECONDS = {"type": "number", "minimum": 0}

_SCHEMAS: dict[str, Any] = {
    "Result": {
        "type": "object",
        "required": ["width", "height", "model", "faces"],
        "properties": {
            "width": {"type": "integer", "minimum": 1},
            "height": {"type": "integer", "minimum": 1},
            "model": {"type": "string"},
            "receive_s": _SECONDS,
            "queue_s": _SECONDS,
            "detect_s": _SECONDS,
            "min_confidence": {
                "description": "The lowest score that was reported. A bare picture is looked at "
                "with the threshold at which the model is at its best.",
                "type": "number",
                "minimum": 0,
                "maximum": 1,
            },
            "quality": _LEVELS,
            "min_face_px": {
                "description": "Height of the smallest face that this look could have found.",
                "type": "number",
                "minimum": 0,
            },
            "faces": {"type": "array", "items": _ref("Face")},
        },
    },
    "Erased": {
        "type": "object",
        "required": ["results", "images"],
        "properties": {
            "results": {"type": "integer", "minimum": 0},
            "images": {"type": "integer", "minimum": 0},
        },
    },
    "Face": {
        "type": "object",
        "required": ["box"],
        "properties": {
            "box": {
                "description": "In the picture's pixels, from its upper left corner.",
                "type": "object",
                "required": ["x_min", "y_min", "x_max", "y_max"],
                "properties": dict.fromkeys(("x_min", "y_min", "x_max", "y_max"), _NUMBER),
            },
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "keypoints": {
                "type": "object",
                "additionalProperties": {
                    "type": "array",
                    "items": _NUMBER,
                    "minItems": 2,
                    "maxItems": 2,
                },
            },
        },
    },
    "Error": {
        "type": "object",
        "required": ["status", "code", "detail"],
        "properties": {
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "code": {"type": "string"},
            "detail": {"type": "string"},
            "retry_after_s": _SECONDS,
        },
    },
    "Keys": {
        "type": "object",
        "required": ["keys"],
        "properties": {"keys": {"type": "array", "items": {"type": "object"}}},
    },
    "ModelInfo": {
        "description": "What the server looks with if a request asks for nothing else.",
        "type": "object",
        "required": ["name", "quality", "qualities", "side_px", "picture_bytes", "recall"],
        "properties": {
            "name": {"type": "string"},
            "quality": _LEVELS,
            "qualities": {"type": "array", "items": _LEVELS},
            "side_px": {
                "description": "The longer side of a picture beyond which next to nothing is "
                "gained.",
                "type": "integer",
                "minimum": 1,
            },
            "picture_bytes": {
                "description": "The size of a picture beyond which next to nothing is gained.",
                "type": "integer",
                "minimum": 1,
            },
            "rungs": {
                "description": "Pictures that are worth sending, the best first: highest JPEG "
                "quality, longer side, and what the model makes of it as a share of the best.",
                "type": "array",
                "items": {"type": "array", "items": _NUMBER, "minItems": 3, "maxItems": 3},
            },
            "recall": {
                "description": "Face heights as shares of the picture's longer side, rising, and "
                "the share of the faces from there on that is found.",
                "type": "array",
                "items": {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2},
            },
        },
    },
    "Health": {
        "type": "object",
        "required": ["status", "model", "version"],
        "properties": {
            "status": {"const": "ok"},
            "model": {"type": "string"},
            "model_info": _ref("ModelInfo"),
            "version": {"type": "string"},
        },
    },
}
