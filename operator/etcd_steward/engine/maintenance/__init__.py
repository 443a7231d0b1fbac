"""Maintenance that can't become an incident: one member at a time, gated, under one lock."""
