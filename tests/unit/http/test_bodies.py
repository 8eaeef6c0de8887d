import gzip

from isthmus.http.bodies import (
    BODY_SIZE_MAX,
    ENTRIES_MAX,
    NEWCOMERS_MAX,
    SIZE_MAX,
    Bodies,
    compress,
)


def put(bodies: Bodies, source: object, body: bytes, *, times: int = 2) -> None:
    for _ in range(times):
        assert bodies.get(source, "", lambda: body) == body


def is_kept(bodies: Bodies, source: object) -> bool:
    """Whether a body of this source would not be encoded again."""
    return bodies.get(source, "", lambda: b"encoded again") != b"encoded again"


def test_body_is_kept_the_second_time_per_variant() -> None:
    bodies, source, made = Bodies(), (1, 2), list[str]()

    def ask(variant: str) -> bytes:
        def encode() -> bytes:
            made.append(variant)
            return variant.encode()

        return bodies.get(source, variant, encode)

    for variant in ("a", "b") * 4:
        assert ask(variant) == variant.encode()
    assert made == ["a", "b", "a", "b"]


def test_a_different_source_is_encoded_anew() -> None:
    bodies = Bodies()
    one, other = (object(),), (object(),)
    put(bodies, one, b"1")
    put(bodies, other, b"2")
    assert is_kept(bodies, one)


def test_sources_asked_for_once_push_nothing_out() -> None:
    bodies, kept = Bodies(), (0,)
    put(bodies, kept, b"x")
    for number in range(10 * ENTRIES_MAX):
        put(bodies, (number,), b"once", times=1)
    assert is_kept(bodies, kept)
    assert len(bodies) == 1


def test_newcomers_are_bounded() -> None:
    bodies, first = Bodies(), (0,)
    put(bodies, first, b"x", times=1)
    for number in range(NEWCOMERS_MAX):
        put(bodies, (number,), b"once", times=1)
    put(bodies, first, b"x", times=1)
    assert len(bodies) == 0


def test_number_of_bodies_is_bounded_and_the_oldest_go_first() -> None:
    bodies = Bodies()
    sources = [(number,) for number in range(ENTRIES_MAX + 1)]
    for source in sources:
        put(bodies, source, b"x")
    assert len(bodies) == ENTRIES_MAX
    assert is_kept(bodies, sources[-1])
    assert not is_kept(bodies, sources[0])


def test_size_of_bodies_is_bounded() -> None:
    bodies = Bodies()
    for number in range(SIZE_MAX // BODY_SIZE_MAX + 1):
        put(bodies, (number,), bytes(BODY_SIZE_MAX))
    assert len(bodies) == SIZE_MAX // BODY_SIZE_MAX


def test_a_large_body_is_not_kept() -> None:
    bodies = Bodies()
    put(bodies, (1,), bytes(BODY_SIZE_MAX + 1))
    assert len(bodies) == 0


def test_compressed_body_is_gzip() -> None:
    assert gzip.decompress(compress(b"abc" * 1000)) == b"abc" * 1000
