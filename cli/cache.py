"""``cafe cache``: ls, info, verify and rm are here; import, merge and export in cache_transfer.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cafe.cli import cache_transfer
from cafe.cli.caches import chosen_cache
from cafe.cli.options import CacheDir, Json, Quiet
from cafe.cli.progress import size
from cafe.cli.screen import Screen
from cafe.cli.verbs import Verbs, help_without_verb
from cafe.errors import CacheError, InputError
from cafe.report.table import align_left

if TYPE_CHECKING:
    from cafe.cache.format.reader import CacheSummary

app = typer.Typer(cls=Verbs, help="Look at, check, import, join, export and remove caches.", rich_markup_mode=None)

_Which = Annotated[
    str | None, typer.Argument(metavar="[CACHE]", help="File, or name as `cafe cache ls` has it [default: the newest].")
]


@app.callback(invoke_without_command=True)
def _cache(context: typer.Context) -> None:
    """Look at, check, import, join, export and remove caches."""
    help_without_verb(context)


app.command("import")(cache_transfer.import_)
app.command("merge")(cache_transfer.merge)
app.command("export")(cache_transfer.export)


@app.command("ls")
def ls(cache_dir: CacheDir = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the caches, newest first."""
    from cafe.cache.locate import list_caches
    from cafe.files import cache_dir as cache_folder

    with Screen(json=json, quiet=quiet) as screen:
        folder = cache_folder(cache_dir)
        found = list_caches(folder)
        body = [_line(one) for one in found]
        document = {"cache_dir": str(folder), "caches": [one.to_json() for one in found]}
        head = ["cache", "data set", "encoder", "images", "width", "size", "made"]
        text = "\n".join(align_left(head, body)) if found else ""
        if found or json:
            screen.answer(document, text)
        if not found:
            screen.say(f"there is no cache in {folder} yet; make one with: cafe extract --dataset NAME")
        for one in found:
            if one.damaged is not None:
                screen.warn(one.damaged)


@app.command("info")
def info(cache: _Which = None, cache_dir: CacheDir = None, json: Json = False, quiet: Quiet = False) -> None:
    """Show what a cache holds and where it came from."""
    from cafe.cache.format.reader import load_features, summarise
    from cafe.files import cache_dir as cache_folder

    with Screen(json=json, quiet=quiet) as screen:
        path = chosen_cache(cache, cache_folder(cache_dir), screen)
        summary = summarise(path)
        features = load_features(path)
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
def verify(cache: _Which = None, cache_dir: CacheDir = None, json: Json = False, quiet: Quiet = False) -> None:
    """Read a cache to the last byte and compare every checksum."""
    from cafe.cache.format.verify import verify_cache
    from cafe.files import cache_dir as cache_folder

    with Screen(json=json, quiet=quiet) as screen:
        path = chosen_cache(cache, cache_folder(cache_dir), screen)
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
        list[str], typer.Argument(metavar="CACHE...", help="Files, or names as `cafe cache ls` has them.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove caches; runs that were made from them stay."""
    from cafe.files import cache_dir as cache_folder

    with Screen(json=json, quiet=quiet) as screen:
        # All are found before any is removed: one wrong name removes nothing.
        paths = [_one_cache(name, cache_folder(cache_dir)) for name in caches]
        names = ", ".join(str(path) for path in paths)
        if not yes:
            if not sys.stdin.isatty():
                raise InputError(f"this would remove {names}; say --yes to do so without being asked")
            if not typer.confirm(f"Remove {names}?", err=True):
                raise InputError("nothing was removed")
        for path in paths:
            path.unlink()
        screen.answer({"removed": [str(path) for path in paths]}, f"removed {names}")


def _one_cache(name: str, folder: Path) -> Path:
    """Find the one cache that is meant, damaged ones too; several are refused, since removing is for good."""
    from cafe.cache.locate import find_cache, list_caches

    known = list_caches(folder)
    fitting = [one.path for one in known if name in (one.path.name, one.path.stem)] or [
        one.path for one in known if name == one.dataset
    ]
    if len(fitting) > 1:
        raise InputError(f"{name!r} fits {', '.join(path.name for path in fitting)}; name one of these files")
    return fitting[0] if fitting else find_cache(name, folder)


def _line(one: CacheSummary) -> list[str]:
    if one.damaged is not None:
        return [one.path.name, "damaged", "", "", "", size(one.bytes), ""]
    images = f"{sum(one.splits.values()):,}"
    return [one.path.name, one.dataset, one.encoder, images, str(one.dim), size(one.bytes), one.created[:16]]


def _described(document: dict[str, Any]) -> str:
    splits = ", ".join(f"{name} {n:,}" for name, n in document["splits"].items())
    classes, templates = document["class_names"], document["templates"]
    pairs = {
        "cache": document["path"],
        "data set": document["dataset"],
        "encoder": document["encoder"],
        "images": splits,
        "features": f"{document['dim']} wide, {document['stored_dtype']}, {size(document['bytes'])} on disk",
        "classes": f"{len(classes)}: {_some(classes)}",
        "templates": f"{document['n_templates']}: {_some(templates)}" if templates else _without(document),
        "logit scale": f"{document['logit_scale']:.4g}",
        "made": document["created"],
        "fingerprint": document["fingerprint"],
    }
    return "\n".join(align_left(*_as_table(pairs)))


def _without(document: dict[str, Any]) -> str:
    text = document["provenance"].get("text")
    if text is None:
        return "none, and no text features"
    if text.get("prompts"):
        return f"none; {sum(map(len, text['prompts'])):,} prompts written per class"
    return "not known"


def _as_table(pairs: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    first, *rest = ([key, value] for key, value in pairs.items())
    return first, rest


def _some(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f", ... ({len(names) - limit} more)" if len(names) > limit else "")
