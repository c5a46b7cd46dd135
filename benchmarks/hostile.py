"""Input that nobody should send, of all kinds and to all routes: what each is answered.

    python -m benchmarks.hostile [--bodies 10000] [--seed 0]

Valid requests are broken by a seeded rng, one way each, and sent as bytes over real sockets. It
fails where an answer is a 5xx other than a 503 that says when to come again, where none comes
within the limits, where an answer or the log holds a key, a path of the service or a traceback,
where the log holds a user's id or a line that is no JSON, or where the service has ended.
Its memory stands below the table.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.breaking import MARK, Breaker, Sent, request
from benchmarks.services import Service, service, two_runs
from twotower.serving.keys import SCOPES, add_key, make_key

CLIENTS, ITEMS, SECONDS = 4, 500, 5.0
# What a service may take beyond its limit on a machine that is busy.
SLACK = 5.0


def answer(url: str, sent: Sent) -> tuple[bytes, float]:
    """All that comes back until the connection ends, and when."""
    place = urlsplit(url)
    started = time.perf_counter()
    got = bytearray()
    with socket.create_connection((str(place.hostname), place.port or 0), timeout=60) as line:
        try:
            for n, part in enumerate(sent.parts):
                if n and sent.slow:
                    line.settimeout(sent.slow)
                    try:
                        piece = line.recv(65536)
                        got += piece
                        break
                    except TimeoutError:
                        line.settimeout(60)
                line.sendall(part)
            line.settimeout(60)
            while piece := line.recv(65536):
                got += piece
                if _is_whole(got):
                    break
        except (ConnectionError, BrokenPipeError):
            pass
    return bytes(got), time.perf_counter() - started


def _is_whole(got: bytes | bytearray) -> bool:
    """Whether a body is there as long as its head says, of a connection that is kept."""
    head, found, body = bytes(got).partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return bool(found) and len(body) >= int(line.split(b":")[1])
    return False


class Judge:
    """What was answered, and what is wrong with it."""

    def __init__(self, secrets: list[str], longest: float) -> None:
        self.secrets = [each.encode() for each in secrets]
        self.longest = longest
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.slowest: dict[str, float] = defaultdict(float)
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def look(self, kind: str, sent: Sent, got: bytes, seconds: float) -> None:
        got = got.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        status = got[9:12].decode("ascii", "replace") if got.startswith(b"HTTP/") else "closed"
        problems = []
        if status.startswith("5") and not (status == "503" and b"retry-after" in got.lower()):
            problems.append(f"status {status}")
        if seconds > self.longest:
            problems.append(f"{seconds:.1f} s")
        problems += [f"holds {each!r}" for each in self.secrets if each in got]
        if status.startswith("4") and len(got) > 2_000:
            problems.append(f"{len(got):,} bytes of refusal")
        with self._lock:
            self.counts[kind][status] += 1
            self.slowest[kind] = max(self.slowest[kind], seconds)
            for each in problems:
                shown = b"".join(sent.parts)[:600]
                self.wrong.append(f"{kind}: {each}: {shown!r} -> {got[:300]!r}")

    def read_log(self, log: Path, keys: list[str]) -> int:
        lines = log.read_bytes().splitlines()
        for line in lines:
            try:
                level = json.loads(line)["level"]
            except (ValueError, KeyError, TypeError):
                self.wrong.append(f"log: no JSON: {line[:300]!r}")
                continue
            if level == "error" or b"Traceback" in line:
                self.wrong.append(f"log: {line[:3000]!r}")
            if any(each.encode() in line for each in [*keys, MARK]):
                self.wrong.append(f"log: a secret: {line[:300]!r}")
        return len(lines)

    def table(self) -> str:
        statuses = sorted({each for counts in self.counts.values() for each in counts})
        lines = [
            f"| kind | sent | {' | '.join(statuses)} | longest, s |",
            f"|---|{'--:|' * (len(statuses) + 2)}",
        ]
        for kind, counts in sorted(self.counts.items()):
            cells = [f"{counts[each]:,}" if counts[each] else "" for each in statuses]
            total = f"{sum(counts.values()):,}"
            lines.append(
                f"| {kind} | {total} | {' | '.join(cells)} | {self.slowest[kind]:.1f} |"
            )
        return "\n".join(lines)


def attack(alive: Service, judge: Judge, breaker: Breaker, count: int) -> None:
    requests = [breaker.one() for _ in range(count)]
    requests.sort(key=lambda each: bool(each[1].slow))

    def send(each: tuple[str, Sent]) -> None:
        kind, sent = each
        judge.look(kind, sent, *answer(alive.url, sent))

    quick = [each for each in requests if not each[1].slow]
    slow = [each for each in requests if each[1].slow]
    with ThreadPoolExecutor(CLIENTS) as pool, ThreadPoolExecutor(16) as patient:
        waiting = [patient.submit(send, each) for each in slow]
        for future in [pool.submit(send, each) for each in quick] + waiting:
            future.result()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--bodies", type=int, default=10_000)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        two_runs(place, ITEMS)
        keys = {}
        opened: dict[str, list[str]] = {"all": [*SCOPES]}
        opened.update({each: [each] for each in SCOPES})
        for name, scopes in opened.items():
            keys[name], made = make_key(name, scopes)
            add_key(place / "keys.txt", made)
        secrets = [*keys.values(), scratch, "Traceback", "site-packages"]
        judge = Judge(secrets, SECONDS + SLACK)
        breaker = Breaker(random.Random(given.seed), keys)
        with service(place / "runs" / "one", keys=place / "keys.txt", seconds=SECONDS) as alive:
            resident = []
            for _ in range(5):
                attack(alive, judge, breaker, given.bodies // 5)
                resident.append(f"{alive.resident_mib():.0f}")
            valid = request("GET", "/readyz", b"", keys["all"])
            if not answer(alive.url, Sent([valid]))[0].startswith(b"HTTP/1.1 200"):
                judge.wrong.append("the service does not answer any more")
        lines = judge.read_log(place / "runs" / "service.log", list(keys.values()))
    print(judge.table())
    print(
        f"\n{len(judge.wrong)} wrong. {lines:,} lines of log. In memory after each fifth: "
        f"{', '.join(resident)} MiB."
    )
    for each in judge.wrong[:50]:
        print(f"\n- {each}")
    raise SystemExit(bool(judge.wrong))


if __name__ == "__main__":
    main()
