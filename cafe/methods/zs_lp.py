"""ZS-LP: a linear probe that starts at the text, on cosines."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike

from cafe.kernels.choose import choose_kernel, triton_products
from cafe.kernels.class_weights_reference import WeightsShape
from cafe.kernels.fastest import WeightSizes, choose_weights_precision
from cafe.methods.base import Array, Problem, unit_length
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Constraint, Number, seed_of
from cafe.methods.inputs.problem import CheckedArrays
from cafe.methods.objectives.base import Placement, Result, Run, TrainedClassifier, steps_with_warmup
from cafe.methods.objectives.zs_lp import ClassWeightObjective
from cafe.training.trainer import Configuration

METHOD = "zs-lp"


class ZeroShotLinearProbe(TrainedClassifier):
    """Train class weights from their text embeddings by cross-entropy; encoders frozen.

    ::

        logits = logit_scale * cos(f, w_c)        w_c = text_norm * t_c / |t_c| at the start

    Trains c x d numbers. Cost of a step: two products of the batch with the class weights. TaskRes and CLAP are this
    method with another residual, decay or pull to the text, and are subclasses.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    text_norm : float or None, default=9.0
        Length of the class weights at the start. The published code starts at raw text features, whose length is
        about 9 for OpenAI's ViT-B/32 and which is the clock of training: the angle that a step turns a weight by
        falls with its length. None keeps the length that class embeddings have on entry (1 where ``normalize``).
    epochs : float, default=300
        Passes over the training rows, the published number.
    batch_size : int, default=256
        Rows of a step.
    lr : float or "auto", default=0.1
        Peak rate of SGD with momentum 0.9; one epoch at 1e-5, then cosine.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry; logits are cosines either way.
    device : str, default="auto"
        Where to train.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of training; auto is float32, with products in bfloat16 where they were measured to be faster, and on
        CUDA where the GPU has matrix units for it.
    random_state : int, default=None
        Seed of the batch order and of the folds of ``"auto"``.

    Attributes
    ----------
    weights_ : ndarray of shape (c, d)
        Trained class weights.
    lr_ : float
        The rate used.

    References
    ----------
    Silva-Rodriguez et al., A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models (CVPR 2024),
    zero-shot-initialised linear probe; released trainers/adapters.py.

    Examples
    --------
    >>> import numpy as np
    >>> text = np.eye(3)
    >>> ZeroShotLinearProbe(text, random_state=0).fit(text, [0, 1, 2]).predict([[0.1, 0.9, 0.3]])
    array([1])
    """

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"lr": (0.1, 0.01, 0.001)}
    constraints: ClassVar[dict[str, Constraint]] = {
        "text_norm": Number(0, above=True, none=True),
        "epochs": Number(0, above=True, none=True),
    }
    epochs: float | None
    lr_: float
    _trains_on_cosines = True
    _optimizer = "sgd"

    def __init__(
        self,
        class_embeddings: ArrayLike | None = None,
        text_norm: float | None = 9.0,
        epochs: float = 300,
        batch_size: int = 256,
        lr: float | str = 0.1,
        logit_scale: float = 100.0,
        classes: ArrayLike | None = None,
        normalize: bool = True,
        device: str = "auto",
        dtype: str = "auto",
        random_state: int | None = None,
    ) -> None:
        self.class_embeddings = class_embeddings
        self.text_norm = text_norm
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.logit_scale = logit_scale
        self.classes = classes
        self.normalize = normalize
        self.device = device
        self.dtype = dtype
        self.random_state = random_state

    # ------------------------------------------------------------------ learning

    def _alike(self) -> Hashable:
        return self.text_norm

    def _placement(self, problem: Problem) -> Placement:
        placement = super()._placement(problem)
        c, d = problem.class_embeddings.shape
        sizes = WeightSizes(self._shape().cosines, min(self.batch_size, len(problem.rows)), d, c)
        products, kernel = choose_weights_precision(self.dtype, placement.device, sizes), placement.kernel
        # Triton's kernels sum in float32.
        has_kernel = placement.device.startswith("cuda") and self.dtype != "float64"
        if has_kernel and choose_kernel("auto", placement.device) == "triton":
            products, kernel = triton_products(self.dtype, placement.device), "triton"
        return replace(placement, products=getattr(torch, products), kernel=kernel)

    @classmethod
    def _objective(cls, run: Run) -> ClassWeightObjective:
        pulls = [estimator._pull(problem) for estimator, problem in zip(run.estimators, run.problems, strict=True)]
        pull = None if pulls[0] is None else run.tensor(np.stack(pulls))
        text = run.tensor(_scaled_text(run.base, run.estimators[0].text_norm))
        held = pull is not None or any(estimator._decay() for estimator in run.estimators)
        placement = run.placement
        return ClassWeightObjective(
            text, run.X.to(placement.products), pull, placement.kernel, placement.precision, held
        )

    def _configuration(self, problem: Problem, index: int) -> Configuration:
        steps, warmup_steps = steps_with_warmup(self._epochs(problem), len(problem.rows), self.batch_size)
        return Configuration(
            rows=problem.rows,
            random_state=seed_of(self),
            shape=self._shape(),
            hyper={
                "residual_scale": self._residual_scale(),
                "decay": self._decay(),
                "logit_scale": self.logit_scale,
                "index": index,
            },
            steps=steps,
            batch_size=self.batch_size,
            lr=float(self.lr_),
            weight_decay=0.0,
            optimizer=self._optimizer,
            warmup_steps=warmup_steps,
        )

    def _store(self, result: Result) -> None:
        text = _scaled_text(result.problem.base, self.text_norm)
        trained = result.parameters["weights"]
        if self._shape().residual:
            trained = text + np.asarray(self._residual_scale() * trained, text.dtype)
        self.weights_ = trained.astype(text.dtype, copy=False)

    def _shape(self) -> WeightsShape:
        """Return what is trained."""
        return WeightsShape(cosines=True)

    def _epochs(self, problem: Problem) -> float:
        return 300.0 if self.epochs is None else float(self.epochs)

    def _residual_scale(self) -> float:
        return 1.0

    def _decay(self) -> float:
        """Return the strength of the L2 penalty on the residual."""
        return 0.0

    def _pull(self, problem: Problem) -> Array | None:
        """Return the strength of the pull to the text, lambda (c,), or None for none."""
        return None

    # ------------------------------------------------------------------ inference

    def _logits(self, X: Array) -> Array:
        return scores.weight_cosines(self, X)


def _scaled_text(base: CheckedArrays, text_norm: float | None) -> Array:
    """Return class embeddings (c, d) of the given length; None keeps the lengths they have on entry."""
    if text_norm is None:
        return base.class_embeddings
    scaled: Array = unit_length(base.class_embeddings) * base.class_embeddings.dtype.type(text_norm)
    return scaled
