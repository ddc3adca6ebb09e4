"""What processes of a Ray run share: whose turn it is, and whether it was somebody's before."""

import pytest

from teddy_ray.errors import WorldError
from teddy_ray.pipeline.shared import Hub, Queue


def take_all(queue):
    return list(iter(queue.take, None))


def test_tasks_are_handed_out_once():
    queue = Queue(3)
    for rank in range(2):
        queue.join("group", rank)
    assert take_all(queue) == [(0, False), (1, False), (2, False)]


@pytest.mark.parametrize("again", [("group", 0), ("another", 0), ("another", 1)])
def test_a_new_group_is_offered_all_tasks_and_told_which_were_taken(again):
    queue = Queue(3)
    queue.join("group", 0)
    assert [queue.take(), queue.take()] == [(0, False), (1, False)]
    queue.join(*again)
    assert take_all(queue) == [(0, True), (1, True), (2, False)]


def test_a_failure_ends_the_queue_and_the_first_is_told():
    queue = Queue(3)
    for message in ("first", "second"):
        queue.fail(WorldError(message))
    assert queue.take() is None
    assert str(queue.failed()) == "first"


@pytest.mark.parametrize(("give", "take"), [("push", "drain"), ("keep", "kept")])
def test_what_the_hub_has_given_it_has_no_more(give, take):
    hub = Hub()
    for item in (b"1", b"2"):
        getattr(hub, give)(item)
    assert getattr(hub, take)() == [b"1", b"2"]
    assert getattr(hub, take)() == []
