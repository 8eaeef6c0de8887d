import pytest

from isthmus.errors import InvalidRequest
from isthmus.gossip.keyring import KEY_COUNT_MAX, Keyring

A, B, C = bytes(16), bytes(24), bytes(32)


def test_first_key_is_primary_and_new_ones_come_last() -> None:
    ring = Keyring([A])
    ring.add(B)
    ring.add(A)
    assert ring.keys == (A, B)
    assert len(ring.ciphers) == 2


def test_used_key_moves_to_the_front() -> None:
    ring = Keyring([A, B, C])
    ring.use(C)
    assert ring.keys == (C, A, B)
    with pytest.raises(InvalidRequest, match="Requested key is not in the keyring"):
        ring.use(bytes(range(16)))


def test_primary_key_cannot_be_removed() -> None:
    ring = Keyring([A, B])
    with pytest.raises(InvalidRequest, match="Removing the primary key is not allowed"):
        ring.remove(A)
    ring.remove(B)
    ring.remove(C)
    assert ring.keys == (A,)


@pytest.mark.parametrize("size", [0, 15, 17, 33])
def test_key_of_another_length_is_refused(size: int) -> None:
    ring = Keyring([A])
    with pytest.raises(InvalidRequest, match="key size must be 16, 24 or 32 bytes"):
        ring.add(bytes(size))
    assert ring.keys == (A,)


def test_empty_ring_means_no_encryption() -> None:
    assert not Keyring()
    assert Keyring([A])


def test_number_of_keys_is_bounded() -> None:
    ring = Keyring(bytes((number,)) * 16 for number in range(KEY_COUNT_MAX))
    with pytest.raises(InvalidRequest, match="holds 64 keys"):
        ring.add(C)
