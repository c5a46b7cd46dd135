"""Minutes of mixed load while models are swapped and items change: no failure, no mixed answer.

    python -m benchmarks.endurance [--minutes 10] [--swap-every 20] [--items 5000]

One service on SQLite. Clients recommend, ask for the similar, score, send events and put and
delete items; all the while a run is loaded and rolled back again. Each answer is held against
what the run that it names says in Python: all scores and lists of those who do nothing, but for
the items that were put. An answer that has any of the other run is mixed. Memory is the
resident set, by the second; its slope is that of the second half. Histories are kept in memory,
so that events are of 100 users and 200 items alone, and the items that come and go are 100.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.services import Asker, Reply, service, two_runs
from twotower.retrieval.answer import answer
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.wish import Person, Wish

K, ASKED, FRESH, FIRST_FRESH = 10, 200, 100, 10**9
CLOSE = 1e-3


class Truth:
    """What each run says of those that nobody sends events of."""

    def __init__(self, found: dict[str, Recommender]) -> None:
        people = [Person(user=user) for user in range(ASKED)]
        self.lists, self.scores, self.near = {}, {}, {}
        for name, ours in found.items():
            lists = answer(ours, people, Wish(k=K))
            self.lists[name] = [[(e.item, e.score) for e in each.items] for each in lists]
            items = ours.item_vectors[1 : ASKED + 1]
            self.scores[name] = (ours.user_vectors[1 : ASKED + 1] @ items.T).numpy()
            self.items = ours.items.values[:ASKED].tolist()
            self.users = ours.users.values[:ASKED].tolist()
            unit = torch.nn.functional.normalize(ours.item_vectors[1:, :-1], dim=1)
            self.near[name] = (unit[:ASKED] @ unit.T).numpy()
            self.rows = {item: row for row, item in enumerate(ours.items.values.tolist())}

    def is_list(self, run: str, user: int, items: list[dict[str, Any]]) -> bool:
        """Without what was put, the list is the run's as far as it goes."""
        own = [(e["item"], e["score"]) for e in items if e["item"] < FIRST_FRESH]
        right = self.lists[run][user][: len(own)]
        return len(items) == K and all(
            abs(score - expected) < CLOSE
            for (_, score), (_, expected) in zip(own, right, strict=True)
        )


@dataclass
class Ledger:
    """What was asked and how it went."""

    counts: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    by_run: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, what: str, reply: Reply, is_right: bool) -> None:
        with self.lock:
            self.counts[what][reply.status] += 1
            self.seconds[what].append(reply.seconds)
            if reply.status == 200:
                self.by_run[reply.json.get("run", "")] += 1
                if not is_right:
                    self.mixed.append(f"{what}: {reply.body[:300]!r}")
            elif not (reply.status == 429 and reply.is_stated_refusal):
                self.failed.append(f"{what}: {reply.status} {reply.body[:300]!r}")


class Clients:
    """Those who ask."""

    def __init__(self, url: str, truth: Truth, features: dict[str, float]) -> None:
        self.url, self.truth, self.features = url, truth, features
        self.ledger, self.is_over = Ledger(), threading.Event()

    def started(self) -> list[threading.Thread]:
        jobs = [
            self.recommend,
            self.recommend,
            self.similar,
            self.score,
            self.tell,
            self.change,
        ]
        threads = [
            threading.Thread(target=self._again, args=(job, random.Random(n)))
            for n, job in enumerate(jobs)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _again(self, job: Any, rng: random.Random) -> None:
        asker = Asker(self.url)
        while not self.is_over.is_set():
            try:
                job(asker, rng)
            except OSError as error:
                self.ledger.failed.append(f"{job.__name__}: {error}")
            time.sleep(0.01)
        asker.close()

    def recommend(self, asker: Asker, rng: random.Random) -> None:
        users = [rng.randrange(ASKED) for _ in range(rng.choice([1, 1, 4, 16]))]
        body = {"people": [{"user": self.truth.users[user]} for user in users], "k": K}
        reply = asker.ask("POST", "/v1/recommend", body)
        is_right = reply.status == 200 and all(
            self.truth.is_list(reply.json["run"], user, each["items"])
            for user, each in zip(users, reply.json["answers"], strict=True)
        )
        self.ledger.note("recommend", reply, is_right)

    def similar(self, asker: Asker, rng: random.Random) -> None:
        rows = rng.sample(range(ASKED), 3)
        body = {"items": [self.truth.items[row] for row in rows], "k": K}
        reply = asker.ask("POST", "/v1/similar", body)
        is_right = reply.status == 200 and all(
            abs(near["score"] - self.truth.near[reply.json["run"]][row, other]) < CLOSE
            for row, each in zip(rows, reply.json["answers"], strict=True)
            for near in each["items"]
            if (other := self.truth.rows.get(near["item"])) is not None
        )
        self.ledger.note("similar", reply, is_right)

    def score(self, asker: Asker, rng: random.Random) -> None:
        pairs = [(rng.randrange(ASKED), rng.randrange(ASKED)) for _ in range(20)]
        body = [
            {"user": self.truth.users[user], "item": self.truth.items[item]}
            for user, item in pairs
        ]
        reply = asker.ask("POST", "/v1/score", {"pairs": body})
        is_right = reply.status == 200 and all(
            abs(each["score"] - self.truth.scores[reply.json["run"]][pair]) < CLOSE
            for pair, each in zip(pairs, reply.json["scores"], strict=True)
        )
        self.ledger.note("score", reply, is_right)

    def tell(self, asker: Asker, rng: random.Random) -> None:
        events = [
            {
                "id": f"{rng.getrandbits(64):x}",
                "user": f"new {rng.randrange(100)}",
                "item": item,
            }
            for item in rng.sample(self.truth.items, 5)
        ]
        reply = asker.ask("POST", "/v1/events", {"events": events})
        is_right = reply.status == 200 and reply.json["stored"] == len(events)
        self.ledger.note("events", reply, is_right)

    def change(self, asker: Asker, rng: random.Random) -> None:
        items = [FIRST_FRESH + n for n in rng.sample(range(FRESH), 3)]
        features = {name: value + rng.random() for name, value in self.features.items()}
        body = {"items": [{"item": item, "features": features} for item in items]}
        self.ledger.note("put items", asker.ask("PUT", "/v1/items", body), True)
        for item in items[:2]:
            reply = asker.ask("DELETE", f"/v1/items/{item}")
            self.ledger.note("delete an item", reply, reply.json.get("changed") == 1)


def endure(place: Path, num_items: int, minutes: float, swap_every: float) -> str:
    found = two_runs(place, num_items)
    truth = Truth(found)
    names = found["one"].item_values
    features = {name: float(values[0]) for name, values in names.items()}
    swaps: Counter[str] = Counter()
    resident: list[float] = []
    with service(place / "runs" / "one") as alive:
        clients = Clients(alive.url, truth, features)
        threads = clients.started()
        admin, started = Asker(alive.url), time.monotonic()
        next_swap, turn = swap_every, 0
        while (now := time.monotonic() - started) < minutes * 60:
            if now >= next_swap:
                path, body = (
                    ("/v1/admin/rollback", None)
                    if turn % 2
                    else ("/v1/admin/load", {"run": "two"})
                )
                reply = admin.ask("POST", path, body)
                clients.ledger.note("swap", reply, True)
                swaps[path.rpartition("/")[2]] += 1
                next_swap, turn = next_swap + swap_every, turn + 1
            resident.append(alive.resident_mib())
            time.sleep(1)
        clients.is_over.set()
        for thread in threads:
            thread.join()
        log = (place / "runs" / "service.log").read_text(encoding="utf-8")
    return _table(clients.ledger, resident, swaps, minutes, log.count("Traceback"))


def _table(
    ledger: Ledger, resident: list[float], swaps: Counter[str], minutes: float, tracebacks: int
) -> str:
    lines = ["| asked | requests | statuses | p50 ms | p99 ms |", "|---|--:|---|--:|--:|"]
    for what, counts in ledger.counts.items():
        took = np.array(ledger.seconds[what]) * 1e3
        statuses = ", ".join(f"{count:,} x {status}" for status, count in counts.items())
        p50, p99 = np.quantile(took, [0.5, 0.99])
        lines.append(f"| {what} | {len(took):,} | {statuses} | {p50:.0f} | {p99:.0f} |")
    half = resident[len(resident) // 2 :]
    slope = np.polyfit(np.arange(len(half)) / 60, half, 1)[0]
    runs = ", ".join(f"{count:,} by {run}" for run, count in ledger.by_run.items() if run)
    lines += [
        f"\n{minutes:g} minutes, {swaps['load']} loads and {swaps['rollback']} rollbacks; "
        f"{runs}. **{len(ledger.failed)} failed, {len(ledger.mixed)} wrong or mixed, "
        f"{tracebacks} tracebacks in the log.**",
        f"\nMemory: {resident[0]:.0f} MiB at first, {resident[len(resident) // 2]:.0f} at half "
        f"time, {resident[-1]:.0f} at the end, {max(resident):.0f} at most; "
        f"{slope:+.1f} MiB a minute in the second half.",
    ]
    return "\n".join([*lines, *(f"\n- {each}" for each in (ledger.failed + ledger.mixed)[:20])])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument("--swap-every", type=float, default=20, help="Seconds.")
    arguments.add_argument("--items", type=int, default=5_000)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(endure(Path(scratch), given.items, given.minutes, given.swap_every))


if __name__ == "__main__":
    main()
