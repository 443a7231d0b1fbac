"""Alerts and dashboard: generated files are fresh, and name what there is."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from etcd_steward.metrics import names

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy" / "dashboard" / "etcd-steward.json"
TESTS = ROOT / "tests" / "integration" / "alerts"
GROUPS = ("etcd-steward", "etcd-size")
METRIC = re.compile(r"etcd_steward_\w+")
Rule = dict[str, Any]


def group(name: str) -> list[Rule]:
    loaded = yaml.safe_load((ROOT / "deploy" / "alerts" / f"{name}.yaml").read_text())
    (only,) = loaded["groups"]
    assert only["name"] == name
    rules: list[Rule] = only["rules"]
    return rules


ALERTS = {rule["alert"]: rule for name in GROUPS for rule in group(name)}


def expressions() -> Iterator[tuple[str, str]]:
    """Every question of the dashboard and every alert's, with where it stands."""
    yield from ((name, rule["expr"]) for name, rule in ALERTS.items())
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))


@pytest.mark.parametrize("tool", ["generate_alerts.py", "generate_dashboard.py"])
def test_what_is_committed_is_what_the_sources_say(tool: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / tool), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run make generate"


@pytest.mark.parametrize("name", GROUPS)
def test_the_prometheus_rule_says_the_same_as_the_rule_file(name: str) -> None:
    folder = ROOT / "deploy" / "components" / f"alerts-{name}"
    made = yaml.safe_load((folder / "prometheusrule.yaml").read_text())
    assert made["spec"]["groups"] == [{"name": name, "rules": group(name)}]
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization["resources"] == ["prometheusrule.yaml"]


def test_the_dashboard_is_what_grafana_takes() -> None:
    schema = Path(__file__).with_name("grafana") / "dashboard.schema.json"
    validator = Draft7Validator(json.loads(schema.read_text()))
    dashboard = json.loads(DASHBOARD.read_text())
    assert [error.message for error in validator.iter_errors(dashboard)] == []
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    dashboard["panels"][1]["targets"][0]["expression"] = "up"  # it is closed: a typo is found
    assert not validator.is_valid(dashboard)


def test_every_metric_that_is_asked_for_exists() -> None:
    known = {family.exposed for family in names.ALL}
    unknown = {
        f"{where}: {metric}"
        for where, expression in expressions()
        for metric in METRIC.findall(expression)
        if metric not in known
    }
    assert not unknown


def test_every_label_that_is_asked_for_exists() -> None:
    known = {label for family in names.ALL for label in family.labels}
    asked = {
        label.strip()
        for _, expression in expressions()
        for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
        for label in labels.split(",")
    }
    assert asked <= known


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_tells_a_person_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    said = rule["annotations"]
    assert set(said) == {"summary", "description", "runbook_url"}
    assert not said["summary"].endswith(".")
    assert said["description"].endswith(".")
    assert said["runbook_url"].endswith(f"/docs/runbooks/{alert}.md")
    # A label that the expression has lost would be told as an empty word.
    used = set(re.findall(r"\$labels\.(\w+)", said["summary"] + said["description"]))
    kept = {
        label.strip()
        for labels in re.findall(r"by \(([^)]*)\)", rule["expr"])
        for label in labels.split(",")
    }
    made = re.findall(r'"(\w+)", "[^"]+", "", ""\)', rule["expr"])  # by label_replace
    assert used <= kept | set(made)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_documented(alert: str) -> None:
    docs = ROOT / "docs"
    severity = ALERTS[alert]["labels"]["severity"]
    assert f"| [{alert}](runbooks/{alert}.md) | {severity} |" in (docs / "alerts.md").read_text()
    page = (docs / "runbooks" / f"{alert}.md").read_text()
    assert page.startswith(f"# {alert}\n\n**{severity.capitalize()}.** ")
    for heading in ("## Look", "## Mend", "```console"):
        assert heading in page


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tested_both_ways(alert: str) -> None:
    asked = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    outcomes = {
        bool(case["exp_samples"])
        for name in GROUPS
        for test in yaml.safe_load((TESTS / f"{name}.yaml").read_text())["tests"]
        for case in test["promql_expr_test"]
        if case["expr"] == asked
    }
    assert outcomes == {True, False}
