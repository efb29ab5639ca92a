"""CoOp: learned context words in front of the class names."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.encoders.text_towers.base import TextTower
from cafe.errors import InputError
from cafe.methods.base import Array, Problem
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Choice, Constraint, Number, seed_of
from cafe.methods.learned_prompts.prompts import CLASS_TOKENS
from cafe.methods.learned_prompts.tower import Towers, open_tower
from cafe.methods.objectives.base import Result, TrainedClassifier, TrainingGroup
from cafe.methods.objectives.coop import ContextObjective
from cafe.prompts import GENERIC_TEMPLATE, prompts
from cafe.training.trainer import Configuration

METHOD = "coop"

# Checks of scikit-learn that fit a bare CoOp() on any data. Those that refuse bad data pass.
FITTING_CHECKS = [
    "classifier_data_not_an_array",
    "classifiers_classes",
    "classifiers_one_label",
    "classifiers_train",
    "decision_proba_consistency",
    "dict_unchanged",
    "dont_overwrite_parameters",
    "dtype_object",
    "estimators_dtypes",
    "estimators_fit_returns_self",
    "estimators_nan_inf",
    "estimators_overwrite_params",
    "estimators_pickle",
    "f_contiguous_array_estimator",
    "fit2d_1feature",
    "fit2d_1sample",
    "fit2d_predict1d",
    "fit_check_is_fitted",
    "fit_idempotent",
    "fit_score_takes_y",
    "methods_sample_order_invariance",
    "methods_subset_invariance",
    "n_features_in",
    "n_features_in_after_fitting",
    "pipeline_consistency",
    "positive_only_tag_during_fit",
    "readonly_memmap_input",
    "supervised_y_2d",
]
NEEDS_TOWER = "trains prompts through a live text tower (text_tower=, class_names=), which the check does not give"


@dataclass(eq=False, repr=False)
class CoOp(TrainedClassifier):
    """Learn context vectors v of the prompt "v_1 ... v_M NAME." through the frozen text tower.

    ::

        W_j    = text tower( [start] v_1 ... v_M NAME_j . [end] )
        logits = logit_scale  f/|f| . W_j/|W_j|

    trained by cross-entropy on cached image features. Every step encodes a prompt for every class and goes back
    through the tower, so that a fit costs (steps) x (classes) x (one prompt forwards and backwards), and seconds
    only where classes are few and the tower is small: docs/methods.md has what a step costs. After ``fit`` the
    class embeddings are stored; predicting and saving need no tower.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        Hand-written prompts' embeddings, for ``class_embeddings_`` only: nothing is trained from them. None
        encodes "a photo of a NAME." with the tower.
    class_names : sequence of str of length c, default=None
        What stands in the prompts, in the order of the classes; None for ``classes``, where these are strings.
    text_tower : str or object, default=None
        The tower: a model id or folder as :func:`cafe.encoders.open_encoder` takes it, an encoder, or a
        :class:`~cafe.encoders.text_towers.base.TextTower`; of transformers, or of open_clip where its text side is a
        causal transformer of open_clip's own. It has to be the one that encoded the images. Only a string can be
        saved with the fitted method: ``cafe.runs.save`` refuses another. None is refused by ``fit``.
    text_tower_sha256 : str, default=None
        Hash that the tower's weights must have; the command line passes the cache's. None takes any.
    n_context : int, default=16
        Context vectors M; the paper has 16 and 4.
    class_token : {"end", "middle"}, default="end"
        Where the class name stands.
    class_specific : bool, default=False
        One context for every class (CSC in the paper) instead of one for all.
    context_init : str, default=None
        Words such as ``"a photo of a"`` to start from; they then set M. None draws N(0, 0.02).
    epochs : float, default=None
        Passes over the training rows; None for the paper's 50, 100 or 200 for 1, 2 to 4, or more shots, and 50
        from 1,000 classes on.
    warmup_epochs : float, default=1
        Passes at a constant learning rate of 1e-5 before the cosine starts.
    batch_size : int, default=32
        Rows of a step.
    lr : float, default=0.002
        Peak learning rate of SGD with momentum 0.9.
    weight_decay : float, default=5e-4
        Of SGD.
    class_chunk : int, default=None
        Classes encoded at a time; None for as many as fit the trainer's memory budget.
    checkpoint : bool, default=None
        Keep no activations of a chunk and encode it again in the backward pass; None where there are several
        chunks. Memory is then that of one chunk, however many classes there are.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated; frozen.
    classes : array-like of shape (c,), default=None
        Label of each class; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry; changes nothing here, since the logits are cosines.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``: where to train. Inference runs in NumPy.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of training, and of the tower in it; auto is float32.
    random_state : int, default=None
        Seed of contexts and batch order; None draws one.

    Attributes
    ----------
    contexts_ : ndarray of shape (M, w) or (c, M, w)
        Learned vectors, in the space of the tower's token embeddings.
    text_ : ndarray of shape (c, d)
        The class embeddings that the learned prompts give.
    tower_id_, tower_sha256_ : str
        The tower that was used.
    loss_ : float
        Mean training loss over the last tenth of the steps.
    n_steps_ : int
        Optimiser steps taken.

    References
    ----------
    Zhou et al., Learning to Prompt for Vision-Language Models (IJCV 2022; arXiv 2109.01134), section 3.2;
    released trainers/coop.py and configs.

    Examples
    --------
    >>> import numpy as np
    >>> from cafe.encoders import open_encoder
    >>> names = ["circle", "square", "triangle"]
    >>> text = open_encoder("cafe:mini").encode_text(names)
    >>> y = np.arange(12) % 3
    >>> X = text[y] + 0.1 * np.random.default_rng(0).normal(size=(12, text.shape[1]))
    >>> model = CoOp(class_names=names, text_tower="cafe:mini", n_context=4, epochs=2, random_state=0)
    >>> model.fit(X, y).contexts_.shape
    (4, 128)
    """

    class_embeddings: ArrayLike | None = None
    class_names: Sequence[str] | None = None
    text_tower: Any = None
    text_tower_sha256: str | None = None
    n_context: int = 16
    class_token: str = "end"
    class_specific: bool = False
    context_init: str | None = None
    epochs: float | None = None
    warmup_epochs: float = 1
    batch_size: int = 32
    lr: float = 0.002
    weight_decay: float = 5e-4
    class_chunk: int | None = None
    checkpoint: bool | None = None
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    dtype: str = "auto"
    random_state: int | None = None

    one_encoder: ClassVar[str] = "prompts are learned through one text tower, whose features are those of one encoder"
    expected_failed_checks: ClassVar = {f"check_{name}": NEEDS_TOWER for name in FITTING_CHECKS}
    constraints: ClassVar[dict[str, Constraint]] = {
        "n_context": Number(1, whole=True),
        "class_token": Choice(CLASS_TOKENS),
        "epochs": Number(0, above=True, none=True),
        "warmup_epochs": Number(0),
        "class_chunk": Number(1, whole=True, none=True),
    }
    _kernel = "autograd"

    # ------------------------------------------------------------------ learning

    @classmethod
    def fit_grid(
        cls, estimators: Sequence[Any], X: ArrayLike, y: ArrayLike, rows: Sequence[NDArray[np.int64]] | None
    ) -> None:
        """Fit several; a tower that several name is opened once, and equal prompts are encoded side by side."""
        if rows is None and len(estimators) > 1:
            # Estimators without class embeddings start from their own names', so none may share another's.
            rows = [np.arange(np.shape(X)[0])] * len(estimators)
        towers = Towers()
        try:
            for estimator in estimators:
                estimator._towers = towers
            super().fit_grid(estimators, X, y, rows)
        finally:
            for estimator in estimators:
                del estimator._towers  # nothing of a tower stays in a fitted method

    def _tower(self) -> TextTower:
        """Return the open tower; only while fitting."""
        towers: Towers = self._towers
        return towers.open(self.text_tower, self.device)

    def names(self) -> list[str]:
        """Return the class names that stand in the prompts.

        Raises
        ------
        InputError
            If there are none.
        """
        if self.class_names is not None:
            return [str(name) for name in self.class_names]
        labels = None if self.classes is None else np.asarray(self.classes)
        if labels is None or labels.dtype.kind not in "UO":
            raise InputError(
                "coop puts class names into prompts: give class_names, one string per class, in their order"
            )
        return [str(label) for label in labels]

    def starting_embeddings(self) -> ArrayLike | None:
        """Return the class embeddings given, or the tower's own of "a photo of a NAME."; see the base class."""
        if self.class_embeddings is not None:
            return self.class_embeddings
        tower = self._tower()
        encoded = tower.encode(prompts([GENERIC_TEMPLATE], self.names())).cpu()
        # NumPy has no bfloat16.
        embeddings: Array = (encoded if encoded.element_size() > 2 else encoded.float()).numpy()
        return embeddings

    def _choose(self, problem: Problem) -> None:
        """Refuse a tower that does not fit the class names, the features or the hash given; nothing is chosen."""
        c, d = problem.class_embeddings.shape
        tower = self._tower()
        if len(self.names()) != c:
            raise InputError(f"class_names of coop must name {c} classes, but has {len(self.names())}")
        if tower.dim != d:
            raise InputError(
                f"text_tower {tower.id} gives features {tower.dim} wide, but the image features are {d} wide; "
                "it must be the encoder that made them"
            )
        if self.text_tower_sha256 is not None and tower.sha256 != self.text_tower_sha256:
            raise InputError(
                f"text_tower {tower.id} is not the one that encoded these features: its text weights have sha256 "
                f"{tower.sha256[:12]}..., text_tower_sha256 says {self.text_tower_sha256[:12]}..."
            )

    def _alike(self) -> Hashable:
        """Return what estimators must have in common to be trained on the same prompts."""
        names = ("n_context", "context_init", "class_token", "class_specific", "class_chunk", "checkpoint")
        return self._tower(), tuple(self.names()), *(getattr(self, name) for name in names)

    @classmethod
    def _objective(cls, group: TrainingGroup) -> ContextObjective:
        """Return the loss of prompts with learned context, through the tower of the group's first estimator."""
        tower = group.estimators[0]._tower().placed(group.placement.device, group.placement.dtype)
        return ContextObjective.of(group.estimators[0], tower)

    def _configuration(self, problem: Problem, index: int) -> Configuration:
        """Return how the contexts are trained; see the base class."""
        n = len(problem.rows)
        batch = min(self.batch_size, n)
        epochs = self.epochs
        if epochs is None:
            epochs = default_epochs(np.bincount(problem.y, minlength=len(problem.class_embeddings)).tolist())
        per_epoch = max(1, n // batch)  # the released loader drops a short last batch
        return Configuration(
            rows=problem.rows,
            random_state=seed_of(self),
            shape="contexts",
            hyper={"logit_scale": float(self.logit_scale)},
            steps=max(1, math.ceil(epochs * per_epoch)),
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            optimizer="sgd",
            warmup_steps=math.ceil(self.warmup_epochs * per_epoch),
        )

    def _store(self, result: Result) -> None:
        """Keep the contexts and the class embeddings they encode to, so that predicting needs no tower."""
        self.contexts_ = result.parameters["contexts"]
        self.text_ = result.objective.encode(self.contexts_)
        tower = result.objective.prompts.tower
        self.tower_id_, self.tower_sha256_ = tower.id, tower.sha256

    # ------------------------------------------------------------------ inference

    def for_classes(self, class_embeddings: ArrayLike, class_names: Sequence[str] | None = None) -> Self:
        """Return the same context in front of other names, encoded by the tower; see the base class.

        Raises
        ------
        InputError
            If every class has its own context, or there are no names.
        """
        if self.class_specific:
            return super().for_classes(class_embeddings, class_names)
        if class_names is None:
            raise InputError("coop puts class names into prompts: for_classes needs class_names")
        other = self._with_embeddings(class_embeddings)
        tower = open_tower(self.text_tower, self.device)
        other.set_params(class_names=list(class_names), classes=None)
        other.text_ = ContextObjective.of(other, tower).encode(self.contexts_)
        return other

    def _logits(self, X: Array) -> Array:
        return scores.learned_text_cosines(self, X)


def default_epochs(counts: Sequence[int]) -> int:
    """Return the paper's passes over the shots: 50, 100 or 200 for 1, 2 to 4, or more shots; 50 from 1,000 classes on.

    Parameters
    ----------
    counts : sequence of int
        Training rows of each class.

    Examples
    --------
    >>> default_epochs([1] * 10), default_epochs([4] * 10), default_epochs([16] * 10), default_epochs([16] * 1000)
    (50, 100, 200, 50)
    """
    shots = max(counts)
    if shots <= 1 or len(counts) >= 1000:
        return 50
    return 100 if shots <= 4 else 200
