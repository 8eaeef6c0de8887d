import select
import socket

import pytest

from isthmus.gateway.stream import accept, connect, reset_on_close, set_options


def test_options_of_a_listener_are_those_of_what_it_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        set_options(listener)
        with pytest.raises(BlockingIOError):
            accept(listener)
        with socket.create_connection(listener.getsockname()):
            select.select([listener], [], [], 10)
            sock = accept(listener)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            with pytest.raises(BlockingIOError):
                sock.recv(1)
            sock.close()


def test_connection_begins_without_blocking() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = connect(*listener.getsockname())
        assert sock is not None
        peer, _ = listener.accept()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        peer.close()
        sock.close()


@pytest.mark.parametrize("address", ["fe80::1%no-such-interface", "255.255.255.255"])
def test_address_that_cannot_be_reached_fails_at_once(address: str) -> None:
    assert connect(address, 1) is None


def test_close_is_a_reset_when_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = connect(*listener.getsockname())
        assert sock is not None
        peer, _ = listener.accept()
        with peer:
            reset_on_close(sock)
            sock.close()
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
