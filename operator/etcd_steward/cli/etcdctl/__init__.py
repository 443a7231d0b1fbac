"""etcdctl's verbs, with etcdctl's words, flags, output and exit codes.

The law is the source of `etcdctl` 3.7 (etcdctl/ctlv3/command/*.go); what differs from it on purpose
stands in docs/etcdctl.md. Each verb has a module of its own; `flags` says how all of them reach
etcd, `printers` how an answer is shown, `errors` how a failure is.
"""
