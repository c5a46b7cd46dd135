"""Requests a second of the service, beside its own compute and beside bare routes.

Towers of two epochs over a generated catalogue, k = 10, one known user a request,
over loopback by ``wrk`` in a process of its own. All alternate in one run, and the figures are
medians of its rounds:

    compute   the same answers in a loop, without HTTP; and the product and top k of them alone
    bare      a FastAPI route with pydantic in and out that returns a constant
    implicit  the same route with ``implicit``'s recommend behind it
    tfrs      the same route with TensorFlow Recommenders' BruteForce behind it (``--tfrs``)
    service   ``twotower serve``

    python -m benchmarks.serving [--items N ...] [--connections N ...] [--workers N]
                                 [--tfrs PYTHON]

Needs wrk. ``--tfrs`` names the Python of the environment that ``make .venv-tfrs`` makes.
Beside the rates stands how long an item takes that is put and then known.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from twotower import fit, runs
from twotower.data.synthetic import generate
from twotower.retrieval.answer import answer
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.wish import Person, Wish

USERS, K = 20_000, 10
# What wrk sends, and how it says what came back.
SCRIPT = """
local headers = {["Content-Type"] = "application/json"}
request = function()
  local body = '{"people": [{"user": ' .. math.random(0, USERS - 1) .. '}], "k": 10}'
  return wrk.format("POST", "/v1/recommend", headers, body)
end
done = function(summary, latency)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  io.stderr:write(string.format('{"rate": %f, "p50": %f, "p99": %f, "failed": %d}',
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1000,
    latency:percentile(99) / 1000, failed))
end
"""


@dataclass(frozen=True)
class Load:
    """What a server did: requests a second, milliseconds, and requests that failed."""

    rate: float
    p50: float
    p99: float
    failed: int


def recommender_of(place: Path, num_items: int, dimension: int) -> Recommender:
    """Towers after two epochs over a generated world.

    Untrained ones score all items nearly alike, so that a first look would rule none out.
    """
    generate(place, num_users=USERS, num_items=num_items, num_interactions=20 * USERS)
    training = {"loss": "in_batch_softmax", "epochs": 2, "refit": False, "device": "cpu"}
    return fit(
        place,
        {
            "model": {"embedding_dim": dimension, "history": "mean"},
            "training": training,
            "evaluation": {"baselines": [], "bootstrap": 10},
            "data": {"data_path": str(place)},
        },
    )


@contextmanager
def server(*command: str, port: int, python: str = sys.executable) -> Iterator[str]:
    """A server in a process of its own, from when it is ready."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [python, "-m", *command], stdout=said, stderr=subprocess.DEVNULL
        )
        url = f"http://127.0.0.1:{port}"
        try:
            while not _is_ready(url):
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)}: ended before it was ready")
                time.sleep(0.05)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5):
            return True
    except OSError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def drive(url: str, script: Path, connections: int, seconds: int) -> Load:
    """Load a server."""
    done = subprocess.run(
        [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--timeout=30s",
            f"-s{script}",
            url,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return Load(**json.loads(done.stderr))


def put_seconds(url: str, features: dict[str, float], seconds: int) -> float:
    """Of an item that is put, each of a new id, the median."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port)
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        body = json.dumps({"items": [{"item": 10**9 + len(took), "features": features}]})
        started = time.perf_counter()
        connection.request("PUT", "/v1/items", body, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            response.read()
            assert response.status == 200
        took.append(time.perf_counter() - started)
    connection.close()
    return statistics.median(took)


def seconds_each(function: Callable[[int], object], seconds: float) -> float:
    """Of one call, the median."""
    rng = np.random.default_rng(0)
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        user = int(rng.integers(USERS))
        started = time.perf_counter()
        function(user)
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def computes(ours: Recommender) -> dict[str, Callable[[int], object]]:
    """The same answer without HTTP, whole, and its product and top k alone."""
    wish = Wish(k=K)
    items = ours.item_vectors[1:].T.contiguous()

    def kernel(user: int) -> object:
        return torch.topk(ours.user_vectors[user + 1 : user + 2] @ items, K, dim=1)

    return {"answer": lambda user: answer(ours, [Person(user=user)], wish), "kernel": kernel}


def write_vectors(ours: Recommender, path: Path) -> None:
    """Factors of the same number and length for the peers, and what was met."""
    seen = ours.seen
    np.savez(
        path,
        users=ours.user_vectors[1:, :-1].numpy(),
        items=ours.item_vectors[1:, :-1].numpy(),
        seen=seen.items - 1,
        offsets=seen.offsets[1:],
    )


def measure(
    num_items: int,
    connections: list[int],
    rounds: int,
    seconds: int,
    workers: int,
    tfrs: str | None,
) -> str:
    """The table of one catalogue."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as open_:
        place = Path(scratch)
        ours = recommender_of(place / "world", num_items, 128)
        runs.save(ours, place / "runs" / "one")
        script = place / "ask.lua"
        script.write_text(SCRIPT.replace("USERS", str(USERS)))
        run, vectors = str(place / "runs" / "one"), place / "vectors.npz"
        write_vectors(ours, vectors)
        urls = {}
        for name in ("bare", "implicit", *(["tfrs"] if tfrs else []), "service"):
            port = free_port()
            command = ["twotower", "serve", run, "--port", str(port)]
            command += ["--workers", str(workers)]
            if name != "service":
                which = "constant" if name == "bare" else name
                command = ["benchmarks.bare", which, str(port), str(vectors)]
            python = tfrs if tfrs and name == "tfrs" else sys.executable
            urls[name] = open_.enter_context(server(*command, port=port, python=python))
        loads: dict[tuple[str, int], list[Load]] = {}
        alone: dict[str, list[float]] = {}
        for url in urls.values():
            drive(url, script, 4, 1)
        for _ in range(rounds):
            for name, function in computes(ours).items():
                alone.setdefault(name, []).append(seconds_each(function, seconds / 2))
            for count in connections:
                for name, url in urls.items():
                    found = drive(url, script, count, seconds)
                    loads.setdefault((name, count), []).append(found)
        features = {name: float(values[0]) for name, values in ours.item_values.items()}
        put = put_seconds(urls["service"], features, 2 * seconds)
    return f"{_table(num_items, connections, loads, alone)}\n\nAn item put: {put * 1e3:.0f} ms."


def _table(
    num_items: int,
    connections: list[int],
    loads: dict[tuple[str, int], list[Load]],
    alone: dict[str, list[float]],
) -> str:
    whole, kernel = (np.array(alone[name]) for name in ("answer", "kernel"))
    names = list(dict.fromkeys(name for name, _ in loads))
    others = [name for name in names if name != "service"]
    heads = [f"{name} req/s" for name in names] + [f"service / {name}" for name in others]
    heads += ["time a request / compute", "p50 ms", "p99 ms", "failed"]
    lines = [
        f"{num_items:,} items x 128: one answer without HTTP {np.median(whole) * 1e3:.3f} ms, "
        f"product and top k alone {np.median(kernel) * 1e3:.3f} ms\n",
        f"| connections | {' | '.join(heads)} |",
        f"|--:|{'--:|' * len(heads)}",
    ]
    for count in connections:
        rates = {name: np.array([load.rate for load in loads[name, count]]) for name in names}
        own = loads["service", count]
        cells = [f"{np.median(each):,.0f}" for each in rates.values()]
        cells += [f"{np.median(rates['service'] / rates[name]):.2f}" for name in others]
        cells += [f"{np.median(1 / rates['service'] / whole):.2f}"]
        cells += [f"{statistics.median(load.p50 for load in own):.2f}"]
        cells += [f"{statistics.median(load.p99 for load in own):.2f}"]
        cells += [str(sum(load.failed for load in own))]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--items", type=int, nargs="+", default=[20_000, 100_000])
    arguments.add_argument("--connections", type=int, nargs="+", default=[1, 16, 32, 256])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=int, default=3)
    arguments.add_argument("--workers", type=int, default=1)
    arguments.add_argument("--tfrs", help="the Python of TensorFlow Recommenders' environment")
    given = arguments.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("benchmarks.serving needs wrk: apt-get install wrk")
    # Here as in the service.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    threadpool_limits(1)
    for num_items in given.items:
        found = measure(
            num_items,
            given.connections,
            given.rounds,
            given.seconds,
            given.workers,
            given.tfrs,
        )
        print(found, "\n", flush=True)


if __name__ == "__main__":
    main()
