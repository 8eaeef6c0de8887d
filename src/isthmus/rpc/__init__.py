"""One connection of the server port: which protocol speaks, streams, calls, gossip packets."""
