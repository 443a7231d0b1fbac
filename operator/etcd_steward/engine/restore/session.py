"""One restore, from its source to its report: what the operator's process and the command line do.

A plan is put into the restore's place before anything else. One that was approved is made anew and
must turn out the same: what was compared with the cluster yesterday says nothing about today.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from etcd_steward.engine.catalogue import identify
from etcd_steward.engine.report import Report, Tracker
from etcd_steward.engine.restore.api_undo import undo_via_api
from etcd_steward.engine.restore.apply import ApplySettings, apply
from etcd_steward.engine.restore.last_seen import told_where
from etcd_steward.engine.restore.origin import open_origin
from etcd_steward.engine.restore.place import Place, folder_of, prune_places
from etcd_steward.engine.restore.plan import Planned as MadePlan
from etcd_steward.engine.restore.plan import make_plan
from etcd_steward.engine.restore.stash import (
    Fetched,
    Planned,
    add_values,
    collecting,
    fetch,
    reopen,
)
from etcd_steward.engine.restore.undo import UndoSettings, undo
from etcd_steward.engine.restore.via_api import ApiSettings, apply_via_api
from etcd_steward.engine.spool import Spool
from etcd_steward.errors import NoSuchNamespace, PlanChanged, Refused, StewardError, Unavailable
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.kube_client import Client
from etcd_steward.kube_objects import ApiServer
from etcd_steward.models.connection import LocalSettings, StoreSettings
from etcd_steward.models.restore import Plan, PlanItem, RestoreReport
from etcd_steward.models.restore_place import UndoReport
from etcd_steward.models.restore_run import (
    FromBackup,
    FromHistory,
    FromUndo,
    RestoreRequest,
)
from etcd_steward.registry.envelope import uid_of
from etcd_steward.registry.paths import root_of
from etcd_steward.store import open_store
from etcd_steward.store.threads import settled

log = logging.getLogger(__name__)

_KEPT: Final = "planned.parquet"
_AT_ONCE: Final = 64
"""Values copied at a time."""
_TOLD: Final = 5
"""Keys that an error names."""


class Kept:
    """A plan of etcd's own history that was approved, with the values that were kept for it."""

    def __init__(self, plan: Plan, values: Fetched) -> None:
        self.plan = plan
        self._values = values

    def value(self, item: PlanItem) -> bytes:
        """What would be written; blocking."""
        return self._values.value(item.key)


@dataclass(slots=True)
class Session:
    """What one restore needs, opened. Close it by leaving `opened`."""

    request: RestoreRequest
    client: EtcdClient
    api: ApiServer | None
    """None: nobody may ask it, it does not answer, or it is another cluster's."""
    place: Place
    spool: Spool
    tracker: Tracker
    stack: AsyncExitStack

    async def done_before(self) -> RestoreReport | UndoReport | None:
        """How this very restore went, if it was applied already, whatever came back since."""
        if isinstance(self.request.source, FromUndo):
            undone = await self.place.undone()
            failed = undone is not None and undone.counts.get("failed", 0)
            return None if failed else undone
        return await self.place.result()

    async def plan(self) -> Planned:
        """Make the plan, or take up the one of an apply that was killed; put it in its place.

        Raises `Refused` where a plan was approved that is too old by now, or `PlanChanged` where
        another one would be applied.
        """
        begun = await reopen(self.place) if self.request.apply else None
        if begun is not None:
            return begun
        approved = await self._approved()
        if approved is not None and approved.source.live:
            # etcd may have forgotten it since. What is there now, `apply` compares.
            kept = await fetch(self.place, _KEPT)
            if kept is not None:
                return Kept(approved, kept)
        self.tracker.step = "Planning"
        planned = await self._make(approved)
        if approved is not None:
            _compare(approved, planned.plan)
            return planned
        await self.place.keep_for(self.request.keep_for)
        await self.place.write_plan(planned.plan)
        if planned.plan.source.live and not self.request.apply:
            await self._keep(planned)
        return planned

    async def _make(self, approved: Plan | None) -> MadePlan:
        try:
            return await self._made(approved)
        except NoSuchNamespace as error:
            source = self.request.source
            backups = source.store if isinstance(source, FromBackup) else store_of(self.request)
            raise await told_where(error, backups, self.request.registry_prefix) from error

    async def _made(self, approved: Plan | None) -> MadePlan:
        source, ref, options = await open_origin(
            self._pinned(approved), self.client, self.stack, self.tracker.report
        )
        planned = await make_plan(
            source,
            ref,
            self.client,
            options,
            prefix=self.request.registry_prefix,
            spool=self.spool,
            tracker=self.tracker,
            api=self.api,
            time_to_live=self.request.time_to_live,
        )
        self.stack.callback(planned.close)
        return planned

    async def _keep(self, planned: Planned) -> None:
        """Keep what a plan of etcd's own history would write: that is compacted soon."""
        writes = sorted((i for i in planned.plan.items if i.write), key=lambda i: i.key.encode())
        with collecting(self.place, f"kept-{_KEPT}") as (file, rows):
            for at in range(0, len(writes), _AT_ONCE):
                some = writes[at : at + _AT_ONCE]
                await settled(asyncio.to_thread(add_values, file, rows, some, planned.value))
            await self.place.stash(
                _KEPT,
                rows.rows(),
                file,
                revision=planned.plan.revision,
                prefix=self.request.registry_prefix,
            )

    async def _let_go(self) -> None:
        """What was kept for an approval has been written."""
        await self.place.store.delete(f"{self.place.folder}/{_KEPT}")

    async def _approved(self) -> Plan | None:
        if not self.request.apply or self.request.approved is None:
            return None
        plan = await self.place.plan()
        if plan is None or plan.digest != self.request.approved:
            raise Refused(
                f"{self.place.url} holds no plan with the digest {self.request.approved}",
                hint="make a new restore, and approve its plan",
            )
        if plan.expires_at <= datetime.now(UTC):
            raise Refused(
                f"the plan could be approved until {plan.expires_at:%Y-%m-%d %H:%M:%S}Z",
                hint="make a new restore: what the plan was compared with is too old by now",
            )
        return plan

    def _pinned(self, approved: Plan | None) -> RestoreRequest:
        """The request, with the very backup or revision that the approved plan was made of."""
        source = self.request.source
        if approved is None:
            return self.request
        if isinstance(source, FromBackup):
            folder = "/".join(approved.source.name.split("/")[-3:])
            return self.request.model_copy(
                update={"source": source.model_copy(update={"folder": folder})}
            )
        if isinstance(source, FromHistory) and not source.before_deletion:
            pinned = FromHistory(revision=approved.source.revision)
            return self.request.model_copy(update={"source": pinned})
        return self.request

    async def apply(self, planned: Planned) -> RestoreReport:
        """Do what the plan says; see `engine.restore.apply` and `via_api`.

        Raises `Unavailable` where that takes an API server, and there is none.
        """
        name, uid = self.request.name, self.request.uid
        after = self.request.second_look
        if planned.plan.options.via == "API":
            by_api = ApiSettings(restore=name, uid=uid, second_look_after=after)
            report = await apply_via_api(
                planned, self._needed_api(), self.place, self.tracker, by_api
            )
            await self._let_go()
            return report
        settings = ApplySettings(
            restore=name,
            uid=uid,
            prefix=self.request.registry_prefix,
            unthrottled=self.request.unthrottled,
            second_look_after=after,
        )
        report = await apply(planned, self.client, self.api, self.place, self.tracker, settings)
        await self._let_go()
        return report

    async def prune(self) -> None:
        """Delete what other restores of this cluster left, once it has been kept long enough."""
        cluster = self.place.folder.partition("/")[0]
        keep = self.request.keep_for
        try:
            async for folder in prune_places(self.place.store, cluster, keep=keep):
                log.info("restore %s was kept long enough, and is gone", folder)
        except StewardError as error:
            self.tracker.report.warning(f"what old restores left is still there: {error}")

    async def undo(self) -> UndoReport:
        """Take back what another restore has written; see `engine.restore.undo`.

        Raises `Unavailable` where that takes an API server, and there is none.
        """
        include = self.request.options.include
        settings = UndoSettings(
            restore=self.request.name,
            uid=self.request.uid,
            prefix=self.request.registry_prefix,
            volumes=None if include.model_fields_set == set() else include,
        )
        plan = await self.place.plan()
        if plan is not None and plan.options.via == "API":
            return await undo_via_api(self._needed_api(), self.place, self.tracker, settings)
        return await undo(self.client, self.api, self.place, self.tracker, settings)

    def _needed_api(self) -> ApiServer:
        if self.api is None:
            raise Unavailable(
                "no API server may be asked, and via: API writes and deletes through it",
                hint="a raw restore (via: Registry) needs none",
            )
        return self.api


@asynccontextmanager
async def opened(
    request: RestoreRequest, client: EtcdClient, report: Report
) -> AsyncIterator[Session]:
    """Open what a restore into the etcd behind `client` needs."""
    tracker = Tracker(report)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(tracker.reporting())
        run = f"restore-{request.uid[:8]}"
        spool = await stack.enter_async_context(Spool.open(request.spool, run, report.warning))
        identity = await identify(client, request.registry_prefix)
        store = await stack.enter_async_context(open_store(store_of(request)))
        folder = (
            request.source.folder
            if isinstance(request.source, FromUndo)
            else folder_of(str(identity.cluster), request.name, request.uid)
        )
        place = Place(store, folder, spool)
        undone = await place.plan() if isinstance(request.source, FromUndo) else None
        if undone is not None:  # it goes back the way it came
            options = request.options.model_copy(update={"via": undone.options.via})
            request = request.model_copy(update={"options": options})
        api = await _api_server(request, client, stack, report)
        yield Session(request, client, api, place, spool, tracker, stack)


def store_of(request: RestoreRequest) -> StoreSettings:
    """Where a restore's own files go: where it is told, beside the backup, or on this host."""
    if request.store is not None:
        return request.store
    source = request.source
    if isinstance(source, FromBackup) or (isinstance(source, FromUndo) and source.store):
        assert source.store is not None  # noqa: S101  # a backup has one
        return source.store
    return LocalSettings(path=request.spool.directory / "restores")


async def _api_server(
    request: RestoreRequest, client: EtcdClient, stack: AsyncExitStack, report: Report
) -> ApiServer | None:
    """The API server, if it may be asked, answers, and is the one over this etcd."""
    if not request.api:
        return None
    try:
        connected = await Client.connect(request.kubeconfig)
    except StewardError as error:
        report.warning(f"there is no API server to ask: {error}")
        return None
    stack.push_async_callback(connected.aclose)
    api = ApiServer(connected)
    trouble = await api.trouble()
    why = f"does not answer: {trouble}" if trouble is not None else ""
    why = why or await _unfit(connected, request, client)
    if why:
        report.warning(
            f"the API server at {api.address} is not asked, and nothing read back through it: it "
            f"{why}"
        )
    return None if why else api


async def _unfit(connected: Client, request: RestoreRequest, client: EtcdClient) -> str:
    """Why an API server that answers may not be asked all the same; empty if it may."""
    missing = await _forbidden(connected, request)
    if missing:
        return f"does not let us {missing} whatever we like (see deploy/components/restore)"
    if request.options.via == "API":
        return ""  # whose etcd it is does not matter: nothing is written there
    key = root_of(request.registry_prefix) + b"namespaces/kube-system"
    path = "/api/v1/namespaces/kube-system"
    kv, system = await asyncio.gather(
        client.get(key), connected.call("GET", path, what="Namespace kube-system")
    )
    ours, theirs = None if kv is None else uid_of(kv.value), system["metadata"]["uid"]
    if ours == theirs:
        return ""
    return f"is another cluster's: its kube-system has the uid {theirs}, the one in etcd {ours}"


async def _forbidden(connected: Client, request: RestoreRequest) -> str:
    """A verb that we may not use on every type; empty if there is none."""
    writes: tuple[str, ...] = ("create",) if request.options.via == "API" else ()
    for verb in ("get", "update", *writes):
        asked = {"verb": verb, "group": "*", "resource": "*"}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = await connected.call("POST", path, body=review, what="our rights")
        if not answer.get("status", {}).get("allowed"):
            return verb
    return ""


def _compare(approved: Plan, now: Plan) -> None:
    """Raise `PlanChanged` if what was approved is not what would be done now."""
    if approved.digest == now.digest:
        return
    before, after = ({item.key: item for item in plan.items} for plan in (approved, now))
    changed = [
        f"{key} ({_change(before.get(key), after.get(key))})"
        for key in before.keys() | after.keys()
        if _said(before.get(key)) != _said(after.get(key))
    ]
    told = ", ".join(sorted(changed)[:_TOLD]) or "its source or its target"
    more = f", and {len(changed) - _TOLD} more" if len(changed) > _TOLD else ""
    raise PlanChanged(
        f"what the approved plan was compared with has changed: {told}{more}",
        hint="nothing was written; make a new restore, and approve its plan",
    )


def _said(item: PlanItem | None) -> tuple[object, ...] | None:
    """What the digest says of a key."""
    if item is None:
        return None
    return item.verdict, item.write, item.sha256, item.live_revision if item.write else 0


def _change(before: PlanItem | None, after: PlanItem | None) -> str:
    one = before.verdict if before else "not there"
    other = after.verdict if after else "not there"
    return f"{one} → {other}" if one != other else "it was written since"
