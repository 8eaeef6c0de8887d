import pytest

from isthmus.gateway.config import GatewayConfig


def test_defaults_fit_each_other() -> None:
    assert GatewayConfig().hello_timeout == 15.0


@pytest.mark.parametrize(
    "values",
    [
        {"stagger": 0.0},
        {"stagger": 6.0},
        {"hellos_max": 0},
        {"hellos_max": 20_000},
        {"attempts_max": 0},
        {"eject_failures": 0},
        {"hello_size_max": 0},
    ],
)
def test_values_that_do_not_fit_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        GatewayConfig(**values)  # type: ignore[arg-type]
