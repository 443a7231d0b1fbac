"""Tests of etcd-steward, and the test bed that they run on."""
