"""Finds out which file an extraction ends in, and what of it is there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from cafe.cache.extract.plan import Plan
from cafe.cache.format.fingerprint import differing_fields
from cafe.cache.format.provenance import Provenance
from cafe.cache.format.reader import REMEDY, open_cache, read_provenance
from cafe.cache.locate import distinct_path
from cafe.errors import CacheError

_SHOWN = 3  # fields that a message names


@dataclass(frozen=True)
class Target:
    """Which file a plan ends in, and what has to be done for it.

    Attributes
    ----------
    path : Path
        The file.
    missing : str
        ``"all"``, ``"text"`` (its image features are the ones wanted) or ``"nothing"``.
    notes : tuple of str
        What was recorded otherwise in the file that is there.
    """

    path: Path
    missing: Literal["all", "text", "nothing"]
    notes: tuple[str, ...] = ()


def choose_target(plan: Plan, out: Path, *, force: bool, named: bool = False) -> Target:
    """Find out which file the plan ends in.

    ``out`` is used if it is free or holds the same image features; a cache of other image features is left alone,
    and a name with the short fingerprint beside it is used, unless the user has named ``out``: then it is replaced by
    force, and refused without.

    Raises
    ------
    CacheError
        If ``out`` is something else than a sound cache, and not to be replaced by force.
    """
    wanted = plan.provenance()
    for path in (out, distinct_path(out, wanted.image_fingerprint)):
        if not path.exists():
            return Target(path, "all")
        try:
            with open_cache(path) as file:
                there = read_provenance(file)
        except CacheError as error:
            if force and path.is_file():
                return Target(path, "all")
            raise CacheError(
                f"{str(error).removesuffix(REMEDY)}Name another file, or replace it with --force."
            ) from error
        if there["image_fingerprint"] != wanted.image_fingerprint:
            if named and force:
                return Target(path, "all")
            if named:
                refuse_another(path, there, plan)
            continue
        if force:
            return Target(path, "all")
        return Target(path, "text" if there["fingerprint"] != wanted.fingerprint else "nothing", _notes(there, wanted))
    raise CacheError(f"{out} and {path} both hold other image features than those asked for; name another file")


def refuse_another(path: Path, there: Mapping[str, Any], plan: Plan) -> NoReturn:
    """Refuse a file named by the user that holds other image features than those asked for.

    Raises
    ------
    CacheError
        Naming data sets and encoders where those differ, else every field that does.
    """
    clauses = differing_fields(there["image"], plan.image, "image")
    held, asked = f"{there['dataset']!r} by {there['encoder']!r}", f"{plan.dataset.name!r} by {plan.encoder.id!r}"
    if held == asked:
        reason = f"was made with {'; '.join(clauses)}"
    else:
        fields = [clause.partition(" = ")[0] for clause in clauses]
        more = f" and {len(fields) - _SHOWN} more" if len(fields) > _SHOWN else ""
        reason = f"holds {held}, but {asked} was asked for ({', '.join(fields[:_SHOWN])}{more} differ)"
    raise CacheError(f"cache {path} {reason}. Give another file to --out, or replace this one with --force.")


def _notes(there: Mapping[str, Any], wanted: Provenance) -> tuple[str, ...]:
    clauses = differing_fields(there["recorded"].get("image", {}), wanted.recorded["image"], ending="is here now")
    return tuple(f"the cache that is there was made with {clause}" for clause in clauses)
