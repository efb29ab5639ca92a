"""``cafe cache``: ls, info, verify, rm, and import, merge and export for features from and for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cafe.cli.chosen import chosen_cache, remove_confirmed, suggest_next
from cafe.cli.options import CacheDir, Json, Quiet, listed, option
from cafe.cli.screen import CURRENT, Screen, size
from cafe.cli.verbs import Verbs, help_without_verb
from cafe.errors import CacheError, CafeError, InputError
from cafe.registry import entries
from cafe.report.rows import counted
from cafe.report.tables import align_left

if TYPE_CHECKING:
    from cafe.cache.format.reader import CacheSummary

app = typer.Typer(cls=Verbs, help="Look at, check, import, join, export and remove caches.", rich_markup_mode=None)

_Cache = Annotated[
    str | None,
    typer.Argument(metavar="[CACHE]", help="File, or name as `cafe cache ls` has it [default: the one last used]."),
]
_Keys = list[str] | None


def _formats() -> list[str]:
    """Return the formats that `cafe cache import` reads beside plain arrays, from the files that are there."""
    first = ["clip-benchmark", "clip-retrieval", "tip-adapter", "coop"]
    try:
        known = entries("cache.transfer.importers", "IMPORTER")
    except InputError:  # a file that is no Python; whoever imports is told, and other verbs work
        return first
    return first + [name for name in known if name not in (*first, "arrays")]


@app.callback(invoke_without_command=True)
def _cache(context: typer.Context) -> None:
    """Look at, check, import, join, export and remove caches."""
    help_without_verb(context)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="Features that another tool extracted.")],
    layout: Annotated[
        str, option("--format", "NAME", f"auto, {', '.join(_formats())} or arrays (.npz, .npy, .pt, .safetensors).")
    ] = "auto",
    out: Annotated[Path | None, option("--out", "FILE", "The cache to make [default: below <cache-dir>].")] = None,
    name: Annotated[str | None, option("--name", "NAME", "Name of the data set [default: the source's].")] = None,
    model: Annotated[str, option("--model", "NAME", "The encoder, as you know it; it cannot be checked.")] = "imported",
    train: Annotated[_Keys, option("--train", "KEY", "Arrays of the train split; a list.")] = None,
    val: Annotated[_Keys, option("--val", "KEY", "Arrays of the val split; a list.")] = None,
    test: Annotated[_Keys, option("--test", "KEY", "Arrays of the test split; a list.")] = None,
    split: Annotated[str, option("--split", "NAME", "The split that a clip-retrieval folder holds.")] = "train",
    label_column: Annotated[
        str | None, option("--label-column", "NAME", "Column of labels in clip-retrieval's metadata.")
    ] = None,
    class_names: Annotated[
        Path | None, option("--class-names", "FILE", "Class names in label order, one on each line, or JSON.")
    ] = None,
    text_features: Annotated[
        Path | None, option("--text-features", "FILE", "Text features (classes, width), where the source has none.")
    ] = None,
    logit_scale: Annotated[
        float, option("--logit-scale", "X", "The encoder's own; 100 is that of OpenAI's CLIP.")
    ] = 100.0,
    similar: Annotated[
        float | None, option("--drop-similar", "COSINE", "Drop val and test rows that near a training row.")
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
        from cafe.cache.transfer.importers.base import ImportOptions
        from cafe.cache.transfer.importing import import_features
        from cafe.files import cache_dir as cache_folder
        from cafe.last_used import note_use

        keys = {"train": tuple(listed(train)), "val": tuple(listed(val)), "test": tuple(listed(test))}
        options = ImportOptions({name: arrays for name, arrays in keys.items() if arrays}, split, label_column)
        summary = import_features(
            source, out or cache_path(cache_folder(cache_dir), name or source.stem, model),
            layout=layout, dataset=name, encoder=model, options=options, class_names=class_names,
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
        note_use(cache_folder(cache_dir), "caches", Path(document["path"]))
        suggest_next(screen, document["splits"], cache_dir)


@app.command("merge")
def merge(
    caches: Annotated[list[str], typer.Argument(metavar="CACHE...", help="Caches with different splits.")],
    out: Annotated[Path, option("--out", "FILE", "The cache to make.")],
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Join caches that hold different splits of one data set and encoder."""
    with Screen(json=json, quiet=quiet) as screen:
        from cafe.cache.format.reader import summarise
        from cafe.cache.transfer.merging import merge_caches

        paths = [chosen_cache(name, cache_dir, screen, used=False) for name in caches]
        summary = summarise(merge_caches(paths, out))
        splits = ", ".join(f"{name} {n:,}" for name, n in summary.splits.items())
        screen.answer(summary.to_json(), f"{summary.dataset} ({splits}) saved in {summary.path}")


@app.command("export")
def export(
    cache: _Cache = None,
    layout: Annotated[
        str | None, option("--format", "npz|parquet|safetensors", "Format [default: by the suffix of --out].")
    ] = None,
    out: Annotated[Path | None, option("--out", "FILE", "The file to make [default: the cache's name, here].")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write features, labels, ids and text for other tools."""
    with Screen(json=json, quiet=quiet) as screen:
        from cafe.cache.format.reader import read_features
        from cafe.cache.transfer.exporting import FORMATS, export_features

        if out is None and layout is None:
            raise InputError(f"give --out FILE, or --format {', '.join(FORMATS)}")
        path = chosen_cache(cache, cache_dir, screen, used=False)
        target = out or Path(f"{path.stem}.{layout}")
        files = export_features(read_features(path, memmap="auto"), target, layout, force=force)
        names = [str(file) for file in files]
        screen.answer({"cache": str(path), "files": names}, "\n".join(names))


@app.command("ls")
def ls(cache_dir: CacheDir = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the caches, newest first; the one last used or made is marked, and is taken where none is named."""
    from cafe.cache.format.reader import summarise
    from cafe.cache.locate import caches_by_last_use, list_caches
    from cafe.cache.versions import old_versions
    from cafe.files import cache_dir as cache_folder

    with Screen(json=json, quiet=quiet) as screen:
        folder = cache_folder(cache_dir)
        caches = list_caches(folder)
        current = next(iter(caches_by_last_use(folder, caches)), None)
        if current is not None and all(cache.path != current for cache in caches):
            caches = [*caches, summarise(current)]
        old = old_versions(cache.path for cache in caches if cache.damaged is None)
        documents = [
            {**cache.to_json(), "current": cache.path == current, "replaced_by": _text(old.get(cache.path))}
            for cache in caches
        ]
        head = ["", "cache", "data set", "encoder", "images", "width", "size", "made"]
        body = [_line(cache, current, old=cache.path in old) for cache in caches]
        if caches or json:
            screen.answer(
                {"cache_dir": str(folder), "caches": documents}, "\n".join(align_left(head, body)) if caches else ""
            )
        if not caches:
            screen.say(f"there is no cache in {folder} yet; make one with: cafe extract FOLDER")
        if old:
            screen.say(f"{counted(len(old), 'old version')} of folders that changed; cafe cache rm --old removes them")
        for cache in caches:
            if cache.damaged is not None:
                screen.warn(cache.damaged)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


@app.command("info")
def info(cache: _Cache = None, cache_dir: CacheDir = None, json: Json = False, quiet: Quiet = False) -> None:
    """Show what a cache holds and where it came from."""
    from cafe.cache.format.reader import read_features, summarise

    with Screen(json=json, quiet=quiet) as screen:
        path = chosen_cache(cache, cache_dir, screen, used=False)
        summary = summarise(path)
        features = read_features(path)
        document = {
            **summary.to_json(),
            "class_names": list(features.class_names),
            "templates": list(features.templates),
            "logit_scale": features.logit_scale,
            "logit_bias": features.logit_bias,
            "provenance": dict(features.provenance),
        }
        screen.answer(document, _described(document))


@app.command("verify")
def verify(cache: _Cache = None, cache_dir: CacheDir = None, json: Json = False, quiet: Quiet = False) -> None:
    """Read a cache to the last byte and compare it with all that the format demands."""
    from cafe.cache.format.verify import verify_cache

    with Screen(json=json, quiet=quiet) as screen:
        path = chosen_cache(cache, cache_dir, screen, used=False)
        try:
            report = verify_cache(path)
        except CacheError as error:
            if json:
                screen.answer({"path": str(path), "ok": False, "arrays": 0, "findings": [str(error)]}, "")
            raise
        document = {"path": str(path), "ok": report.ok, "arrays": report.arrays, "findings": list(report.findings)}
        if report.ok or json:
            screen.answer(document, f"{path}: sound, {report.arrays} arrays match their checksums")
        if not report.ok:
            raise CacheError(f"cache {path} is damaged: {'; '.join(report.findings)}. Extract it again")


@app.command("rm")
def rm(
    caches: Annotated[
        list[str] | None, typer.Argument(metavar="[CACHE...]", help="Files, or names as `cafe cache ls` has them.")
    ] = None,
    old: Annotated[
        bool,
        typer.Option("--old", help="All old versions: of a folder's caches, those made before its images changed."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Also .h5 files in which no cache can be recognised any more.")
    ] = False,
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove caches, and no other files; runs that were made from them stay."""
    from cafe.cache.locate import check_removable, find_single_cache, list_caches
    from cafe.cache.versions import old_versions
    from cafe.files import cache_dir as cache_folder

    with Screen(json=json, quiet=quiet) as screen:
        # All are found before any is removed: one wrong name removes nothing.
        folder = cache_folder(cache_dir)
        if not caches and not old:
            raise InputError("name the caches to remove, or give --old for all old versions of folders that changed")
        paths = [find_single_cache(name, folder) for name in caches or ()]
        if old:
            sound = [cache.path for cache in list_caches(folder) if cache.damaged is None]
            paths = list(dict.fromkeys([*paths, *old_versions(sound)]))
        if not paths:
            screen.answer({"removed": []}, f"there is no old version in {folder}")
            return
        for path in paths:
            check_removable(path, folder, damaged=damaged)
        remove_confirmed(paths, _remove, screen, yes=yes)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise CafeError(f"{path} could not be removed: {(error.strerror or str(error)).lower()}") from error


def _line(cache: CacheSummary, current: Path | None, *, old: bool) -> list[str]:
    """Return the line of a cache in the list of caches."""
    mark = CURRENT if cache.path == current else ""
    if cache.damaged is not None:
        return [mark, cache.path.name, "damaged", "", "", "", size(cache.bytes), ""]
    images = f"{sum(cache.splits.values()):,}"
    made = f"{cache.created[:16]}{' (old version)' if old else ''}"
    return [mark, cache.path.name, cache.dataset, cache.encoder, images, str(cache.dim), size(cache.bytes), made]


def _described(document: dict[str, Any]) -> str:
    """Return names and values for `cafe cache info`."""
    splits = ", ".join(f"{name} {n:,}" for name, n in document["splits"].items())
    classes, templates = document["class_names"], document["templates"]
    pairs = {
        "cache": document["path"],
        "data set": document["dataset"],
        "encoder": document["encoder"],
        "images": splits,
        "features": f"{document['dim']} wide, {document['stored_dtype']}, {size(document['bytes'])} on disk",
        "classes": f"{len(classes)}: {_first(classes)}",
        "templates": f"{document['n_templates']}: {_first(templates)}" if templates else _why_no_templates(document),
        "logit scale": f"{document['logit_scale']:.4g}",
        "made": document["created"],
        "fingerprint": document["fingerprint"],
    }
    lines = [[key, value] for key, value in pairs.items()]
    return "\n".join(align_left(lines[0], lines[1:]))


def _why_no_templates(document: dict[str, Any]) -> str:
    """Say why a cache has no templates."""
    text = document["provenance"].get("text")
    if text is None:
        return "none, and no text features"
    if text.get("prompts"):
        return f"none; {sum(map(len, text['prompts'])):,} prompts written per class"
    return "not known"


def _first(names: list[str], limit: int = 6) -> str:
    """Join the first names, with dots for the others."""
    return ", ".join(names[:limit]) + (f", ... ({len(names) - limit} more)" if len(names) > limit else "")
