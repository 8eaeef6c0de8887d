"""THE HTTP DOOR. Consul's API over HTTP/1.1.

Bytes become requests in `connection`, requests find their handler in `routing`, handlers ask the
one callable `rpc` or the local agent, `door` turns what they return, or raise, into a response.
Only `connection` knows which library parses HTTP.
"""
