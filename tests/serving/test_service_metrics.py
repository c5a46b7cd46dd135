"""What the figures say of lists."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from twotower.retrieval.answer import Tally
from twotower.retrieval.wish import Answer, Person, Recommended, Wish
from twotower.serving.metrics import Metrics

BUCKET = "twotower_best_score_bucket"


def answers(lists: Sequence[Sequence[int]], best: float = 3.0) -> list[Answer]:
    """Somebody's lists, which begin with a score."""
    return [
        Answer(None, ["id"], [], [Recommended(item, best, 0.5) for item in items])
        for items in lists
    ]


def looking() -> Metrics:
    """It looks at a list of each call, since that comes a second after the last."""
    return Metrics(now=itertools.count(0.0, 1.0).__next__)


def mean(metrics: Metrics, name: str) -> float:
    return metrics.value(f"{name}_sum") / metrics.value(f"{name}_count")


def test_lists_that_are_the_same_for_all_overlap_wholly_and_others_by_what_they_share() -> None:
    for second, share in (([1, 2, 3, 4], 1.0), ([4, 5, 6, 1], 0.5), ([7, 8, 9], 0.0)):
        metrics = looking()
        for user, items in ((1, [1, 2, 3, 4]), (2, second)):
            metrics.answered([Person(user=user)], answers([items]), Wish(k=4), Tally())
        assert mean(metrics, "list_overlap") == share


def test_the_lists_of_one_person_and_those_of_other_wishes_are_not_compared() -> None:
    metrics, same = looking(), answers([[1, 2]])
    metrics.answered([Person(user=1)], same, Wish(k=2), Tally())
    metrics.answered([Person(user=1)], same, Wish(k=2), Tally())
    metrics.answered([Person(user=2)], same, Wish(k=2, where={"year": 1990}), Tally())
    assert metrics.value("list_overlap_count") == 0


def test_of_one_call_with_many_people_each_is_looked_at_in_turn() -> None:
    metrics, people = looking(), [Person(user=1), Person(user=2)]
    for _ in range(3):
        metrics.answered(people, answers([[1, 2], [2, 3]]), Wish(k=2), Tally())
    assert metrics.value("list_overlap_count") == 2
    assert mean(metrics, "list_overlap") == 0.5
    assert metrics.value("people_together_count") == 3
    assert mean(metrics, "people_together") == 2


def test_the_best_score_is_that_of_the_towers() -> None:
    metrics = looking()
    metrics.answered([Person(user=1)], answers([[1]], best=4.5), Wish(), Tally())
    # The dial adds to one, and nothing but popularity ranks the other.
    metrics.answered([Person(user=1)], answers([[1]], best=9.0), Wish(popularity=1), Tally())
    nobody = [Answer(None, ["popularity"], [], [Recommended(1, 9.0, None)])]
    metrics.answered([Person()], nobody, Wish(), Tally())
    assert metrics.value("best_score_count") == 1
    below = [metrics.registry.get_sample_value(BUCKET, {"le": le}) for le in ("4.0", "5.0")]
    assert below == [0, 1]


def test_so_many_lists_a_second_are_looked_at_and_all_are_counted() -> None:
    metrics = Metrics(now=itertools.count(0.0, 0.001).__next__)
    for user in range(1000):
        metrics.answered([Person(user=user)], answers([[1, 2]]), Wish(), Tally())
    assert 45 <= metrics.value("best_score_count") <= 51
    assert metrics.value("people_total") == 1000
