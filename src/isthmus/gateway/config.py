"""Limits and delays of the gateway, with the defaults that it runs on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """How the proxy treats connections. Sizes are bytes, delays seconds.

    Attributes:
        hello_size_max: A ClientHello that is longer is refused.
        hello_timeout: A client that has not sent its whole ClientHello by then is cut off.
        connect_timeout: From the start of a dial until some endpoint must be connected.
        stagger: An attempt that is not connected by then is joined by one to the next endpoint.
        answer_patience: So is a connected endpoint that has not answered the hello by then, or in
            three times the time that it took last.
        doubt_time: An endpoint that another one overtook so is tried last for this time.
        attempts_max: Attempts in one dial.
        connections_max: Open connections, including those whose hello is awaited.
        hellos_max: Connections whose hello is awaited; the oldest makes room for a new one.
        half_closed_timeout: Silence after which a connection with one side closed is ended.
        drain_timeout: What open connections are given when the gateway stops.
        pipes_max: Kernel pipes; when all are in use, further streams are copied.
        pipe_size: Of each; 256 pipes of 256 KiB are all that Linux grants an ordinary user.
        eject_failures: Failures in a row that eject an endpoint.
        eject_time: First time out; doubles with each that follows.
        eject_time_max: Bound of the doubling.
    """

    hello_size_max: int = 16 * 1024
    hello_timeout: float = 15.0
    connect_timeout: float = 5.0
    stagger: float = 0.25
    answer_patience: float = 0.25
    doubt_time: float = 5.0
    attempts_max: int = 8
    connections_max: int = 16_384
    hellos_max: int = 4_096
    half_closed_timeout: float = 300.0
    drain_timeout: float = 2.0
    pipes_max: int = 256
    pipe_size: int = 256 * 1024
    eject_failures: int = 5
    eject_time: float = 30.0
    eject_time_max: float = 300.0

    def __post_init__(self) -> None:
        """Check that the values fit each other.

        Raises:
            ValueError: They do not.
        """
        if not 0 < self.stagger <= self.connect_timeout:
            raise ValueError("stagger must be positive and at most connect_timeout")
        if not 0 < self.hellos_max <= self.connections_max:
            raise ValueError("hellos_max must be positive and at most connections_max")
        if min(self.attempts_max, self.eject_failures, self.hello_size_max) < 1:
            raise ValueError("attempts_max, eject_failures and hello_size_max must be at least 1")
