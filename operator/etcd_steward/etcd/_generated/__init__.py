"""Written by tools/generate_etcd_stubs.py: do not edit."""
