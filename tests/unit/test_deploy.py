"""What deploy/ ships fits together."""

from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir())


def the_deployment() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "base" / "deployment.yaml").read_text())
    return found


def test_the_sample_for_a_directory_lies_on_a_volume_that_the_deployment_mounts() -> None:
    pod = the_deployment()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    writable = {
        Path(mount["mountPath"])
        for mount in container["volumeMounts"]
        if not mount.get("readOnly") and mount["name"] in volumes
    }
    sample = yaml.safe_load((DEPLOY / "samples" / "local.yaml").read_text())
    path = Path(sample["spec"]["store"]["local"]["path"])
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert writable & {path, *path.parents}


def test_a_disruption_leaves_a_replica_and_never_blocks_a_lone_one() -> None:
    budget = yaml.safe_load((DEPLOY / "base" / "poddisruptionbudget.yaml").read_text())
    spec = the_deployment()["spec"]
    assert spec["replicas"] == 2
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"] == spec["selector"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_every_right_has_its_reason_beside_it() -> None:
    lines = (DEPLOY / "base" / "rbac.yaml").read_text().splitlines()
    rules = [number for number, line in enumerate(lines) if line.strip().startswith("- apiGroups")]
    assert len(rules) > 8
    bare = [lines[number] for number in rules if not lines[number - 1].strip().startswith("#")]
    assert not bare


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_and_the_documentation_know_each_other(overlay: str) -> None:
    page = (DEPLOY.parent / "docs" / "install.md").read_text()
    assert f"`deploy/overlays/{overlay}`" in page
    text = (DEPLOY / "overlays" / overlay / "kustomization.yaml").read_text()
    assert text.startswith(f"# kubectl apply -k deploy/overlays/{overlay}:")
