from isthmus.http.bodies import BODY_SIZE_MAX, ENTRIES_MAX, SIZE_MAX, Bodies


def test_same_source_is_encoded_once_per_variant() -> None:
    bodies, source, made = Bodies(), (1, 2), list[str]()

    def make(variant: str) -> bytes:
        made.append(variant)
        return variant.encode()

    for variant in ("a", "b", "a", "b"):
        assert bodies.get(source, variant, lambda v=variant: make(v)) == variant.encode()  # type: ignore[misc]
    assert made == ["a", "b"]


def test_a_different_source_is_encoded_anew() -> None:
    bodies = Bodies()
    one, other = (object(),), (object(),)
    assert bodies.get(one, "", lambda: b"1") == b"1"
    assert bodies.get(other, "", lambda: b"2") == b"2"


def test_number_of_bodies_is_bounded_and_the_oldest_go_first() -> None:
    bodies = Bodies()
    sources = [(number,) for number in range(ENTRIES_MAX + 1)]
    for source in sources:
        bodies.get(source, "", lambda: b"x")
    assert len(bodies) == ENTRIES_MAX
    assert bodies.get(sources[-1], "", lambda: b"new") == b"x"
    assert bodies.get(sources[0], "", lambda: b"new") == b"new"


def test_size_of_bodies_is_bounded() -> None:
    bodies = Bodies()
    for number in range(SIZE_MAX // BODY_SIZE_MAX + 1):
        bodies.get((number,), "", lambda: bytes(BODY_SIZE_MAX))
    assert len(bodies) == SIZE_MAX // BODY_SIZE_MAX


def test_a_large_body_is_not_kept() -> None:
    bodies = Bodies()
    bodies.get((1,), "", lambda: bytes(BODY_SIZE_MAX + 1))
    assert len(bodies) == 0
