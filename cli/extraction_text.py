"""An extraction for people: its progress, its warnings and its summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cafe.cli.screen import Progress, Screen, duration, size
from cafe.report.rows import counted
from cafe.report.tables import align_left

if TYPE_CHECKING:
    from cafe.cache.extract.progress import ExtractionProgress, ExtractionSummary

_SHOWN_UNREADABLE = 5  # images that are warned about by id
_SLOWEST = {
    "read": "waited most for decoding: more --workers or faster storage would help",
    "encode": "the encoder was the bottleneck",
    "write": "writing was the bottleneck",
}


def shown_on(images: Progress, text: Progress, screen: Screen | None = None) -> Callable[[ExtractionProgress], None]:
    """Return the callback that draws the progress of an extraction on two bars, one after the other.

    With a screen, the callback also says when an extraction carries on from an interrupted one.
    """
    has_told = False

    def tell(state: ExtractionProgress) -> None:
        """Show the state of the extraction."""
        nonlocal has_told
        if screen is not None and state.kept and not has_told:
            has_told = True
            screen.say(f"carrying on: {state.kept:,} of {state.total:,} images are there already")
        if state.stage == "images":
            images(state.done, state.total, state.split)
        elif state.stage == "text":
            text(state.done, state.total, "text")

    return tell


def warn_about(summary: ExtractionSummary, screen: Screen) -> None:
    """Warn about unreadable images by id, and about everything else that an extraction notes."""
    for image in summary.unreadable[:_SHOWN_UNREADABLE]:
        screen.warn(f"image {image['sample_id']!r} ({image['split']}) was left out: {image['reason']}")
    more = len(summary.unreadable) - _SHOWN_UNREADABLE
    if more > 0:
        screen.warn(f"{more} more images were left out; `cafe cache info --json` names all")
    for note in summary.notes:
        screen.warn(note)


def described_extraction(summary: ExtractionSummary) -> str:
    """Write the summary of an extraction for people."""
    splits = ", ".join(f"{name} {n:,}" for name, n in summary.splits.items())
    clocks = ", ".join(f"{name} {duration(seconds)}" for name, seconds in summary.seconds.items())
    pairs = [
        [summary.dataset, f"{summary.encoder}: {summary.action}"],
        ["images", f"{sum(summary.splits.values()):,} ({splits})"],
        ["classes", f"{summary.n_classes}, templates {summary.n_templates}, features {summary.dim} wide"],
    ]
    if summary.images_per_second:
        pairs.append(
            ["speed", f"{summary.images_per_second:,.0f} images/s ({clocks}; {_SLOWEST.get(summary.bottleneck, '')})"]
        )
    if summary.kept:
        pairs.append(["encoded", f"{counted(summary.encoded, 'image')}; {summary.kept:,} had been encoded before"])
    pairs.append(["saved in", f"{summary.path} ({size(summary.bytes)})"])
    return "\n".join(align_left(pairs[0], pairs[1:]))
