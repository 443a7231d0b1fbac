"""The election on a real API server: who leads when, and what a candidate makes of trouble."""

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from etcd_steward.errors import InvalidInput, Unauthorized
from etcd_steward.handlers.elector import LEASE, Election, Elector
from etcd_steward.kube import LEASES, Key, Kube
from etcd_steward.kube_client import Object
from tests.support.users import kubeconfig_through, port_of
from tests.testbed import ControlPlane, EtcdCluster, FaultProxy, TestbedError, wait_until

HASTY = Election(lease_duration=3, renew_deadline=2.0, retry_period=0.2, refusal_patience=3.0)


@contextlib.asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[Kube]:
    """A client."""
    client = await Kube.connect(kubeconfig)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[Kube]:
    """An API server, as admin."""
    async with connected(control_plane.kubeconfig) as client:
        yield client


@contextlib.asynccontextmanager
async def candidate(
    kube: Kube, namespace: str, election: Election = HASTY
) -> AsyncIterator[Elector]:
    """Somebody who stands for election while the body runs, and does not give up the Lease."""
    elector = Elector(kube, namespace, election)
    task = asyncio.create_task(elector.run())
    try:
        yield elector
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(holds: Callable[[], bool], what: str, timeout: float = 20) -> None:
    """Wait for something that is known here."""

    async def check() -> bool:
        return holds()

    await wait_until(check, what, timeout=timeout)


async def spec(kube: Kube, namespace: str) -> Object:
    """What the Lease says."""
    found: Object = (await kube.lease(Key(namespace, LEASE)))["spec"]
    return found


async def test_the_lease_is_taken_kept_and_given_up(kube: Kube, namespace: str) -> None:
    async with candidate(kube, namespace) as first:
        await until(lambda: first.leads, "the first leads")
        taken = await spec(kube, namespace)
        assert taken["holderIdentity"] == first.identity
        assert (taken["leaseTransitions"], taken["leaseDurationSeconds"]) == (0, 3)
        async with candidate(kube, namespace) as second:
            await until(lambda: second.replaced, "the second sees the first")
            await asyncio.sleep(HASTY.lease_duration + 1)
            assert (first.leads, second.leads) == (True, False)
            kept = await spec(kube, namespace)
            assert kept["acquireTime"] == taken["acquireTime"]
            assert kept["renewTime"] > taken["renewTime"]
    async with candidate(kube, namespace) as third:
        await first.release()
        assert not first.leads
        assert (await spec(kube, namespace))["holderIdentity"] == ""
        await until(lambda: third.leads, "the third leads", timeout=2)
        assert (await spec(kube, namespace))["leaseTransitions"] == 1
        await first.release()  # no longer its own to give up
        assert (await spec(kube, namespace))["holderIdentity"] == third.identity


async def test_one_that_is_still_is_replaced_and_knows(kube: Kube, namespace: str) -> None:
    async with candidate(kube, namespace) as first:
        await until(lambda: first.leads, "the first leads")
    await asyncio.sleep(HASTY.renew_deadline + 0.1)
    assert not first.leads  # by its own clock, without asking anybody
    async with candidate(kube, namespace) as second:
        await until(lambda: second.leads, "the second leads")
        assert (await spec(kube, namespace))["leaseTransitions"] == 1
        again = asyncio.create_task(first.run())
        await until(lambda: first.replaced, "the first sees the second")
        assert not first.leads
        again.cancel()


async def test_a_deleted_lease_is_made_again(
    kube: Kube, control_plane: ControlPlane, namespace: str
) -> None:
    async with candidate(kube, namespace) as only:
        await until(lambda: only.leads, "it leads")
        await control_plane.kubectl("delete", "lease", LEASE, f"--namespace={namespace}")

        async def there() -> bool:
            words = ("get", "lease", f"--namespace={namespace}", "-o", "name")
            return bool(await control_plane.kubectl(*words))

        await wait_until(there, "the Lease is there again", timeout=10)
        await until(lambda: only.leads, "it leads")


async def test_a_lease_that_somebody_made_by_hand_is_taken(
    kube: Kube, control_plane: ControlPlane, namespace: str
) -> None:
    bare = f"{{apiVersion: {LEASES}, kind: Lease, metadata: {{name: {LEASE}}}}}"
    await control_plane.kubectl("apply", f"--namespace={namespace}", "-f", "-", stdin=bare)
    async with candidate(kube, namespace) as only:
        await until(lambda: only.leads, "it leads")
        assert (await spec(kube, namespace))["holderIdentity"] == only.identity
        edit = '{"spec": {"acquireTime": null, "holderIdentity": null}}'
        words = ("patch", "lease", LEASE, f"--namespace={namespace}", "--type=merge", "-p", edit)
        await control_plane.kubectl(*words)

        async def ours() -> bool:
            return (await spec(kube, namespace)).get("holderIdentity") == only.identity

        await wait_until(ours, "it has taken the Lease back", timeout=10)
        assert only.leads


async def test_five_candidates_that_come_and_go_never_lead_together(
    kube: Kube, namespace: str
) -> None:
    chance = random.Random(7)  # noqa: S311, no secret
    candidates = [Elector(kube, namespace, HASTY) for _ in range(5)]
    leaders: set[str] = set()
    most = 0

    async def come_and_go(one: Elector) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.5, 5)):
                    await one.run()
            if chance.random() < 0.5:
                await one.release()
            await asyncio.sleep(chance.uniform(0, 5))

    tasks = [asyncio.create_task(come_and_go(one)) for one in candidates]
    for _ in range(1500):
        now = [one.identity for one in candidates if one.leads]
        most = max(most, len(now))
        leaders.update(now)
        await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert most == 1
    assert len(leaders) >= 2


async def test_a_holder_that_nobody_hears_leads_again_when_it_is_heard(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    async with FaultProxy(port_of(control_plane.url)) as proxy:
        through = kubeconfig_through(
            control_plane.kubeconfig, proxy.address("https"), tmp_path / "kubeconfig"
        )
        async with connected(through) as kube, candidate(kube, namespace) as only:
            await until(lambda: only.leads, "it leads")
            await proxy.refuse()
            await proxy.reset()
            await until(lambda: not only.leads, "it does not lead", timeout=4)
            assert not only.replaced
            await asyncio.sleep(HASTY.lease_duration)
            await proxy.accept()
            await until(lambda: only.leads, "it leads again")
            assert (await spec(kube, namespace))["leaseTransitions"] == 0


async def test_a_namespace_that_is_not_there_is_said_so(kube: Kube) -> None:
    absent = f"absent-{secrets.token_hex(4)}"
    with pytest.raises(InvalidInput, match=f"no namespace {absent}.*--no-leader-elect"):
        await Elector(kube, absent, HASTY).run()


async def test_a_right_that_is_missing_is_said_so_when_that_lasts(
    control_plane: ControlPlane, namespace: str
) -> None:
    poor = await control_plane.service_account_kubeconfig(namespace, "default")
    async with connected(poor) as kube:
        elector = Elector(kube, namespace, HASTY)
        async with asyncio.timeout(HASTY.refusal_patience + 10):
            with pytest.raises(Unauthorized, match=f"Leases in namespace {namespace}"):
                await elector.run()
        assert not elector.leads


async def fill(etcd: EtcdCluster) -> None:
    """Put until etcd takes no more."""
    for number in range(100):
        await etcd.etcdctl("put", f"/fill/{number}", stdin=b"x" * 1_000_000)


async def test_while_etcd_is_full_the_holder_goes_on(tmp_path: Path) -> None:
    async with (
        EtcdCluster(tmp_path / "etcd", flags={"quota-backend-bytes": str(24 << 20)}) as etcd,
        ControlPlane(tmp_path / "plane", etcd, controllers=False) as plane,
        connected(plane.kubeconfig) as kube,
        contextlib.AsyncExitStack() as stack,
    ):
        holder = await stack.enter_async_context(candidate(kube, "default"))
        await until(lambda: holder.leads, "the holder leads")
        with pytest.raises(TestbedError, match="database space exceeded"):
            await fill(etcd)
        await until(lambda: "database space exceeded" in holder.words, "renewal fails")
        before = await spec(kube, "default")
        async with candidate(kube, "default") as other:
            for _ in range(int(HASTY.lease_duration * 3 / 0.1)):
                assert holder.leads
                assert not other.leads
                await asyncio.sleep(0.1)
            assert "database space exceeded" in other.words
        assert await spec(kube, "default") == before
        await free(etcd)
        await until(lambda: holder.words == "", "renewal works again")
        assert holder.leads
        after = await spec(kube, "default")
        assert after["renewTime"] > before["renewTime"]
        assert after["leaseTransitions"] == before["leaseTransitions"]

        # It dies while etcd is full: nobody can take the Lease, and yet somebody has to act.
        with pytest.raises(TestbedError, match="database space exceeded"):
            await fill(etcd)
        await until(lambda: "database space exceeded" in holder.words, "renewal fails")
        await stack.aclose()
        hasty = replace(HASTY, full_patience=2.0)
        async with candidate(kube, "default", hasty) as heir:
            await until(lambda: heir.replaced, "it knows of the dead one")
            assert not heir.leads
            await until(lambda: heir.leads, "it stands in for the dead one")
            assert not heir.replaced
            assert (await spec(kube, "default"))["holderIdentity"] == holder.identity
            await free(etcd)
            await until(lambda: heir.words == "", "it can take the Lease")
            assert heir.leads
            assert (await spec(kube, "default"))["holderIdentity"] == heir.identity


async def free(etcd: EtcdCluster) -> None:
    """Take back what `fill` has done."""
    await etcd.etcdctl("del", "--prefix", "/fill/")
    await etcd.etcdctl("compact", str(await etcd.revision()))
    await etcd.etcdctl("defrag")
    await etcd.etcdctl("alarm", "disarm")
