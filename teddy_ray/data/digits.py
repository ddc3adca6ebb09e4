"""``digits``: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, which need no download.

A fixed quarter of every class is held out for testing: 450 images.
"""

from __future__ import annotations

import numpy as np

from teddy_ray.data.dataset import Listing, Pixels


def listing() -> Listing:
    """The digits; a mirrored digit is another sign, so no flips."""
    # sklearn takes a second to import, which only this source should cost.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    gray = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), from 0..16
    pixels = Pixels("digits", np.repeat(gray[..., None], 3, axis=3), bunch.target.astype(np.int64))
    return Listing(pixels, flip=False, held_out=0.25)
