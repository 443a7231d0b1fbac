"""Which keys `get`, `del` and `watch` mean: one, a range, a prefix, or all from one on."""

from etcd_steward.cli.etcdctl.errors import BAD_ARGS, EtcdctlError
from etcd_steward.cli.etcdctl.flags import as_bytes
from etcd_steward.etcd.keys import EVERYTHING, KeyRange

_TOO_MANY = "too many arguments, only accept one argument when `--prefix` or `--from-key` is set"
_BOTH = "`--prefix` and `--from-key` cannot be set at the same time, choose one"


def refuse_both(*, prefix: bool, from_key: bool) -> None:
    """Refuse two flags that can't both be meant. Raises `EtcdctlError`."""
    if prefix and from_key:
        raise EtcdctlError(_BOTH, BAD_ARGS)


def key_range(words: tuple[str, ...], *, prefix: bool, from_key: bool) -> KeyRange:
    """What a key, and the end of a range behind it, mean. Raises `EtcdctlError`."""
    if len(words) > 1 and (prefix or from_key):
        raise EtcdctlError(_TOO_MANY, BAD_ARGS)
    key = as_bytes(words[0])
    if prefix:
        return KeyRange.prefix(key)
    if from_key:
        return KeyRange(key or EVERYTHING, EVERYTHING)
    return KeyRange(key, as_bytes(words[1])) if len(words) > 1 else KeyRange.key(key)
