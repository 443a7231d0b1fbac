"""The alerts' rules as Prometheus' own tools judge them."""

from pathlib import Path

import pytest

from tests.testbed.prometheus import promtool

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("etcd-steward", "etcd-size")


@pytest.mark.parametrize("group", GROUPS)
async def test_the_rules_are_valid(group: str) -> None:
    rules = ROOT / "deploy" / "alerts" / f"{group}.yaml"
    done = await promtool("check", "rules", "--lint=all", "--lint-fatal", rules)
    assert done.status == 0, (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("group", GROUPS)
async def test_each_alert_fires_when_it_should_and_only_then(group: str) -> None:
    tests = Path(__file__).parent / "alerts" / f"{group}.yaml"
    done = await promtool("test", "rules", tests)
    assert done.status == 0, (done.stdout + done.stderr).decode()
