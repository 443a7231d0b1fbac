"""Claims and volumes: a volume without its very claim is released, and then deleted with its disk.

See kubernetes `pkg/controller/volume/persistentvolume/pv_controller.go`, `syncVolume`.
"""

from collections.abc import Iterable, Mapping

from etcd_steward.engine.restore.drafts import Draft
from etcd_steward.engine.restore.facts import ClaimFacts, VolumeFacts


def check(
    drafts: Iterable[Draft],
    volumes: Mapping[str, VolumeFacts],
    claims: Mapping[tuple[str, str], str | None],
) -> None:
    """Block what would lose its other half.

    `volumes`: those live, by name; `claims`: the live ones' uids, by namespace and name.
    """
    every = list(drafts)
    planned = {one.name: one for one in every if isinstance(one.facts, VolumeFacts)}
    for one in every:
        if isinstance(one.facts, ClaimFacts) and one.facts.volume and one.write:
            _claim(one, one.facts.volume, volumes, planned)
    coming = {
        (one.namespace or "", one.name): one.uid
        for one in every
        if isinstance(one.facts, ClaimFacts)
        and (one.write or one.verdict in {"identical", "differs"})
    }
    for one in planned.values():
        facts = one.facts
        if not one.write or not isinstance(facts, VolumeFacts) or facts.claim is None:
            continue
        uid = coming.get(facts.claim, claims.get(facts.claim))
        if facts.claim_uid and uid != facts.claim_uid:
            place = "/".join(facts.claim)
            one.block(
                "ClaimMissing",
                f"the claim {place} that it is bound to is neither there nor restored: the volume "
                f"would be released (its policy is {facts.reclaim_policy}). Restore both",
            )


def _claim(
    draft: Draft, volume: str, live: Mapping[str, VolumeFacts], planned: Mapping[str, Draft]
) -> None:
    found = live.get(volume)
    if found is None:
        with_it = planned.get(volume)
        if with_it is None or with_it.settled:
            draft.notes.append(
                f"its volume {volume} is not there: the claim will be Lost until it is"
            )
    elif found.claim_uid not in {None, draft.uid}:
        owner = "/".join(found.claim or ())
        draft.block(
            "VolumeTaken",
            f"its volume {volume} is bound to another claim by now ({owner}): the data in it is "
            "that one's",
        )
    elif found.claim_uid is None:
        draft.notes.append(f"its volume {volume} is there, and bound to nobody")
