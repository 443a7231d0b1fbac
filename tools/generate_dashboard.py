"""Generate `deploy/dashboard/etcd-steward.json`, a Grafana dashboard, from `dashboard.py`.

Run it after a change there and commit what it writes; `--check` only compares and fails on a
difference. Import the file in Grafana (Dashboards, New, Import), or let its sidecar find it in a
ConfigMap.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).parent))

from dashboard import ROWS, VARIABLE, Panel, Query  # noqa: E402

TARGET = ROOT / "deploy" / "dashboard" / "etcd-steward.json"
HEIGHT: Final = 8
COLUMNS: Final = 24
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


def target(query: Query, number: int, *, table: bool) -> Json:
    """A question as Grafana's Prometheus data source has it."""
    made: Json = {
        "datasource": DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend,
        "refId": chr(ord("A") + number),
    }
    return made | ({"format": "table", "instant": True} if table else {"range": True})


def _named(number: int, name: str, value: object) -> Json:
    """One property of the column that a query fills."""
    matcher = {"id": "byName", "options": f"Value #{chr(ord('A') + number)}"}
    return {"matcher": matcher, "properties": [{"id": name, "value": value}]}


def _timeseries(panel: Panel) -> Json:
    limits = {"min": 0} | ({"max": panel.most} if panel.most is not None else {})
    return {
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "custom": {"fillOpacity": 8}, **limits},
            "overrides": [],
        },
        "options": {
            "legend": {
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
                "calcs": [],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _table(panel: Panel) -> Json:
    numbered = list(enumerate(panel.queries))
    columns = {name: place for place, name in enumerate(panel.by)}
    columns |= {f"Value #{chr(ord('A') + n)}": len(panel.by) + n for n, _ in numbered}
    organize = {
        "excludeByName": {"Time": True},
        "indexByName": columns,
        "renameByName": {f"Value #{chr(ord('A') + n)}": query.legend for n, query in numbered},
    }
    return {
        "fieldConfig": {
            "defaults": {"unit": panel.unit},
            # by the name that the column has before it is renamed
            "overrides": [_named(n, "unit", q.unit) for n, q in numbered if q.unit != panel.unit],
        },
        "options": {"showHeader": True, "cellHeight": "sm"},
        "transformations": [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": organize},
        ],
    }


def _panel(panel: Panel, number: int, place: Json) -> Json:
    table = panel.kind == "table"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "targets": [target(q, n, table=table) for n, q in enumerate(panel.queries)],
        **(_table(panel) if table else _timeseries(panel)),
    }


def panels() -> list[Json]:
    """All panels, from left to right and from top to bottom."""
    made: list[Json] = []
    y = 0
    for row in ROWS:
        place: Json = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        made.append(
            {
                "id": len(made) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": place,
                "panels": [],
            }
        )
        x, y = 0, y + 1
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + HEIGHT
            place = {"h": HEIGHT, "w": panel.width, "x": x, "y": y}
            made.append(_panel(panel, len(made) + 1, place))
            x += panel.width
        y += HEIGHT
    return made


def variables() -> list[Json]:
    """What is chosen at the top: a Prometheus, and an etcd of those that it knows."""
    return [
        {
            "name": "datasource",
            "label": "Prometheus",
            "type": "datasource",
            "query": "prometheus",
        },
        {
            "name": VARIABLE,
            "label": "etcd",
            "type": "query",
            "datasource": DATASOURCE,
            "query": f"label_values(etcd_steward_etcd_observed_timestamp_seconds, {VARIABLE})",
            "refresh": 2,  # when the time range changes
            "sort": 1,
        },
    ]


def dashboard() -> Json:
    """Grafana's model of the whole."""
    return {
        "uid": "etcd-steward",
        "title": "etcd-steward",
        "description": "Clusters, their backups, and one etcd from near.",
        "tags": ["etcd", "backup"],
        "schemaVersion": 41,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "1m",
        "templating": {"list": variables()},
        "panels": panels(),
    }


def main() -> int:
    """Write the file, or with `--check` say whether it is stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    text = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"{'stale' if check else 'wrote'}: {TARGET.relative_to(ROOT)}")
    if not check:
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(text, encoding="utf-8")
    return int(check)


if __name__ == "__main__":
    sys.exit(main())
