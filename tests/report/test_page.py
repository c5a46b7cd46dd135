"""The page says what was measured, whatever that is, and is one file that fetches nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import NASTY, Page, nasty, page_of, read

import twotower
from test_runs import files_no_larger_than
from twotower import pipeline
from twotower.errors import RequestError
from twotower.evaluation.words import NAMES
from twotower.report.page import page, write_report
from twotower.retrieval.recommender import Recommender
from worlds import NUM_USERS, checkerboard, settings, shopkeeper, trained

ASSETS = Path(twotower.__file__).parent / "report"


@pytest.fixture(scope="module")
def labelled(lab: tuple[Recommender, Path]) -> Page:
    """The page of the lab's world, which has labels and all baselines' company."""
    return read((lab[1] / "report.html").read_bytes())


def ids(found: Page) -> set[str]:
    return {each.attributes.get("id", "") for each in found.elements}


def parsed(recommender: Recommender, **measured: Any) -> Page:
    return read(page(recommender, {**recommender.metrics, **measured}))


class TestItSaysWhatWasMeasured:
    def test_the_table_of_the_towers_and_their_baselines(self) -> None:
        metrics = trained().metrics
        summary = metrics["ranking"]["warm"]
        header, *rows = read(page_of(trained)).tables[0]
        assert header[1:3] == ["ndcg@10", "recall@20"]
        assert [row[0] for row in rows] == [NAMES["towers"], NAMES["popularity"]]
        for row, who in zip(rows, ("towers", "popularity"), strict=True):
            for cell, metric in zip(row[1:3], header[1:3], strict=True):
                value = summary[who][metric]
                said = [f"{value[part]:.4f}" for part in ("mean", "low", "high")]
                assert re.findall(r"[\d.]+", cell) == said
        difference = summary["difference"]["popularity"]["ndcg@10"]
        said = [f"{difference[part]:+.4f}" for part in ("mean", "low", "high")]
        assert re.findall(r"[-+][\d.]+", rows[1][3]) == said
        assert rows[0][4] == f"{metrics['train_seconds']:,.1f}"

    def test_the_headline_and_the_sentence_of_the_terminal(self) -> None:
        found = read(page_of(trained))
        assert found.all("h1")[0].text == "The towers beat every baseline."
        [lead] = [p.text for p in found.all("p") if p.attributes.get("class") == "lead"]
        assert re.fullmatch(
            r"By ndcg@10, the towers beat popularity \(\+[\d.]+%\)\.", " ".join(lead.split())
        )

    @pytest.mark.parametrize(
        ("low", "high", "says"),
        [(-0.2, -0.1, "lose to"), (-0.1, 0.1, "tie with"), (0.1, 0.2, "beat every")],
    )
    def test_who_is_better_depends_on_the_interval(
        self, low: float, high: float, says: str
    ) -> None:
        metrics = json.loads(json.dumps(trained().metrics))
        metrics["ranking"]["warm"]["difference"]["popularity"]["ndcg@10"] = {
            "mean": (low + high) / 2,
            "low": low,
            "high": high,
        }
        outcome = {"lose to": "loss", "tie with": "tie", "beat every": "win"}[says]
        metrics["verdict"]["against"]["popularity"] = outcome
        found = parsed(trained(), **metrics)
        assert f"The towers {says}" in found.all("h1")[0].text
        [row] = [e for e in found.all("tr") if e.attributes.get("class")][:1]
        assert row.attributes["class"] == outcome

    def test_labels_and_what_is_possible(
        self, labelled: Page, lab: tuple[Recommender, Path]
    ) -> None:
        metrics = lab[0].metrics
        [table] = [t for t in labelled.tables if "AUC" in t[0]]
        assert table[1][1] == f"{metrics['test_auc']:.4f}"
        assert table[2][:2] == ["best possible", f"{metrics['best_possible']['auc']:.4f}"]
        [bins] = [t for t in labelled.tables if t[0][0] == "bin"]
        assert len(bins) == 1 + len(metrics["reliability"])
        figure = json.loads(labelled.by_id("figures").text)["reliability"]
        assert figure["data"][1]["y"] == [each["share"] for each in metrics["reliability"]]

    def test_why_there_is_no_calibration_where_it_is_of_likes_alone(
        self, labelled: Page
    ) -> None:
        assert "no calibration" in read(page_of(trained)).by_id("chances").text
        assert "no calibration" not in labelled.by_id("chances").text

    def test_what_it_cost_and_how_baselines_were_tuned(self, labelled: Page) -> None:
        said = " ".join(" ".join(p.text.split()) for p in labelled.all("p"))
        assert re.search(r"Trained in [\d.,]+ s; [\w-]+ took", said)

    def test_curves_with_the_best_epoch_marked(self) -> None:
        figures = json.loads(read(page_of(trained)).by_id("figures").text)
        best = trained().metrics["best_epoch"]
        for name, values in trained().history.items():
            line, mark = figures[f"curve-{name}"]["data"]
            told = dict(zip(line["x"], line["y"], strict=True))
            assert [told[epoch] for epoch in range(1, len(values) + 1)] == list(values)
            assert (mark["x"], mark["y"]) == ([best], [told[best]])

    def test_a_start_that_no_epoch_beat_is_marked_instead(self) -> None:
        metrics = {**trained().metrics, "best_epoch": 0, "start": {"val_ndcg": 0.5}}
        found = read(page(replace(trained(), metrics=metrics)))
        assert "No epoch was better than the start" in found.by_id("training").text
        curve = json.loads(found.by_id("figures").text)["curve-val_ndcg"]["data"]
        assert (curve[0]["x"][0], curve[0]["y"][0]) == (0, 0.5)
        assert (curve[1]["x"], curve[1]["y"]) == ([0], [0.5])

    def test_each_slice_with_its_difference(self, labelled: Page) -> None:
        [table] = [t for t in read(page_of(shopkeeper)).tables if t[0][-1] == "difference"]
        parts = {part["slice"]: part for part in shopkeeper().metrics["slices"]}
        assert {row[0] for row in table[1:]} == set(parts)
        for name, _, ours, theirs, _ in table[1:]:
            assert ours == f"{parts[name]['towers']:.4f}"
            assert theirs == f"{parts[name]['baseline']:.4f}"

    def test_coverage_and_popularity_beside_the_data(self) -> None:
        [table] = [t for t in read(page_of(trained)).tables if "coverage" in t[0]]
        by_name = {row[0]: row[1:] for row in table[1:]}
        beyond = trained().metrics["beyond_accuracy"]["towers"]
        assert by_name["two towers"][:2] == [
            f"{beyond['coverage']:.1%}",
            f"{beyond['popularity_bias']:+.1%}",
        ]
        shares = trained().metrics["popularity"]["shares"]
        assert by_name["data: met before"][2] == f"{shares['seen']['head']:.1%}"

    def test_every_item_is_on_the_map(self) -> None:
        items = json.loads(read(page_of(trained)).by_id("items").text)
        assert items["ids"] == [str(each) for each in trained().items.values.tolist()]
        counts = np.bincount(trained().seen.items, minlength=len(items["ids"]) + 1)[1:]
        assert items["met"] == counts.tolist()
        names = [each["name"] for each in items["colourings"]]
        assert names == ["genre", "year", "popularity"]

    def test_users_with_what_they_liked_and_what_they_get(self) -> None:
        found = read(page_of(trained)).by_id("examples").text
        for example in trained().metrics["examples"]:
            assert str(example["user"]) in found
        hits = sum(len(example["hits"]) for example in trained().metrics["examples"])
        assert hits > 0
        assert found.count("✓") - 1 == hits

    def test_alarms(self) -> None:
        found = parsed(trained(), warnings=["the house is on <fire>"])
        assert "the house is on <fire>" in [each.text for each in found.all("li")]
        assert "alarms" in ids(found)
        assert "alarms" not in ids(parsed(trained(), warnings=[]))

    def test_where_it_came_from(self) -> None:
        facts = read(page_of(trained)).by_id("facts").text
        for value in ("softmax", str(trained().metrics["data"]["sha256"]), "random_per_user"):
            assert value in facts
        assert trained().config.to_yaml() in facts

    def test_the_same_recommender_gives_the_same_page(self) -> None:
        assert page(trained()) == page_of(trained)

    def test_a_run_that_was_read_again_gives_the_page_that_train_wrote(
        self, lab: tuple[Recommender, Path], tmp_path: Path
    ) -> None:
        path = write_report(twotower.load(lab[1]), tmp_path / "again.html")
        assert path.read_bytes() == (lab[1] / "report.html").read_bytes()


class TestWhateverThereIs:
    def test_figures_of_an_older_run(self) -> None:
        new = ("reliability", "popularity", "examples", "slices")
        old = {k: v for k, v in trained().metrics.items() if k not in new}
        found = read(page(trained(), old))
        assert found.by_id("map")
        assert "examples" not in ids(found)

    def test_nothing_was_measured(self) -> None:
        found = read(page(replace(trained(), metrics={}, history={})))
        assert "nothing was measured" in found.all("h1")[0].text
        assert found.by_id("facts")

    def test_no_test_part(self) -> None:
        config = settings(
            training={"epochs": 1}, data={"split": "random_per_user", "test_fraction": 0.0}
        )
        found = read(page(pipeline.fit(checkerboard(), config)))
        assert "nothing was measured" in found.all("h1")[0].text

    def test_no_baseline(self) -> None:
        config = settings(training={"epochs": 1}, evaluation={"baselines": []})
        found = read(page(pipeline.fit(checkerboard(), config)))
        assert found.all("h1")[0].text == "Measured, but beside no baseline."

    @pytest.mark.parametrize("count", [8, 40])
    def test_users_that_training_never_met(self, count: int) -> None:
        share = count / NUM_USERS
        config = settings(
            training={"epochs": 1}, data={"split": "cold_users", "test_fraction": share}
        )
        found = read(page(pipeline.fit(checkerboard(), config)))
        assert f"Beside the baselines: {count} cold users" in [e.text for e in found.all("h2")]
        told = "Too few to say who is better." in [each.text for each in found.all("p")]
        assert told == (count < 20)
        headers = [table[0] for table in found.tables]
        assert any("ndcg@10" in header for header in headers) == (count >= 20)

    def test_other_data_with_users_and_items_that_the_model_never_met(self) -> None:
        world = checkerboard(seed=5)
        for table in ("users", "interactions"):
            world[table]["user_id"] = [9000 + each for each in world[table]["user_id"]]
        for table in ("items", "interactions"):
            world[table]["item_id"] = [each + each % 2 for each in world[table]["item_id"]]
        world["items"] = {k: v[::2] for k, v in world["items"].items()}
        found = read(page(trained(), pipeline.evaluate(trained(), world)))
        assert "Measured on other data than that of the training." in [
            each.text for each in found.all("p")
        ]

    def test_a_single_item_and_none_that_may_be_recommended(self) -> None:
        one = replace(
            trained(),
            items=replace(trained().items, values=trained().items.values[:1]),
            item_vectors=trained().item_vectors[:2].clone(),
            has_own_id=np.array([False, True]),
            item_values={name: each[:1] for name, each in trained().item_values.items()},
            seen=replace(trained().seen, items=np.ones_like(trained().seen.items)),
            metrics={},
        )
        assert len(json.loads(read(page(one)).by_id("items").text)["ids"]) == 1
        encoders = replace(trained().item_encoders, by_column={})
        none = replace(one, has_own_id=np.array([False, False]), item_encoders=encoders)
        assert json.loads(read(page(none)).by_id("items").text) is None


class TestOneFile:
    @pytest.mark.parametrize(
        "make", [trained, shopkeeper, nasty], ids=["ids", "kinds", "nasty"]
    )
    def test_nothing_is_fetched_and_nothing_else_may_run(self, make: Any) -> None:
        found = read(page_of(make))
        for element in found.elements:
            for name, value in element.attributes.items():
                assert not name.startswith("on")
                if name in {"src", "href", "action", "data", "srcset", "poster"}:
                    assert value.startswith("#") or value == "data:,"
        kinds = [each.attributes.get("type") for each in found.all("script")]
        assert kinds == ["application/json", "application/json", "text/plain", None]
        policy = found.all("meta")[1].attributes["content"]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe-eval" not in policy
        assert re.findall(r"script-src ([^;]*)", policy)[0].count("sha256-") == 2

    def test_whatever_things_are_called_is_text(self) -> None:
        found = read(page_of(nasty))
        plain = read(page_of(trained))
        kinds = {each.tag for each in plain.elements} | {"details", "summary"}
        assert {each.tag for each in found.elements} <= kinds
        text = found.by_id("examples").text
        assert any(f"{name} i5" in text for name in NASTY[:2])
        items = json.loads(found.by_id("items").text)
        assert {name for each in items["colourings"] for name in each.get("labels", [])} >= {
            *NASTY[:4]
        }

    def test_it_is_of_moderate_size(self) -> None:
        assert len(page_of(trained)) < 2.5e6


class TestColoursAreTold:
    """WCAG 2.1, AA: 4.5 for text, 3 for what is drawn."""

    @pytest.mark.parametrize("scheme", [0, 1], ids=["day", "night"])
    def test_text_stands_out(self, scheme: int) -> None:
        colours = palette(scheme)
        for text, ground in (
            *((each, "paper") for each in ("ink", "soft", "link", "win", "tie", "loss")),
            *((each, "panel") for each in ("ink", "soft")),
            ("ink", "alarm"),
        ):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)

    @pytest.mark.parametrize("scheme", [0, 1], ids=["day", "night"])
    def test_marks_are_seen(self, scheme: int) -> None:
        marks = re.findall(r"\"(#[0-9a-f]{6})\"", (ASSETS / "figures.py").read_text())
        marks += re.findall(r"\"(#[0-9a-f]{6})\"", (ASSETS / "page.js").read_text())
        assert len(marks) > 10
        for mark in marks:
            assert contrast(mark, palette(scheme)["paper"]) >= 2.6, mark


def palette(scheme: int) -> dict[str, str]:
    blocks = re.findall(r":root \{([^}]*--paper[^}]*)\}", (ASSETS / "page.css").read_text())
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", blocks[scheme]))


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


class TestWriting:
    def test_an_older_page_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "x.html").write_text("old")
        assert write_report(trained(), tmp_path / "x.html") == tmp_path / "x.html"
        assert (tmp_path / "x.html").read_bytes() == page_of(trained)
        assert [path.name for path in tmp_path.iterdir()] == ["x.html"]

    def test_where_it_can_not_be_written_it_says_so_and_leaves_nothing(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(RequestError, match="is a directory"):
            write_report(trained(), tmp_path)
        with pytest.raises(RequestError, match="does not exist"):
            write_report(trained(), tmp_path / "no" / "x.html")
        with (
            files_no_larger_than(1_000_000),
            pytest.raises(RequestError, match=r"can not be written \(File too large\)"),
        ):
            write_report(trained(), tmp_path / "x.html")
        assert list(tmp_path.iterdir()) == []

    def test_without_plotly_it_says_how_to_get_it(self, tmp_path: Path) -> None:
        code = (
            "import sys; sys.modules['plotly'] = None\n"
            "import twotower\n"
            "try: twotower.write_report(None, 'x.html')\n"
            "except twotower.RequestError as error: print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == (
            "there is no report: it is drawn with plotly, which is not installed: "
            "pip install 'twotower[report]'\n"
        )
        assert list(tmp_path.iterdir()) == []
