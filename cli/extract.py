"""``cafe extract``: every image and prompt through the frozen encoder once, and onto the disk."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cafe.cli.caches import go_on
from cafe.cli.extract_options import (
    BatchSize,
    DrawSeeds,
    DrawShots,
    EngineName,
    JpegDecoder,
    RayAddress,
    ViewCount,
    ViewSeed,
    WorkerCount,
    draws_of,
    ending_calmly,
    models_of,
    views_of,
    workers_of,
)
from cafe.cli.extract_words import answer, faster_dtype, shown_on
from cafe.cli.options import CacheDir, Device, Dtype, Json, Quiet, listed
from cafe.cli.screen import Screen
from cafe.errors import InputError, unknown_name
from cafe.registry import entries

if TYPE_CHECKING:
    from cafe.data.base import Dataset
    from cafe.encoders.base import Encoder

DEFAULT_MODEL = "cafe:mini"
_FOR_PHOTOGRAPHS = "openai/clip-vit-base-patch32"


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
    engine: EngineName = "local",
    ray_address: RayAddress = None,
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
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Encode everything again, even if it is there; replaces the file that --out names."
        ),
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode a data set once and keep the features.

    Every image and class name goes through the frozen encoder; the features go to one HDF5 file.
    """
    error_policy, stored = _one_of_two(on_error or "skip", stored_dtype)
    augmented, draws, processes = views_of(views, seed), draws_of(shots, seeds), workers_of(workers)
    with Screen(json=json, quiet=quiet) as screen:
        opened, texts, own = _open(dataset, root, decoder, on_error == "skip", class_names, prompts, templates)

        # After the data set: a wrong path should not wait for torch.
        from cafe.cache.extract.extraction import extract_many
        from cafe.cache.extract.ray_engine import check_engine

        check_engine(engine, ray_address)
        encoders = _encoders(model, device, dtype, out)
        paths = _paths(opened, encoders, out, cache_dir)
        wanted: dict[str, Any] = {
            "splits": listed(splits) or None, "templates": texts, "prompts": own, "stored_dtype": stored,
            "views": augmented, "draws": draws, "projection_features": projection_features, "decoder": decoder,
        }  # fmt: skip
        with screen.progress("images") as images, screen.progress("templates") as text, ending_calmly():
            summaries = extract_many(
                opened, encoders, paths, **wanted, on_error=error_policy, batch_size=batch_size, workers=processes,
                engine=engine, ray_address=ray_address, progress=shown_on(images, text, screen), force=force,
                named=out is not None,
            )  # fmt: skip
        answer(summaries, screen)
        for hint in dict.fromkeys(faster_dtype(*one) for one in zip(encoders, repeat(dtype), summaries, strict=False)):
            if hint:
                screen.say(hint)
        if DEFAULT_MODEL in models_of(model) and opened.name != "digits":
            screen.say(f"{DEFAULT_MODEL} knows drawings and glyphs; for photographs: --model {_FOR_PHOTOGRAPHS}")
        go_on(screen, summaries[-1].path, summaries[-1].splits, out, cache_dir, new=bool(summaries[-1].encoded))


def _open(
    dataset: str,
    root: Path | None,
    decoder: str,
    lenient: bool,
    class_names: Path | None,
    prompts: Path | None,
    templates: list[str] | None,
) -> tuple[Dataset, list[str] | None, tuple[tuple[str, ...], ...] | None]:
    """Open the data set, and read the templates and prompts for its classes."""
    from cafe.data.images.decoding import check_decoder
    from cafe.data.opening import open_dataset
    from cafe.prompts import read_class_names, read_prompts, read_templates, with_templates

    texts = read_templates(templates)
    check_decoder(decoder)
    opened = open_dataset(dataset, root, lenient=lenient)
    if class_names is not None:
        opened.class_names = read_class_names(class_names, opened.class_names)
    own = None if prompts is None else read_prompts(prompts, opened.class_names)
    if own is not None and texts:
        own = with_templates(own, texts, opened.class_names)
    return opened, texts, own


def _encoders(model: str, device: str, dtype: str, out: Path | None) -> list[Encoder]:
    from cafe.encoders.opening import open_encoder

    models = models_of(model)
    if out is not None and len(models) > 1:
        raise InputError("--out names one file, but there are several models; name a folder with --cache-dir")
    return [open_encoder(one, device, dtype) for one in models]


def _paths(opened: Dataset, encoders: list[Encoder], out: Path | None, cache_dir: Path | None) -> list[Path]:
    from cafe.cache.locate import cache_path
    from cafe.files import cache_dir as cache_folder

    return [out or cache_path(cache_folder(cache_dir), opened.name, encoder.id) for encoder in encoders]


def _one_of_two(on_error: str, stored_dtype: str) -> tuple[Literal["skip", "fail"], Literal["float16", "float32"]]:
    policies: dict[str, Literal["skip", "fail"]] = {"skip": "skip", "fail": "fail"}
    dtypes: dict[str, Literal["float16", "float32"]] = {"float16": "float16", "float32": "float32"}
    if on_error not in policies:
        raise unknown_name("--on-error", on_error, policies)
    if stored_dtype not in dtypes:
        raise unknown_name("--stored-dtype", stored_dtype, dtypes)
    return policies[on_error], dtypes[stored_dtype]
