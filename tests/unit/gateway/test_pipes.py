import fcntl
import os

import pytest

from isthmus.gateway.pipes import PipePool

SIZE = 128 * 1024


def test_pipe_has_the_wanted_size_and_does_not_block() -> None:
    pool = PipePool(1, SIZE)
    pipe = pool.borrow()
    assert pipe is not None
    assert fcntl.fcntl(pipe.writer, fcntl.F_GETPIPE_SZ) in {SIZE, 4_096, 65_536}
    with pytest.raises(BlockingIOError):
        os.read(pipe.reader, 1)
    pool.discard(pipe)


def test_pool_lends_no_more_than_its_bound_and_lends_again_what_came_back() -> None:
    pool = PipePool(2, SIZE)
    first, second = pool.borrow(), pool.borrow()
    assert first is not None
    assert second is not None
    assert pool.borrow() is None
    pool.give_back(first)
    assert pool.borrow() == first
    pool.give_back(first)
    pool.discard(second)
    assert pool.lent == 0
    pool.close()


def test_discarded_pipe_is_closed_and_makes_room() -> None:
    pool = PipePool(1, SIZE)
    pipe = pool.borrow()
    assert pipe is not None
    os.write(pipe.writer, b"left over")
    pool.discard(pipe)
    fresh = pool.borrow()
    assert fresh is not None
    with pytest.raises(BlockingIOError):
        os.read(fresh.reader, 1)
    pool.discard(fresh)
