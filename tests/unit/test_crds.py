"""What `tools/generate_crds.py` makes of the models."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from etcd_steward.models.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
SHORT = {
    "etcdbackups": "ebk",
    "etcdsnapshots": "esnap",
    "etcdrestores": "erestore",
    "etcdmaintenances": "emaint",
}
PLURALS = tuple(SHORT)
Schema = dict[str, Any]

# What a structural schema may hold; the API server refuses the rest or drops it silently.
KEYWORDS = {
    "type", "properties", "required", "items", "description", "default", "enum", "format",
    "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems",
    "additionalProperties", "maxProperties",
    "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
}  # fmt: skip


def crd(plural: str) -> Schema:
    """A committed CRD."""
    loaded: Schema = yaml.safe_load((ROOT / "crds" / f"{plural}.yaml").read_text())
    return loaded


def schema(plural: str) -> Schema:
    """Its object's schema."""
    found: Schema = crd(plural)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def nodes(node: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Every schema in a schema, with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in node:
            yield from nodes(node[keyword], f"{path}[]")


def test_what_is_committed_is_what_the_models_say() -> None:
    command = [sys.executable, str(ROOT / "tools" / "generate_crds.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run make generate"


@pytest.mark.parametrize("plural", PLURALS)
def test_the_schema_is_structural(plural: str) -> None:
    for path, node in nodes(schema(plural), plural):
        assert set(node) <= KEYWORDS, path
        assert "type" in node, path


@pytest.mark.parametrize("plural", PLURALS)
def test_every_field_is_described(plural: str) -> None:
    for path, node in nodes(schema(plural), plural):
        if not path.endswith(("[]", ".metadata")):
            assert node.get("description"), path


@pytest.mark.parametrize("plural", PLURALS)
def test_every_field_of_a_spec_has_an_example(plural: str) -> None:
    spec = schema(plural)["properties"]["spec"]
    for path, node in nodes(spec, "spec"):
        if path != "spec" and not path.endswith("[]"):
            assert "Example: `" in node["description"], path


@pytest.mark.parametrize("plural", PLURALS)
def test_names_are_what_people_type(plural: str) -> None:
    names = crd(plural)["spec"]["names"]
    assert names["categories"] == ["etcd"]
    assert names["shortNames"] == [SHORT[plural]]
    assert "status" in crd(plural)["spec"]["versions"][0]["subresources"]


def test_conditions_are_keyed_by_type() -> None:
    for plural in PLURALS:
        conditions = schema(plural)["properties"]["status"]["properties"]["conditions"]
        assert conditions["x-kubernetes-list-type"] == "map"
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_the_manifests_schema_is_the_models() -> None:
    committed = json.loads((ROOT / "docs" / "manifest.schema.json").read_text())
    fields = {field.alias or name for name, field in Manifest.model_fields.items()}
    assert fields == set(committed["properties"])
    assert committed["additionalProperties"] is False
