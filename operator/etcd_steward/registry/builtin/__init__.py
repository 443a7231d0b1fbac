"""Kubernetes' built-in types as data: how each is stored, and how the API server prints it.

`types.binpb.xz` is written by `tools/generate_builtin_types.py` from the sources of Kubernetes
1.35. It is a `FileDescriptorSet` in which a file is named by the API version of its messages, and a
field's `json_name` holds the name in Go's JSON tag, a comma, and flags:

- `o` omitempty: left out when empty;
- `z` omitzero: left out when it prints as `null`;
- `p` a pointer: absent is something else than empty;
- `i` inline: its members stand among its parent's.

A `json_name` of `[]` marks a message that is a list in Go, since protobuf has no lists of lists.
"""

import lzma
from functools import cache
from importlib import resources

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message

VERSION = "1.35"
"""The Kubernetes whose types these are."""
_META = "meta.k8s.io/v1"
"""Types such as Status, which belong to every API version."""


@cache
def type_of(api_version: str, kind: str) -> type[Message] | None:
    """The message class of a kind; None if Kubernetes 1.35 has no such type."""
    pool = _pool()
    for file in (api_version, _META):
        try:
            found = pool.FindFileByName(file).message_types_by_name.get(kind)
        except KeyError:
            continue
        if found is not None:
            return message_factory.GetMessageClass(found)
    return None


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    # A pool of our own: other packages in this process may bring Kubernetes' types, too.
    pool = descriptor_pool.DescriptorPool()
    data = resources.files(__name__).joinpath("types.binpb.xz").read_bytes()
    for file in FileDescriptorSet.FromString(lzma.decompress(data)).file:
        pool.Add(file)
    return pool
