"""Fits a method for use on a folder, a data set, a cache or features: checks the request, gets features, fits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.classifier.encoder_pair import decoder_of
from cafe.classifier.encoding import encode_like, open_again
from cafe.classifier.extracting import Prepared, prepare
from cafe.encoders.base import Encoder
from cafe.errors import InputError
from cafe.features import Features

if TYPE_CHECKING:
    from cafe.cache.extract.progress import ProgressCallback
    from cafe.classifier.final_fit import FinalFit


@dataclass(frozen=True)
class SourceFit:
    """A fit with the features that it was made on.

    Attributes
    ----------
    prepared : Prepared
        The features, and where they come from.
    final : FinalFit
        The fitted method, and how it did.
    """

    prepared: Prepared
    final: FinalFit

    @property
    def features(self) -> Features:
        """The features."""
        return self.prepared.features

    @property
    def decoder(self) -> str:
        """The decoder of JPEG files."""
        return decoder_of(self.features.provenance)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about how images were divided, what is odd about them, and what was tested and kept."""
        return (*filter(None, [self.prepared.division]), *self.prepared.notes, *self.final.notes)

    def encoder(self, device: str) -> Encoder | Callable[[], Encoder]:
        """Return the encoder if it is open, else a function that opens it and checks that it is the same."""
        return partial(open_again, self.features, device) if self.prepared.encoder is None else self.prepared.encoder

    def page(self) -> str:
        """Return the HTML report."""
        from cafe.classifier.reporting import fit_report
        from cafe.report.fit_page import fit_page

        return fit_page(fit_report(self.final, self.prepared.dataset, self.notes))


def fit_source(
    data: Features | Path | str | Sequence[Features | Path | str] | None,
    *,
    model: str | None,
    method: str | None,
    parameters: Mapping[str, Any] | None,
    shots: int | None,
    seed: int,
    selection: str,
    split: str | None,
    templates: Sequence[str] | str | None,
    unlabelled: Path | str | None,
    refit: bool | None,
    root: Path | str | None,
    device: str,
    dtype: str,
    promises: bool,
    compare: bool | Sequence[str],
    cache_dir: Path | str | None,
    progress: ProgressCallback | None,
    tell: Callable[[str], None] | None,
    check_features: Callable[[Features], None] | None,
) -> SourceFit:
    """Fit for use on a folder, a data set, a cache or features; see :meth:`Classifier.fit` for everything."""

    def check() -> None:  # once the data are found, so that a wrong path need not wait for torch
        from cafe.fitting import check_device_and_dtype, check_learns_unlabelled, chosen_method
        from cafe.methods import make_method

        name = chosen_method(method, parameters or {})
        make_method(name, **(parameters or {}))
        check_device_and_dtype(device, dtype, name)
        if unlabelled is not None:
            check_learns_unlabelled(name)

    prepared = prepare(
        data, model=model, split=split, templates=templates, root=root, device=device, cache_dir=cache_dir,
        progress=progress, tell=tell, check=check,
    )  # fmt: skip
    from cafe.classifier.final_fit import fit_for_use

    features = prepared.features
    if check_features is not None:
        check_features(features)
    say = tell or (lambda _: None)
    say(f"fitting on {sum(map(len, features.splits.values())):,} images of {len(features.class_names)} classes")
    final = fit_for_use(
        features, method, parameters, shots=shots, seed=seed, selection=selection, refit=refit, device=device,
        dtype=dtype, unlabelled=_unlabelled(unlabelled, features, device), unlabelled_name=str(unlabelled),
        promises=promises, compare=compare, tell=tell,
    )  # fmt: skip
    for note in final.notes:
        say(note)
    return SourceFit(prepared, final)


def _unlabelled(source: Path | str | None, features: Features, device: str) -> str | NDArray[np.floating[Any]] | None:
    """Return the name of the split of unlabelled images, or the features of the folder of them; None for none."""
    if source is None or source in features.splits:
        return None if source is None else str(source)
    if not Path(source).is_dir():
        raise InputError(
            f"unlabelled images are a split of the data set ({', '.join(features.splits)}) or a folder of images; "
            f"got {os.fspath(source)!r}"
        )
    return encode_like(features, source, device=device)
