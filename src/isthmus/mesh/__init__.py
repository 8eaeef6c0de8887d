"""The mesh: which names a gateway serves, and who answers to them.

Import the modules themselves: the gateway process loads `routes` and must stay small.
"""
