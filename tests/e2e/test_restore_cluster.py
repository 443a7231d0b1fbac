"""A lost control plane comes back: one command per member, as docs/restore-whole-cluster.md says.

Three etcd members with mutual TLS, an API server and a controller manager on them, and clients
that watch all the while.
"""

import asyncio
import json
import shlex
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import PROGRAM, s3_flags, steward
from tests.support.informer import LABEL, Informer, following
from tests.testbed import ControlPlane, EtcdCluster, SeaweedFS, wait_until
from tests.testbed.binaries import binary
from tests.testbed.compare import compare, entries
from tests.testbed.etcd import EtcdMember
from tests.testbed.process import check_output, clean_environment, stop_all
from tests.testbed.seed import seed

NAMESPACE = "watched"
BUMP = 1_000_000_000
pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True, slots=True)
class Scene:
    """A control plane that will be lost, and the bucket that knows it."""

    directory: Path
    etcd: EtcdCluster
    plane: ControlPlane
    s3: SeaweedFS
    bucket: str

    async def apply(self, values: dict[str, str]) -> None:
        """Write ConfigMaps that the informers follow."""
        items = [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": NAMESPACE, "labels": {LABEL: "yes"}},
                "data": {"value": value},
            }
            for name, value in values.items()
        ]
        document = {"apiVersion": "v1", "kind": "List", "items": items}
        words = ("apply", "--server-side", "--force-conflicts", "--filename=-")
        await self.plane.kubectl(*words, stdin=json.dumps(document))

    async def delete(self, name: str) -> None:
        """Delete one of them."""
        await self.plane.kubectl("delete", "configmap", name, f"--namespace={NAMESPACE}")

    async def in_etcd(self, name: str) -> bool:
        """Whether etcd itself has one of them."""
        key = f"/registry/configmaps/{NAMESPACE}/{name}"
        return await self.etcd.etcdctl("get", key, "--keys-only") != ""

    async def members_agree(self) -> None:
        """The checklist's look at the members: same revision, same hash, no alarm."""
        said = json.loads(await self.etcd.etcdctl("endpoint", "hashkv", "--cluster", "-w", "json"))
        assert len(said) == len(self.etcd.members)
        assert len({one["HashKV"]["hash"] for one in said}) == 1
        assert await self.etcd.etcdctl("alarm", "list") == ""
        listed = json.loads(await self.etcd.etcdctl("member", "list", "-w", "json"))["members"]
        peers = {one["name"]: one["peerURLs"] for one in listed}
        assert peers == {member.name: [member.peer_url] for member in self.etcd.members}

    async def in_the_api(self) -> dict[str, str]:
        """The ConfigMaps as the API server shows them."""
        said = await self.plane.kubectl(
            "get", "configmaps", f"--namespace={NAMESPACE}", f"--selector={LABEL}", "--output=json"
        )
        return {one["metadata"]["name"]: one["data"]["value"] for one in json.loads(said)["items"]}

    async def save(self) -> dict[str, Any]:
        """Take a snapshot; its manifest."""
        said = await steward(
            *("snapshot", "save", *self.etcd.connection_flags(), "-ojson"),
            *(f"--spool-dir={self.directory / 'spool'}", *s3_flags(self.s3, self.bucket)),
            env=self.s3.environment(),
        )
        assert said.code == 0, said.err
        manifest: dict[str, Any] = said.json()
        return manifest

    async def lose_etcd(self) -> None:
        """Kill all members, and remove what they had."""
        async with asyncio.TaskGroup() as group:
            for member in self.etcd.members:
                group.create_task(member.kill())
        for member in self.etcd.members:
            await asyncio.to_thread(shutil.rmtree, member.data_dir)

    async def restore(self, *more: str) -> list[dict[str, Any]]:
        """Restore the first member, then each other by the command that this one has printed."""
        first, *others = self.etcd.members
        peers = ",".join(f"{member.name}={member.peer_url}" for member in self.etcd.members)
        command = [
            *("etcd-steward", "restore", "cluster", f"--etcdutl={await binary('etcdutl')}"),
            *(f"--name={first.name}", f"--initial-cluster={peers}"),
            *(f"--initial-advertise-peer-urls={first.peer_url}", f"--data-dir={first.data_dir}"),
            *(*s3_flags(self.s3, self.bucket), *more),
        ]
        done = [await self._run(command)]
        for member in others:
            printed = shlex.split(done[0]["others"][member.name])
            done.append(await self._run(_on_its_host(printed, first, member)))
        return done

    async def _run(self, command: list[str]) -> dict[str, Any]:
        env = clean_environment(self.s3.environment())
        said = await check_output(*PROGRAM, *command[1:], "--output=json", env=env, timeout=120)
        result: dict[str, Any] = json.loads(said)
        return result

    async def start_etcd(self) -> None:
        """Start all members over what lies in their directories."""
        async with asyncio.TaskGroup() as group:
            for member in self.etcd.members:
                group.create_task(member.start())


def _on_its_host(command: list[str], printer: EtcdMember, member: EtcdMember) -> list[str]:
    """On hosts all data directories have the same path; here each member has its own."""
    own = f"--data-dir={member.data_dir}"
    return [own if word == f"--data-dir={printer.data_dir}" else word for word in command]


@asynccontextmanager
async def scene(
    directory: Path, s3: SeaweedFS, bucket: str, *, controllers: bool = True
) -> AsyncIterator[Scene]:
    etcd = EtcdCluster(directory / "etcd", members=3, mtls=True)
    plane = ControlPlane(directory / "control-plane", etcd, controllers=controllers)
    async with etcd, plane:
        await plane.kubectl("create", "namespace", NAMESPACE)
        yield Scene(directory, etcd, plane, s3, bucket)


BEFORE = {"kept": "before", "changed": "before", "deleted": "before"}
LATE = {f"late-{number}": "after" for number in range(10)}


async def shows(informer: Informer, wanted: dict[str, str]) -> None:
    """Wait until an informer shows just that."""

    async def same() -> bool:
        return informer.contents == wanted

    await wait_until(same, f"the informer shows {wanted}", timeout=90)


async def go_on(scene: Scene, informer: Informer) -> None:
    """What happens after the snapshot, and is lost; the informer has seen it."""
    await scene.apply(LATE | {"changed": "after"})
    await scene.delete("deleted")
    await shows(informer, LATE | {"kept": "before", "changed": "after"})


async def test_one_command_per_member_brings_all_of_it_back(
    tmp_path: Path, seaweedfs: SeaweedFS, bucket: str
) -> None:
    async with scene(tmp_path, seaweedfs, bucket) as bed:
        await seed(bed.plane)
        await bed.apply(BEFORE)
        async with following(bed.plane, NAMESPACE) as informer:
            await shows(informer, BEFORE)
            manifest = await bed.save()
            held = await entries(bed.etcd, revision=manifest["revision"])
            await go_on(bed, informer)
            seen = int(informer.revision)
            assert seen > manifest["revision"]

            # As docs/restore-whole-cluster.md says: the control plane first, then etcd.
            assert bed.plane.controller_manager is not None
            await stop_all((bed.plane.controller_manager, bed.plane.api_server))
            await bed.lose_etcd()
            done = await bed.restore()
            await bed.start_etcd()

            assert [one["name"] for one in done] == ["etcd0", "etcd1", "etcd2"]
            assert {one["snapshot"] for one in done} == {done[0]["snapshot"]}
            restored = await entries(bed.etcd)
            difference = compare(held, restored)
            assert (difference.equal, str(difference)) == (
                manifest["liveKeys"],
                f"all {manifest['liveKeys']} keys match",
            )
            await bed.members_agree()

            await bed.plane.api_server.start()
            await bed.plane.controller_manager.start()
            # The old informer goes on from a revision that is gone: it is told, and lists anew.
            await shows(informer, BEFORE)
            assert (informer.expired, informer.lists) == (1, 2)
            await bed.apply({"new": "new"})
            await shows(informer, BEFORE | {"new": "new"})
            assert int(informer.revision) > BUMP + seen - manifest["revision"]
            async with following(bed.plane, NAMESPACE) as fresh:
                await shows(fresh, BEFORE | {"new": "new"})
        # Controllers work on it by now; nothing that the snapshot held is missing but what expires.
        gone = compare(held, await entries(bed.etcd)).missing
        assert [key for key in gone if held[key].lease == 0] == []


async def test_an_api_server_that_runs_on_finds_back_by_itself(
    tmp_path: Path, seaweedfs: SeaweedFS, bucket: str
) -> None:
    async with scene(tmp_path, seaweedfs, bucket, controllers=False) as bed:
        await bed.apply(BEFORE)
        async with following(bed.plane, NAMESPACE) as informer:
            await shows(informer, BEFORE)
            await bed.save()
            await go_on(bed, informer)
            await bed.lose_etcd()
            await bed.restore()
            await bed.start_etcd()

            await shows(informer, BEFORE)
            assert await bed.in_the_api() == BEFORE
            assert informer.expired == 1
            await bed.apply({"new": "new"})
            await shows(informer, BEFORE | {"new": "new"})


async def test_without_the_bump_it_goes_on_showing_what_is_gone(
    tmp_path: Path, seaweedfs: SeaweedFS, bucket: str
) -> None:
    """Why --no-mark-compacted is not for Kubernetes."""
    async with scene(tmp_path, seaweedfs, bucket, controllers=False) as bed:
        await bed.apply(BEFORE)
        async with following(bed.plane, NAMESPACE) as informer:
            await shows(informer, BEFORE)
            await bed.save()
            await go_on(bed, informer)
            await bed.lose_etcd()
            await bed.restore("--no-mark-compacted")
            await bed.start_etcd()

            assert await bed.in_etcd("deleted")
            assert not await bed.in_etcd("late-0")
            shown = await bed.in_the_api()
            assert "late-0" in shown
            assert "deleted" not in shown
            assert informer.contents == shown
            assert informer.expired == 0
