"""The parts that etcd-steward works with, real and on loopback, for tests, demo and shell.

Each is an async context manager with a log per process, and nothing of it outlives its parent.
`python -m tests.testbed --help` starts them for a person.
"""

from tests.testbed.binaries import binary
from tests.testbed.certs import Authority, KeyPair
from tests.testbed.etcd import Auth, EtcdCluster, EtcdMember
from tests.testbed.faults import Direction, FaultProxy
from tests.testbed.kubernetes import ControlPlane
from tests.testbed.process import Server, TestbedError, wait_until
from tests.testbed.prometheus import Alertmanager, Prometheus
from tests.testbed.seaweedfs import Identity, SeaweedFS

__all__ = [
    "Alertmanager",
    "Auth",
    "Authority",
    "ControlPlane",
    "Direction",
    "EtcdCluster",
    "EtcdMember",
    "FaultProxy",
    "Identity",
    "KeyPair",
    "Prometheus",
    "SeaweedFS",
    "Server",
    "TestbedError",
    "binary",
    "wait_until",
]
