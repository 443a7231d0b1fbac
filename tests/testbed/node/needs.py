"""What a node needs of the machine that nobody can build, and whether it is there.

Tried on Debian 12 with cgroup v1. On cgroup v2 alone the node's groups would have to be made in
another way, which nobody has tried: so it counts as absent.
"""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

PACKAGES = "containerd runc containernetworking-plugins mmdebstrap buildah iproute2"
INSTALL = f"apt-get install -y --no-install-recommends {PACKAGES}"
PROGRAMS = ("containerd", "ctr", "runc", "mmdebstrap", "buildah", "ip", "nsenter", "unshare")
CNI = Path("/usr/lib/cni")
PLUGINS = ("bridge", "host-local", "loopback")
CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer")
# What the node does to itself in the same way: a net of its own, an overlay on a tmpfs.
_PROBE = """
mount -t tmpfs tmpfs "$0" && mkdir "$0/upper" "$0/work" "$0/merged" &&
mount -t overlay -o "lowerdir=/etc,upperdir=$0/upper,workdir=$0/work" overlay "$0/merged" &&
ip link add probe0 type bridge
"""


@functools.cache
def absent() -> tuple[str, ...]:
    """Return a sentence for each thing that is lacking; none means that a node can be had."""
    if os.geteuid() != 0:
        return ("a Kubernetes node: only root can make one (sudo make node-test)",)
    lacking = missing_programs()
    if lacking:
        return (f"a Kubernetes node: no {', '.join(lacking)} (Debian 12: {INSTALL})",)
    groups = [name for name in CONTROLLERS if not (CGROUPS / name).is_dir()]
    if groups:
        return (f"a Kubernetes node: no cgroup v1 hierarchy of {', '.join(groups)}",)
    if refusal := _refusal():
        return (f"a Kubernetes node: the kernel refuses what it needs: {refusal}",)
    return ()


def missing_programs() -> list[str]:
    """Return the programs and CNI plugins that are not there."""
    programs = [name for name in PROGRAMS if shutil.which(name) is None]
    return programs + [f"CNI plugin {name}" for name in PLUGINS if not (CNI / name).exists()]


def _refusal() -> str:
    with tempfile.TemporaryDirectory() as directory:
        probe = subprocess.run(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc",
             "sh", "-c", _PROBE, directory],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
    return probe.stderr.strip() if probe.returncode else ""
