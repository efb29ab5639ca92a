"""``cafe datasets | methods | models | suites | templates``: what there is, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cafe.cli.options import CacheDir, Json, NoUseOfCacheDir, Quiet, option
from cafe.cli.screen import Screen
from cafe.registry import entries
from cafe.report.tables import align_left


def datasets(
    root: Annotated[Path | None, option("--root", "DIR", "Folder that holds data sets [default: $CAFE_DATA].")] = None,
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the data sets known by name, and whether they are at hand."""
    from cafe.data.opening import data_root, known_datasets, known_sources

    with Screen(json=json, quiet=quiet) as screen:
        known, sources = known_datasets(root), known_sources()
        known = _with_caches(known, "dataset", cache_dir)
        body = [
            [
                dataset["name"],
                "yes" if dataset["available"] else "no",
                _count_or_blank(dataset["caches"]),
                dataset["summary"],
            ]
            for dataset in known
        ]
        screen.answer({"datasets": known, "sources": sources}, _columns(["data set", "at hand", "caches", ""], body))
        missing = [dataset for dataset in known if not dataset["available"]]
        if missing and data_root(root) is None:
            screen.say("\nNot at hand, since no folder of data sets is named: give --root DIR or set CAFE_DATA.")
            screen.say(
                _columns(
                    ["data set", "expected in DIR"],
                    [[dataset["name"], ", ".join(dataset["expected"])] for dataset in missing],
                )
            )
            screen.say("With --root this list says what of it is missing, and where that is published.")
        else:
            for number, dataset in enumerate(missing):
                screen.say(("" if number else "\n") + dataset["why"])
        screen.say("\nYour own images, as docs/sources.md shows: cafe extract --dataset PATH")
        screen.say(_columns(["source", ""], [[source["name"], source["summary"]] for source in sources]))


def methods(cache_dir: NoUseOfCacheDir = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the methods."""
    _list_entries("methods", "METHOD", "methods", "method", json, quiet)


def suites(cache_dir: NoUseOfCacheDir = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the suites of comparisons."""
    _list_entries("compare.suites", "SUITE", "suites", "suite", json, quiet)


def models(cache_dir: CacheDir = None, json: Json = False, quiet: Quiet = False) -> None:
    """List models to extract with: size in millions of parameters, width of features, pixels, licence of the weights.

    Any local folder or hub id of a CLIP or of a model of images alone works besides, and any model of open_clip.
    """
    from cafe.encoders.opening import known_models

    with Screen(json=json, quiet=quiet) as screen:
        known = _with_caches(known_models(), "encoder", cache_dir)
        body = [
            [
                model["name"], _number_or_blank(model["parameters"], " M"), _number_or_blank(model["width"]),
                _number_or_blank(model["resolution"]), model["licence"], _count_or_blank(model["caches"]),
                f"{model['summary']}: {model['good_at']}",
            ]
            for model in known
        ]  # fmt: skip
        head = ["model", "size", "width", "pixels", "licence", "caches", ""]
        screen.answer({"models": known}, _columns(head, body))


def templates(cache_dir: NoUseOfCacheDir = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the template sets that --templates takes by name."""
    from cafe.prompts import known_template_sets

    with Screen(json=json, quiet=quiet) as screen:
        known = known_template_sets()
        body = [[entry["name"], str(len(entry["templates"])), entry["templates"][0]] for entry in known]
        screen.answer({"templates": known}, _columns(["templates", "number", "the first"], body))


def _with_caches(known: Sequence[dict[str, Any]], key: str, cache_dir: Path | None) -> list[dict[str, Any]]:
    """Add to each entry the caches that there are of it; ``key`` is what a cache calls its name."""
    from cafe.files import cache_dir as cache_folder

    caches: dict[str, list[str]] = {}
    folder = cache_folder(cache_dir)
    # Where there is no cache the list does not wait for h5py.
    if any(folder.glob("*.h5")):
        from cafe.cache.locate import list_caches

        for cache in list_caches(folder):
            if cache.damaged is None:
                caches.setdefault(getattr(cache, key), []).append(str(cache.path))
    return [{**entry, "caches": caches.get(entry["name"], [])} for entry in known]


def _number_or_blank(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:g}{unit}"


def _count_or_blank(caches: Sequence[str]) -> str:
    return str(len(caches) or "")


def _list_entries(folder: str, constant: str, key: str, title: str, json: bool, quiet: bool) -> None:
    """List the entries of a folder whose files set a ``constant``; ``key`` is what JSON calls them."""
    with Screen(json=json, quiet=quiet) as screen:
        known = [{"name": entry.name, "summary": entry.summary} for entry in entries(folder, constant).values()]
        body = [[entry["name"], entry["summary"]] for entry in known]
        screen.answer({key: known}, _columns([title, ""], body))


def _columns(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return "\n".join(align_left(head, body))
