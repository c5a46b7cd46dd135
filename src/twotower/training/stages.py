"""Where the time of a training goes: stage by stage, and the first steps as a trace."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

import torch

TRACE = "trace.json.gz"
# What each stage is, for people.
STAGES = {
    "batches": "rows are shuffled and drawn",
    "gather": "features of a batch are looked up",
    "towers": "features become embeddings",
    "loss": "embeddings are compared",
    "backward": "gradients flow back",
    "optimizer": "weights move",
    "validation": "an epoch is measured",
}
_TRACED_STEPS = 20

Value = TypeVar("Value")


class Stages:
    """How long each stage took, less the stages within it.

    Attributes:
        seconds: by stage.
        steps: how many there were.
        trace: the first steps as gzipped JSON, which ui.perfetto.dev and Chrome's about:tracing
            show; empty before there are any.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.steps = 0
        self.trace = b""
        self._within = [0.0]
        self._profiler: torch.profiler.profile | None = None

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Counts the time in here for a stage."""
        self._within.append(0.0)
        started = time.perf_counter()
        try:
            with torch.profiler.record_function(name):
                yield
                if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                    torch.cuda.synchronize()
        finally:
            passed = time.perf_counter() - started
            self.seconds[name] += passed - self._within.pop()
            self._within[-1] += passed

    def step(self) -> None:
        """A step begins."""
        if self.steps == 0:
            self._profiler = torch.profiler.profile()
            self._profiler.start()
        elif self.steps == _TRACED_STEPS:
            self.end_trace()
        self.steps += 1

    def end_trace(self) -> None:
        """What was traced so far is the trace."""
        if self._profiler is None:
            return
        self._profiler.stop()
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / TRACE
            self._profiler.export_chrome_trace(str(path))
            self.trace = path.read_bytes()
        self._profiler = None


_WATCHED: ContextVar[Stages | None] = ContextVar("stages", default=None)
_UNTIMED = nullcontext()


@contextmanager
def watched(stages: Stages | None) -> Iterator[None]:
    """Whatever is trained in here is timed; with None it is not."""
    token = _WATCHED.set(stages)
    try:
        yield
    finally:
        _WATCHED.reset(token)
        if stages is not None:
            stages.end_trace()


def stage(name: str) -> AbstractContextManager[None]:
    """Marks what belongs to a stage; costs nothing worth naming where nobody looks."""
    stages = _WATCHED.get()
    return _UNTIMED if stages is None else stages.timed(name)


def steps_of(batches: Iterator[Value]) -> Iterator[Value]:
    """The same batches, each of which begins a step."""
    while True:
        stages = _WATCHED.get()
        if stages is not None:
            stages.step()
        with stage("batches"):
            batch = next(batches, None)
        if batch is None:
            if stages is not None:
                stages.steps -= 1
            return
        yield batch
