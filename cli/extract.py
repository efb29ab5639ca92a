"""``cafe extract``: every image and prompt through the frozen encoder once, and onto the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cafe.cli.options import CacheDir, Device, Dtype, Json, Quiet, listed
from cafe.cli.progress import Progress, duration
from cafe.cli.screen import Screen
from cafe.errors import unknown_name
from cafe.report.table import align_left
from cafe.rooms import entries

if TYPE_CHECKING:
    from cafe.cache.plan import Plan
    from cafe.cache.report import ExtractionProgress, ExtractionSummary

DEFAULT_MODEL = "cafe:mini"
_SHOWN_UNREADABLE = 5


def _complete_dataset(incomplete: str) -> list[str]:
    return [name for name in entries("data", "DATASET") if name.startswith(incomplete)]


def extract(
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            metavar="NAME|PATH",
            help="A name of `cafe datasets`, or a folder with one folder of images for each class.",
            autocompletion=_complete_dataset,
        ),
    ],
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="DIR", help="Folder that holds the named data set [default: $CAFE_DATA]."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="ID", help="A name of `cafe models`, a local folder, or a hub id.")
    ] = DEFAULT_MODEL,
    splits: Annotated[
        list[str] | None,
        typer.Option("--splits", metavar="train,val,test", help="Which splits; a list [default: all there are]."),
    ] = None,
    templates: Annotated[
        list[str] | None,
        typer.Option(
            "--templates",
            metavar="NAME|TEXT|FILE",
            help="A set of `cafe templates`, a template such as 'a photo of a {}.', or a file with one on each line; "
            "may be repeated [default: the data set's own].",
        ),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(
            "--class-names",
            metavar="FILE",
            help="Class names for the prompts: one on each line in label order, or JSON {present: new}.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Prompts written per class, as CuPL's: JSON {class: [prompt, ...]}; --templates given besides are "
            "averaged with them.",
        ),
    ] = None,
    stored_dtype: Annotated[
        str, typer.Option("--stored-dtype", metavar="float16|float32", help="Floating-point type on disk.")
    ] = "float16",
    on_error: Annotated[
        str,
        typer.Option(
            "--on-error", metavar="skip|fail", help="What an unreadable image does: it is left out, or stops."
        ),
    ] = "skip",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The cache to make [default: below <cache-dir>].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Encode everything again, even if it is there.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode a data set once and keep the features.

    Every image and class name goes through the frozen encoder; the features go to one HDF5 file.
    """
    from cafe.prompts import read_class_names, read_prompts, read_templates, with_templates

    error_policy, stored = _one_of_two(on_error, stored_dtype)
    texts = read_templates(templates)
    with Screen(json=json, quiet=quiet) as screen:
        from cafe.cache.locate import cache_dir as cache_folder
        from cafe.cache.locate import cache_path
        from cafe.data.opening import open_dataset

        opened = open_dataset(dataset, root)
        if class_names is not None:
            opened.class_names = read_class_names(class_names, opened.class_names)
        own = None if prompts is None else read_prompts(prompts, opened.class_names)
        if own is not None and texts:
            own = with_templates(own, texts, opened.class_names)

        # After the data set: a wrong path should not wait for torch.
        from cafe.cache.extraction import extract as run_extraction
        from cafe.cache.plan import make_plan
        from cafe.encoders.opening import open_encoder

        encoder = open_encoder(model, device, dtype)
        names = listed(splits) or None
        path = out or cache_path(cache_folder(cache_dir), opened.name, encoder.id)
        if out is not None and out.exists() and not force:
            refuse_another(make_plan(opened, encoder, names, texts, stored, own), out)
        with screen.progress("images") as images, screen.progress("templates") as text:
            summary = run_extraction(
                opened, encoder, path, splits=names, templates=texts, prompts=own, stored_dtype=stored,
                on_error=error_policy, progress=shown_on(images, text), force=force,
            )  # fmt: skip
        warn_about(summary, screen)
        screen.answer(summary.to_json(), described(summary))
        screen.say("go on with:")
        screen.next_steps("cafe fit", "cafe compare baselines")


def refuse_another(plan: Plan, out: Path) -> None:
    """Refuse a file named by the user that holds other image features than those asked for.

    Without ``--out`` such features go to a file of their own beside it; but a name that was given is meant.

    Raises
    ------
    CacheError
        If they differ; the message names what differs.
    """
    from cafe.cache.fingerprint import require_same
    from cafe.cache.opening import open_cache
    from cafe.cache.store import read_provenance

    with open_cache(out) as file:
        recorded = read_provenance(file)["image"]
    require_same(out, recorded, plan.image, "image")


def _one_of_two(on_error: str, stored_dtype: str) -> tuple[Literal["skip", "fail"], Literal["float16", "float32"]]:
    policies: dict[str, Literal["skip", "fail"]] = {"skip": "skip", "fail": "fail"}
    dtypes: dict[str, Literal["float16", "float32"]] = {"float16": "float16", "float32": "float32"}
    if on_error not in policies:
        raise unknown_name("--on-error", on_error, policies)
    if stored_dtype not in dtypes:
        raise unknown_name("--stored-dtype", stored_dtype, dtypes)
    return policies[on_error], dtypes[stored_dtype]


def shown_on(images: Progress, text: Progress) -> Callable[[ExtractionProgress], None]:
    """Make the callback that draws extraction's progress on two bars, one after the other."""

    def tell(state: ExtractionProgress) -> None:
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
        pairs.append(["speed", f"{summary.images_per_second:,.0f} images/s ({clocks})"])
    pairs.append(["saved in", f"{summary.path} ({summary.bytes / 1e6:.1f} MB)"])
    first, *rest = pairs
    return "\n".join(align_left(first, rest))
