"""Token Secrets whose ServiceAccount is gone: the controller manager would delete them again.

See kubernetes `pkg/controller/serviceaccount/tokens_controller.go`, `syncSecret`.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from etcd_steward.engine.restore.drafts import Draft

ACCOUNT: Final = "kubernetes.io/service-account.name"
_UID: Final = "kubernetes.io/service-account.uid"


def check(drafts: Iterable[Draft], accounts: Mapping[tuple[str, str], str | None]) -> None:
    """Block them. `accounts`: the uids of those live, by namespace and name."""
    every = list(drafts)
    coming = {
        (one.namespace or "", one.name): one.uid
        for one in every
        if one.resource == "serviceaccounts"
        and (one.write or one.verdict in {"identical", "differs"})
    }
    for one in every:
        if not one.write or one.resource != "secrets" or one.meta is None:
            continue
        name, uid = (one.meta.annotations.get(word) for word in (ACCOUNT, _UID))
        place = (one.namespace or "", name or "")
        if name and uid and uid not in {coming.get(place), accounts.get(place)}:
            one.block(
                "NoServiceAccount",
                f"it is a token of the ServiceAccount {name}, which is neither there with that uid "
                "nor restored: it would be deleted again. Restore the ServiceAccount with it",
            )
