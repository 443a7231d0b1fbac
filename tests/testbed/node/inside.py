"""Process 1 of the node's namespaces: furnishes them, says so, and reaps what is orphaned.

A program of its own (`python -I -S inside.py WORK`), started by `unshare` in new net, mount and pid
namespaces. Whoever kills it ends every process in there, and with the last one go all mounts and
interfaces.
"""

import signal
import subprocess
import sys
from pathlib import Path

ADDRESS = "10.250.0.1"
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
# The node may write here without leaving a trace on the host: what it writes lies in memory.
WRITABLE = ("/etc", "/var/lib")
# The kubelet insists on these; it shall see them, and the host keep its own.
SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
}


def run(*command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True)


def mounts() -> None:
    """Give the node its own /run, /var/log, and changes of /etc and /var/lib."""
    run("mount", "--make-rshared", "/")  # containerd and the kubelet hand mounts on to containers
    for directory in ("/run", "/var/log"):
        run("mount", "-t", "tmpfs", "tmpfs", directory)
    for directory in ("/run/containerd", "/run/netns"):
        Path(directory).mkdir()
    for directory in WRITABLE:
        layer = Path("/run/overlay") / directory.strip("/").replace("/", "-")
        (layer / "upper").mkdir(parents=True)
        (layer / "work").mkdir()
        options = f"lowerdir={directory},upperdir={layer}/upper,workdir={layer}/work"
        run("mount", "-t", "overlay", "-o", options, "overlay", directory)
    Path("/var/lib/kubelet").mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", "/var/lib/kubelet")
    for name, value in SYSCTLS.items():
        fake = Path("/run") / name.replace("/", "-")
        fake.write_text(f"{value}\n")
        run("mount", "--bind", str(fake), f"/proc/sys/{name}")


def network() -> None:
    """Make a bridge that has the node's address, and that of the API server's Service.

    So no kube-proxy is needed for the one Service that matters. There is no default route: nothing
    gets out.
    """
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "node0", "type", "bridge")
    for address in (f"{ADDRESS}/24", f"{API_SERVICE}/32"):
        run("ip", "address", "add", address, "dev", "node0")
    run("ip", "link", "set", "node0", "up")
    run("ip", "route", "add", SERVICE_RANGE, "dev", "node0")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")


def main() -> None:
    """Furnish, say so, stay."""
    work = Path(sys.argv[1])
    mounts()
    network()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps orphans then
    (work / "ready").touch()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
