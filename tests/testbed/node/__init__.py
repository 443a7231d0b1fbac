"""A whole Kubernetes node, with containers, in namespaces of its own; needs root and some programs.

`needs.absent()` says what this machine lacks for it. Nothing of it is reachable from outside, and
nothing of it is left when it ends, however it ends.
"""
