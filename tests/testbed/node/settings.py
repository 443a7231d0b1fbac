"""What containerd, the kubelet and the Pods' network are told."""

from pathlib import Path
from typing import Any

from tests.testbed.node.images import PAUSE
from tests.testbed.node.inside import ADDRESS

POD_RANGE = "10.244.7.0/24"


def containerd_settings(data: Path, socket: Path, networks: Path, plugins: Path) -> str:
    """Return containerd's configuration file; all of its data lie below `data`."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{data}/root"
state = "{data}/state"
[plugins."io.containerd.internal.v1.opt"]
path = "{data}/opt"
[grpc]
address = "{socket}"
[{cri}]
sandbox_image = "{PAUSE}"
disable_apparmor = true
# Without CAP_SYS_RESOURCE nobody may lower it, and no Pod would start.
restrict_oom_score_adj = true
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.cni]
bin_dir = "{plugins}"
conf_dir = "{networks}"
"""


def cni_network() -> dict[str, Any]:
    """Return a bridge for the Pods, whose gateway is the node."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_RANGE}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": ipam,
    }
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def kubelet_settings(data: Path, socket: Path, authority: Path, cgroup: str) -> dict[str, Any]:
    """Return the kubelet's configuration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "containerRuntimeEndpoint": f"unix://{socket}",
        # Not the machine's: other things run on it.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "failCgroupV1": False,
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": False,  # there is no kube-proxy
        "maxOpenFiles": 20000,
        "oomScoreAdj": 0,
        "podLogsDir": str(data / "pod-logs"),
        "resolvConf": "",
        "volumePluginDir": str(data / "volume-plugins"),
    }
