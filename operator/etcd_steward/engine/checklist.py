"""What etcd's data are not, and what remains to be done once they are back.

For the day on which nobody remembers: printed by `restore cluster`, and by `check` while there is
time to do something about it.
"""

from dataclasses import dataclass

NOT_IN_A_SNAPSHOT = (
    "the PKI: CAs, certificates and keys of etcd and the API servers (/etc/kubernetes/pki)",
    "the service account keys (sa.key, sa.pub): with others every token in the cluster is void",
    "the API server's encryption configuration and its KMS key: without them Secrets stay sealed",
    "static Pods, kubeconfigs, kubelet configuration (/etc/kubernetes, /var/lib/kubelet)",
    "the token of k3s or RKE2 (server/token): their own keys in etcd are encrypted with it",
    "what lies in volumes",
)
"""Each a thing that must be kept by other means."""
IN_SHORT = (
    "the PKI, service account keys, the encryption configuration and KMS key, static Pods, the "
    "token of k3s"
)
"""The same in a line, for those who still have the time to look at it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do next."""

    what: str
    commands: tuple[str, ...] = ()


def steps(commands: dict[str, str], data_dir: str, alarms: tuple[str, ...]) -> tuple[Step, ...]:
    """What remains after one member was restored into `data_dir`.

    `commands` restore each of the other members, by its name; `alarms` lie in the snapshot.
    """
    found = [
        Step(
            "Here: etcd must be able to read and write the directory. Where it runs as a user of "
            "its own, hand it over",
            (f"chown -R etcd: {data_dir}",),
        )
    ]
    found += [
        Step(f"On the host of {name}: the same snapshot, token and bump", (command,))
        for name, command in commands.items()
    ]
    found += [
        Step(
            "On every host: start etcd as it was, with the same name and URLs. It answers once a "
            "majority runs. Compare the members: same revision, same hash, no alarm",
            (
                "etcdctl endpoint health --cluster",
                "etcdctl endpoint hashkv --cluster -w table",
                "etcdctl alarm list",
            ),
        )
    ]
    if alarms:
        found.append(
            Step(
                f"The snapshot holds alarms ({', '.join(alarms)}), and a restore keeps them: once "
                "there is room (a larger --quota-backend-bytes, or compact and defragment)",
                ("etcdctl alarm disarm",),
            )
        )
    found += [
        Step(
            "On every control plane host: start the API servers, or restart those that still run",
            ("kubectl get --raw /readyz",),
        ),
        Step(
            "Then restart whoever keeps a cache or leads by a Lease: kube-controller-manager, "
            "kube-scheduler and cloud controllers; the kubelet of every node; kube-proxy and the "
            "network plugin's agents; operators and admission webhooks"
        ),
        Step(
            "Look at what runs but is in the API no more, and the other way round; then take a "
            "backup",
            ("kubectl get nodes,pods -A", "etcd-steward snapshot save"),
        ),
    ]
    return tuple(found)
