"""The members of a new etcd cluster, as `--initial-cluster` names them.

etcdutl writes them into the data directory that it restores, and says what it dislikes only after
it has copied a whole database. So they are looked at here, before anything is fetched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from etcd_steward.errors import InvalidInput

_FORM = "write NAME=PEERURL,... with each member, such as etcd0=https://10.0.0.1:2380"


@dataclass(frozen=True, slots=True)
class InitialCluster:
    """Who will be in the cluster, and the one among them that is restored here."""

    members: Mapping[str, tuple[str, ...]]
    """Peer URLs by name."""
    name: str
    """The member of this host."""

    @classmethod
    def parse(cls, text: str, name: str, peer_urls: str | None = None) -> "InitialCluster":
        """Read the flags as etcd does (etcd client/pkg/types/urlsmap.go), and compare them.

        `peer_urls` are this member's own, joined by commas; left out, they are what `text` says.
        Raises `InvalidInput` in words: for a member that `text` does not name, or that it gives
        other peer URLs.
        """
        members: dict[str, tuple[str, ...]] = {}
        for part in filter(None, text.split(",")):
            member, equals, url = part.strip().partition("=")
            if not (member and equals):
                raise InvalidInput(f"--initial-cluster: {part!r} is no NAME=PEERURL", hint=_FORM)
            members[member] = (*members.get(member, ()), _peer_url(url))
        if name not in members:
            known = ", ".join(sorted(members)) or "nobody"
            raise InvalidInput(
                f"--name {name!r} is not in --initial-cluster, which names {known}",
                hint="name the member of this host as --initial-cluster does; each member keeps "
                "the name that it had",
            )
        own = None if peer_urls is None else sorted(map(_peer_url, peer_urls.split(",")))
        if own is not None and own != sorted(members[name]):
            raise InvalidInput(
                f"--initial-advertise-peer-urls is {peer_urls}, but --initial-cluster gives {name} "
                f"{','.join(members[name])}",
                hint="write the same in both",
            )
        return cls(members, name)

    @property
    def text(self) -> str:
        """What `--initial-cluster` takes."""
        return ",".join(f"{name}={url}" for name, urls in self.members.items() for url in urls)

    @property
    def peer_urls(self) -> str:
        """What `--initial-advertise-peer-urls` takes, for the member of this host."""
        return ",".join(self.members[self.name])

    @property
    def others(self) -> tuple["InitialCluster", ...]:
        """The same cluster as each of the other hosts sees it."""
        return tuple(
            InitialCluster(self.members, name) for name in self.members if name != self.name
        )


def _peer_url(text: str) -> str:
    """A peer URL; etcd takes a scheme, a host and a port, and nothing more."""
    text = text.strip()
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and bool(parts.port)
    except ValueError:
        right = False
    if not right or parts.path or parts.query or parts.fragment:
        raise InvalidInput(f"{text!r} is no peer URL", hint="write https://HOST:PORT")
    return text
