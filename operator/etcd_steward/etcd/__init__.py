"""etcd over gRPC: the only package that knows grpc and etcd3.

`client.EtcdClient` is where to begin.
"""

import os

# gRPC's C core writes every failed handshake and connection to stderr, past Python's logging. Each
# of them reaches the caller as an error with better words. The core reads this once, when loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
