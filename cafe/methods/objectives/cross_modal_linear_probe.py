"""What the two cross-modal methods train: a linear head, on batches that are half images and half text.

Letters: g configurations, b rows of a batch, d width, c classes, h bottleneck.

    logits = logit_scale  A(x) . w_c          x an image feature or a class embedding, w = class embeddings at the start
    A(x)   = x                                                                    linear probe
    A(x)   = ratio ReLU(ReLU(x W1) W2) + (1 - ratio) x                            adapter
    loss   = mean CE over the half batch of images and the half batch of text

Neither A(x) nor w is scaled to length one after the start. The text half of a batch consists of class embeddings, of
the classes that the last b / 2 drawn rows belong to. So classes are drawn as often as in the paper, if all classes have
the same number of shots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import relu

from cafe.kernels.class_weights import ClassWeightStep
from cafe.kernels.class_weights_reference import WeightsShape
from cafe.kernels.cross_modal import CrossModalAdapterStep
from cafe.methods.base import Problem
from cafe.methods.inputs.parameters import Constraint, Number, seed_of
from cafe.methods.objectives.base import Result, TrainedClassifier, TrainingGroup
from cafe.training.trainer import Batch, Configuration, Step

# Steps at 1e-5 before the cosine; the published warm-up rises linearly from there over as many.
WARMUP_STEPS = 50


@dataclass(frozen=True)
class CrossModalObjective:
    """The loss above, for the trainer.

    Attributes
    ----------
    text : Tensor of shape (c, d)
        Class embeddings.
    """

    text: Tensor

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """The head is the text; an adapter is drawn as torch.nn.Linear is."""
        parameters = {"head": self.text.detach().float().cpu().clone()}
        shape: Any = configuration.shape
        if shape:
            d = self.text.shape[1]
            for name, rows, columns in (("down", d, shape), ("up", shape, d)):
                draw = torch.rand(rows, columns, generator=generator)
                parameters[name] = (2 * draw - 1) / math.sqrt(rows)
        return parameters

    def losses_and_gradients(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and gradients.

        With G = (softmax(logits) - onehot) / b and y = A(x):  dw = s G^T y,  dy = s G w,  and from there through A by
        the chain rule, with a gradient of zero where a ReLU is zero.
        """
        features, labels, parameters = batch.features, batch.labels, batch.parameters
        half = (labels.shape[1] + 1) // 2
        x = torch.cat([features[:, :half], self.text[labels[:, -half:]]], dim=1)  # (g, 2 half, d)
        y = torch.cat([labels[:, :half], labels[:, -half:]], dim=1)
        s = batch.hyper["logit_scale"][:, None, None]
        head = parameters["head"]
        if batch.shape:
            ratio = batch.hyper["ratio"][:, None, None]
            hidden = relu(x @ parameters["down"])  # (g, rows, h)
            adapted = relu(hidden @ parameters["up"])  # (g, rows, d)
            seen = ratio * adapted + (1 - ratio) * x
        else:
            seen = x
        log_p = torch.log_softmax(s * (seen @ head.transpose(1, 2)), dim=-1)
        own = y[:, :, None]
        losses = -log_p.gather(2, own)[:, :, 0].mean(1)
        G = s * log_p.exp_().scatter_add_(2, own, log_p.new_full(own.shape, -1.0)).div_(y.shape[1])
        gradients = {"head": G.transpose(1, 2) @ seen}
        if batch.shape:
            d_adapted = ratio * (G @ head) * (adapted > 0)
            gradients["up"] = hidden.transpose(1, 2) @ d_adapted
            d_hidden = (d_adapted @ parameters["up"].transpose(1, 2)) * (hidden > 0)
            gradients["down"] = x.transpose(1, 2) @ d_hidden
        return losses, gradients

    def stepper(self, shape: Any, hyper: dict[str, Tensor], X: Tensor, y: Tensor, feature_mean: Tensor) -> Step | None:
        """Return the step whose rows are images and, after them, text; None with an adapter elsewhere than on a CPU."""
        if shape and X.device.type != "cpu":
            return None
        rows, labels = torch.cat([X, self.text]), torch.cat([y, torch.arange(len(self.text), device=y.device)])
        take = (CrossModalAdapterStep if shape else _head_step)(hyper, rows, labels)

        def step(
            parameters: dict[str, Tensor], index: Tensor, with_losses: bool
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            half = (index.shape[1] + 1) // 2
            both = torch.cat([index[:, :half], len(X) + y[index[:, -half:]]], dim=1)  # (g, 2 half)
            return take(parameters, both, with_losses)

        return step

    def uses_feature_mean(self, shape: Any) -> bool:
        """Whether the mean training feature is used: never."""
        return False

    def activation_bytes(self, configuration: Configuration) -> int:
        """Logits, rows, and three copies of the head."""
        b, (c, d) = min(configuration.batch_size, len(configuration.rows)), self.text.shape
        return int(self.text.element_size() * (3 * b * c + 6 * b * d + 3 * c * d))

    def multiply_adds(self, configuration: Configuration) -> int:
        """Forward once, backward once or twice."""
        b, (c, d) = min(configuration.batch_size, len(configuration.rows)), self.text.shape
        bottleneck: Any = configuration.shape
        return int(2 * b * d * c + 6 * b * d * bottleneck)


def _head_step(hyper: dict[str, Tensor], rows: Tensor, labels: Tensor) -> Step:
    """Return the step on class weights of a head (c, d) without an adapter, given all rows and their classes."""
    no_decay = {"logit_scale": hyper["logit_scale"], "decay": torch.zeros_like(hyper["logit_scale"])}
    text = rows[-1 - int(labels[-1]) :]
    class_weights = ClassWeightStep(WeightsShape(cosines=False), no_decay, rows, labels, text)

    def step(
        parameters: dict[str, Tensor], index: Tensor, with_losses: bool
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        losses, gradients = class_weights({"weights": parameters["head"]}, index, with_losses)
        return losses, {"head": gradients["weights"]}

    return step


class CrossModalClassifier(TrainedClassifier):
    """Base of the two cross-modal methods; a subclass says how it scores, and how wide its adapter is.

    Attributes
    ----------
    parameters_ : dict of str to ndarray
        ``head`` (c, d) and, with an adapter, ``down`` (d, h) and ``up`` (h, d).
    """

    one_encoder: ClassVar[str] = "text is a training sample, and lacks what the second encoder sees"
    constraints: ClassVar[dict[str, Constraint]] = {"iterations": Number(1, whole=True)}

    @classmethod
    def _objective(cls, group: TrainingGroup) -> CrossModalObjective:
        return CrossModalObjective(group.tensor(group.base.class_embeddings))

    def _configuration(self, problem: Problem, index: int) -> Configuration:
        # What was chosen for a parameter that may be "auto" is in an attribute that ends in "_". Which parameters may
        # be "auto" differs between the two methods.
        chosen = {
            k: getattr(self, f"{k}_", getattr(self, k)) for k in ("iterations", "batch_size", "lr", "weight_decay")
        }
        steps = int(chosen["iterations"])
        return Configuration(
            rows=problem.rows,
            random_state=seed_of(self),
            shape=self._bottleneck(problem),
            hyper={"logit_scale": self.logit_scale, "ratio": getattr(self, "alpha", 0.0)},
            steps=steps,
            batch_size=int(chosen["batch_size"]),
            lr=float(chosen["lr"]),
            weight_decay=float(chosen["weight_decay"]),
            optimizer="adamw",
            warmup_steps=min(WARMUP_STEPS, steps // 2),
        )

    def _store(self, result: Result) -> None:
        self.parameters_ = result.parameters

    def _bottleneck(self, problem: Problem) -> int:
        """Return the width of the adapter in front of the head; 0 for none."""
        return 0
