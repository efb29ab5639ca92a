"""Options of ``cafe extract`` alone: views, few-shot draws, batches and workers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from cafe.cli.options import listed, whole_numbers
from cafe.errors import InputError

if TYPE_CHECKING:
    from cafe.cache.extract.rows import Draws
    from cafe.cache.extract.views import Views

ViewCount: TypeAlias = Annotated[
    int,
    typer.Option("--views", metavar="N", help="Seeded augmentations of every training image: random crop and flip."),
]
ViewSeed: TypeAlias = Annotated[int, typer.Option("--seed", metavar="S", help="Seed of the views.")]
DrawShots: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--shots", metavar="K,...", help="Extract only training images that draws of so many per class need; a list."
    ),
]
DrawSeeds: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--seeds", metavar="1,2,3", help="Seeds of the draws of --shots; a list [default: 1,2,3]."),
]
BatchSize: TypeAlias = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", help="Images encoded together [default: fixed for each kind of device]."),
]
WorkerCount: TypeAlias = Annotated[
    str,
    typer.Option("--workers", metavar="auto|N", help="Decoding processes, 0 for threads; changes no feature."),
]
JpegDecoder: TypeAlias = Annotated[
    str,
    typer.Option(
        "--decoder",
        metavar="pillow|simplejpeg",
        help="What decodes JPEG files; simplejpeg is an extra, and makes a cache of its own.",
    ),
]
EngineName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--engine", metavar="local|ray", help="What decodes and encodes; ray is an extra, and changes no feature."
    ),
]
RayAddress: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--ray-address", metavar="auto|HOST:PORT", help="The Ray cluster [default: one of its own on this machine]."
    ),
]


def views_of(count: int, seed: int) -> Views | None:
    """Return the views asked for; None for none. Raises InputError if a number is out of range."""
    from cafe.cache.extract.views import Views

    return None if count == 0 else Views(count, seed)


def draws_of(shots: Sequence[str] | None, seeds: Sequence[str] | None) -> Draws | None:
    """Return the few-shot draws asked for; None for all images.

    Raises
    ------
    InputError
        If they are no whole numbers, or seeds are given without shots.
    """
    from cafe.cache.extract.rows import Draws

    if not shots:
        if seeds:
            raise InputError("--seeds are of the draws of --shots, such as --shots 16 --seeds 1,2,3; give both")
        return None
    chosen = whole_numbers(seeds, "--seeds", least=0) or [1, 2, 3]
    return Draws(tuple(whole_numbers(shots, "--shots", least=1)), tuple(chosen))


def workers_of(text: str) -> int | Literal["auto"]:
    """Read the number of workers.

    Examples
    --------
    >>> workers_of("auto"), workers_of("4")
    ('auto', 4)
    """
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise InputError(f"--workers takes auto, 0 (threads) or a number of processes, got {text!r}")
    return int(text)


def models_of(text: str) -> list[str]:
    """Read one model or several; a folder is one, whatever its name.

    Examples
    --------
    >>> models_of("cafe:mini,openai/clip-vit-base-patch32")
    ['cafe:mini', 'openai/clip-vit-base-patch32']
    """
    models = [text] if Path(text).expanduser().exists() else listed([text])
    if len(set(models)) < len(models):
        raise InputError(f"--model names one model twice: {text}")
    return models or [text]


@contextmanager
def ending_calmly() -> Iterator[None]:
    """Let SIGTERM end an extraction like Ctrl-C: what is done is kept, and said."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
