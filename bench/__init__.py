"""Benchmarks: each module measures one thing and prints medians. Never part of the tests."""
