"""Readers of annotated rollouts and of the benchmark."""
