"""Memory does not depend on how many images there are."""

from bench import constant_memory


def test_memory_stays_as_it_is_while_images_stream_by() -> None:
    count = 40_000
    row = constant_memory.stream(count)
    assert len(row["memory"]) >= 80
    assert constant_memory.is_constant(row, count)


def test_growth_and_images_that_are_missing_are_seen() -> None:
    sound = {"images": 5, "grown_bytes": 0}
    assert constant_memory.is_constant(sound, 5)
    assert not constant_memory.is_constant(sound, 6)
    assert not constant_memory.is_constant({**sound, "grown_bytes": 2**25}, 5)
