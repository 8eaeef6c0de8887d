"""Checks that run: HTTP, TCP, TTL, gRPC, scripts and aliases; one module per kind."""

from isthmus.agent.checks.kinds import refuse_unknown_kind
from isthmus.agent.checks.runner import CheckRunner, CheckWorld
from isthmus.agent.checks.tls import CheckTls

__all__ = ["CheckRunner", "CheckTls", "CheckWorld", "refuse_unknown_kind"]
