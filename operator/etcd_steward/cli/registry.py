"""`etcd-steward registry …`: what is in a Kubernetes registry, live or in any backup."""

import click

from etcd_steward.cli.framework import LazyVerbs

_HERE = "etcd_steward.cli.registry"
_VERBS = {
    "export": (f"{_HERE}_export:export", "Store the live keys of an etcd as one Parquet file."),
    "get": (f"{_HERE}_get:get", "Print objects as kubectl does."),
    "ls": (f"{_HERE}_ls:ls", "Count objects by resource or namespace, or list some."),
    "tree": (f"{_HERE}_tree:tree", "Show what lies under what: namespaces, owners."),
    "keys": (f"{_HERE}_keys:keys", "Print every key of etcd."),
    "diff": (f"{_HERE}_diff:diff", "Compare two backups, or one with the live etcd."),
    "log": (f"{_HERE}_log:log", "Tell when an object changed, and when it was last seen."),
    "top": (f"{_HERE}_top:top", "Tell who fills etcd, and who writes it."),
    "report": (f"{_HERE}_report:report", "Write a page of pictures about all of it."),
}


@click.group(
    "registry",
    cls=LazyVerbs,
    lazy=_VERBS,
    examples="""
etcd-steward registry ls --from s3://etcd-backups/prod
etcd-steward registry get deploy/shop/api --from etcd.db
etcd-steward registry diff s3://etcd-backups/prod live -n shop
etcd-steward registry top --by writes
""",
)
def registry() -> None:
    """Look into a Kubernetes registry: the live etcd, a backup, or a file, all alike.

    --from says what: a snapshot's URL, a store's URL (its newest verified one), etcdsnapshot/NAME,
    or a file (.db, .db.zst, .db.gz, .parquet); left out, the live etcd. Neither an API server nor,
    for a backup, an etcd is needed.
    """
