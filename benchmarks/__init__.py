"""Benchmarks: each a command, their results kept in results/."""
