"""How snapshots look: as a line, as a page, as an object for programs."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.output import print_fields
from etcd_steward.cli.values import human_age
from etcd_steward.models.manifest import Manifest, Origin, Proof
from etcd_steward.models.registry import Selection
from etcd_steward.units import size

if TYPE_CHECKING:  # it imports the engine, which `--help` need not wait for
    from etcd_steward.engine.manifests import Backup

HEADER = ("TIME", "AGE", "CLUSTER", "BACKUP", "TYPE", "REVISION", "KEYS", "SIZE", "PROOF", "URL")
PRUNE_HEADER = ("TIME", "CLUSTER", "BACKUP", "SIZE", "PROOF", "KEPT", "URL")


def as_json(model: Manifest | Proof) -> dict[str, Any]:
    """Make what JSON and YAML show of a model."""
    return model.model_dump(mode="json", by_alias=True)


def view(url: str, backup: "Backup") -> dict[str, Any]:
    """Make what JSON and YAML show of a backup, in a listing and alone."""
    return {
        "url": f"{url}/{backup.manifest.folder}",
        "manifest": as_json(backup.manifest),
        "proofs": [as_json(proof) for proof in backup.proofs],
        "indexed": backup.indexed,
    }


def _proof(backup: "Backup") -> str:
    if backup.manifest.suspect is not None:
        return "suspect"
    return backup.strongest.level.value if backup.strongest else "none"


def row(url: str, backup: "Backup") -> tuple[str, ...]:
    """Make a line of the table."""
    manifest = backup.manifest
    return (
        f"{manifest.tick:%Y-%m-%d %H:%M:%S}Z",
        human_age((datetime.now(UTC) - manifest.tick).total_seconds()),
        manifest.cluster,
        f"{manifest.backup.namespace}.{manifest.backup.name}",
        manifest.type,
        str(manifest.revision),
        str(manifest.live_keys),
        size(manifest.stored_size),
        _proof(backup),
        f"{url}/{manifest.folder}",
    )


def prune_row(url: str, backup: "Backup", kept: str) -> tuple[str, ...]:
    """Make a line of the table that says why a backup stays or goes."""
    time, _, cluster, name, _, _, _, stored, proof, link = row(url, backup)
    return time, cluster, name, stored, proof, kept, link


def proof_in_words(proof: Proof) -> str:
    """Say how hard a proof was, and when it was made."""
    words = f"{proof.level.value}, {proof.at:%Y-%m-%d %H:%M:%S}Z"
    if proof.registry is not None:
        read = proof.registry
        return f"{words}, {read.rows:,} keys in {read.namespaces:,} namespaces read"
    if proof.structure is None:
        return words
    pages, records = proof.structure.reachable_pages, proof.structure.records
    return f"{words}, {pages:,} pages and {records:,} revisions read"


def _cluster_id(manifest: Manifest) -> str:
    if manifest.origin is not None and manifest.cluster_id == "0":
        return "etcd's cluster ID is not known"
    return f"etcd's cluster ID {manifest.cluster_id}"


def _member(manifest: Manifest) -> str:
    member = manifest.member_id if manifest.origin is None else "not known"
    return f"{member}, etcd {manifest.etcd_version or 'of unknown version'}"


def _origin(origin: Origin | None) -> str:
    if origin is None:
        return ""
    tool = "" if origin.tool == "unknown" else f" of {origin.tool}"
    wrapped = f" in {', '.join(origin.wrappings)}" if origin.wrappings else ""
    return f"{origin.name}{tool}{wrapped}  {size(origin.size)}  sha256 {origin.sha256}"


def _contents(backup: "Backup") -> list[tuple[str, str]]:
    """What is in a backup, by its type."""
    manifest = backup.manifest
    if manifest.type == "RegistryExport":
        proven = manifest.proof.registry if manifest.proof is not None else None
        bytes_ = 0 if proven is None else proven.key_bytes + proven.value_bytes
        return [
            ("Revision", str(manifest.revision)),
            ("Selection", _selection(manifest.selection)),
            ("Keys", f"{manifest.live_keys:,}"),
            ("Size", f"{size(bytes_)} of keys and values, stored as {size(manifest.stored_size)}"),
        ]
    return [
        ("Revision", f"{manifest.revision} (compacted up to {manifest.compact_revision})"),
        ("Keys", f"{manifest.live_keys:,} live, {manifest.records:,} revisions"),
        ("Size", f"{size(manifest.raw_size)}, stored as {size(manifest.stored_size)}"),
        ("SHA-256", f"{manifest.raw_sha256} (uncompressed)"),
        ("Indexed", "yes" if backup.indexed else "no: `snapshot index` makes registry.parquet"),
    ]


def _selection(selection: Selection | None) -> str:
    if selection is None:
        return "all keys"
    given = selection.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return json.dumps(given, ensure_ascii=False)


def describe(url: str, backup: "Backup") -> None:
    """Print all that is known of a backup."""
    manifest = backup.manifest
    took = (manifest.finished_at - manifest.started_at).total_seconds()
    age = human_age((datetime.now(UTC) - manifest.tick).total_seconds())
    print_fields(
        [
            ("URL", f"{url}/{manifest.folder}"),
            ("Suspect", manifest.suspect or ""),
            ("Type", manifest.type),
            ("Backup", f"{manifest.backup.namespace}.{manifest.backup.name}"),
            ("Time", f"{manifest.tick:%Y-%m-%d %H:%M:%S}Z ({age} ago, took {took:.1f} s)"),
            *_contents(backup),
            ("Cluster", f"{manifest.cluster} ({_cluster_id(manifest)})"),
            ("kube-system", manifest.kube_system_uid or ""),
            ("Member", _member(manifest)),
            ("Imported from", _origin(manifest.origin)),
            ("Requested by", manifest.run.requested_by),
        ]
    )
    for file in manifest.files:
        click.echo(f"File:  {file.name}  {size(file.size)}  sha256 {file.sha256}")
    for proof in backup.proofs:
        click.echo(f"Proof: {proof_in_words(proof)}, read back {proof.read_back}")
    for warning in manifest.warnings:
        click.echo(f"Warning: {warning}")
