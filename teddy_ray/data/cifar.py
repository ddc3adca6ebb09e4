"""``cifar10`` and ``cifar100``: through torchvision, from the folder ``TEDDY_DATA`` (unset: ``~/.cache/teddy-cloud``).

Files that are there are used; else they are downloaded to it. Their pickles are opened only after torchvision has
matched them against its MD5s, which is also why a name alone is the data's fingerprint.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from teddy_ray.data.dataset import Listing, Pixels
from teddy_ray.errors import UserError


def listing(name: Literal["cifar10", "cifar100"]) -> Listing:
    """The dataset ``name``. Raises UserError if it is neither on disk nor to be had."""
    # torchvision takes a second to import, which only this source should cost.
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    root = Path(os.environ.get("TEDDY_DATA") or "~/.cache/teddy-cloud").expanduser()
    try:
        train, test = (kind(root, train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{name} is not whole in {root / kind.base_folder} and cannot be downloaded ({error}); put"
            f" {kind.filename}'s folder {kind.base_folder} into {root}, or set TEDDY_DATA to the folder that holds it"
        ) from error
    rows = [Pixels(name, part.data, np.asarray(part.targets, dtype=np.int64)) for part in (train, test)]
    return Listing(rows[0], rows[1], class_names=tuple(train.classes))
