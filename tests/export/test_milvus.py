"""Vectors in a file of Milvus Lite: replaced as a whole, and searched by it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twotower.errors import RequestError
from twotower.export.milvus import write_to_milvus
from worlds import shopkeeper, trained

lite_only = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("pymilvus", "milvus_lite"))),
    reason="the extra milvus is not installed",
)


@pytest.mark.skipif(
    importlib.util.find_spec("pymilvus") is not None, reason="the extra milvus is installed"
)
def test_without_pymilvus_it_says_what_to_install() -> None:
    with pytest.raises(RequestError, match=r"twotower\[milvus\]"):
        write_to_milvus(trained(), "milvus:nowhere.db", run="one")


@lite_only
@pytest.mark.filterwarnings("ignore")
class TestInAFile:
    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return str(tmp_path / "vectors.db")

    def search(self, place: str, user: Any, column: str) -> list[tuple[Any, float, str]]:
        from pymilvus import MilvusClient

        client = MilvusClient(place)
        try:
            [found] = client.search(
                "twotower_items", [user.tolist()], limit=5, output_fields=["run"]
            )
            return [(each[column], each["distance"], each["entity"]["run"]) for each in found]
        finally:
            client.close()

    @pytest.mark.parametrize("make", [trained, shopkeeper])
    def test_milvus_finds_what_the_recommender_finds(self, place: str, make: Any) -> None:
        recommender = make()
        counts = write_to_milvus(recommender, f"milvus:{place}", run="one")
        assert counts == {
            "twotower_users": len(recommender.users),
            "twotower_items": recommender.num_candidates,
        }
        user = recommender.user_vectors[1]
        scores = recommender.item_vectors[1:] @ user
        scores[~recommender.is_candidate] = -float("inf")
        best = scores.topk(5)
        found = self.search(place, user, recommender.items.column)
        wanted = recommender.items.values[best.indices.numpy()].tolist()
        assert [item for item, _, _ in found] == wanted
        scored = [score for _, score, _ in found]
        assert scored == pytest.approx(best.values.tolist(), abs=1e-4)
        assert {run for _, _, run in found} == {"one"}

    def test_another_version_takes_the_place_of_the_first(self, place: str) -> None:
        from pymilvus import MilvusClient

        one = trained()
        two = replace(one, item_vectors=-one.item_vectors)
        target = f"milvus:{place}"
        for run, each in (("one", one), ("two", two), ("three", one)):
            write_to_milvus(each, target, run=run, sides=("items",))
            found = self.search(place, each.user_vectors[1], one.items.column)
            assert {version for _, _, version in found} == {run}
            best = int((each.item_vectors[1:] @ each.user_vectors[1]).argmax())
            assert found[0][0] == one.items.values[best]
        client = MilvusClient(place)
        assert len(client.list_collections()) == 1
        client.close()

    @pytest.mark.parametrize("away", ["milvus:/nope/x.db", "milvus:http://127.0.0.1:1"])
    def test_who_can_not_be_reached_is_one_sentence(self, away: str) -> None:
        with pytest.raises(RequestError, match="Milvus refuses"):
            write_to_milvus(trained(), away, run="one")
