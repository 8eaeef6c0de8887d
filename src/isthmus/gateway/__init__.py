"""The built-in mesh gateway: forwards TLS by server name, without decrypting.

A process of its own (`isthmus connect gateway`): one thread turns an epoll loop that carries all
payload, a second one learns routes from the agent. Read it in the order of a connection's life:
`proxy` accepts, `connection` reads the ClientHello, `dial` reaches an endpoint, `flow` carries
bytes. `loop`, `timers`, `pipes`, `health`, `resolve`, `counters` serve them; `control` talks to
the agent; `process` puts it all together.

It is kept small (20 MiB): import from the modules, and nothing heavy in them.

Source: protocol/mesh.md §9.
"""
