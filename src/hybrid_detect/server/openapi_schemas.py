"""What the OpenAPI description says of parameters and answers."""

from __future__ import annotations

from typing import Any

from hybrid_detect.server.picture_requests import (
    QUALITY_HEADER,
    SECOND_LOOK_HEADER,
    SESSION_HEADER,
)
from hybrid_detect.types import QualityLevel

__all__ = ["QUALITY", "SCHEMAS", "SECOND_LOOK", "SESSION", "SESSION_IN_PATH", "ref"]


def ref(name: str) -> dict[str, str]:
    """A reference to the schema `name`."""
    return {"$ref": f"#/components/schemas/{name}"}


SESSION = {
    "name": SESSION_HEADER,
    "in": "header",
    "description": "The session that a bare picture belongs to, where the server keeps results: "
    "what can be exported and erased together. A message of the wire format carries its own.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 1024},
}

SESSION_IN_PATH = {
    "name": "session",
    "in": "path",
    "required": True,
    "description": "The session_id that the pictures were sent with.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 1024},
}

_LEVELS = {"type": "string", "enum": [*QualityLevel]}

QUALITY = {
    "name": QUALITY_HEADER,
    "in": "header",
    "description": "How thoroughly to look at a bare picture; the server's own level without it. "
    "A message of the wire format carries its own. The answer tells the level that was used, which "
    "is a lower one where the model or the time for this one is missing.",
    "schema": _LEVELS,
}

SECOND_LOOK = {
    "name": SECOND_LOOK_HEADER,
    "in": "header",
    "description": "Whether to look again at a bare picture turned by 90, 180 and 270 degrees "
    "if no face was found and there is time.",
    "schema": {"type": "string", "enum": ["true", "false"]},
}

_NUMBER = {"type": "number"}
_SECONDS = {"type": "number", "minimum": 0}

SCHEMAS: dict[str, Any] = {
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
            "number": {
                "description": "Its place in the session; told to those who watch alone.",
                "type": "integer",
                "minimum": 1,
            },
            "at_s": {
                "description": "Seconds since 1970; told to those who watch alone.",
                "type": "number",
                "minimum": 0,
            },
            "faces": {"type": "array", "items": ref("Face")},
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
            "model_info": ref("ModelInfo"),
            "version": {"type": "string"},
        },
    },
}
