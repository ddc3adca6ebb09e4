"""Sealed JSON opens as what it was, and not at all when a bit of it has changed."""

import pytest

from teddy_ray.store.sealed import opened, seal

VALUES = {"b": [1, 0.1, 1e-12, 1 / 3, 4.35 * 100], "a": {"ü": None, "text": "x y"}}


def test_what_is_sealed_opens_as_it_was_and_equal_values_are_equal_bytes():
    assert opened(seal(VALUES)) == VALUES
    assert seal(dict(reversed(VALUES.items()))) == seal(VALUES)


def test_every_flipped_bit_is_found():
    data = seal(VALUES)
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match=r"."):
            opened(bytes(flipped))


def test_another_spelling_of_the_same_number_is_found():
    data = seal({"seconds": 434.99999999999994})
    same = data.replace(b"434.99999999999994", b"434.99999999999995")
    assert float("434.99999999999994") == float("434.99999999999995")
    with pytest.raises(ValueError, match="SHA-256"):
        opened(same)


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"{}", b'{"sha256": []}', b'{"a": NaN, "sha256": "b"}', b"\xff"])
def test_what_is_no_sealed_object_is_refused(data):
    with pytest.raises(ValueError, match=r"."):
        opened(data)
