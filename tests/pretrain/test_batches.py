"""Batches that are drawn ahead equal those that are not."""

from __future__ import annotations

import threading

import pytest
import torch

from action_heads.pretrain.batches import ahead
from action_heads.training.streams import generator


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_in_order_and_only_a_few_ahead(workers):
    drawn = []
    coming = ahead(lambda step: drawn.append(step) or step, range(20), workers)
    assert [next(coming), next(coming)] == [0, 1]
    assert len(drawn) <= 2 + 2 * workers + 1
    assert [*coming] == list(range(2, 20))
    assert threading.active_count() == 1 or not any(t.name.startswith("batches") for t in threading.enumerate())


def test_errors_are_raised_in_their_turn():
    def draw(step: int) -> int:
        if step == 3:
            raise OSError("the disk is gone")
        return step

    coming = ahead(draw, range(9))
    assert [next(coming) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(coming)


def test_one_stream_for_each_purpose_seed_step_and_process():
    keys = [("batch", 0, 0, 0), ("noise", 0, 0, 0), ("batch", 1, 0, 0), ("batch", 0, 1, 0), ("batch", 0, 0, 1)]
    numbers = [torch.randint(2**60, (1,), generator=generator(*key)).item() for key in keys]
    assert len(set(numbers)) == len(keys)
    assert numbers == [torch.randint(2**60, (1,), generator=generator(*key)).item() for key in keys]
