"""The classifier of images: preprocessing and encoder of the features, and the method that was fitted on these."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cafe.classifier.encoder_pair import decoder_of, dtypes_of, encoders_of, model_names, open_encoders
from cafe.classifier.encoding import check_encoders, open_again, unlabelled_images
from cafe.classifier.image_classifier import ImageClassifier, ImageScores
from cafe.classifier.images import ImageInput
from cafe.classifier.out_of_fold import Promises, class_text, unknown_scores
from cafe.classifier.prediction import Array
from cafe.classifier.training_images import FitSource, TrainingImages, spread_over_classes, training_images
from cafe.compute import choose_device
from cafe.data.images.decoders import PILLOW
from cafe.encoders.base import Encoder
from cafe.encoders.opening import MINI, open_encoder
from cafe.errors import InputError
from cafe.evaluation.conformal import ConformalScore, conformal_threshold
from cafe.evaluation.unknown import FALSE_ALARMS
from cafe.files import cache_dir as cache_folder
from cafe.files import replacing
from cafe.last_used import note_use
from cafe.methods.inference.fitted import FittedMethod
from cafe.methods.inputs.cosines import cosine_logits, softmax
from cafe.prompts import GENERIC_TEMPLATE, class_embeddings, prompts, read_templates
from cafe.runs import (
    FITTED_IMAGES,
    PROMISES,
    REPORT_FILE,
    SCORING_FIT,
    find_run,
    load_to_predict,
    new_run_folder,
    state_sha256,
)
from cafe.runs import save as save_run
from cafe.sharing.model_card import write_card

if TYPE_CHECKING:
    from PIL import Image

    from cafe.cache.extract.progress import ExtractionSummary, ProgressCallback
    from cafe.classifier.extracting import Prepared
    from cafe.classifier.final_fit import FinalFit
    from cafe.features import Features
    from cafe.report.leaderboard import Leaderboard
    from cafe.sharing.onnx_export import ExportSummary

_N_COMPARED = 16  # training images on which an exported file is compared with torch, and half as many digits


class Scored(NamedTuple):
    """Scores of n images, by :meth:`Classifier.score`.

    Attributes
    ----------
    features : ndarray of shape (n, d)
        As the method reads them.
    probabilities : ndarray of shape (n, n_classes)
    unknown_scores : ndarray of shape (n,)
    zero_shot : ndarray of shape (n, n_classes) or None
        Probabilities by text alone; None where the fit started from means of images.
    """

    features: Array
    probabilities: Array
    unknown_scores: NDArray[np.float64]
    zero_shot: Array | None


class Classifier(ImageClassifier):
    """Names what is on images.

    Every image is cropped as the encoder's checkpoint says, encoded, and scored by the fitted method; memory grows with
    one batch of images, not with all. A classifier is made from images in folders, one for each class (:meth:`fit`),
    from a run that was saved (:meth:`load`), or from names alone (:meth:`zero_shot`).

    Parameters
    ----------
    estimator : fitted classifier
        Any method of cafe, fitted on features of the encoder.
    encoder : Encoder, or callable that returns one
        As of :func:`cafe.encoders.opening.open_encoder`; a callable is called once an image has to be encoded.
    class_names : sequence of str, default=None
        Names of the labels 0, 1, ... that the estimator was fitted on; None where its labels are names already.
    decoder : str, default="pillow"
        What decodes JPEG files, as for the features of the fit: one of :data:`cafe.data.images.decoders.DECODERS`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,), str
        Name of each column of :meth:`predict_proba`.
    estimator, decoder
        As given.
    encoder : Encoder
        Opened at first use.
    row : dict or None
        Results of the test, as a row of `cafe fit --json`; None where they are not known.
    run : Path or None
        The folder that the classifier was loaded from or saved to.
    fitted_images : frozenset of bytes or None
        SHA-256 of the image files that the classifier was fitted on, or its settings chosen by; None if not known.
    cache_dir : Path or None
        The folder in whose caches the features of images are looked for before these are encoded; None for nowhere.
    cache : Path or None
        The cache that the classifier was fitted on in this process; None elsewhere.
    caches : tuple of Path
        The same; two, where it was fitted on features of two encoders.
    extraction : ExtractionSummary or None
        Summary of the extraction, where fitting needed one.
    extractions : tuple of ExtractionSummary
        The same; two, where images were encoded by two encoders.
    contents : dict or None
        Contents of the folder that the classifier was fitted on: :meth:`cafe.data.contents.Contents.to_json`.
    promises : Promises or None
        Promises of new images: thresholds, temperature, sets; None where there are none, and ``no_promises`` says
        why.
    temperature : float
        Divisor of the method's logits; 1 where a temperature is not sure to make probabilities more honest.
    leaderboard : Leaderboard or None
        Results of other methods on the same test images, if :meth:`fit` was asked to compare; None elsewhere.
    notes : tuple of str
        Sentences about the fit: how images were divided, what the method was tested on, what was left out.

    Examples
    --------
    A classifier that has seen no image: zero-shot, from names alone.

    >>> import cafe
    >>> from cafe.data import open_dataset
    >>> names = ["one", "two", "three"]
    >>> classifier = cafe.Classifier.zero_shot(names, model="cafe:mini", templates="a photo of the number {}.")
    >>> digits = open_dataset("digits")
    >>> test = digits.splits["test"]
    >>> image = digits.image("test", int((test.labels == 2).argmax()))
    >>> print(*classifier.predict(image))
    two
    >>> classifier.predict_proba([image]).shape
    (1, 3)
    """

    def __init__(
        self,
        estimator: Any,
        encoder: Encoder | Callable[[], Encoder],
        class_names: Sequence[str] | None = None,
        *,
        decoder: str = PILLOW,
    ) -> None:
        self._fitted = estimator
        self.decoder = decoder
        self.row: dict[str, Any] | None = None
        self.run: Path | None = None
        self.fitted_images: frozenset[bytes] | None = frozenset()
        self._page: Callable[[], str] | None = None
        self.promises: Promises | None = None
        self.no_promises = "it was fitted without"
        self.leaderboard: Leaderboard | None = None
        self.notes: tuple[str, ...] = ()
        self.cache_dir: Path | None = None
        self.caches: tuple[Path, ...] = ()
        self.extractions: tuple[ExtractionSummary, ...] = ()
        self.contents: dict[str, Any] | None = None
        self._encoder = encoder
        self._opening = threading.Lock()  # images are read in several threads, the first of which opens the encoder
        self._features: Features | None = None
        self._source: FitSource | None = None
        self._image_fingerprint: str | None = None
        labels = estimator.classes_
        self.all_class_names = [str(name) for name in (labels if class_names is None else class_names)]
        self._labels = list(range(len(labels))) if class_names is None else [int(label) for label in labels]
        self.classes_: NDArray[np.str_] = np.array([self.all_class_names[label] for label in self._labels])

    @classmethod
    def fit(
        cls,
        data: Features | Path | str | Sequence[Features | Path | str] | None = None,
        *,
        model: str | None = None,
        method: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        shots: int | None = None,
        seed: int = 1,
        selection: str = "auto",
        split: str | None = None,
        templates: Sequence[str] | str | None = None,
        unlabelled: Path | str | None = None,
        refit: bool | None = None,
        root: Path | str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        promises: bool = True,
        compare: bool | Sequence[str] = False,
        cache_dir: Path | str | None = None,
        save: bool | Path | str = False,
        progress: ProgressCallback | None = None,
        tell: Callable[[str], None] | None = None,
        check_features: Callable[[Features], None] | None = None,
    ) -> Self:
        """Fit a classifier on a folder of images, or on features: extract, test once, keep a fit for use.

        Images are encoded once and kept in the cache folder; a run that was killed carries on where it was. Where
        cafe itself divided the images, the method is fitted once more on all labelled images after the test; where
        images are few, the test is a cross-validation. See :mod:`cafe.classifier.final_fit`.

        Parameters
        ----------
        data : Features, path, str, list of two of them, or None, default=None
            A folder with a folder of images for each class, any other source of ``docs/sources.md``, a name of
            `cafe datasets`; or a cache, by its file or name; or features in memory. None is the cache last used. A
            list of two caches or Features, of the same images by two encoders, is joined.
        model : str, default=None
            The encoder, or two, ``"A,B"``; None is that of the cache of this folder that was last used, else
            ``$CAFE_MODEL``, else ``cafe:mini``.
        method : str, default=None
            A name of `cafe methods`; None is ``auto``, and ``clip-adapter`` where parameters of its own are given.
        parameters : mapping, default=None
            The method's own keyword parameters.
        shots : int, default=None
            Training images per class; None for all.
        seed : int, default=1
            Of the draw and of training.
        selection : str, default="auto"
            Policy for parameters that are ``"auto"``; see :mod:`cafe.protocol.selection`.
        split : str, default=None
            Shares of train, val and test where the folder has none, such as ``"70/10/20"``; None is 50/20/30.
        templates : str or sequence of str, default=None
            As `cafe extract --templates` takes them.
        unlabelled : path or str, default=None
            Images without labels to learn from as well, for methods that do: a split, or a folder.
        refit : bool, default=None
            Whether to fit on all labelled images after the test; None as said above. False keeps the tested fit.
        root : path, default=None
            Folder that holds named data sets; None for ``$CAFE_DATA``.
        device, dtype : str, default="auto"
            Where and in what to train; images are encoded on the same device.
        promises : bool, default=True
            Whether to fit four times more, on parts of the images, for what it may promise of new ones:
            thresholds of unknown images, sets of classes, a temperature, labels that look wrong.
        compare : bool or sequence of str, default=False
            Whether to test other methods on the same test images (``leaderboard``): True all of `cafe methods` but
            those that train with the text tower, or the names of some. What is kept stays the method of this call.
        cache_dir : path, default=None
            Folder of caches and runs; None for ``$CAFE_CACHE``, else ``$XDG_CACHE_HOME/cafe``.
        save : bool or path, default=False
            Where to save the run: True is a new folder below the cache folder's ``runs``, as `cafe fit` does.
        progress : callable, default=None
            Of the extraction, as of :func:`cafe.cache.extract`.
        tell : callable, default=None
            Called with a sentence before each stage that may take long, and with each of ``notes``.
        check_features : callable, default=None
            Called with the features before the fit; an exception that it raises ends the call.

        Returns
        -------
        Classifier
            With ``row``, ``notes`` and, where it was saved, ``run``.

        Raises
        ------
        InputError
            If the data cannot be read, or an option does not go with them.

        Examples
        --------
        >>> import tempfile
        >>> import cafe
        >>> caches = tempfile.mkdtemp()
        >>> classifier = cafe.Classifier.fit("digits", method="zero-shot", cache_dir=caches)
        >>> classifier.row["n_test"], len(classifier.classes_)
        (546, 10)
        """
        from cafe.classifier.extracting import prepare

        prepared = prepare(
            data, model=model, split=split, templates=templates, root=root, device=device, cache_dir=cache_dir,
            progress=progress, tell=tell,
            check=partial(_check_request, method, parameters or {}, device, dtype, unlabelled is not None),
        )  # fmt: skip
        from cafe.classifier.final_fit import fit_for_use

        features = prepared.features
        if check_features is not None:
            check_features(features)
        say = tell or (lambda _: None)
        say(f"fitting on {sum(map(len, features.splits.values())):,} images of {len(features.class_names)} classes")
        final = fit_for_use(
            features, method, parameters, shots=shots, seed=seed, selection=selection, refit=refit, device=device,
            dtype=dtype, unlabelled=unlabelled_images(unlabelled, features, device), unlabelled_name=str(unlabelled),
            promises=promises, compare=compare, tell=tell,
        )  # fmt: skip
        for note in final.notes:
            say(note)
        encoder = partial(open_again, features, device) if prepared.encoder is None else prepared.encoder
        classifier = cls(final.estimator, encoder, features.class_names, decoder=decoder_of(features.provenance))
        classifier._take_results(prepared, final)
        classifier._source = FitSource.of(data, root, split, prepared.paths)
        classifier.cache_dir = cache_folder(cache_dir)
        if save is not False:
            classifier.save(None if save is True else save, cache_dir=cache_dir)
        return classifier

    def _take_results(self, prepared: Prepared, final: FinalFit) -> None:
        """Take all results of a fit but its estimator: row, promises, notes, features, extraction."""
        self.row, self.fitted_images = final.row, final.fitted_images
        self.promises, self.no_promises = final.promises, final.no_promises
        self.leaderboard, self.contents = final.leaderboard, prepared.contents
        self.notes = (*filter(None, [prepared.division]), *prepared.notes, *final.notes)
        self.caches, self.extractions = prepared.paths, prepared.summaries
        self._features = prepared.features
        self._image_fingerprint = prepared.features.provenance.get("image_fingerprint")

        def page() -> str:
            from cafe.classifier.reporting import fit_report
            from cafe.report.fit_page import fit_page

            return fit_page(fit_report(final, prepared.dataset, self.notes))

        self._page = page

    @classmethod
    def load(
        cls,
        run: Path | str | None = None,
        *,
        model: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        cache_dir: Path | str | None = None,
    ) -> Self:
        """Open a run that `cafe fit`, :meth:`save` or :func:`cafe.runs.save` wrote, and its encoder.

        Parameters
        ----------
        run : path, str or None, default=None
            Its folder; or its name below the cache folder's ``runs``, such as ``"demo/fit"``; None for the run last
            used or made.
        model : str, default=None
            Where the encoder is now, if it has moved: a name, folder or hub id; ``"A,B"`` for a run of two encoders;
            None for what the run names.
        device, dtype : str, default="auto"
            Where and in what images are encoded, as :func:`cafe.encoders.opening.open_encoder` takes them; on a CPU
            ``"auto"`` is the dtype of the features that the run was fitted on, and float32 for a few images.
        cache_dir : path, default=None
            Folder of caches and runs; None for ``$CAFE_CACHE``, else ``$XDG_CACHE_HOME/cafe``.

        Returns
        -------
        Classifier

        Raises
        ------
        InputError
            If there is no such run; if it names no encoder or no classes; or if the encoder cannot be opened, or has
            other weights or another preprocessing than the one that the run was fitted with. A different dtype does
            not count.

        Warns
        -----
        UserWarning
            If the run was fitted on imported features: of their encoder there is only the name that a user gave, so
            that whether it is the right one cannot be checked.
        """
        folder = find_run(run, cache_folder(cache_dir))
        estimator = load_to_predict(folder)
        saved = estimator.run_
        if not saved.get("encoder") or not saved.get("class_names"):
            raise InputError(f"the run {folder} names no encoder and no classes, so it cannot name what is on an image")
        made_in = dtypes_of(saved["provenance"]) if choose_device(device) == "cpu" else None
        try:
            encoder = open_encoders(_encoder_names(saved, model, folder), device, dtype, made_in)
        except InputError as error:
            if model is not None:
                raise
            raise InputError(
                f"the run {folder} needs its encoder: {error}; say where it is now with --model"
            ) from error
        check_encoders(saved["provenance"], encoder)
        classifier = cls(estimator, encoder, saved["class_names"], decoder=decoder_of(saved["provenance"]))
        classifier.run = folder
        classifier.cache_dir = cache_folder(cache_dir)
        classifier.row = saved.get("row")
        classifier._source = FitSource.read(folder)
        classifier._image_fingerprint = saved["provenance"].get("image_fingerprint")
        if SCORING_FIT in saved and PROMISES in saved:
            classifier.promises = Promises.from_saved(saved[PROMISES], saved[SCORING_FIT])
        why = (classifier.row or {}).get("no_promises")
        classifier.no_promises = str(why or "its run does not say why; it may be of an older cafe")
        hashes = saved.get(FITTED_IMAGES)
        classifier.fitted_images = None if hashes is None else frozenset(row.tobytes() for row in hashes)
        note_use(cache_folder(cache_dir), "runs", folder)
        return classifier

    @classmethod
    def from_pretrained(
        cls,
        repo: str,
        *,
        revision: str | None = None,
        model: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        cache_dir: Path | str | None = None,
    ) -> Self:
        """Open a run that was pushed to the Hub by `cafe push`; it is fetched once.

        Parameters
        ----------
        repo : str
            ``"owner/name"``.
        revision : str, default=None
            A branch, tag or commit; None is the newest.
        model, device, dtype, cache_dir
            As of :meth:`load`.

        Raises
        ------
        InputError
            If there is no such repository, or it holds no run; or as :meth:`load`.
        CafeError
            If the Hub cannot be reached.
        """
        from cafe.sharing.hub import fetch_run

        folder = fetch_run(repo, revision)
        return cls.load(folder, model=model, device=device, dtype=dtype, cache_dir=cache_dir)

    @classmethod
    def zero_shot(
        cls,
        classes: Sequence[str],
        *,
        model: str | None = None,
        templates: Sequence[str] | str | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> Self:
        """Make a classifier from the names of classes alone: no run, no label, no image.

        Parameters
        ----------
        classes : sequence of str
            At least two names, all different.
        model : str, default=None
            The encoder; None is ``$CAFE_MODEL``, else ``cafe:mini``.
        templates : str or sequence of str, default=None
            As `cafe extract --templates` takes them; None is ``"a photo of a {}."``.
        device, dtype : str, default="auto"
            Where and in what to encode.

        Returns
        -------
        Classifier

        Raises
        ------
        InputError
            If there are fewer than two names, one of them is empty or given twice, or the encoder has no text tower.
        """
        from cafe.methods.zero_shot import ZeroShot

        names = [str(name).strip() for name in classes]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if len(names) < 2 or "" in names or repeated is not None:
            given = f"{len(names)}: {', '.join(names)}" if all(names) else "an empty one"
            if repeated:
                given = f"{repeated!r} twice"
            raise InputError(f"classes are at least two names that differ, such as cat,dog; got {given}")
        encoder = open_encoder(model or os.environ.get("CAFE_MODEL") or MINI, device, dtype)
        texts = read_templates([templates] if isinstance(templates, str) else templates) or [GENERIC_TEMPLATE]
        text = encoder.encode_text(prompts(texts, names)).reshape(len(texts), len(names), -1)  # (m, c, d)
        embeddings = class_embeddings(text)  # (c, d)
        method = ZeroShot(embeddings, classes=names, logit_scale=encoder.logit_scale)
        return cls(method.fit(embeddings, names), encoder)

    @property
    def cache(self) -> Path | None:
        """The cache that it was fitted on in this process, the first of two; None elsewhere."""
        return next(iter(self.caches), None)

    @property
    def extraction(self) -> ExtractionSummary | None:
        """The summary of the extraction, the first of two, where fitting needed one; None elsewhere."""
        return next(iter(self.extractions), None)

    @property
    def temperature(self) -> float:
        """The divisor of logits; 1 where a temperature is not sure to make probabilities more honest."""
        return 1.0 if self.promises is None else self.promises.temperature

    @property
    def why_nothing_is_unknown(self) -> str:
        """Why no image is called unknown unless a rate is asked for; empty where there is a threshold."""
        if self.promises is None:
            return self.no_promises
        if self.promises.reaches(FALSE_ALARMS):
            return ""
        return f"there are too few images for a threshold at a rate of false alarms of {FALSE_ALARMS:g}"

    @property
    def estimator(self) -> Any:
        """The fitted method as a scikit-learn classifier, made at first use if the classifier was loaded from a run."""
        if isinstance(self._fitted, FittedMethod):
            self._fitted = self._fitted.estimator()
        return self._fitted

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder; opened at first use."""
        with self._opening:
            if not isinstance(self._encoder, Encoder):
                self._encoder = self._encoder()
            return self._encoder

    def save(self, folder: Path | str | None = None, *, cache_dir: Path | str | None = None) -> Path:
        """Save the classifier as a run, which :meth:`load` and ``cafe predict`` take.

        Parameters
        ----------
        folder : path, default=None
            Made if it is not there; None is a new folder below the cache folder's ``runs``.
        cache_dir : path, default=None
            Folder of caches and runs; None for ``$CAFE_CACHE``, else ``$XDG_CACHE_HOME/cafe``.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        InputError
            If the classifier was not made by :meth:`fit`, or the folder cannot be written to.
        """
        if self._features is None or self.row is None:
            raise InputError("this classifier was not made by Classifier.fit, so there is nothing to save it from")
        caches = cache_folder(cache_dir)
        target = new_run_folder(caches, self.row) if folder is None else Path(folder)
        save_run(
            self.estimator,
            target,
            row=self.row,
            features=self._features,
            fitted_images=self.fitted_images or (),
            promises=None if self.promises is None else self.promises.to_save(),
            scoring_fit=None if self.promises is None else self.promises.scoring_fit,
        )
        if self._page is not None:
            with replacing(target / REPORT_FILE) as temporary:
                temporary.write_text(self._page(), encoding="utf-8")
        if self._source is not None:
            self._source.write(target)
        write_card(target)
        self.run = target
        note_use(caches, "runs", target)
        return target

    def encode(self, crops: NDArray[np.uint8]) -> Array:
        """Encode images that are cropped already as one batch; a server that makes its own batches calls it.

        Parameters
        ----------
        crops : ndarray of shape (n, height, width, 3), uint8
            As ``encoder.cropper`` makes them.

        Returns
        -------
        ndarray of shape (n, d)
            Features as the method reads them.
        """
        encode = self.encoder.encode_images_unprojected if self._is_unprojected else self.encoder.encode_images
        features = encode(crops)
        return features[1] if isinstance(features, tuple) else features

    def score(self, features: Array) -> Scored:
        """Score images that are encoded already.

        Parameters
        ----------
        features : ndarray of shape (n, d)
            Of :meth:`encode`.

        Returns
        -------
        Scored
        """
        probabilities = self.estimator.predict_proba(features)
        if self.promises is not None:
            probabilities = self.promises.calibrated(probabilities)
        text = class_text(self.estimator, features.shape[1])
        zero_shot = None if text is None else softmax(cosine_logits(features, text, self.encoder.logit_scale))
        return Scored(features, probabilities, self._unknown_scores(features), zero_shot)

    def unknown_threshold(self, unknown: float | Literal["auto"] = "auto") -> float | None:
        """Return the score above which an image is called unknown; see the base class."""
        if isinstance(unknown, float):
            return self._require_promises("threshold of unknown images").threshold(unknown)
        if self.promises is not None and self.promises.reaches(FALSE_ALARMS):
            return self.promises.threshold(FALSE_ALARMS)
        return None

    def export_onnx(self, out: Path | str) -> ExportSummary:
        """Write the classifier as one ONNX file: image tower, head and softmax; metadata say how to use it.

        Before the file takes its name, ONNX Runtime is compared with torch on real images: training images, where
        they are on this machine, and handwritten digits. :mod:`cafe.sharing.onnx_export` says what is in it.

        Parameters
        ----------
        out : path
            The file; one that is there is replaced.

        Returns
        -------
        ExportSummary

        Raises
        ------
        InputError
            If what the method says of an image depends on others, or images are prepared by more than Pillow.
        CafeError
            If a probability differs by more than 1e-4 from torch's.
        MissingDependencyError
            If onnx or onnxruntime is not installed.
        """
        from cafe.sharing.heads import check_exportable
        from cafe.sharing.onnx_export import export_onnx, import_onnx
        from cafe.sharing.onnx_graph import Promised

        check_exportable(self.estimator)
        import_onnx()
        encoder = self.encoder
        parts = encoders_of(encoder)
        in_float32 = all((part.device, part.dtype) == ("cpu", "float32") for part in parts)
        if not in_float32 and all("float32" in part.dtypes for part in parts):
            encoder = open_encoders([part.id for part in parts], "cpu", "float32")
        promises, width = self.promises, int(self.estimator.n_features_in_)
        no_means = np.zeros((0, width), np.float32)
        promised = Promised(class_text(self.estimator, width), no_means if promises is None else promises.means)
        if promises is not None:
            promised = replace(
                promised,
                temperature=promises.temperature,
                unknown_scores=promises.unknown_scores,
                own_scores=promises.own_scores["lac"],
                scoring_fit=promises.scoring_fit,
                thresholds=promises.thresholds(),
            )
        return export_onnx(
            Path(out), self.estimator, encoder, self.classes_.tolist(), promised, self._images_to_compare_on(),
            decoder=self.decoder, row=self.row, all_class_names=self.all_class_names, set_columns=self._labels,
        )  # fmt: skip

    def _images_to_compare_on(self) -> list[Image.Image]:
        """Return real images: training images, where they are on this machine, and handwritten digits."""
        from cafe.data.opening import open_dataset

        own = self.training_images()
        rows = () if own is None else spread_over_classes(own.labels, _N_COMPARED)
        pictures = [] if own is None else [own.picture(row) for row in rows]
        digits = open_dataset("digits")
        return [
            *(picture for picture in pictures if picture is not None),
            *(digits.image("test", i) for i in range(_N_COMPARED // 2)),
        ]

    def training_images(self) -> TrainingImages | None:
        """Return the training images with their features; None where they are not on this machine."""
        return training_images(
            self._source, self._image_fingerprint, self.fitted_images, unprojected=self._is_unprojected
        )

    @property
    def _is_unprojected(self) -> bool:
        """Whether the method reads features before the encoder's projection."""
        return getattr(self.estimator, "projection", None) is not None

    def report(self) -> str:
        """Return the report of the fit, the page ``report.html`` of its run.

        Returns
        -------
        str
            HTML, self-contained.

        Raises
        ------
        InputError
            If the classifier was neither fitted in this process nor saved with a report.
        """
        if self._page is not None:
            return self._page()
        if self.run is None or not (self.run / REPORT_FILE).is_file():
            raise InputError("there is no report of this classifier; `cafe fit` writes one beside the run")
        return (self.run / REPORT_FILE).read_text(encoding="utf-8")

    def _scores(self, images: Iterable[ImageInput]) -> Iterator[ImageScores]:
        """Score images by the fitted method, after the temperature; see the base class."""
        from cafe.classifier.scoring import score_images

        for scores in score_images(images, self.encoder, self._fitted, self.decoder, self.cache_dir):
            if scores.image.unreadable is None and self.promises is not None:
                yield scores._replace(probabilities=self.promises.calibrated(scores.probabilities[None])[0])
            else:
                yield scores

    def _unknown_score(self, detail: Array) -> float:
        """Return the unknown score of an image from its features."""
        return float(self._unknown_scores(detail[None])[0])

    def _unknown_scores(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Return the unknown scores of features (n, d), by text and by the class means of the fit."""
        means = np.zeros((0, features.shape[1]), np.float32) if self.promises is None else self.promises.means
        return unknown_scores(features, class_text(self._fitted, features.shape[1]), means)

    def _require_promises(self, kind: str) -> Promises:
        """Return the promises, or raise InputError where there are none of this kind."""
        if self.promises is None:
            raise InputError(f"this classifier has no {kind}: {self.no_promises}")
        return self.promises

    def _check_coverage(self, coverage: float, score: ConformalScore) -> None:
        """Raise InputError where images were too few for sets of this coverage."""
        conformal_threshold(self._require_promises("sets of classes").own_scores[score], coverage)

    def _classes_in_set(self, detail: Array, best: int, coverage: float, score: ConformalScore) -> NDArray[np.bool_]:
        """Return which classes are in the set of an image, from its features; see the base class."""
        promises = self._require_promises("sets of classes")
        inside: NDArray[np.bool_] = promises.sets(
            detail[None], np.array([best]), len(self.all_class_names), coverage, score
        )[0]
        return inside

    def _batch_size(self) -> int:
        """Return the encoder's batch size."""
        return self.encoder.batch_size

    def _prediction_identity(self) -> dict[str, Any]:
        """Return a hash of the method, and what else predictions depend on; see the base class."""
        encoder = self.encoder
        return {
            "method": state_sha256(self._fitted),
            "classes": self.classes_.tolist(),
            "encoder": [encoder.identity()["image"], encoder.device, encoder.dtype, encoder.batch_size, self.decoder],
            "temperature": self.temperature,
        }

    def _facts(self) -> dict[str, str]:
        """Return what ``repr`` and notebooks show: method, classes, encoder, accuracy, run."""
        shown = ", ".join(self.classes_[:6]) + (f", ... ({len(self.classes_)})" if len(self.classes_) > 6 else "")
        facts = {"method": getattr(self._fitted, "class_name", type(self._fitted).__name__), "classes": shown}
        if isinstance(self._encoder, Encoder):
            facts["encoder"] = self._encoder.id
        elif self.row is not None:
            facts["encoder"] = str(self.row.get("encoder", ""))
        if self.row is not None and self.row.get("acc1") is not None:
            facts["accuracy"] = f"{100 * self.row['acc1']:.1f} % on {self.row['n_test']:,} images"
        if self.run is not None:
            facts["run"] = str(self.run)
        return facts

    def __repr__(self) -> str:
        facts = self._facts()
        where = f", run={facts['run']!r}" if "run" in facts else ""
        return f"Classifier({facts['method']} on {facts.get('encoder', '')!r}, {len(self.classes_)} classes{where})"

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        rows = "".join(
            f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in self._facts().items()
        )
        return f"<table><caption>cafe classifier</caption>{rows}</table>"


def _check_request(
    method: str | None, parameters: Mapping[str, Any], device: str, dtype: str, with_unlabelled: bool
) -> None:
    """Refuse a method, parameters, device or precision that cannot be had, before images are read.

    Torch is imported only here, so that an error about the data need not wait for it.

    Raises
    ------
    InputError
        Saying what is wrong.
    """
    from cafe.fitting import check_device_and_dtype, check_learns_unlabelled, chosen_method
    from cafe.methods import make_method

    name = chosen_method(method, parameters)
    make_method(name, **parameters)
    check_device_and_dtype(device, dtype, name)
    if with_unlabelled:
        check_learns_unlabelled(name)


def _encoder_names(saved: Mapping[str, Any], model: str | None, folder: Path) -> list[str]:
    """Return the names of a run's encoders: as it has them, or where a user says they are now.

    Raises
    ------
    InputError
        If the user names another number of them.
    """
    names = [str(name) for name in saved.get("encoders") or [saved["encoder"]]]
    if model is None:
        return names
    moved = model_names(model) if len(names) > 1 else [model]
    if len(moved) != len(names):
        raise InputError(
            f"the run {folder} is of two encoders, {' and '.join(names)}; --model takes both, as A,B; got {model!r}"
        )
    return moved
