from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.privacy.consent_record import ConsentRecord
from hybrid_detect.privacy.privacy_policy import FramePrivacy, PrivacyPolicy
from hybrid_detect.types import BackendKind

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOST = "faces.example.com"
REMOTE = [BackendKind.CLOUD, BackendKind.STREAMING]


def consent(**changes: Any) -> ConsentRecord:
    values = {
        "subject": "ann",
        "scope": "send_frames",
        "version": "3",
        "recorded_by": "screen",
        "granted_at": NOW - timedelta(hours=1),
    }
    return ConsentRecord(**{**values, **changes})


def denied_reason(policy: PrivacyPolicy, kind: Any = BackendKind.CLOUD, **changes: Any) -> str:
    return policy.denied_reason(kind, **{"host": HOST, "now": NOW, **changes})


ASKING = PrivacyPolicy(require_consent=True, consent_version="3")

policies = st.builds(
    PrivacyPolicy,
    may_leave=st.booleans(),
    backends=st.frozensets(st.sampled_from(REMOTE)),
    hosts=st.none() | st.frozensets(st.sampled_from([HOST, "other.example", "10.0.0.1"])),
    allowed_providers=st.none() | st.frozensets(st.sampled_from(["aws", "Google"])),
    allowed_regions=st.none() | st.frozensets(st.sampled_from(["eu-west-1", "US-East-1"])),
    sources=st.none() | st.frozensets(st.sampled_from(["door", "desk"])),
    require_consent=st.booleans(),
    consent_version=st.just("3"),
)
times = st.datetimes(timezones=st.just(UTC))
consents = st.none() | st.builds(
    consent,
    scope=st.sampled_from(["send_frames", "train"]),
    version=st.sampled_from(["2", "3"]),
    withdrawn_at=st.none() | times,
    providers=st.none() | st.just(frozenset({"aws"})),
    regions=st.none() | st.just(frozenset({"eu-west-1"})),
)
requests = st.fixed_dictionaries(
    {
        "host": st.none() | st.sampled_from([HOST, "", "evil.example", "10.0.0.1"]),
        "now": st.sampled_from([NOW, NOW - timedelta(days=1)]),
        "provider": st.sampled_from(["", "aws", "AWS", "google", "evil"]),
        "region": st.sampled_from(["", "eu-west-1", "EU-WEST-1", "us-east-1", "eu-west-10"]),
        "source": st.none() | st.sampled_from(["door", "desk", "yard"]),
        "consent": consents,
    }
)


@pytest.mark.parametrize("kind", REMOTE)
def test_by_default_frames_go_to_the_configured_endpoint_and_nowhere_without(
    kind: BackendKind,
) -> None:
    assert denied_reason(PrivacyPolicy(), kind) == ""
    for host in (None, ""):
        assert denied_reason(PrivacyPolicy(), kind, host=host) == "no endpoint is configured"


@given(policies, requests, st.sampled_from(list(FramePrivacy)))
def test_the_device_may_have_every_frame(
    policy: PrivacyPolicy, request: dict[str, Any], privacy: FramePrivacy
) -> None:
    assert policy.denied_reason(BackendKind.DEVICE, privacy=privacy, **request) == ""


@given(policy=policies, request_=requests, kind=st.sampled_from(REMOTE))
@pytest.mark.parametrize("privacy", [FramePrivacy.LOCAL_ONLY, "local_only"])
def test_local_only_never_allows_a_remote_way(
    policy: PrivacyPolicy, request_: dict[str, Any], kind: BackendKind, privacy: FramePrivacy
) -> None:
    assert policy.denied_reason(kind, privacy=privacy, **request_) == "the frame is local_only"


@given(policies, requests, st.sampled_from(REMOTE))
def test_a_remote_way_is_allowed_exactly_if_every_condition_is_met(
    policy: PrivacyPolicy, request: dict[str, Any], kind: BackendKind
) -> None:
    given = request["consent"]
    consented = given is not None and (
        given.withdrawn_at is None
        and (given.scope, given.version) == ("send_frames", "3")
        and given.granted_at <= request["now"]
        and (given.providers is None or request["provider"].lower() in given.providers)
        and (given.regions is None or request["region"].lower() in given.regions)
    )
    providers, regions = policy.allowed_providers, policy.allowed_regions
    expected = (
        policy.may_leave
        and kind in policy.backends
        and bool(request["host"])
        and (policy.hosts is None or request["host"] in policy.hosts)
        and (providers is None or request["provider"].lower() in providers)
        and (regions is None or request["region"].lower() in regions)
        and (policy.sources is None or request["source"] in policy.sources)
        and (consented or not policy.require_consent)
    )
    assert (policy.denied_reason(kind, **request) == "") == expected


@given(withdrawn=times, now=times, granted=times, kind=st.sampled_from(REMOTE))
def test_a_withdrawn_consent_never_allows_whatever_the_clock_says(
    withdrawn: datetime, now: datetime, granted: datetime, kind: BackendKind
) -> None:
    ended = consent(granted_at=granted, withdrawn_at=withdrawn)
    assert denied_reason(ASKING, kind, now=now, consent=ended).startswith("consent was withdrawn")


@given(now=times, seconds=st.integers(1, 10**8))
def test_an_expired_consent_never_allows(now: datetime, seconds: int) -> None:
    granted = datetime(2020, 1, 1, tzinfo=UTC)
    ends = granted + timedelta(seconds=seconds)
    given_consent = consent(granted_at=granted, expires_at=ends)
    allowed = denied_reason(ASKING, now=now, consent=given_consent) == ""
    assert allowed == (granted <= now < ends)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"consent": None}, "no consent stands"),
        ({"consent": "yes"}, "no consent stands"),
        ({"consent": True}, "no consent stands"),
        ({"consent": consent(scope="train")}, "'train'"),
        ({"consent": consent(version="2")}, "version '2'"),
        ({"consent": consent(granted_at=NOW + timedelta(seconds=1))}, "still to come"),
        ({"consent": consent(), "now": datetime(2026, 11, 23, 12)}, "time is unknown"),
        ({"consent": consent(), "now": None}, "time is unknown"),
        ({"consent": consent(), "now": NOW.timestamp()}, "time is unknown"),
        ({"consent": consent()}, ""),
    ],
)
def test_consent_has_to_fit(changes: dict[str, Any], told: str) -> None:
    why = denied_reason(ASKING, **changes)
    assert told in why
    assert bool(why) == bool(told)
    assert "ann" not in why


@pytest.mark.parametrize("privacy", ["", "public", "LOCAL_ONLY", None, 0, False, [], object()])
def test_an_unknown_privacy_denies(privacy: object) -> None:
    assert "unknown" in denied_reason(PrivacyPolicy(), privacy=privacy)


@pytest.mark.parametrize("kind", ["carrier_pigeon", "", None, 7, "CLOUD", []])
def test_an_unknown_way_is_denied(kind: object) -> None:
    assert "does not allow the backend" in denied_reason(PrivacyPolicy(), kind)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "faces.example.com.evil.example",
        "evil.faces.example.com",
        "faces.example.com:443",
        "https://faces.example.com",
        "user@faces.example.com",
        "faces.example.com/",
        "faces.example.com ",
        "f\u0430ces.example.com",  # a Cyrillic letter
        b"faces.example.com",
        7,
    ],
)
def test_another_host_is_denied(host: object) -> None:
    assert "does not allow the host" in denied_reason(
        PrivacyPolicy(hosts=frozenset({HOST})), host=host
    )


@pytest.mark.parametrize(
    ("allowed", "host"),
    [
        (HOST, HOST),
        ("Faces.Example.COM.", HOST),
        (HOST, "FACES.EXAMPLE.COM."),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_the_same_host_in_another_spelling_is_allowed(allowed: str, host: str) -> None:
    assert denied_reason(PrivacyPolicy(hosts=frozenset({allowed})), host=host) == ""


def test_a_letter_that_folds_to_another_is_another_host() -> None:
    policy = PrivacyPolicy(hosts=frozenset({"kiosk.example"}))
    assert denied_reason(policy, host="KIOSK.example") == ""
    assert denied_reason(policy, host="\N{KELVIN SIGN}IOSK.example")


def test_only_the_named_sources_leave() -> None:
    policy = PrivacyPolicy(sources=frozenset({"door"}))
    assert denied_reason(policy, source="door") == ""
    for source in ("desk", "", None, 7, ["door"]):
        assert "of source" in denied_reason(policy, source=source)


@pytest.mark.parametrize(
    "options",
    [
        {"hosts": "faces.example.com"},
        {"hosts": ["https://faces.example.com"]},
        {"hosts": [""]},
        {"hosts": ["*.example.com"]},
        {"hosts": [7]},
        {"sources": "door"},
        {"backends": ["device"]},
        {"backends": ["carrier_pigeon"]},
        {"backends": "cloud"},
        {"may_leave": "no"},
        {"may_leave": None},
        {"require_consent": 1, "consent_version": "3"},
        {"require_consent": True},
        {"require_consent": True, "consent_version": "3", "consent_scope": ""},
    ],
)
def test_an_unclear_policy_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        PrivacyPolicy(**options)


def test_any_set_of_texts_will_do() -> None:
    policy = PrivacyPolicy(
        hosts=[HOST],
        backends=["cloud"],
        sources={"door"},  # type: ignore[arg-type]
    )
    assert denied_reason(policy, BackendKind.CLOUD, source="door") == ""
    assert denied_reason(policy, BackendKind.STREAMING, source="door")
    assert hash(policy) == hash(policy)


@given(
    one=st.none() | st.frozensets(st.sampled_from(["a", "B", "c"])),
    other=st.none() | st.frozensets(st.sampled_from(["A", "b", "c"])),
    name=st.sampled_from(["a", "b", "c", "d", ""]),
)
def test_of_two_rules_the_narrower_holds(
    one: frozenset[str] | None, other: frozenset[str] | None, name: str
) -> None:
    for rule in ("provider", "region"):
        both = PrivacyPolicy(**{f"allowed_{rule}s": one}).within(
            allowed_providers=other if rule == "provider" else None,
            allowed_regions=other if rule == "region" else None,
        )
        allowed = all(
            names is None or name in {each.lower() for each in names} for names in (one, other)
        )
        assert (denied_reason(both, **{rule: name}) == "") == allowed


@pytest.mark.parametrize("rule", ["allowed_providers", "allowed_regions"])
@pytest.mark.parametrize("value", ["aws", frozenset({""}), frozenset({" "}), frozenset({1})])
def test_a_rule_that_cannot_be_read_is_refused(rule: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rule):
        PrivacyPolicy(**{rule: value})


@pytest.mark.parametrize("value", [None, 7, b"aws", ["aws"], object()])
def test_a_destination_that_is_no_text_is_denied_without_an_error(value: Any) -> None:
    policy = PrivacyPolicy(allowed_providers=frozenset({"aws"}), allowed_regions=frozenset({"eu"}))
    assert denied_reason(policy, provider=value, region="eu")
    assert denied_reason(policy, provider="aws", region=value)
