"""``cafe cache import | merge | export``: features from other tools, joined, and for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cafe.cli.caches import chosen_cache, go_on
from cafe.cli.options import CacheDir, Json, Quiet, listed
from cafe.cli.screen import Screen
from cafe.report.table import align_left

_Keys = list[str] | None


def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="Features that another tool extracted.")],
    layout: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME",
            help="auto, clip-benchmark, clip-retrieval, tip-adapter, coop or arrays (.npz, .npy, .pt, .safetensors).",
        ),
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The cache to make [default: below <cache-dir>].")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the data set [default: the source's].")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="The encoder, as you know it; it cannot be checked.")
    ] = "imported",
    train: Annotated[_Keys, typer.Option("--train", metavar="KEY", help="Arrays of the train split; a list.")] = None,
    val: Annotated[_Keys, typer.Option("--val", metavar="KEY", help="Arrays of the val split; a list.")] = None,
    test: Annotated[_Keys, typer.Option("--test", metavar="KEY", help="Arrays of the test split; a list.")] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="The split that a clip-retrieval folder holds.")
    ] = "train",
    label_column: Annotated[
        str | None,
        typer.Option("--label-column", metavar="NAME", help="Column of labels in clip-retrieval's metadata."),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option("--class-names", metavar="FILE", help="Class names in label order, one on each line, or JSON."),
    ] = None,
    text_features: Annotated[
        Path | None,
        typer.Option(
            "--text-features", metavar="FILE", help="Text features (classes, width), where the source has none."
        ),
    ] = None,
    logit_scale: Annotated[
        float, typer.Option("--logit-scale", metavar="X", help="The encoder's own; 100 is that of OpenAI's CLIP.")
    ] = 100.0,
    similar: Annotated[
        float | None,
        typer.Option("--drop-similar", metavar="COSINE", help="Drop val and test rows that near a training row."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a cache that is there.")] = False,
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a cache of features that another tool extracted.

    Which array is what is read from the names; --train, --val and --test name arrays where that is not enough.
    """
    with Screen(json=json, quiet=quiet) as screen:
        from cafe.cache.locate import cache_path
        from cafe.cache.transfer.importers.base import Wishes
        from cafe.cache.transfer.importing import import_features
        from cafe.files import cache_dir as cache_folder

        keys = {"train": tuple(listed(train)), "val": tuple(listed(val)), "test": tuple(listed(test))}
        wishes = Wishes({name: given for name, given in keys.items() if given}, split, label_column)
        summary = import_features(
            source, out or cache_path(cache_folder(cache_dir), name or source.stem, model),
            layout=layout, dataset=name, encoder=model, wishes=wishes, class_names=class_names,
            text_features=text_features, logit_scale=logit_scale, similar=similar, force=force,
        )  # fmt: skip
        for note in summary.notes:
            screen.warn(note)
        document = summary.to_json()
        splits = ", ".join(f"{key} {n:,}" for key, n in document["splits"].items())
        text = "with text features" if document["has_text"] else "no text features: methods start from class means"
        pairs = [
            ["data set", f"{document['dataset']} ({document['format']})"],
            ["images", splits],
            ["classes", f"{document['n_classes']}, features {document['dim']} wide, {text}"],
            ["saved in", document["path"]],
        ]
        screen.answer(document, "\n".join(align_left(pairs[0], pairs[1:])))
        go_on(screen, Path(document["path"]), document["splits"], out, cache_dir, new=True)


def merge(
    caches: Annotated[list[str], typer.Argument(metavar="CACHE...", help="Caches with different splits.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The cache to make.")],
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Join caches that hold different splits of one data set and encoder."""
    with Screen(json=json, quiet=quiet) as screen:
        from cafe.cache.format.reader import summarise
        from cafe.cache.transfer.merging import merge_caches
        from cafe.files import cache_dir as cache_folder

        paths = [chosen_cache(name, cache_folder(cache_dir), screen) for name in caches]
        summary = summarise(merge_caches(paths, out))
        splits = ", ".join(f"{name} {n:,}" for name, n in summary.splits.items())
        screen.answer(summary.to_json(), f"{summary.dataset} ({splits}) saved in {summary.path}")


def export(
    cache: Annotated[
        str | None, typer.Argument(metavar="[CACHE]", help="File, or name as `cafe cache ls` has it [default: newest].")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option("--format", metavar="npz|parquet|safetensors", help="Format [default: by the suffix of --out]."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file to make [default: the cache's name, here].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write features, labels, ids and text for other tools."""
    with Screen(json=json, quiet=quiet) as screen:
        from cafe.cache.format.reader import load_features
        from cafe.cache.transfer.exporting import export_features
        from cafe.errors import InputError
        from cafe.files import cache_dir as cache_folder

        if out is None and layout is None:
            raise InputError("give --out FILE, or --format npz, parquet or safetensors")
        path = chosen_cache(cache, cache_folder(cache_dir), screen)
        target = out or Path(f"{path.stem}.{layout}")
        files = export_features(load_features(path, memmap="auto"), target, layout, force=force)
        names = [str(file) for file in files]
        screen.answer({"cache": str(path), "files": names}, "\n".join(names))
