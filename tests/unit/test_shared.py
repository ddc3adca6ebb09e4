"""What processes of a Ray run share: a trainer's queue, whatever becomes of its group of workers, and the hub."""

import pytest

from teddy_ray.errors import WorldError
from teddy_ray.pipeline.shared import Hub, Queue


def taken(queue):
    """Everything that is left, as (task, whether somebody has had it)."""
    found = []
    while (task := queue.take()) is not None:
        found.append(task)
    return found


def test_each_task_is_handed_out_once():
    queue = Queue(3)
    queue.join("a", 0)
    queue.join("a", 1)
    assert taken(queue) == [(0, False), (1, False), (2, False)]


def test_a_new_group_of_any_size_is_offered_all_tasks_again_but_once():
    queue = Queue(3)
    for group, ranks in (("a", [0, 1]), ("b", [0]), ("c", [1, 0, 2])):
        queue.join(group, ranks[0])
        first = queue.take()
        for rank in ranks[1:]:
            queue.join(group, rank)
        assert [number for number, _ in [first, *taken(queue)]] == [0, 1, 2]


def test_a_rank_that_comes_again_is_a_new_group():
    queue = Queue(2)
    queue.join("a", 0)
    assert queue.take() == (0, False)
    queue.join("a", 0)
    assert taken(queue) == [(0, True), (1, False)]


def test_after_a_failure_nothing_is_handed_out_and_the_first_one_counts():
    queue = Queue(2)
    queue.join("a", 0)
    queue.fail(WorldError("first"))
    queue.fail(WorldError("second"))
    assert queue.take() is None
    assert str(queue.failed()) == "first"


@pytest.mark.parametrize(("give", "take"), [("push", "drain"), ("keep", "kept")])
def test_what_the_hub_has_given_it_has_no_more(give, take):
    hub = Hub()
    for item in (b"1", b"2"):
        getattr(hub, give)(item)
    assert getattr(hub, take)() == [b"1", b"2"]
    assert getattr(hub, take)() == []
