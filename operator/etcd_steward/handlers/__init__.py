"""The operator: thin handlers, which read a resource, have a child do the work, write status."""

from etcd_steward.handlers.operator import run_operator

__all__ = ["run_operator"]
