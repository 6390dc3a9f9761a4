"""What each provider says it does with pictures: data for the operator, who has to decide.

These are the providers' own words, read on a date, and not a promise of this library's. What was
not found is said to be unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

__all__ = ["PROVIDER_FACTS", "UNKNOWN", "ProviderFacts"]

UNKNOWN = "unknown"
"""No authoritative source was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFacts:
    """What one provider does with a picture sent for face detection."""

    provider: str
    retention: str
    """Whether pictures are kept, and for how long."""
    training: str
    """Whether they are used to train or improve models."""
    opt_out: str
    """How to object to that; empty if there is nothing to object to."""
    region: str
    """Whether one can choose where they are processed."""
    source: str
    """Where it was read."""
    looked_up: date
    """When."""


_LOOKED_UP = date(2026, 11, 22)

PROVIDER_FACTS = (
    ProviderFacts(
        provider="custom_backend",
        retention="nothing, unless its operator sets history_path: then 24 h",
        training="no",
        opt_out="",
        region="wherever you run it",
        source="the reference server of this library; ask the operator of another one",
        looked_up=_LOOKED_UP,
    ),
    ProviderFacts(
        provider="google",
        retention="none: processed in memory; time and size of the request are logged",
        training="no",
        opt_out="",
        region="no: the documented EU and US locations apply to text recognition alone",
        source="Cloud Vision Data Usage FAQ, https://cloud.google.com/vision/docs/data-usage",
        looked_up=_LOOKED_UP,
    ),
    ProviderFacts(
        provider="aws",
        retention="none by DetectFaces itself; content may be stored to improve AWS AI services",
        training="yes, possibly outside the region, unless opted out",
        opt_out=(
            "an account setting, which no request can carry: AISERVICES_OPT_OUT_POLICY of AWS "
            "Organizations with rekognition: optOut"
        ),
        region="yes: the region of the endpoint",
        source="Amazon Rekognition Developer Guide (DetectFaces) and its service model",
        looked_up=_LOOKED_UP,
    ),
    ProviderFacts(
        provider="azure",
        retention="none without faceId, which this library never asks for",
        training=UNKNOWN,
        opt_out=UNKNOWN,
        region="yes: the region of the resource",
        source=(
            "Azure Face documentation, https://github.com/MicrosoftDocs/azure-ai-docs, "
            "articles/ai-services/face"
        ),
        looked_up=_LOOKED_UP,
    ),
    ProviderFacts(
        provider="kserve",
        retention="unknown: the protocol says nothing; ask its operator",
        training=UNKNOWN,
        opt_out=UNKNOWN,
        region="wherever it is run",
        source="https://github.com/kserve/open-inference-protocol",
        looked_up=_LOOKED_UP,
    ),
)
"""Of the providers that `CloudDetectionService` knows. Looked up, not tested: what a provider keeps
cannot be seen from outside."""
