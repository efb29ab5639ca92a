"""Encodes batches side by side: on a CPU a batch on each core, with a thread of torch for each.

Batches share nothing, so no core waits for another at the end of a layer, as the threads of one layer do, and a core
that is taken by a decoder holds up its own batch alone. On a device of its own batches follow each other, and the
device overlaps them (:meth:`cafe.encoders.base.Encoder.start_images`).
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.allocation import keep_freed_memory
from cafe.cache.extract.plan import Plan

if TYPE_CHECKING:
    from cafe.cache.extract.encoding import ShardEncoding

_AHEAD = 2  # batches of one encoder that an asynchronous device, or each lane, may have at a time
_BATCHES_PER_LANE = 4  # below that, threads within a batch serve better than batches side by side


class _Stopped(BaseException):
    """Ends what a lane is at; raised in its thread."""


class _Batch:
    """One batch on its way."""

    def __init__(self, run: Callable[[], NDArray[np.float32]]) -> None:
        self._run, self._done = run, threading.Event()
        self._found: NDArray[np.float32] | BaseException | None = None

    def encode(self) -> None:
        try:
            self._found = self._run()
        except BaseException as error:
            self._found = error
        self._done.set()

    def wait(self) -> NDArray[np.float32]:
        self._done.wait()
        if isinstance(self._found, np.ndarray):
            return self._found
        raise self._found if self._found is not None else RuntimeError("a lane ended before its batch did")


class Lanes:
    """Where batches are encoded.

    Parameters
    ----------
    plans : sequence of Plan
        Of the encoders.
    batches : int
        Batches of the whole extraction, done or not, so that carrying on gives the same number of lanes.

    Attributes
    ----------
    number : int
        Batches side by side; 0 if they are encoded one after the other in the caller's thread.
    """

    def __init__(self, plans: Sequence[Plan], batches: int) -> None:
        self.number, self._restore = 0, _nothing
        self._started: deque[ShardEncoding] = deque()
        self._waiting: SimpleQueue[_Batch | None] = SimpleQueue()
        self._busy: dict[int, bool] = {}
        self._closing = False
        self._threads: list[threading.Thread] = []
        if all(_may_run_beside_itself(plan) for plan in plans):
            self.number, self._restore = _share_threads(batches)
            self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.number)]
            for thread in self._threads:
                thread.start()
        beside = [plan for plan in plans if plan.encoder.device != "cpu"]
        self._most = _AHEAD * (self.number or len(beside)) or 1

    def start(self, encoding: ShardEncoding, plan: Plan, crops: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Begin to encode a batch; what is returned waits for it. Lanes keep the array, which must not change."""
        self._started.append(encoding)
        if not self.number:
            return plan.start_images(crops)
        batch = _Batch(lambda: plan.start_images(crops)())
        self._waiting.put(batch)
        return batch.wait

    def collect(self) -> None:
        """Wait for the oldest batches while there are too many."""
        while len(self._started) >= self._most:
            self._started.popleft().collect()

    def drain(self) -> None:
        """Wait for all."""
        while self._started:
            self._started.popleft().collect()

    def close(self) -> None:
        """End the lanes, in the midst of a batch if there is one, and give torch its threads back.

        Batches that wait for a lane are not begun.
        """
        self._closing = True
        for identifier, busy in list(self._busy.items()):
            if busy:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(identifier), ctypes.py_object(_Stopped))
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._restore()

    def _work(self) -> None:
        own = threading.get_ident()
        try:
            while (batch := self._waiting.get()) is not None:
                # Busy first: whoever closes between these lines either is seen, or sees this lane and stops it.
                self._busy[own] = True
                if self._closing:
                    return
                batch.encode()
                self._busy[own] = False
        except _Stopped:
            return


def _may_run_beside_itself(plan: Plan) -> bool:
    # Features before the projection are taken out of the model's midst, which one call at a time may do.
    return plan.encoder.device == "cpu" and plan.encoder.parallel and plan.projection is None


def _share_threads(batches: int) -> tuple[int, Callable[[], Any]]:
    """Divide the threads that torch may use among lanes; return how many lanes, and what restores torch."""
    import torch

    threads = torch.get_num_threads()
    number = max(1, min(threads, batches // _BATCHES_PER_LANE))
    torch.set_num_threads(threads // number)
    give_back = keep_freed_memory()

    def restore() -> None:
        torch.set_num_threads(threads)
        give_back()

    return number, restore


def _nothing() -> None:
    pass
