"""A stop is a stop, whatever a library makes of it."""

import signal
from contextlib import suppress

import numpy as np
import pytest

from teddy_ray.pipeline import stopping


class Interrupting:
    """An object that is asked for its shape when the signal comes."""

    def __array__(self, dtype=None, copy=None):
        signal.raise_signal(signal.SIGTERM)


def swallow():
    """As C code may: what was raised is lost, and something else raised."""
    with suppress(KeyboardInterrupt):
        np.asarray(Interrupting())
    raise ValueError("could not determine the shape")


@pytest.fixture
def terminating():
    before = signal.signal(signal.SIGTERM, stopping.stop)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("terminating")
def test_an_error_that_a_library_made_of_a_stop_is_a_stop():
    with pytest.raises(KeyboardInterrupt) as stopped, stopping.unmasked():
        swallow()
    assert isinstance(stopped.value.__cause__, ValueError)


@pytest.mark.usefixtures("terminating")
def test_an_earlier_stop_explains_no_later_error():
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(ValueError, match="ours"), stopping.unmasked():
        raise ValueError("ours")
