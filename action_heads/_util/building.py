"""The device on which the parts of a policy are built."""

from __future__ import annotations

import torch


def building_for(device: torch.device) -> torch.device:
    """Return the context in which new parts for a device are built, before they are moved there.

    It is the CPU, whose random numbers are the same on every machine, or `meta`, which has no numbers. A surrounding
    context, such as that in which transformers builds models, does not count.
    """
    return device if device.type == "meta" else torch.device("cpu")
