"""The command line as people meet it: processes, exit codes, files and screens."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import polars
import pytest
import yaml
from typer.main import get_command

import twotower
from bad_inputs import SHOP, TRAIN, one_rating, prepare
from bad_inputs import settings as write_settings
from bad_inputs import table as write_table
from processes import Done, Warm, cold, warm
from twotower.cli import app
from twotower.retrieval.recommender import Recommender
from twotower.runs import list_runs
from worlds import settings

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]
LAB = "data/recommendations/v1"
ROOT = Path(__file__).parents[1]


# --- the whole way, on the lab's own layout and settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the lab's."""
    place = tmp_path_factory.mktemp("lab") / "lab"
    (place / "config").mkdir(parents=True)
    shutil.copy(ROOT / "config" / "ranking_config.yaml", place / "config")
    return place


@pytest.fixture(scope="module")
def story(folder: Path) -> dict[str, Done]:
    """What each command said, one after the other."""
    said = {
        "generate": cold(f"generate {LAB} --users 60 --items 30 --interactions 900", folder)
    }
    said["inspect"] = warm(f"inspect {LAB}", folder)
    said["train"] = cold("train --config config/ranking_config.yaml", folder)
    [run] = (folder / "runs").iterdir()
    said["evaluate"] = warm(f"evaluate {run}", folder)
    (folder / "of train.html").write_bytes((run / "report.html").read_bytes())
    said["report"] = warm(f"report {run}", folder)
    said["report of other data"] = warm(
        f"report {run} --data {LAB} --into measured.html", folder
    )
    said["recommend"] = cold(f"recommend {run} 3 7 -k 4", folder)
    said["recommend all"] = warm(f"recommend {run} --all -k 5 --into all.parquet", folder)
    said["recommend seen"] = warm(f"recommend {run} 3 -k 30 --include-seen", folder)
    said["similar"] = warm(f"similar {run} 7 -k 3", folder)
    said["embed users"] = warm(f"embed {run} users --into users.parquet", folder)
    said["embed items"] = warm(f"embed {run} items --into items.parquet", folder)
    said["runs"] = warm("runs", folder)
    return said


@pytest.fixture(scope="module")
def recommender(folder: Path, story: dict[str, Done]) -> Recommender:
    """The run that was trained, read in Python."""
    [run] = (folder / "runs").iterdir()
    return twotower.load(run)


def listed(screen: str) -> list[list[str]]:
    """The cells of a screen's tables that begin with a number."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in screen.splitlines()]
    return [row for row in rows if row and row[0].isdigit()]


def test_every_step_ends_well_and_complains_of_nothing(story: dict[str, Done]) -> None:
    assert {name: (done.code, done.err) for name, done in story.items()} == dict.fromkeys(
        story, (0, "")
    )


def test_generate_says_what_it_made_and_how_good_a_model_can_be(
    folder: Path, story: dict[str, Done]
) -> None:
    rows = len(polars.read_parquet(folder / LAB / "train" / "interactions.parquet"))
    best = json.loads((folder / LAB / "oracle.json").read_text())["splits"]["test"]["auc"]
    assert f"60 users, 30 movies, {rows} train," in story["generate"].out
    assert f"best possible on test: AUC {best:.4f}" in story["generate"].out


def test_inspect_says_what_each_column_was_taken_for(story: dict[str, Done]) -> None:
    for pattern in (
        r"age +numeric",
        r"gender_F +boolean",
        r"movie_id +item_id",
        r"label +label",
        r"age +numeric .* its type, DOUBLE",
    ):
        assert re.search(pattern, story["inspect"].out)


def test_the_labs_settings_give_the_labs_files(folder: Path, story: dict[str, Done]) -> None:
    [run] = (folder / "runs").iterdir()
    assert run.name.endswith("-ranking_config")
    metrics = json.loads((run / "metrics.json").read_text())
    history = json.loads((run / "history.json").read_text())
    used = yaml.safe_load((run / "config.yaml").read_text())
    assert {"test_loss", "test_accuracy", "test_auc"} <= metrics.keys()
    assert {"train_loss", "val_loss", "val_auc"} <= history.keys()
    for section, values in yaml.safe_load(
        (folder / "config/ranking_config.yaml").read_text()
    ).items():
        assert used[section].items() >= values.items()


def test_train_shows_what_was_measured_and_where_the_run_is(
    folder: Path, story: dict[str, Done]
) -> None:
    [run] = (folder / "runs").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    out = story["train"].out
    assert f"{metrics['test_auc']:.4f}" in out
    assert f"{metrics['best_possible']['auc']:.4f}" in out
    assert out.splitlines()[-1].startswith(f"runs/{run.name}  trained in ")


def test_profile_says_where_the_time_went_and_leaves_a_trace(shop: Path) -> None:
    write_settings(shop, training={"epochs": 2})
    done = warm(f"{TRAIN} --profile", shop)
    assert done.code == 0, done.err
    [run] = (shop / "runs").iterdir()
    found = json.loads((run / "metrics.json").read_text())["profile"]
    assert found["steps"] > 0
    for stage, seconds in found["seconds"].items():
        assert seconds > 0
        assert stage in done.out
    assert f"{found['steps']:,} steps of " in done.out
    events = json.loads(gzip.decompress((run / "trace.json.gz").read_bytes()))["traceEvents"]
    assert {"towers", "backward", "optimizer"} <= {event.get("name") for event in events}
    assert twotower.load(run).metrics["profile"] == found


def test_evaluate_finds_what_train_found(story: dict[str, Done]) -> None:
    assert "two towers" in story["evaluate"].out
    # But for how long everything took.
    seconds = r" *[\d,.]+ │\n|(under )?[\d,.]+ s\b"
    told = [re.sub(seconds, "\n", story[name].out) for name in ("train", "evaluate")]
    assert told[0].startswith(told[1])


def test_report_writes_again_what_train_wrote(folder: Path, story: dict[str, Done]) -> None:
    [run] = (folder / "runs").iterdir()
    assert story["train"].out.splitlines()[-1].endswith("; see report.html there")
    assert story["report"].out.startswith(f"{run}/report.html  ")
    assert (run / "report.html").read_bytes() == (folder / "of train.html").read_bytes()


def test_report_measures_on_the_data_that_it_is_given(
    folder: Path, story: dict[str, Done]
) -> None:
    assert story["report of other data"].out.startswith("measured.html  ")
    [run] = (folder / "runs").iterdir()
    auc = json.loads((run / "metrics.json").read_text())["test_auc"]
    assert f"<td>{auc:.4f}</td>" in (folder / "measured.html").read_text()


def test_without_plotly_train_says_that_the_report_is_left_out(shop: Path) -> None:
    code = (
        "import sys; sys.modules['plotly'] = None\n"
        "from twotower.cli import main\n"
        f"sys.argv = {['twotower', *TRAIN.split()]}\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=shop, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    notes = [line for line in done.stderr.splitlines() if "report" in line]
    assert notes == [
        "note report.html is left out: it is drawn with plotly, which is not installed: "
        "pip install 'twotower[report]', then `twotower report RUN`"
    ]
    [run] = (shop / "runs").iterdir()
    assert not (run / "report.html").exists()
    assert not done.stdout.splitlines()[-1].endswith("there")


def test_strict_ends_with_1_where_a_baseline_is_not_beaten_and_only_there(
    folder: Path, story: dict[str, Done], tmp_path: Path
) -> None:
    [run] = (folder / "runs").iterdir()
    found = json.loads((run / "metrics.json").read_text())["verdict"]
    assert set(found["against"].values()) == {"win"}
    done = warm(f"evaluate {run} --strict", folder)
    assert (done.code, done.err) == (0, "")

    (tmp_path / "world").mkdir()
    # Everybody likes what is popular, and nobody learns it.
    chance = 1 / np.arange(1, 61)
    items = np.random.default_rng(0).choice(60, 2000, p=chance / chance.sum())
    log = polars.DataFrame({"user_id": np.arange(2000) % 200, "item_id": items})
    log.write_parquet(tmp_path / "world" / "interactions.parquet")
    still = {"loss": "bpr", "epochs": 1, "learning_rate": 1e-9, "embedding_learning_rate": 1e-9}
    config = settings(training=still).model_dump(mode="json")
    (tmp_path / "still.yaml").write_text(json.dumps(config))
    done = warm("train --config still.yaml --data world --strict", tmp_path)
    assert done.code == 1
    assert done.err.endswith("strict the towers do not beat every baseline\n")
    assert "two towers" in done.out
    # The run is there all the same.
    [run] = (tmp_path / "runs").iterdir()
    assert set(json.loads((run / "metrics.json").read_text())["verdict"]["against"]) == {
        "popularity"
    }


def test_recommend_prints_what_the_object_in_python_says(
    story: dict[str, Done], recommender: Recommender
) -> None:
    expected = [
        [str(rank), str(item), f"{score:.3f}"]
        for pairs in recommender.recommend([3, 7], 4)
        for rank, (item, score) in enumerate(pairs, 1)
    ]
    assert [row[:3] for row in listed(story["recommend"].out)] == expected


def test_recommend_shows_the_evidence(folder: Path, story: dict[str, Done]) -> None:
    """Who it is and what was met and liked, as the tables have it."""
    parts = [
        polars.read_parquet(folder / LAB / n / "interactions.parquet") for n in ("train", "val")
    ]
    met = polars.concat([part.select("user_id", "movie_id", "label") for part in parts])
    users = polars.read_parquet(folder / LAB / "users.parquet")
    for user, screen in zip(
        (3, 7), story["recommend"].out.split("for user_id")[1:], strict=True
    ):
        own = met.filter(user_id=user)
        liked = own.filter(label=1)["movie_id"].to_list()
        assert f"met {len(own)} items, liked {len(liked)}" in screen
        shown = [int(number) for number in re.findall(r"^  liked (\d+) ", screen, re.M)]
        assert len(shown) == min(3, len(liked))
        assert set(shown) <= set(liked)
        [row] = users.filter(user_id=user).to_dicts()
        [favourite] = [n for n, value in row.items() if n.startswith("favorite") and value]
        assert favourite in screen
    items = polars.read_parquet(folder / LAB / "movies.parquet")
    for _, item, _, chance, about in listed(story["recommend"].out):
        [row] = items.filter(movie_id=int(item)).to_dicts()
        [genre] = [n for n, value in row.items() if n.startswith("genre") and value]
        assert genre in about
        assert re.fullmatch(r"\d+%", chance)


def test_what_was_seen_is_recommended_only_when_asked_for(
    story: dict[str, Done], recommender: Recommender
) -> None:
    seen = {str(i) for i in recommender.items.of(recommender.seen.of(4))}
    with_seen = {row[1] for row in listed(story["recommend seen"].out)}
    first = {row[1] for row in listed(story["recommend"].out)[:4]}
    assert seen
    assert seen <= with_seen
    assert len(with_seen) == 30
    assert not first & seen


def test_the_file_of_all_recommendations_holds_what_the_object_says(
    folder: Path, story: dict[str, Done], recommender: Recommender
) -> None:
    written = polars.read_parquet(folder / "all.parquet")
    expected = polars.DataFrame(recommender.recommend(range(60), 5).columns())
    assert written.columns == ["user_id", "movie_id", "rank", "score"]
    assert written.drop("score").equals(expected.drop("score"))
    np.testing.assert_allclose(written["score"], expected["score"], rtol=1e-5)
    assert f"all.parquet: {len(written)} rows" in story["recommend all"].out


def test_similar_prints_what_the_object_says(
    story: dict[str, Done], recommender: Recommender
) -> None:
    [pairs] = recommender.similar_items(7, 3)
    expected = [[str(n), str(i), f"{score:.3f}"] for n, (i, score) in enumerate(pairs, 1)]
    assert [row[:3] for row in listed(story["similar"].out)] == expected


def test_the_product_of_embedded_users_and_items_is_the_score(
    folder: Path, story: dict[str, Done]
) -> None:
    users, items = (
        polars.read_parquet(folder / f"{who}.parquet") for who in ("users", "items")
    )
    found = polars.read_parquet(folder / "all.parquet")
    found = found.join(users, on="user_id").join(items, on="movie_id", suffix="_item")
    left, right = np.array(found["vector"].to_list()), np.array(found["vector_item"].to_list())
    np.testing.assert_allclose((left * right).sum(1), found["score"], rtol=1e-4, atol=1e-5)


def test_runs_lists_the_run_with_what_it_measured(folder: Path, story: dict[str, Done]) -> None:
    [run] = (folder / "runs").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"runs/{run.name}" in story["runs"].out
    assert f"{metrics['test_auc']:.4f}" in story["runs"].out


# --- help, usage, completion


def test_help_of_every_command_shows_an_example_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from twotower.cli import app\n"
        f"for name in {COMMANDS}:\n"
        "    try: app([name, '--help'])\n"
        "    except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'duckdb'} & sys.modules.keys()\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"Example: twotower (\w+)", done.stdout) == COMMANDS


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("recomend", "No such command 'recomend'. Did you mean 'recommend'"),
        ("recommend", "Missing argument"),
        ("train --epochs 3", "No such option: --epochs"),
        ("similar runs/x 1 -k many", "Invalid value for '-k'"),
    ],
)
def test_a_command_that_is_none_ends_with_code_2_and_the_way_to_help(
    tmp_path: Path, command: str, word: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    done = warm(command, place)
    assert done.code == 2
    assert word in done.err
    assert re.search(r"Try 'twotower.* --help' for help", done.err)
    assert "Traceback" not in done.err


def test_the_version_is_printed(tmp_path: Path) -> None:
    assert cold("--version", tmp_path).out == f"twotower {twotower.__version__}\n"


def test_a_shell_completes_commands_and_options(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def bash(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    # It asks which shell called it; the second command keeps bash from becoming the first.
    script = bash("twotower --show-completion && true")
    assert script.returncode == 0, script.stderr
    for words, place, found in (
        ("re", 1, ["report", "recommend"]),
        ("rec", 1, ["recommend"]),
        ("train --res", 2, ["--resume"]),
    ):
        ask = (
            f"COMP_WORDS=(twotower {words}); COMP_CWORD={place}; _twotower_completion twotower"
        )
        # bash itself runs the script, and asks it as it does after the tab key.
        done = bash(f'{script.stdout}\n{ask}; printf "%s\\n" "${{COMPREPLY[@]}}"')
        assert done.stdout.split() == found, done.stderr


def test_download_replaces_earlier_tables_when_asked_to(tmp_path: Path) -> None:
    one_rating(tmp_path)
    command = "download ml-latest-small --from mine --into tables"
    assert warm(command, tmp_path).code == 0
    (tmp_path / "tables" / "users.parquet").write_bytes(b"")
    done = warm(command, tmp_path)
    assert (done.code, "replace it with --overwrite" in done.err) == (2, True)
    assert warm(f"{command} --overwrite", tmp_path).code == 0
    assert polars.read_parquet(tmp_path / "tables" / "users.parquet").rows() == [(1,)]


# --- a training that is stopped


def until(is_so: Callable[[], bool], command: Warm) -> bool:
    """Wait for something a command does; False where it ends before."""
    while command.process.is_alive():
        if is_so():
            return True
        time.sleep(0.001)
    return False


def stop(command: Warm, number: signal.Signals) -> Done:
    assert command.process.pid is not None
    with suppress(ProcessLookupError):
        os.kill(command.process.pid, number)
    return command.wait()


def epochs_kept(runs: Path) -> int:
    """Epochs that an unfinished training would not have to do again."""
    total = 0
    for path in runs.glob(".unfinished-*/*.safetensors"):
        # It may have gone by now.
        with suppress(FileNotFoundError), path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            total += json.loads(header["__metadata__"]["about"])["epoch"]
    return total


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small shop, settings and a run."""
    good = tmp_path_factory.mktemp("good") / "good"
    prepare(good)
    return good


@pytest.fixture
def shop(good: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    shutil.copytree(good, tmp_path / "shop")
    shutil.rmtree(tmp_path / "shop" / "runs")
    return tmp_path / "shop"


ENDLESS = {"epochs": 100_000, "early_stopping_patience": 100_000}


def test_ctrl_c_after_an_epoch_leaves_a_whole_run_of_the_best_so_far(shop: Path) -> None:
    write_settings(shop, training=ENDLESS)
    command = Warm(TRAIN, shop)
    assert until(lambda: epochs_kept(shop / "runs") > 0, command)
    done = stop(command, signal.SIGINT)
    assert done.code == 0
    assert re.search(r"note interrupted; epoch \d+ was the best and counts", done.err)
    [run] = (shop / "runs").iterdir()
    assert warm(f"recommend {run} 1", shop).code == 0


def test_ctrl_c_while_a_file_is_read_says_so(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    rows = "1,2,3\n" * 4_000_000
    (place / "interactions.csv").write_text(f"user_id,item_id,rating\n{rows}")
    for seconds in (0.2, 0.4, 0.6):
        command = Warm("inspect .", place)
        time.sleep(seconds)
        done = stop(command, signal.SIGINT)
        assert (done.code, done.out) == (130, "")
        assert done.err == "interrupted before the end; no result was written\n"


def test_a_training_that_still_runs_is_not_gone_on_with_and_not_disturbed(shop: Path) -> None:
    write_settings(shop, training=ENDLESS)
    beside = shop.with_name("beside")
    shutil.copytree(shop, beside)
    command = Warm(TRAIN, shop)
    assert until(lambda: epochs_kept(shop / "runs") > 0, command)
    done = warm(f"{TRAIN} --resume --into ../shop/runs", beside)
    [work] = (shop / "runs").iterdir()
    assert (done.code, done.err) == (
        2,
        f"error that training is still running (../shop/runs/{work.name}); wait for its end or "
        "stop it\n",
    )
    then = epochs_kept(shop / "runs")
    assert until(lambda: epochs_kept(shop / "runs") > then, command)
    assert stop(command, signal.SIGINT).code == 0
    [run] = (shop / "runs").iterdir()
    assert warm(f"recommend {run} 1", shop).code == 0


def test_ctrl_c_in_the_first_epoch_says_so_and_leaves_nothing(shop: Path) -> None:
    rows = {name: values * 3000 for name, values in SHOP["interactions"].items()}
    write_table(shop, "interactions", **rows)
    # A loss for which each of many equal rows counts, so that an epoch is long.
    write_settings(shop, training={"batch_size": 1, "loss": "bpr"}, data={"duplicates": "keep"})
    command = Warm(TRAIN, shop)
    assert until(lambda: bool(list(shop.glob("runs/.unfinished-*/identity"))), command)
    time.sleep(0.2)
    done = stop(command, signal.SIGINT)
    assert (done.code, done.out) == (130, "")
    assert done.err == "interrupted before the end; no result was written\n"
    assert list((shop / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("loss", "others"),
    [
        ("bce", {}),
        ("softmax", {}),
        (
            "in_batch_softmax",
            {
                "negatives_from": "mixed",
                "memory_batches": 2,
                "distinct_negatives": True,
                "hard_negatives": 2,
                "hard_ranks": [2, 9],
                "batch_size": 32,
            },
        ),
    ],
)
def test_a_training_killed_five_times_and_resumed_gives_the_run_of_one_never_killed(
    shop: Path, loss: str, others: dict[str, Any]
) -> None:
    epochs = 30
    training = {"loss": loss, "epochs": epochs, "early_stopping_patience": epochs, **others}
    write_settings(
        shop,
        model={"user_hidden_dims": [8], "item_hidden_dims": [8]},
        training=training,
    )
    assert warm(f"{TRAIN} --into never", shop).code == 0
    [never] = (shop / "never").iterdir()
    total = epochs + json.loads((never / "metrics.json").read_text())["best_epoch"]
    rng = np.random.default_rng(len(loss))
    moments = sorted(rng.integers(0, total, 4).tolist())
    runs = shop / "runs"
    # The last falls into the writing of the run, which is done in a folder with a dot.
    is_time: list[Callable[[], bool]] = [
        *(partial(lambda moment: epochs_kept(runs) >= moment, moment) for moment in moments),
        lambda: any(runs.glob(".[0-9]*")),
    ]
    for number, is_so in enumerate(is_time):
        command = Warm(f"{TRAIN} --resume", shop)
        if until(is_so, command):
            time.sleep(rng.uniform(0, 0.02) if number < 4 else 0)
        stop(command, signal.SIGKILL)
        if number < 4:
            [work] = runs.glob(".unfinished-*")
            told = f"error runs: no runs there; {work.name} is still being trained or was"
            assert told in warm("runs", shop).err
    if not list_runs(runs):
        done = warm(f"{TRAIN} --resume", shop)
        assert done.code == 0
        assert "note going on with runs/.unfinished-" in done.err
    [killed] = list_runs(runs)
    assert files(killed) == files(never)


def files(run: Path) -> dict[str, bytes]:
    """What is in a run, but for what tells the seconds that it took."""
    paths = [path for path in run.rglob("*") if path.is_file()]
    taken = {"metrics.json", "manifest.json", "report.html"}
    return {str(p.relative_to(run)): p.read_bytes() for p in paths if p.name not in taken}


def test_a_checkpoint_of_a_run_that_is_whole_does_not_stand_in_the_way(shop: Path) -> None:
    """Whoever kills it between the two last steps finds both."""
    command = Warm(TRAIN, shop)
    assert until(lambda: epochs_kept(shop / "runs") > 0, command)
    stop(command, signal.SIGKILL)
    [work] = (shop / "runs").iterdir()
    shutil.copytree(work, shop / "kept")
    assert warm(f"{TRAIN} --resume", shop).code == 0
    # An earlier one, since two runs of one second share a name.
    [run] = (shop / "runs").iterdir()
    run.rename(shop / "runs" / "20250101-000000-small")
    (shop / "kept").rename(shop / "runs" / ".unfinished-20250101-000000-small")
    done = warm(f"{TRAIN} --resume", shop)
    assert (done.code, "starting from the beginning" in done.err) == (0, True)
    assert not list((shop / "runs").glob(".*"))
