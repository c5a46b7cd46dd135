"""What a service does not take on, whom it lets in, and how it ends."""

from __future__ import annotations

import http.client
import json
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError
from servers import Reply, Server, serving, until

from processes import cold, warm
from twotower.errors import RequestError
from twotower.serving import schemas
from twotower.serving.keys import add_key, find_key, make_key, read_keys

HEAVY = {"people": [{"user": 100 + n % 120} for n in range(40)], "k": 40, "explain": True}
LIGHT = {"people": [{"user": 100}]}


@pytest.fixture
def run(shelf: Path, tmp_path: Path) -> Path:
    """A run in a folder of its own."""
    shutil.copytree(shelf / "one", tmp_path / "runs" / "one")
    return tmp_path / "runs" / "one"


def test_more_than_can_wait_are_told_to_come_back_and_the_rest_is_answered(run: Path) -> None:
    with serving(run, "--waiting 2 --threads 1 --seconds 30") as server:
        replies: list[Reply] = []
        threads = [
            threading.Thread(target=lambda: replies.append(server.post("/v1/recommend", HEAVY)))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        # Health does not wait behind answers.
        asked = time.perf_counter()
        assert server.ask("GET", "/livez").status == 200
        took = time.perf_counter() - asked
        for thread in threads:
            thread.join()
        statuses = sorted(reply.status for reply in replies)
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 2
        refused = next(reply for reply in replies if reply.status == 429)
        assert refused.headers["retry-after"] == "1"
        assert took < 5
        assert server.post("/v1/recommend", LIGHT).status == 200


def test_an_answer_or_a_body_that_takes_too_long_is_given_up_and_the_end_is_graceful(
    run: Path,
) -> None:
    everybody = [{"user": 100 + n % 120} for n in range(250)]
    with serving(run, "--seconds 0.2 --threads 1") as server:
        late = server.post("/v1/recommend", {**HEAVY, "people": everybody, "diversity": 0.5})
        assert (late.status, late.headers["retry-after"]) == (503, "1")
        assert "within 0.2 s" in late.json["error"]
        place = urlsplit(server.url)
        with socket.create_connection((place.hostname, place.port), timeout=5) as slow:
            head = "POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
            slow.sendall(head.encode() + b"{")
            assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
        done = server.stop()
        assert done.code == 0
        assert "Traceback" not in done.err


def test_a_service_that_ends_says_nothing_but_its_log(run: Path) -> None:
    command = [sys.executable, "-m", "twotower", "serve", str(run), "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        assert process.stderr is not None
        try:
            assert json.loads(process.stderr.readline())["message"] == "ready"
            process.send_signal(signal.SIGTERM)
            assert [json.loads(line)["level"] for line in process.stderr] == []
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/recommend", {"people": [{}] * 101, "k": 1000}, "101,000 items, and an answer"),
        ("/v1/recommend", {"people": [{}] * 11, "k": 1000, "explain": True}, "at most 10,000"),
        ("/v1/recommend", {"people": [{}] * 11, "k": 1000, "diversity": 0.1}, "fewer people"),
        (
            "/v1/recommend",
            {"people": [{}] * 11, "k": 1000, "at_most": {"genre": 1}},
            "11 lists",
        ),
        ("/v1/similar", {"items": [500] * 101, "k": 1000}, "ask for fewer items at once"),
    ],
)
def test_more_than_an_answer_holds_is_refused_before_anything_is_computed(
    server: Server, path: str, body: dict[str, Any], said: str
) -> None:
    reply = server.post(path, body)
    assert (reply.status, said in reply.json["error"]) == (422, True), reply.body


def test_as_much_as_an_answer_holds_is_answered(server: Server) -> None:
    people = [{"user": 100 + n} for n in range(100)]
    for body in ({"people": people, "k": 1000}, {"people": people, "k": 100, "explain": True}):
        reply = server.post("/v1/recommend", body)
        assert (reply.status, len(reply.json["answers"])) == (200, 100)


HEAD = b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\n"


DEAR: dict[str, Any] = {
    "people": [{"user": 100 + n % 120} for n in range(250)],
    "k": 40,
    "diversity": 0.5,
    "explain": True,
}


def test_what_is_being_answered_at_the_end_is_answered(run: Path) -> None:
    replies: list[Reply] = []
    some = {**DEAR, "people": DEAR["people"][:50]}
    with serving(run, "--seconds 14") as server:
        asking = threading.Thread(
            target=lambda: replies.append(server.post("/v1/recommend", some))
        )
        asking.start()
        until(lambda: "twotower_in_flight 1.0" in metrics_of(server), server.process)
        done = server.stop()
        asking.join()
    assert done.code == 0
    [reply] = replies
    assert reply.status == 200, reply.body
    assert len(reply.json["answers"]) == 50


@pytest.mark.parametrize("workers", [1, 2])
def test_the_end_is_as_orderly_where_an_answer_was_given_up(run: Path, workers: int) -> None:
    with serving(run, f"--seconds 0.2 --workers {workers}") as server:

        def ask() -> None:
            # Who is not yet let in when it ends is cut off.
            with suppress(OSError):
                server.post("/v1/recommend", DEAR)

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for thread in asking:
            thread.start()
        time.sleep(0.3)
        done = server.stop()
        for thread in asking:
            thread.join()
    assert done.code == 0
    assert "terminate called" not in done.err
    assert "Traceback" not in done.err


def metrics_of(server: Server) -> str:
    return server.ask("GET", "/metrics").body.decode()


def test_more_connections_than_there_may_be_are_told_to_come_back_and_health_is_not(
    run: Path,
) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2500:
        pytest.skip("so many connections can not be open here")
    with serving(run, "--seconds 60") as server, ExitStack() as held:
        for _ in range(1000):
            held.enter_context(connected(server))
        asked = time.monotonic()
        while (refused := server.post("/v1/recommend", LIGHT)).status == 200:
            assert time.monotonic() < asked + 20
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert refused.headers["content-type"] == "application/json"
        assert "too many connections" in refused.json["error"]
        assert server.ask("GET", "/livez").status == 200
        figures = metrics_of(server)
        assert figures_of(figures, "twotower_refused_total") >= 1
        [line] = [
            each
            for each in server.lines()
            if each.get("request_id") == refused.json["request_id"]
        ]
        assert line["status"] == 429
        held.close()
        while server.post("/v1/recommend", LIGHT).status != 200:
            assert time.monotonic() < asked + 40


def figures_of(text: str, name: str) -> float:
    """One of the figures for Prometheus."""
    [found] = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(found)


def is_noted(server: Server, reply: bytes) -> bool:
    """Whether a refusal has an id, by which the log knows it, and is counted."""
    head, body = reply.decode().split("\r\n\r\n")
    status, said = int(head.split()[1]), json.loads(body)
    assert f"x-request-id: {said['request_id']}" in head.split("\r\n")
    logged = [each for each in server.lines() if each.get("request_id") == said["request_id"]]
    name = f'twotower_request_seconds_count{{route="other",status="{status}"}}'
    figures = metrics_of(server)
    return [each["status"] for each in logged] == [status] and figures_of(figures, name) == 1


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_head_that_does_not_come_is_given_up(run: Path, asked_before: bool) -> None:
    with serving(run, "--seconds 0.5") as server, connected(server) as slow:
        if asked_before:
            slow.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not (said := slow.recv(4096)).endswith(b"ok"):
                assert said
        slow.sendall(HEAD)
        time.sleep(0.1)
        # One byte now and then is no progress.
        slow.sendall(b"x")
        refused = slow.recv(4096)
        assert refused.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert slow.recv(4096) == b""
        assert is_noted(server, refused)


def test_who_says_nothing_is_not_waited_for_and_told_nothing(run: Path) -> None:
    with serving(run, "--seconds 0.5") as server, connected(server) as silent:
        assert silent.recv(4096) == b""


def test_a_head_without_end_is_refused(run: Path) -> None:
    with serving(run) as server, connected(server) as wordy:
        wordy.sendall(HEAD + b"X-Long: " + b"x" * 60_000)
        time.sleep(0.2)
        wordy.sendall(b"x" * 6_000)
        refused = wordy.recv(4096)
        assert refused.startswith(b"HTTP/1.1 431 ")
        assert is_noted(server, refused)


def test_who_does_not_read_the_answers_is_cut_off(run: Path) -> None:
    with serving(run, "--seconds 0.5") as server, connected(server) as deaf:
        # More than systems keep for a reader.
        deaf.sendall(b"GET /page/map.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000)
        deadline = time.monotonic() + 30
        while is_established(server, deaf):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert server.post("/v1/recommend", LIGHT).status == 200


def is_established(server: Server, client: socket.socket) -> bool:
    """Whether the service holds its end of a connection, by the system's own table."""
    ends = f":{urlsplit(server.url).port:04X}", f":{client.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if local.endswith(ends[0]) and remote.endswith(ends[1]):
            return state == "01"
    return False


MANY_KEYS = {f"c{n}": None for n in range(50_000)}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (schemas.RecommendBody, {"people": [{}], "where": {"year": [None] * 150_000}}),
        (schemas.RecommendBody, {"people": [{}], "where": MANY_KEYS}),
        (schemas.RecommendBody, {"people": [{}], "where": {"year": MANY_KEYS}}),
        (schemas.RecommendBody, {"people": [{}], "at_most": MANY_KEYS}),
        (schemas.RecommendBody, {"people": [{"history": [[]] * 900}] * 200}),
        (schemas.ScoreBody, {"pairs": [dict.fromkeys(list(MANY_KEYS)[:90])] * 900}),
        (schemas.SimilarBody, MANY_KEYS),
    ],
)
def test_of_very_many_mistakes_a_few_are_looked_for(model: Any, body: dict[str, Any]) -> None:
    """All of them took seconds and hundreds of megabytes, in which nobody else was heard."""
    with pytest.raises(ValidationError) as error:
        model.model_validate(body)
    assert error.value.error_count() < 1000


def connected(server: Server) -> socket.socket:
    place = urlsplit(server.url)
    return socket.create_connection((place.hostname, place.port), timeout=20)


def test_keys_open_what_they_are_for_and_stand_nowhere(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    made = {}
    for scope in ("read", "write", "admin"):
        done = warm(f"key {scope}-key --scope {scope} --into {file}", tmp_path)
        assert done.code == 0
        made[scope] = done.out.strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    asks = {
        "read": ("POST", "/v1/recommend", LIGHT),
        "write": ("POST", "/v1/events", {"events": [{"id": "a", "user": 1, "item": 500}]}),
        "admin": ("POST", "/v1/admin/load", {"run": "one"}),
    }
    with serving(run, f"--host 0.0.0.0 --keys {file}") as server:
        for scope, ask in asks.items():
            none = server.ask(*ask)
            assert (none.status, none.headers["www-authenticate"]) == (401, "Bearer")
            for wrong in ("tt_wrong", made[scope][:-1], "\u00e9", ""):
                header = {"Authorization": f"Bearer {wrong}".encode().decode("latin1")}
                assert server.ask(*ask, headers=header).status == 401
            for other, key in made.items():
                reply = server.ask(*ask, headers={"Authorization": f"Bearer {key}"})
                assert reply.status == (200 if other == scope else 403)
        assert server.ask("GET", "/livez").status == 200
        assert server.ask("GET", "/metrics").status == 401
        log = server.log.read_text()
    assert {"read-key", "write-key", "admin-key"} <= made_names(log)
    assert not any(key in log + file.read_text() for key in made.values())


def made_names(log: str) -> set[str]:
    return set(re.findall(r'"key": "([a-z-]+)"', log))


def test_a_file_of_keys_is_read_as_it_was_written_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    secret, key = make_key("shop", ["read", "write"])
    add_key(file, key)
    assert read_keys(file) == [key]
    assert find_key(read_keys(file), secret) == key
    assert find_key(read_keys(file), secret + " ") is None
    with pytest.raises(RequestError, match="a key 'shop' already"):
        add_key(file, key)
    for text, problem in (("", "holds no key"), ("shop read\n", "line 1 is no key")):
        file.write_text(text)
        with pytest.raises(RequestError, match=problem):
            read_keys(file)
    with pytest.raises(RequestError, match="some of read, write, admin, got all"):
        make_key("shop", ["all"])
    with pytest.raises(RequestError, match="letters"):
        make_key("a b", ["read"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--host 0.0.0.0", "0.0.0.0 can be reached by others, so keys are needed"),
        ("--port 1000000", "can not listen on 127.0.0.1, port 1000000"),
        ("--state mysql://x", "not supported"),
        ("--state nonsense", "no URL of a database"),
        ("--state sqlite:////no/such/place/x", "sqlite database can not be used"),
        ("--state postgresql://x@127.0.0.1:1/x", "postgresql database can not be used"),
        ("--keys nowhere", "nowhere: can not be read"),
        ("--seconds 0", "above 0"),
    ],
)
def test_what_can_not_be_served_is_said_at_once(run: Path, options: str, said: str) -> None:
    done = warm(f"serve {run} --port 0 {options}", run.parent)
    assert (done.code, done.err.startswith("error ")) == (2, True)
    assert said in done.err
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_a_run_that_was_changed_is_not_served(run: Path) -> None:
    (run / "model.safetensors").write_bytes(b"")
    done = warm(f"serve {run} --port 0", run.parent)
    assert done.code == 2
    assert "error" in done.err
    assert "model.safetensors was changed after training" in done.err


def test_without_the_extra_it_is_named(tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, sys; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'fastapi' else find(name, *a)\n"
        "sys.argv = ['twotower', 'serve', 'x']\n"
        "from twotower.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"fastapi not installed: pip install 'twotower[serve]'" in done.stderr


def test_a_client_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from twotower import Client, Person, Wish\n"
        "Client('http://127.0.0.1:1'); Wish(k=3); Person(user=1)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'duckdb', 'fastapi')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_says_how(tmp_path: Path) -> None:
    assert "--state" in cold("serve --help", tmp_path).out


def test_an_answer_is_not_held_back_for_the_rest_of_a_packet(run: Path) -> None:
    """Nagle's algorithm and delayed acknowledgements would make every answer 40 ms late."""
    with serving(run) as server:
        place = urlsplit(server.url)
        connection = http.client.HTTPConnection(str(place.hostname), place.port)
        took = []
        for _ in range(60):
            asked = time.perf_counter()
            connection.request("GET", "/livez")
            assert connection.getresponse().read() == b"ok"
            took.append(time.perf_counter() - asked)
        connection.close()
        # The first few are acknowledged at once in any case.
        assert sorted(took[-20:])[10] < 0.03
