"""Restoring registry keys: a plan, its apply, and the way back."""
