"""Prometheus' configuration, alerts and Grafana's dashboard: each by its own validator, and against
the metrics that there are."""

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from ..metrics_page import PROMETHEUS
from .gateways import EXAMPLES
from .prometheus import program

yaml = pytest.importorskip("yaml", reason="pyyaml comes with the validators")

MONITORING = EXAMPLES / "monitoring"
ALERTS = MONITORING / "alerts.yml"
ALERT_TESTS = MONITORING / "alerts_test.yml"
DASHBOARD = MONITORING / "dashboard.json"

METRIC = re.compile(r"\b(?:hybrid_detect|process)_\w+(?=[\[{\s)]|$)")
SELECTED = re.compile(r"([a-z_:]+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|=|!=|!~)\s*"([^"]*)"')
LABELS_OF_PROMETHEUS = {"job", "instance"}


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def queries() -> Iterator[str]:
    """Every query of the dashboard, its variables replaced as Grafana replaces them."""
    for panel in panels():
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
            assert "$" not in query
            yield query


@cache
def samples() -> dict[str, dict[str, set[str]]]:
    """The labels and their values of each sample that client and server export from the start."""
    found: dict[str, dict[str, set[str]]] = {}
    for make in PROMETHEUS.values():
        registry = CollectorRegistry()
        made = make(registry)
        for family in registry.collect():
            collector = registry._names_to_collectors.get(family.name)
            declared = getattr(collector, "_labelnames", ())
            suffix = "_total" if family.type == "counter" else ""
            found.setdefault(f"{family.name}{suffix}", {name: set() for name in declared})
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for name, value in sample.labels.items():
                    labels.setdefault(name, set()).add(value)
        del made
    return found


def expressions() -> list[str]:
    return [*queries(), *(rule["expr"] for rule in rules())]


def test_the_configuration_is_valid() -> None:
    promtool("check", "config", MONITORING / "prometheus.yml")


def test_the_alerts_are_valid() -> None:
    promtool("check", "rules", "--lint-fatal", ALERTS)


def test_the_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", ALERT_TESTS)


def test_each_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases: dict[str, set[bool]] = {}
    for test in yaml.safe_load(ALERT_TESTS.read_text(encoding="utf-8"))["tests"]:
        for case in test["alert_rule_test"]:
            cases.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert cases == {alert: {True, False} for alert in alerts}


def test_each_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    recorded = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries())]
    assert len(recorded) > 30
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    promtool("check", "rules", path)


def test_each_metric_that_is_asked_for_exists() -> None:
    there = samples()
    names = {name for each in expressions() for name in METRIC.findall(each)}
    assert len(names) > 30
    assert {n for n in names if n not in there and not n.startswith("process_")} == set()


def test_each_label_and_value_that_is_asked_for_exists() -> None:
    there = samples()
    matched = set()
    for each in expressions():
        for name, selectors in SELECTED.findall(each):
            for label, how, wanted in MATCHER.findall(selectors):
                if label in LABELS_OF_PROMETHEUS:
                    continue
                known = there[name][label]
                values = wanted.split("|") if "~" in how else [wanted]
                assert set(values) <= known or not known, (name, label, set(values) - known)
                matched.add((name, label))
    assert len(matched) >= 3
    grouped = {
        label.strip()
        for each in expressions()
        for found in re.findall(r"\bby \(([^)]*)\)", each)
        for label in found.split(",")
    }
    assert grouped <= {label for labels in there.values() for label in labels} | (
        LABELS_OF_PROMETHEUS
    )


def test_each_recorded_series_that_is_asked_for_is_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = {name for each in expressions() for name in re.findall(r"\bhybrid_detect:[\w:]+", each)}
    assert asked == recorded


def test_grafana_s_own_types_lose_nothing_of_the_dashboard() -> None:
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    written = json.loads(DASHBOARD.read_text(encoding="utf-8"))

    def read(values: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(models.Dashboard.from_json(values), cls=encoder.JSONEncoder)
        return json.loads(text)

    def is_within(left: Any, right: Any) -> bool:
        if isinstance(left, dict):
            return all(name in right and is_within(left[name], right[name]) for name in left)
        if isinstance(left, list):
            return len(left) == len(right) and all(map(is_within, left, right))
        return bool(left == right)

    assert is_within(written, read(written))
    misspelt = {**written, "panels": [{**written["panels"][1], "titel": "x"}]}
    assert not is_within(misspelt, read(misspelt))


def test_panels_have_their_place_and_an_explanation_or_a_plain_name() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
