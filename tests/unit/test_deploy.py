"""What deploy/ ships fits together."""

from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def test_the_sample_for_a_directory_lies_on_a_volume_that_the_deployment_mounts() -> None:
    pod = yaml.safe_load((DEPLOY / "deployment.yaml").read_text())["spec"]["template"]["spec"]
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
