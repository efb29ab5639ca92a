"""What all methods share: labels, class embeddings, normalisation, and inference from logits.

A method subclasses :class:`FewShotClassifier`, has its parameters as fields of a dataclass (or stores them in an
``__init__`` of its own) and writes two functions:
``_fit_rows`` (learn from checked arrays) and ``_logits`` (score rows). Methods whose fits can share work write
``_fit_problems`` instead of the first; what the trainer trains is a
:class:`~cafe.methods.objectives.base.TrainedClassifier`.

Letters: n samples, d feature width, c classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from cafe.arrays import on_device, on_host
from cafe.compute import choose_device, choose_device_for, exact_products
from cafe.errors import InputError
from cafe.features import array_summary
from cafe.methods.inference.scores import check_finite, entry_text, text_like
from cafe.methods.inputs.cosines import Array, cosine_logits, softmax, unit_length
from cafe.methods.inputs.parameters import Constraint, Number, check_parameters, method_name
from cafe.methods.inputs.problem import CheckedArrays, Problem, problems_of, widen
from cafe.methods.inputs.stored_rows import why_no_room
from cafe.methods.many import fit_many
from cafe.protocol.selection import mildest, published_start, resolve_automatic

# A method imports what it needs from this module alone.
__all__ = [
    "Array", "CheckedArrays", "FewShotClassifier", "Problem", "TransductiveClassifier", "cosine_logits", "softmax",
    "unit_length",
]  # fmt: skip


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Base of all methods; see the module's docstring.

    Attributes
    ----------
    classes_ : ndarray of shape (c,)
        Labels, one per row of the class embeddings, whether seen in training or not.
    class_embeddings_ : ndarray of shape (c, d)
        What the method started from: text, or class means.
    embedding_source_ : str
        ``"text"`` or ``"class-means"``.
    n_features_in_ : int
        d.
    kernel_ : str
        The path that really ran.
    device_ : str
        Where it learned, and where it scores rows while that device is there.
    """

    expected_failed_checks: ClassVar[dict[str, str]] = {}
    # Why features of two encoders (cafe.features.Features.join) cannot be learned from; empty where they can be.
    one_encoder: ClassVar[str] = ""
    # Values tried where a parameter is "auto", by parameter name.
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {}
    # What each parameter may be, beside "auto" where it has a grid; base classes' tables hold too.
    constraints: ClassVar[dict[str, Constraint]] = {"logit_scale": Number(0, above=True)}

    _runs_on_mps: ClassVar[bool] = False

    class_embeddings: ArrayLike | None
    classes: ArrayLike | None
    normalize: bool
    logit_scale: float
    device: str

    # ------------------------------------------------------------------ learning

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn from image features and labels.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Image features, as the encoder returned them; float16 is computed in float32.
        y : array-like of shape (n,)
            Labels: values of ``classes``, or integers 0 to c - 1 where only ``class_embeddings`` is given.

        Returns
        -------
        self
        """
        type(self).fit_grid([self], X, y, None)
        return self

    @classmethod
    def fit_grid(
        cls, estimators: Sequence[Any], X: ArrayLike, y: ArrayLike, rows: Sequence[NDArray[np.int64]] | None
    ) -> None:
        """Fit several estimators of this class in place, each on its own rows of the same arrays."""
        for estimator in estimators:
            estimator._check_parameters()
        problems = problems_of(estimators, X, y, rows)
        for estimator, problem in zip(estimators, problems, strict=True):
            estimator._choose_device(problem)
            estimator._choose(problem)
        cls._fit_where_chosen(estimators, problems)

    @classmethod
    def _fit_where_chosen(cls, estimators: Sequence[Any], problems: Sequence[Problem]) -> None:
        """Fit each estimator on its problem, with exact products on the device that was chosen for it."""
        with exact_products("cuda" if any(estimator.device_.startswith("cuda") for estimator in estimators) else "cpu"):
            cls._fit_problems(estimators, problems)

    def _choose_device(self, problem: Problem) -> None:
        """Set ``device_``: as asked for, or by the size of the problem. Raises InputError."""
        n, d = len(problem.rows), problem.base.X.shape[1]
        work = self._multiply_adds(n, d, len(problem.base.class_embeddings))
        # A method that a user wrote may have no parameter of that name.
        asked = getattr(self, "device", "cpu")
        self.device_ = choose_device_for(asked, work)
        if why := why_no_room(problem.base.X, self.device_):
            if asked != "auto":
                raise InputError(why)
            self.device_ = "cpu"
        if self.device_ == "mps" and not self._runs_on_mps:
            if asked != "auto":
                raise InputError(f"{method_name(self)} computes in float64, which mps has not; use device='cpu'")
            self.device_ = "cpu"

    def _multiply_adds(self, n: int, d: int, c: int) -> float:
        """Return an estimate of what learning from n rows costs; it decides where ``device="auto"`` computes."""
        return float(n) * d * c

    def _check_parameters(self) -> None:
        """Check parameters before anything is read. Raises InputError."""
        check_parameters(self)

    def starting_embeddings(self) -> ArrayLike | None:
        """Return what the method starts from, (c, d), or None for class means."""
        return self.class_embeddings

    def _choose(self, problem: Problem) -> None:
        """Set ``name_`` for every parameter that may be ``"auto"``: as given, or chosen on the training rows."""
        if self.grid:
            chosen = resolve_automatic(self, problem, fit_many)
            for name in self.grid:
                setattr(self, f"{name}_", getattr(chosen, name))

    @classmethod
    def _fit_problems(cls, estimators: Sequence[Any], problems: Sequence[Problem]) -> None:
        """Fit each estimator on its problem; methods whose fits can share work override it."""
        for estimator, problem in zip(estimators, problems, strict=True):
            estimator._fit_rows(problem)

    def _fit_rows(self, problem: Problem) -> None:
        """Learn from checked arrays; sets attributes that end in an underscore."""
        raise TypeError(f"{type(self).__name__} must say how it learns")

    def learns_from_images(self, has_text: bool) -> bool:
        """Return whether training images change a prediction, with class embeddings of text or without."""
        return True

    def chosen_on(self) -> str:
        """Return which data beside its shots the fitted method itself made choices on: ``"nothing"`` for most.

        ``"cross-validation"`` where it holds rows of the shots out, ``"unlabelled rows"``, or ``"the batch"`` where a
        prediction depends on the images it is made with. What a selection policy chose is not meant here: rows say both
        (:func:`cafe.fitting.chosen_on`).
        """
        return "nothing"

    def row_extras(self) -> dict[str, Any]:
        """Return further fields for the row of results of this fitted method, as JSON; none for most methods."""
        return {}

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        """Return the parameters that are not at their defaults; arrays show their shape, long lists their length."""
        everything = not get_config()["print_changed_only"]
        defaults = {name: p.default for name, p in signature(type(self)).parameters.items()}
        shown = [
            f"{name}={_short(value)}"
            for name, value in self.get_params(deep=False).items()
            if everything or isinstance(value, np.ndarray) or repr(value) != repr(defaults[name])
        ]
        return f"{type(self).__name__}({', '.join(shown)})"[:N_CHAR_MAX]

    # ------------------------------------------------------------------ choosing

    def automatic(self) -> list[str]:
        """Return the names of the parameters that have a grid and are ``"auto"``: a selection policy chooses them."""
        return [
            name
            for name, value in self.get_params(deep=False).items()
            if isinstance(value, str) and value == "auto" and name in self.grid
        ]

    def varied(self, **changes: Any) -> Self:
        """Return an unfitted copy with some parameters changed.

        Unlike scikit-learn's ``clone`` it shares the arrays among its parameters: hundreds of candidates with the
        embeddings of 1,000 classes need one copy of these, not hundreds.
        """
        return type(self)(**{**self.get_params(deep=False), **changes})

    def search(self, score: Callable[[list[Any]], list[float]]) -> Any:
        """Choose the values of all parameters that are ``"auto"``.

        Parameters
        ----------
        score : callable
            Takes unfitted candidates, fits them, and returns the accuracy of each on rows that they were not fitted
            on. It is made by a selection policy; nothing here sees a row of any split.

        Returns
        -------
        classifier
            The best candidate, unfitted; of equals the mildest, see :mod:`cafe.protocol.selection`.
        """
        from itertools import product

        start = published_start(self)
        names = list(start)
        grids = ([*self.grid[name], *([] if start[name] in self.grid[name] else [start[name]])] for name in names)
        candidates = [self.varied(**dict(zip(names, values, strict=True))) for values in product(*grids)]
        scores = score(candidates)
        return mildest(self, candidates, scores, score)

    # ------------------------------------------------------------------ other classes

    def for_classes(self, class_embeddings: ArrayLike, class_names: Sequence[str] | None = None) -> Self:
        """Return this fitted method scoring other classes, which it has never seen an image of.

        Methods whose trained part belongs to no class override it.

        Parameters
        ----------
        class_embeddings : array-like of shape (c, d)
            One row for each new class; labels are then 0 to c - 1.
        class_names : sequence of str, default=None
            Their names, for methods that run the text tower.

        Raises
        ------
        InputError
            If what was trained belongs to the classes trained on; the message says so.
        """
        raise InputError(
            f"{type(self).__name__} learned weights that belong to the classes it was trained on; "
            "it cannot score classes that it has no image of"
        )

    def _with_embeddings(self, class_embeddings: ArrayLike) -> Self:
        """Return a copy whose class embeddings and labels are those given."""
        from copy import copy

        embeddings: Array = np.asarray(class_embeddings, dtype=self.class_embeddings_.dtype)
        if embeddings.ndim != 2 or embeddings.shape[1] != self.n_features_in_:
            raise InputError(
                f"class_embeddings must be (classes, {self.n_features_in_}), but its shape is {embeddings.shape}"
            )
        other = copy(self)
        other.class_embeddings_, other.classes_ = embeddings, np.arange(len(embeddings))
        return other

    # ------------------------------------------------------------------ inference

    def _entry_text(self, dtype: Any) -> Array:
        """Return the class embeddings as they enter the method, (c, d): of unit length if ``normalize``."""
        return entry_text(self, dtype)

    def _text_like(self, X: Array) -> Array:
        """Return :meth:`_entry_text` in X's dtype, where X is."""
        return text_like(self, X)

    def _logits(self, X: Array) -> Array:
        """Score checked, normalised rows (n, d): logits (n, c) in X's dtype, as a tensor where X is one."""
        raise TypeError(f"{type(self).__name__} must say how it scores")

    def logits(self, X: ArrayLike) -> Array:
        """Return the score of every class for every row.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Image features.

        Returns
        -------
        ndarray of shape (n, c)
            In X's float dtype (float32 for float16); their softmax is ``predict_proba``.
        """
        check_is_fitted(self)
        checked: Array = validate_data(self, widen(X), reset=False, dtype=[np.float32, np.float64])
        device = self._scoring_device()
        with exact_products(device):
            rows: Array = on_device(checked, device)
            logits = on_host(self._logits(unit_length(rows) if self._scales_rows() else rows))
        return check_finite(type(self).__name__, logits)

    def _scoring_device(self) -> str:
        """Return the GPU that the method learned on while it is there, else the CPU, which any saved run can use."""
        device = getattr(self, "device_", "cpu")
        if not device.startswith("cuda"):
            return "cpu"
        try:
            return choose_device(device)
        except InputError:
            return "cpu"

    def _scales_rows(self) -> bool:
        """Return whether rows to be scored are scaled to length one on entry."""
        return self.normalize

    def decision_function(self, X: ArrayLike) -> Array:
        """Return logits (n, c); for two classes the difference of the second and the first, (n,)."""
        logits = self.logits(X)
        if logits.shape[1] == 2:
            difference: Array = logits[:, 1] - logits[:, 0]
            return difference
        return logits

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the probability of every class for every row, (n, c)."""
        return softmax(self.logits(X))

    def predict(self, X: ArrayLike) -> Array:
        """Return the most probable label of every row, (n,)."""
        best = self.logits(X).argmax(axis=1)  # before classes_ is read: it raises NotFittedError
        labels: Array = self.classes_[best]
        return labels


class TransductiveClassifier(FewShotClassifier):
    """Base of the methods that solve for all rows of a batch together, each time they predict."""

    transductive: ClassVar[bool] = True
    expected_failed_checks: ClassVar[dict[str, str]] = {
        "check_methods_subset_invariance": (
            "transductive: what is predicted for a row depends on the rows it is predicted with"
        )
    }

    def chosen_on(self) -> str:
        """Return that a prediction depends on its batch; see the base class."""
        return "the batch"

    def row_extras(self) -> dict[str, Any]:
        """Return that the row is transductive."""
        return {"transductive": True}


def _short(value: Any) -> str:
    """Return a parameter's value for a ``repr``, in one line."""
    if isinstance(value, np.ndarray):
        return array_summary(value)
    if isinstance(value, (list, tuple)) and len(value) > 6:
        return f"{type(value).__name__} of {len(value)}"
    return " ".join(repr(value).split())
