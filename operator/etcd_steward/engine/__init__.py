"""The work itself: backup, proof, fetching back. Knows no Kubernetes and no command line."""
