"""Pixels alone: pure functions on arrays."""
