"""Time, counted FLOPs and peak memory of a piece of work, on a CPU or a GPU."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

GPU = torch.cuda.is_available()


class Contender(Protocol):
    """Something that can do the same work again and again, within a context entered where the work is done."""

    name: str

    def step(self, context: AbstractContextManager[Any]) -> None: ...


@dataclass
class Figures:
    """seconds of each repetition; FLOPs of one, as torch counts them; peak bytes above what was there before it."""

    seconds: list[float] = field(default_factory=list)
    flops: int = 0
    peak: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@contextmanager
def stopwatch(figures: Figures) -> Iterator[None]:
    _finish()
    started = time.perf_counter()
    yield
    _finish()
    figures.seconds.append(time.perf_counter() - started)


@contextmanager
def flop_counter(figures: Figures) -> Iterator[None]:
    """Causal attention counts half: its kernels leave the other half out. torch counts all of it, and no CPU kernel."""
    aten = torch.ops.aten

    def forward(q: Any, k: Any, v: Any, dropout: float = 0.0, is_causal: bool = False, **_: Any) -> int:
        return sdpa_flop_count(q, k, v) // (1 + is_causal)

    def backward(g: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, dropout: float, is_causal: bool, **_: Any) -> int:
        return sdpa_backward_flop_count(g, q, k, v) // (1 + is_causal)

    cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=cpu) as counter:
        yield
    figures.flops = counter.get_total_flops()


@contextmanager
def memory_meter(figures: Figures) -> Iterator[None]:
    """On a CPU from every allocation and release of torch's allocator; on a GPU from its own statistics."""
    if GPU:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield
        figures.peak = torch.cuda.max_memory_allocated() - before
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        figures.peak = max(figures.peak, live)


class Stopwatch:
    """Seconds spent in each of some functions, without those spent in another of them. `finish` waits for what was
    begun, where a device works beside the program."""

    def __init__(self, finish: Callable[[], Any] | None = None) -> None:
        self._finish = finish or (lambda: None)
        self.seconds: dict[str, float] = {}
        self._inside: list[str] = []
        self._since = time.perf_counter()

    def timing(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            self._change()
            self._inside.append(part)
            try:
                return work(*args, **options)
            finally:
                self._change()
                self._inside.pop()

        return timed

    def _change(self) -> None:
        self._finish()
        now = time.perf_counter()
        if self._inside:
            self.seconds[self._inside[-1]] = self.seconds.get(self._inside[-1], 0.0) + now - self._since
        self._since = now


def timed(contender: Contender, repetitions: int, say: Callable[[str], None]) -> Figures:
    """Of `repetitions` steps; first one to warm up, counting FLOPs, and one for memory."""
    figures = Figures()
    contender.step(flop_counter(figures))
    contender.step(memory_meter(figures))
    for repetition in range(repetitions):
        contender.step(stopwatch(figures))
        say(f"  {repetition + 1}/{repetitions} {contender.name}: {figures.seconds[-1]:.2f} s")
    return figures


def matrix_rate() -> float:
    """FLOP/s of a large matrix product in the learner's dtype on this device."""
    size, dtype = (8192, torch.bfloat16) if GPU else (2048, torch.float32)
    left, right = (torch.randn(size, size, dtype=dtype, device="cuda" if GPU else "cpu") for _ in range(2))
    figures = Figures()
    for _ in range(6):
        with stopwatch(figures):
            left @ right
    return 2 * size**3 / statistics.median(figures.seconds[1:])


def _finish() -> None:
    if GPU:
        torch.cuda.synchronize()
