"""Whole federations in one process: virtual time, virtual networks, faults, invariants."""
