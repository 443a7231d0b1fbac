"""Looks after an etcd that it does not own: proven backups, restores, maintenance."""
