"""``cafe extract``: every image and prompt through the frozen encoder once, and onto the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from cafe.cli.chosen import suggest_next
from cafe.cli.extraction_text import described_extraction, shown_on, warn_about
from cafe.cli.options import CacheDir, Device, Dtype, Json, Quiet, Root, completed_from, listed, option, whole_numbers
from cafe.cli.problems import sigterm_as_interrupt
from cafe.cli.screen import Screen
from cafe.errors import InputError, unknown_name
from cafe.last_used import note_use

if TYPE_CHECKING:
    from cafe.cache.extract.plan import Draws
    from cafe.cache.extract.progress import ExtractionSummary
    from cafe.data.base import Dataset
    from cafe.encoders.base import Encoder

DEFAULT_MODEL = "cafe:mini"
_Value = TypeVar("_Value")


_complete_dataset = completed_from("data", "DATASET")


def extract(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH|NAME]",
            help="A folder with one folder of images for each class, a CSV or JSON Lines table, a CoOp split file, "
            "webdataset tars, parquet files, or hf:NAME; or a name of `cafe datasets`.",
            autocompletion=_complete_dataset,
        ),
    ] = None,
    dataset: Annotated[str | None, option("--dataset", "NAME|PATH", "The same.", complete=_complete_dataset)] = None,
    root: Root = None,
    model: Annotated[
        str | None,
        option(
            "--model",
            "ID,...",
            "A name of `cafe models`, a local folder, or a hub id; for several, images are decoded once [default: "
            "that of the current cache of the same data, else $CAFE_MODEL, else cafe:mini].",
        ),
    ] = None,
    split: Annotated[
        str | None,
        option("--split", "70/10/20", "Per cent of train, val and test where there are no splits [default: 50/20/30]."),
    ] = None,
    splits: Annotated[
        list[str] | None, option("--splits", "train,val,test", "Which splits; a list [default: all there are].")
    ] = None,
    templates: Annotated[
        list[str] | None,
        option(
            "--templates",
            "NAME|TEXT|FILE",
            "A set of `cafe templates`, a template such as 'a photo of a {}.', or a file with one on each line; "
            "may be repeated [default: the data set's own].",
        ),
    ] = None,
    class_names: Annotated[
        Path | None,
        option(
            "--class-names",
            "FILE",
            "Class names for the prompts: one on each line in label order, or JSON {present: new}.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        option(
            "--prompts",
            "FILE",
            "Prompts written per class, as CuPL's: JSON {class: [prompt, ...]}; --templates given besides are "
            "averaged with them.",
        ),
    ] = None,
    views: Annotated[
        int, option("--views", "N", "Seeded augmentations of every training image: random crop and flip.")
    ] = 0,
    seed: Annotated[int, option("--seed", "S", "Seed of the views.")] = 1,
    shots: Annotated[
        list[str] | None,
        option("--shots", "K,...", "Extract only training images that draws of so many per class need; a list."),
    ] = None,
    seeds: Annotated[
        list[str] | None, option("--seeds", "1,2,3", "Seeds of the draws of --shots; a list [default: 1,2,3].")
    ] = None,
    batch_size: Annotated[
        int | None, option("--batch-size", "N", "Images encoded together [default: fixed for each kind of device].")
    ] = None,
    workers: Annotated[
        str, option("--workers", "auto|N", "Decoding processes, 0 for threads; changes no feature.")
    ] = "auto",
    decoder: Annotated[
        str,
        option(
            "--decoder",
            "pillow|simplejpeg|nvjpeg",
            "What decodes JPEG files; simplejpeg and nvjpeg are extras, and make caches of their own.",
        ),
    ] = "pillow",
    engine: Annotated[
        str, option("--engine", "local|ray", "What decodes and encodes; ray is an extra, and changes no feature.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        option("--ray-address", "auto|HOST:PORT", "The Ray cluster [default: one of its own on this machine]."),
    ] = None,
    projection_features: Annotated[
        bool, typer.Option("--projection-features", help="Store what goes into the image tower's projection as well.")
    ] = False,
    stored_dtype: Annotated[
        str, option("--stored-dtype", "float16|float32", "Floating-point type on disk.")
    ] = "float16",
    on_error: Annotated[
        str | None,
        option(
            "--on-error",
            "skip|fail",
            "What an unreadable image does: it is left out and recorded, or stops [default: skip, but an image "
            "that a list names and the disk lacks stops].",
        ),
    ] = None,
    out: Annotated[Path | None, option("--out", "FILE", "The cache to make [default: below <cache-dir>].")] = None,
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
    policies: dict[str, Literal["skip", "fail"]] = {"skip": "skip", "fail": "fail"}
    dtypes: dict[str, Literal["float16", "float32"]] = {"float16": "float16", "float32": "float32"}
    error_policy = _one_of("--on-error", on_error or "skip", policies)
    stored = _one_of("--stored-dtype", stored_dtype, dtypes)
    processes, source = _workers_of(workers), _source_of(data, dataset)
    with Screen(json=json, quiet=quiet) as screen:
        screen.say(f"looking at {source}")  # before anything is imported
        from cafe.cache.extract.views import Views

        augmented, draws = Views(views, seed) if views else None, _draws_of(shots, seeds)
        opened, texts, per_class = _open(
            source, root, split, decoder, on_error == "skip", class_names, prompts, templates
        )

        # After the data set: a wrong path should not wait for torch.
        from cafe.cache.extract.ray_engine import check_engine
        from cafe.cache.extract.run import extract_many
        from cafe.cache.locate import cache_path
        from cafe.files import cache_dir as cache_folder

        check_engine(engine, ray_address)
        folder = cache_folder(cache_dir)
        encoders = _open_encoders(_chosen_models(model, opened, source, folder, screen), device, dtype, out)
        paths = [out or cache_path(folder, opened.name, encoder.id) for encoder in encoders]
        with screen.progress("images") as images, screen.progress("templates") as text, sigterm_as_interrupt():
            summaries = extract_many(
                opened, encoders, paths, splits=listed(splits) or None, templates=texts, prompts=per_class,
                stored_dtype=stored, views=augmented, draws=draws, projection_features=projection_features,
                decoder=decoder, on_error=error_policy, batch_size=batch_size, workers=processes, engine=engine,
                ray_address=ray_address, progress=shown_on(images, text, screen), force=force, named=out is not None,
                known_in=list(dict.fromkeys([folder, *(path.parent for path in paths)])),
            )  # fmt: skip
        _answer(summaries, screen)
        _say_old_versions(summaries, screen)
        for summary in summaries:
            note_use(folder, "caches", summary.path)
        suggest_next(screen, summaries[-1].splits, cache_dir)


def _say_old_versions(summaries: Sequence[ExtractionSummary], screen: Screen) -> None:
    """Say which caches a new one has replaced."""
    from cafe.cache.locate import list_caches
    from cafe.cache.versions import old_versions

    for summary in summaries:
        if summary.action == "extracted":
            sound = [cache.path for cache in list_caches(summary.path.parent) if cache.damaged is None]
            old = [path.name for path, newer in old_versions(sound).items() if newer == summary.path]
            if old:
                screen.say(f"old versions of it: {', '.join(old)}; cafe cache rm --old removes all old versions")


def _source_of(data: str | None, dataset: str | None) -> str:
    if (data is None) == (dataset is None):
        both = "nothing" if data is None else f"{data!r} and --dataset {dataset!r}"
        raise InputError(f"give one data set: cafe extract FOLDER, or --dataset NAME; got {both}")
    return str(dataset if data is None else data)


def _open(
    dataset: str,
    root: Path | None,
    split: str | None,
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
    opened = open_dataset(dataset, root, lenient=lenient, split=split)
    if class_names is not None:
        opened.class_names = read_class_names(class_names, opened.class_names)
    per_class = None if prompts is None else read_prompts(prompts, opened.class_names)
    if per_class is not None and texts:
        per_class = with_templates(per_class, texts, opened.class_names)
    return opened, texts, per_class


def _chosen_models(model: str | None, opened: Dataset, source: str, folder: Path, screen: Screen) -> list[str]:
    """Choose the encoders, and say why, and how the data set was divided."""
    from cafe.classifier.extracting import choose_model, described_division, hint_for_photographs

    if division := described_division(opened):
        screen.say(division)
    chosen, why = choose_model(model, opened.name, folder)
    models = _models_of(chosen)
    for name in models:
        if hint := hint_for_photographs(name, opened, source, "extract"):
            screen.say(hint)
    screen.say(f"opening the encoder {chosen}{why}")
    return models


def _open_encoders(models: Sequence[str], device: str, dtype: str, out: Path | None) -> list[Encoder]:
    from cafe.encoders.opening import open_encoder

    if out is not None and len(models) > 1:
        raise InputError("--out names one file, but there are several models; name a folder with --cache-dir")
    return [open_encoder(name, device, dtype) for name in models]


def _one_of(option: str, name: str, values: dict[str, _Value]) -> _Value:
    """Return the value of that name. Raises InputError."""
    if name not in values:
        raise unknown_name(option, name, values)
    return values[name]


def _draws_of(shots: Sequence[str] | None, seeds: Sequence[str] | None) -> Draws | None:
    """Return the few-shot draws asked for; None for all images.

    Raises
    ------
    InputError
        If they are no whole numbers, or seeds are given without shots.
    """
    from cafe.cache.extract.plan import Draws

    if not shots:
        if seeds:
            raise InputError("--seeds are of the draws of --shots, such as --shots 16 --seeds 1,2,3; give both")
        return None
    chosen = whole_numbers(seeds, "--seeds", least=0) or [1, 2, 3]
    return Draws(tuple(whole_numbers(shots, "--shots", least=1)), tuple(chosen))


def _workers_of(text: str) -> int | Literal["auto"]:
    """Read the number of workers.

    Examples
    --------
    >>> _workers_of("auto"), _workers_of("4")
    ('auto', 4)
    """
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise InputError(f"--workers takes auto, 0 (threads) or a number of processes, got {text!r}")
    return int(text)


def _models_of(text: str) -> list[str]:
    """Read one model or several, all different.

    Examples
    --------
    >>> _models_of("cafe:mini,openai/clip-vit-base-patch32")
    ['cafe:mini', 'openai/clip-vit-base-patch32']
    """
    from cafe.classifier.encoder_pair import model_names

    models = model_names(text)
    if len(set(models)) < len(models):
        raise InputError(f"--model names one model twice: {text}")
    return models


def _answer(summaries: Sequence[ExtractionSummary], screen: Screen) -> None:
    """Print what one extraction, or several of one pass, did."""
    for summary in summaries:
        warn_about(summary, screen)
    documents = [summary.to_json() for summary in summaries]
    document = documents[0] if len(documents) == 1 else {"caches": documents}
    screen.answer(document, "\n\n".join(map(described_extraction, summaries)))
