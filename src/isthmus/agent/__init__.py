"""Composition root: builds the parts, connects them, starts and stops them."""
