"""Looks after an etcd that it does not own: proven backups, restores, maintenance."""

__version__ = "0.1.0"
