"""Benchmarks for all speed figures of the README, each with its ratio to a baseline."""
