"""Kinds of checks that there are not."""

import pytest

from isthmus.agent.checks.kinds import refuse_unknown_kind
from isthmus.errors import InvalidRequest
from isthmus.model.agent import CheckDefinition
from isthmus.units import Duration


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        (CheckDefinition(docker_container_id="x", script_args=("a",)), "Docker.*docker exec"),
        (CheckDefinition(docker_container_id="x"), "Docker.*docker exec"),
        (CheckDefinition(h2ping="h:1"), "H2PING.*gRPC check"),
    ],
)
def test_refusal_says_what_to_use_instead(definition: CheckDefinition, text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"Invalid check: {text}"):
        refuse_unknown_kind(definition)


@pytest.mark.parametrize(
    "definition",
    [
        CheckDefinition(ttl=Duration.of(1)),
        CheckDefinition(tcp="h:1"),
        CheckDefinition(http="http://h"),
        CheckDefinition(grpc="h:1"),
        CheckDefinition(script_args=("true",)),
        CheckDefinition(alias_service="web"),
    ],
)
def test_kind_that_there_is_passes(definition: CheckDefinition) -> None:
    refuse_unknown_kind(definition)
