"""Benchmarks of this project against each source's own training loop and against lean hand-written loops."""
