"""``cafe extract``: every image and prompt through the frozen encoder once, and onto the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cafe.cli.extract_options import (
    BatchSize,
    DrawSeeds,
    DrawShots,
    JpegDecoder,
    ViewCount,
    ViewSeed,
    WorkerCount,
    draws_of,
    ending_calmly,
    models_of,
    views_of,
    workers_of,
)
from cafe.cli.options import CacheDir, Device, Dtype, Json, Quiet, listed
from cafe.cli.progress import Progress, duration
from cafe.cli.screen import Screen
from cafe.errors import InputError, unknown_name
from cafe.report.table import align_left
from cafe.rooms import entries

if TYPE_CHECKING:
    from cafe.cache.plan import Plan
    from cafe.cache.report import ExtractionProgress, ExtractionSummary

DEFAULT_MODEL = "cafe:mini"
_FOR_PHOTOGRAPHS = "openai/clip-vit-base-patch32"
_SHOWN_UNREADABLE = 5


def _complete_dataset(incomplete: str) -> list[str]:
    return [name for name in entries("data", "DATASET") if name.startswith(incomplete)]


def extract(
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            metavar="NAME|PATH",
            help="A name of `cafe datasets`; or a folder with one folder of images for each class, a CSV or JSON Lines "
            "table, a CoOp split file, webdataset tars, parquet files, or hf:NAME.",
            autocompletion=_complete_dataset,
        ),
    ],
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="DIR", help="Folder that holds the named data set [default: $CAFE_DATA]."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="ID,...",
            help="A name of `cafe models`, a local folder, or a hub id; for several, images are decoded once.",
        ),
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
    views: ViewCount = 0,
    seed: ViewSeed = 1,
    shots: DrawShots = None,
    seeds: DrawSeeds = None,
    batch_size: BatchSize = None,
    workers: WorkerCount = "auto",
    decoder: JpegDecoder = "pillow",
    projection_features: Annotated[
        bool,
        typer.Option("--projection-features", help="Store what goes into the image tower's projection as well."),
    ] = False,
    stored_dtype: Annotated[
        str, typer.Option("--stored-dtype", metavar="float16|float32", help="Floating-point type on disk.")
    ] = "float16",
    on_error: Annotated[
        str | None,
        typer.Option(
            "--on-error",
            metavar="skip|fail",
            help="What an unreadable image does: it is left out and recorded, or stops [default: skip, but an image "
            "that a list names and the disk lacks stops].",
        ),
    ] = None,
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

    error_policy, stored = _one_of_two(on_error or "skip", stored_dtype)
    texts = read_templates(templates)
    augmented, draws, processes = views_of(views, seed), draws_of(shots, seeds), workers_of(workers)
    with Screen(json=json, quiet=quiet) as screen:
        from cafe.cache.locate import cache_dir as cache_folder
        from cafe.cache.locate import cache_path
        from cafe.data.decoders import check_decoder
        from cafe.data.opening import open_dataset

        check_decoder(decoder)
        opened = open_dataset(dataset, root, lenient=on_error == "skip")
        if class_names is not None:
            opened.class_names = read_class_names(class_names, opened.class_names)
        own = None if prompts is None else read_prompts(prompts, opened.class_names)
        if own is not None and texts:
            own = with_templates(own, texts, opened.class_names)

        # After the data set: a wrong path should not wait for torch.
        from cafe.cache.extraction import extract_many
        from cafe.cache.plan import make_plan
        from cafe.encoders.opening import open_encoder

        models = models_of(model)
        if out is not None and len(models) > 1:
            raise InputError("--out names one file, but there are several models; name a folder with --cache-dir")
        encoders = [open_encoder(one, device, dtype) for one in models]
        names = listed(splits) or None
        paths = [out or cache_path(cache_folder(cache_dir), opened.name, encoder.id) for encoder in encoders]
        if out is not None and out.exists() and not force:
            wanted = make_plan(
                opened, encoders[0], names, texts, stored, own,
                views=augmented, draws=draws, projection_features=projection_features, decoder=decoder,
            )  # fmt: skip
            refuse_another(wanted, out)
        with screen.progress("images") as images, screen.progress("templates") as text, _ending(screen):
            summaries = extract_many(
                opened, encoders, paths, splits=names, templates=texts, prompts=own, stored_dtype=stored,
                views=augmented, draws=draws, projection_features=projection_features, on_error=error_policy,
                batch_size=batch_size, workers=processes, decoder=decoder,
                progress=shown_on(images, text, screen), force=force,
            )  # fmt: skip
        for summary in summaries:
            warn_about(summary, screen)
        documents = [summary.to_json() for summary in summaries]
        answer = documents[0] if len(models) == 1 else {"caches": documents}
        screen.answer(answer, "\n\n".join(map(described, summaries)))
        if DEFAULT_MODEL in models and opened.name != "digits":
            screen.say(f"{DEFAULT_MODEL} knows drawings and glyphs; for photographs: --model {_FOR_PHOTOGRAPHS}")
        screen.say("go on with:")
        screen.next_steps("cafe fit", "cafe compare baselines")


@contextmanager
def _ending(screen: Screen) -> Iterator[None]:
    """Say what is kept if the run is cut off; the exit code is that of every interruption."""
    from cafe.cache.report import ExtractionInterrupted

    with ending_calmly():
        try:
            yield
        except ExtractionInterrupted as error:
            screen.say(str(error))
            raise


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
    pairs.append(["saved in", f"{summary.path} ({summary.bytes / 1e6:.1f} MB)"])
    first, *rest = pairs
    return "\n".join(align_left(first, rest))
