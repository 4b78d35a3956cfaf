"""Generators as torch networks, their registry, the checkpoint format."""
