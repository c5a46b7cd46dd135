"""``kill -9`` under load, again and again: what was acknowledged is there, and once.

    python -m benchmarks.kills [--kills 20] [--database sqlite postgresql] [--outage 30]

Several clients send events as fast as they are acknowledged; the service is killed after a
random while and started again on the same database. Each client sends what got no answer again,
and now and then what was acknowledged long ago. In the end the database and the histories of
the service are held against what was acknowledged. PostgreSQL is also killed while people ask
and events come. It has to be on the path (``initdb``).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tests.databases import Postgres

from benchmarks.services import Asker, Reply, service, two_runs
from twotower.serving.state import State

CLIENTS, ITEMS = 4, 500
SECONDS_ALIVE = (0.5, 2.0)


@dataclass
class Sender:
    """A client that sends events until its connection breaks, and knows what became of each.

    Attributes:
        acknowledged: ids, in order.
        stuck: the one that was sent and not answered, if there is one.
        twice: those that were stored again though they had been acknowledged.
    """

    name: str
    rng: random.Random
    acknowledged: list[str] = field(default_factory=list)
    stuck: str | None = None
    twice: int = 0
    refused: int = 0
    sent: int = 0

    def run(self, url: str, is_over: threading.Event) -> None:
        asker = Asker(url)
        while not is_over.is_set():
            repeats = bool(self.acknowledged) and self.rng.random() < 0.1
            if repeats:
                event = self.rng.choice(self.acknowledged)
            else:
                event = self.stuck or f"{self.name}-{self.sent}"
                self.sent += self.stuck is None
                self.stuck = event
            try:
                reply = asker.ask("POST", "/v1/events", {"events": [self.body(event)]})
            except OSError:
                return
            if reply.is_stated_refusal:
                self.refused += 1
            elif reply.status != 200:
                raise SystemExit(f"an event got {reply.status}: {reply.body[:200]!r}")
            elif repeats:
                self.twice += reply.json["stored"]
            else:
                self.acknowledged.append(event)
                self.stuck = None
        asker.close()

    def body(self, event: str) -> dict[str, object]:
        number = int(event.rpartition("-")[2])
        return {"id": event, "user": f"user {self.name}", "item": number % ITEMS}


def kills(run: Path, url: str, count: int) -> str:
    """A row of the table."""
    rng = random.Random(0)
    senders = [Sender(str(n), random.Random(n)) for n in range(CLIENTS)]
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        with service(run, state=url) as alive:
            seconds.append(time.perf_counter() - started)
            is_over = threading.Event()
            threads = _started(senders, alive.url, is_over)
            time.sleep(rng.uniform(*SECONDS_ALIVE))
            alive.kill()
            is_over.set()
            for thread in threads:
                thread.join()
    stuck = {each.stuck for each in senders if each.stuck}
    state = State(url)
    stored = Counter(event.event_id for _, event in state.events())
    state.close()
    acknowledged = {each for sender in senders for each in sender.acknowledged}
    with service(run, state=url) as alive:
        asker = Asker(alive.url)
        histories = 0
        for sender in senders:
            body = asker.ask("GET", f"/v1/users/user%20{sender.name}").json
            own = {
                int(each.rpartition("-")[2]) % ITEMS
                for each in stored
                if each.startswith(f"{sender.name}-")
            }
            histories += set(body["met"]) == own and body["num_met"] == len(own)
    lost = len(acknowledged - set(stored))
    more = sum(n - 1 for n in stored.values()) + sum(each.twice for each in senders)
    others = len(set(stored) - acknowledged - stuck)
    start = float(np.median(seconds))
    return (
        f"| {url.split(':')[0]} | {count} | {len(acknowledged):,} | {lost} | {more} | {others} "
        f"| {histories} of {CLIENTS} | {start:.1f} |"
    )


def outage(run: Path, postgres: Postgres, seconds: float) -> str:
    """What people and events are told while PostgreSQL is away."""
    sender, asked = Sender("outage", random.Random(9)), list[tuple[float, Reply]]()
    told: list[tuple[float, Reply]] = []
    is_over = threading.Event()

    def ask(url: str) -> None:
        asker = Asker(url)
        while not is_over.is_set():
            body = {"people": [{"user": sender.rng.randrange(1000)}]}
            asked.append((time.monotonic(), asker.ask("POST", "/v1/recommend", body)))
            time.sleep(0.02)

    def tell(url: str) -> None:
        asker = Asker(url)
        while not is_over.is_set():
            event = sender.stuck or f"outage-{sender.sent}"
            sender.sent += sender.stuck is None
            sender.stuck = event
            reply = asker.ask("POST", "/v1/events", {"events": [sender.body(event)]})
            told.append((time.monotonic(), reply))
            if reply.status == 200:
                sender.acknowledged.append(event)
                sender.stuck = None
            time.sleep(0.05)

    with service(run, state=postgres.url) as alive:
        threads = [threading.Thread(target=each, args=(alive.url,)) for each in (ask, tell)]
        for thread in threads:
            thread.start()
        time.sleep(3)
        away = time.monotonic()
        postgres.stop()
        time.sleep(seconds)
        postgres.start()
        back = time.monotonic()
        time.sleep(5)
        is_over.set()
        for thread in threads:
            thread.join()
    state = State(postgres.url)
    stored = [event.event_id for _, event in state.events() if event.user_id == "user outage"]
    state.close()
    lost = len(set(sender.acknowledged) - set(stored))
    first = next(at for at, reply in told if at > back and reply.status == 200)
    during = [reply for at, reply in asked if away + 0.5 < at < back]
    events = [reply for at, reply in told if away + 0.5 < at < back]
    p99 = np.quantile([each.seconds for each in during], 0.99) * 1e3
    longest = max(each.seconds for each in events)
    return "\n".join(
        [
            f"PostgreSQL away for {back - away:.0f} s:\n",
            "| | statuses | with Retry-After | p99 or longest |",
            "|---|---|--:|--:|",
            f"| recommendations while away | {_statuses(during)} | | {p99:.0f} ms |",
            f"| events while away | {_statuses(events)} "
            f"| {sum('retry-after' in each.headers for each in events)} | {longest:.2f} s |",
            f"\nThe first event after it was back was stored {first - back:.2f} s later. Of "
            f"{len(sender.acknowledged)} acknowledged events {lost} were lost and "
            f"{len(stored) - len(set(stored))} stored twice.",
        ]
    )


def _started(
    senders: list[Sender], url: str, is_over: threading.Event
) -> list[threading.Thread]:
    threads = [threading.Thread(target=each.run, args=(url, is_over)) for each in senders]
    for thread in threads:
        thread.start()
    return threads


def _statuses(replies: list[Reply]) -> str:
    counts = Counter(each.status for each in replies)
    return ", ".join(f"{count} x {status}" for status, count in sorted(counts.items()))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--database", nargs="+", default=["sqlite", "postgresql"])
    arguments.add_argument("--outage", type=float, default=30, help="Seconds.")
    given = arguments.parse_args()
    print(
        "| database | kills | acknowledged | lost | counted twice | of nobody "
        "| histories right | start, s |\n|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as after:
        place = Path(scratch)
        two_runs(place, ITEMS)
        run = place / "runs" / "one"
        if "sqlite" in given.database:
            print(kills(run, f"sqlite:///{place / 'state.sqlite'}", given.kills), flush=True)
        if "postgresql" in given.database:
            postgres = Postgres()
            after.callback(postgres.close)
            postgres.start()
            print(kills(run, postgres.url, given.kills), "\n", flush=True)
            print(outage(run, postgres, given.outage))


if __name__ == "__main__":
    main()
