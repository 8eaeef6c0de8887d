"""The DNS door: names of services, nodes and queries, over UDP and TCP.

Named as the library is (`dns`, dnspython), which is imported from the top, as everything is.
"""
