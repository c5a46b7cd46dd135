"""Valid requests, and ways to break them: what ``benchmarks.hostile`` sends."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twotower.serving.keys import SCOPES

MARK = "marked-user-7d1"
BODIES: dict[str, tuple[str, Any]] = {
    "/v1/recommend": (
        "POST",
        {
            "people": [
                {"user": 7, "history": [1, 2], "exclude": [3]},
                {"user": MARK, "features": {"age": 0.3}},
            ],
            "k": 5,
            "where": {"year": {">=": -0.5}},
            "at_most": {"genre_Action": 3},
            "diversity": 0.3,
            "popularity": -0.2,
            "explain": True,
            "include_seen": False,
        },
    ),
    "/v1/similar": ("POST", {"items": [1, 2], "k": 3}),
    "/v1/score": ("POST", {"pairs": [{"user": 7, "item": 1}, {"user": MARK, "item": 2}]}),
    "/v1/events": (
        "POST",
        {"events": [{"id": "e1", "user": MARK, "item": 1, "kind": "click", "liked": True}]},
    ),
    "/v1/items": ("PUT", {"items": [{"item": 9001, "features": {"year": 1.0}}]}),
    "/v1/find": ("POST", {"among": "users", "words": "7", "k": 3}),
    "/v1/cards": ("POST", {"items": [1, 2]}),
    "/v1/admin/load": ("POST", {"run": "none"}),
    "/v1/admin/rollback": ("POST", {}),
}
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        "",
        "x",
        " ",
        [],
        {},
        [[]],
        {"": None},
        [None],
        "7",
        "\x00",
    ),
    *(
        "\u202e",
        "\U0001f4a9" * 50,
        {"$ne": 1},
        "' OR 1=1 --",
        "${jndi:ldap://x}",
        "%s%n",
        "NaN",
    ),
]
NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "-0", "0.1e1", "1e308"]
NUMBERS += [str(2**63), str(-(2**63) - 1), str(2**64), "9" * 400, "9" * 5000, "1" + "0" * 308]
PATHS = [
    *("/../../etc/passwd", "/page/../../../etc/passwd", "/page/%2e%2e/%2e%2e/etc/passwd"),
    *(
        "/page/..%2f..%2fapp.py",
        "/page//etc/passwd",
        "/page/%00",
        "/page/index.html%00.js",
        "//",
    ),
    *(
        "/v1/items/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/items/%00",
        "/v1/items/%ff%fe",
        "/v1/items/",
    ),
    *("/v1/users/../admin/load", "/v1/users/%0d%0aX-Bad:%201", "/v1/items/" + "x" * 5000),
    *("/v1/items/" + "%41" * 300, "/v1/users/%f0%9f%92%a9", "/v1/items/1?x=" + "y" * 9000),
    *("/docs", "/redoc", "/.env", "/.git/config", "/service.sqlite", "/keys.txt", "*", "/%"),
    *(
        "/v1/users/9" * 40,
        "/v1/items/" + "9" * 200,
        "/v1/items/1e5",
        "/v1/items/0x1",
        "/\\..\\",
    ),
    *(
        "http://evil.example/v1/about",
        "/v1/about/",
        "/V1/ABOUT",
        "/v1//about",
        "/v1/map?callback=x",
    ),
]
HEADERS: list[list[bytes]] = [
    [b"X-Request-Id: " + b"x" * 70],
    [b'X-Request-Id: a"b\\{}'],
    [b"X-Request-Id: \xff\xfe"],
    [b"X-Long: " + b"y" * 100_000],
    [b"X-%d: 1" % n for n in range(3_000)],
    [b"Transfer-Encoding: chunked"],
    [b"Transfer-Encoding: gzip, chunked"],
    [b"Content-Length: 3"],
    [b"Content-Encoding: gzip"],
    [b"Host: evil.example"],
    [b"Expect: 100-continue"],
    [b"Upgrade: websocket", b"Connection: upgrade"],
    [b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"],
    [b"Content-Type: text/plain; charset=\xff"],
    [b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Host: evil.example"],
    [b"no colon"],
    [b" folded: 1"],
    [b"X-Null: a\x00b"],
]
RAW = [
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /v1/about\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00" + bytes(200),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@dataclass(frozen=True)
class Sent:
    """A request as bytes; ``slow`` are seconds between its parts."""

    parts: list[bytes]
    slow: float = 0.0


def request(
    method: str, path: str, body: bytes, key: str, *more: bytes, length: bytes | None = None
) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1".encode("utf-8", "surrogatepass"),
        b"Host: localhost",
        b"Connection: close",
        b"Content-Type: application/json",
        b"Authorization: Bearer " + key.encode(),
        b"Content-Length: " + (length or str(len(body)).encode()),
        *more,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Breaker:
    """Valid requests, broken one way each."""

    def __init__(self, rng: random.Random, keys: dict[str, str]) -> None:
        self.rng, self.keys = rng, keys
        self.all = keys["all"]
        self.kinds: dict[str, tuple[float, Callable[[], Sent]]] = {
            "valid": (4, lambda: self._body(lambda body: json.dumps(body).encode())),
            "value of another type": (16, lambda: self._changed(rng.choice(VALUES))),
            "NaN and huge numbers": (12, self._number),
            "key missing, unknown or doubled": (12, self._keys),
            "deep nesting": (5, self._deep),
            "long lists and texts": (6, self._long),
            "half characters, zero bytes": (6, self._half),
            "bytes flipped, no UTF-8": (12, self._flipped),
            "cut off": (8, self._cut),
            "paths": (10, self._path),
            "headers": (10, self._headers),
            "keys of the door": (6, self._door),
            "10 MB ids, too large": (0.5, self._large),
            "slow head or body": (0.3, self._slow),
        }

    def one(self) -> tuple[str, Sent]:
        names = list(self.kinds)
        [kind] = self.rng.choices(names, [self.kinds[name][0] for name in names])
        return kind, self.kinds[kind][1]()

    def _body(self, broken: Callable[[Any], bytes]) -> Sent:
        path = self.rng.choice(list(BODIES))
        method, body = BODIES[path]
        copy = json.loads(json.dumps(body))
        return Sent([request(method, path, broken(copy), self.all)])

    def _place(self, body: Any) -> tuple[Any, Any]:
        """Some container within a body, and a key or position in it."""
        places = []

        def walk(node: Any) -> None:
            for key in node if isinstance(node, dict) else range(len(node)):
                places.append((node, key))
                if isinstance(node[key], dict | list):
                    walk(node[key])

        walk(body)
        return self.rng.choice(places) if places else (body, "x")

    def _changed(self, value: Any) -> Sent:
        def broken(body: Any) -> bytes:
            if self.rng.random() < 0.05:
                return json.dumps(value).encode()
            node, key = self._place(body)
            node[key] = value
            return json.dumps(body).encode()

        return self._body(broken)

    def _raw(self, raw: str) -> Sent:
        def broken(body: Any) -> bytes:
            node, key = self._place(body)
            node[key] = "@@"
            return json.dumps(body).replace('"@@"', raw).encode()

        return self._body(broken)

    def _number(self) -> Sent:
        return self._raw(self.rng.choice(NUMBERS))

    def _deep(self) -> Sent:
        depth = self.rng.choice([10, 100, 500, 5_000, 50_000])
        left, right = self.rng.choice([("[", "]"), ('{"a":', "}"), ('{"in":[', "]}")])
        return self._raw(left * depth + "1" + right * self.rng.choice([depth, depth - 1]))

    def _long(self) -> Sent:
        size = self.rng.choice([257, 1_001, 20_000, 100_000])
        one = self.rng.choice(['"x"', "1", '{"user":1}', "null", '"' + "y" * 200 + '"'])
        text = f"[{','.join([one] * min(size, 900_000 // len(one)))}]"
        many = "{" + ",".join(f'"c{n}":1' for n in range(min(size, 50_000))) + "}"
        return self._raw(self.rng.choice([text, '"' + "z" * size + '"', many]))

    def _half(self) -> Sent:
        text = self.rng.choice(
            [r"\ud800", r"\udfff", r"\u0000", r"a\ud800b", r"\uffff", r"\u001b"]
        )
        if self.rng.random() < 0.3:
            return self._raw(f'{{"{text}": 1}}')
        return self._raw(f'"{text}"')

    def _keys(self) -> Sent:
        def broken(body: Any) -> bytes:
            node, key = self._place(body)
            how = self.rng.randrange(3)
            if how == 0 and isinstance(node, dict) and node:
                node.pop(key, None)
            elif how == 1 and isinstance(node, dict):
                node[
                    self.rng.choice(["", "__proto__", "__class__", "x" * 3000, "K", "id "])
                ] = 1
            else:
                text = json.dumps(body)
                return (text[:-1] + "," + text[1:]).encode()
            return json.dumps(body).encode()

        return self._body(broken)

    def _flipped(self) -> Sent:
        def broken(body: Any) -> bytes:
            sent = bytearray(json.dumps(body).encode())
            for _ in range(self.rng.randint(1, 4)):
                sent[self.rng.randrange(len(sent))] = self.rng.randrange(256)
            return bytes(sent)

        return self._body(broken)

    def _cut(self) -> Sent:
        def broken(body: Any) -> bytes:
            sent = json.dumps(body).encode()
            return sent[: self.rng.randrange(len(sent))] + self.rng.choice([b"", b"}", b"\x00"])

        return self._body(broken)

    def _path(self) -> Sent:
        method = self.rng.choice(
            ["GET", "GET", "DELETE", "POST", "PUT", "HEAD", "PATCH", "TRACE"]
        )
        path = self.rng.choice(PATHS)
        if self.rng.random() < 0.3:
            odd = self.rng.choices("/.%\\?#;:@ab0\u00e9\x7f", k=self.rng.randint(1, 30))
            path = self.rng.choice(["/v1/items/", "/v1/users/", "/page/", "/"]) + "".join(odd)
        return Sent([request(method, path, b"", self.all)])

    def _headers(self) -> Sent:
        method, body = BODIES["/v1/similar"]
        sent = json.dumps(body).encode()

        kind = self.rng.random()
        if kind < 0.2:
            return Sent([self.rng.choice([*RAW, self.rng.randbytes(300) + b"\r\n\r\n"])])
        if kind < 0.3:
            length = self.rng.choice([b"-1", b"1e3", b"9" * 30])
            return Sent([request(method, "/v1/similar", sent, self.all, length=length)])
        whole = request(method, "/v1/similar", sent, self.all, *self.rng.choice(HEADERS))
        return Sent([whole.replace(b"\r\n", b"\n") if kind < 0.33 else whole])

    def _door(self) -> Sent:
        path = self.rng.choice(list(BODIES))
        method, body = BODIES[path]
        scope = self.rng.choice(list(SCOPES))
        right = self.keys[scope]
        wrong = ["", right[:-1], right + "x", right.upper(), "x" * 9000, "tt_" + "0" * 43]
        wrong += [right + "\u00e9", f"{right} {right}", "../keys.txt", right]
        return Sent([request(method, path, json.dumps(body).encode(), self.rng.choice(wrong))])

    def _large(self) -> Sent:
        size = self.rng.choice([2**20 - 200, 2**20 + 1, 10**7])
        path = self.rng.choice(["/v1/recommend", "/v1/events", "/v1/items"])
        method, _ = BODIES[path]
        text = b'{"people":[{"user":"' + b"x" * size + b'"}]}'
        return Sent([request(method, path, text, self.all)])

    def _slow(self) -> Sent:
        method, body = BODIES["/v1/similar"]
        whole = request(method, "/v1/similar", json.dumps(body).encode(), self.all)
        head = whole.index(b"\r\n\r\n") + 4
        start = self.rng.choice([1, head - 40, head + 2])
        rest = whole[start:-1]
        return Sent([whole[:start], *(rest[n : n + 1] for n in range(len(rest)))], slow=1.0)
