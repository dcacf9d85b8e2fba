"""Checkpoints: written atomically, read without running anything in them, and what they say of themselves."""
