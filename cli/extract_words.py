"""What ``cafe extract`` says: progress, warnings, and the summary at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cafe.cli.progress import Progress, duration, size
from cafe.cli.screen import Screen
from cafe.report.table import align_left

if TYPE_CHECKING:
    from cafe.cache.extract.report import ExtractionProgress, ExtractionSummary
    from cafe.encoders.base import Encoder

_SHOWN_UNREADABLE = 5
_WORTH_SAYING = 60.0  # seconds of encoding


def answer(summaries: Sequence[ExtractionSummary], screen: Screen) -> None:
    """Print what one extraction, or several of one pass, did."""
    for summary in summaries:
        warn_about(summary, screen)
    documents = [summary.to_json() for summary in summaries]
    document = documents[0] if len(documents) == 1 else {"caches": documents}
    screen.answer(document, "\n\n".join(map(described, summaries)))


def shown_on(images: Progress, text: Progress, screen: Screen | None = None) -> Callable[[ExtractionProgress], None]:
    """Make the callback that draws extraction's progress on two bars, one after the other.

    With a screen, it also says when a run carries on where another ended.
    """
    told = False

    def tell(state: ExtractionProgress) -> None:
        nonlocal told
        if screen is not None and state.kept and not told:
            told = True
            screen.say(f"carrying on: {state.kept:,} of {state.total:,} images are there already")
        if state.stage == "images":
            images(state.done, state.total, state.split)
        elif state.stage == "text":
            text(state.done, state.total, "text")

    return tell


def warn_about(summary: ExtractionSummary, screen: Screen) -> None:
    """Warn about unreadable images by id, and whatever else extraction has to say."""
    for one in summary.unreadable[:_SHOWN_UNREADABLE]:
        screen.warn(f"image {one['sample_id']!r} ({one['split']}) was left out: {one['reason']}")
    more = len(summary.unreadable) - _SHOWN_UNREADABLE
    if more > 0:
        screen.warn(f"{more} more images were left out; `cafe cache info --json` names all")
    for note in summary.notes:
        screen.warn(note)


_SLOWEST = {
    "read": "waited most for decoding: more --workers or faster storage would help",
    "encode": "the encoder was the bottleneck",
    "write": "writing was the bottleneck",
}


def _slowest(summary: ExtractionSummary) -> str:
    return _SLOWEST.get(summary.bottleneck, "")


def described(summary: ExtractionSummary) -> str:
    """Write the summary of an extraction for people."""
    splits = ", ".join(f"{name} {n:,}" for name, n in summary.splits.items())
    clocks = ", ".join(f"{name} {duration(seconds)}" for name, seconds in summary.seconds.items())
    pairs = [
        [summary.dataset, f"{summary.encoder}: {summary.action}"],
        ["images", f"{sum(summary.splits.values()):,} ({splits})"],
        ["classes", f"{summary.n_classes}, templates {summary.n_templates}, features {summary.dim} wide"],
    ]
    if summary.images_per_second:
        pairs.append(["speed", f"{summary.images_per_second:,.0f} images/s ({clocks}; {_slowest(summary)})"])
    if summary.kept:
        pairs.append(["kept", f"{summary.kept:,} images had been encoded before"])
    pairs.append(["saved in", f"{summary.path} ({size(summary.bytes)})"])
    first, *rest = pairs
    return "\n".join(align_left(first, rest))


def faster_dtype(encoder: Encoder, dtype: str, summary: ExtractionSummary) -> str:
    """Say which dtype would have been faster on this processor; empty if that of the run was, or it hardly matters.

    Parameters
    ----------
    encoder : Encoder
        That of the run.
    dtype : str
        What was asked for.
    summary : ExtractionSummary
        How it went.
    """
    from cafe.encoders.placing import has_bfloat16_vectors

    slow = summary.bottleneck == "encode" and summary.seconds["encode"] > _WORTH_SAYING
    if not slow or dtype != "auto" or (encoder.device, encoder.dtype) != ("cpu", "float32"):
        return ""
    if not has_bfloat16_vectors():
        return ""
    return "this processor multiplies bfloat16 about three times as fast: --dtype bfloat16 makes a cache of its own"
