"""What the two cross-modal methods train: a linear head, on batches that are half images and half text.

Letters: g configurations, b rows of a batch, d width, c classes, h bottleneck.

    logits = logit_scale  A(x) . w_c          x an image feature or a class embedding, w = class embeddings at the start
    A(x)   = x                                                                    linear probe
    A(x)   = ratio ReLU(ReLU(x W1) W2) + (1 - ratio) x                            adapter
    loss   = mean CE over the half batch of images and the half batch of text

Neither A(x) nor w is scaled to length one after the start. The text half are the class embeddings of the classes of
the other half's rows: where every class has as many shots, classes are drawn as often as the paper draws them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import relu

from cafe.kernels.class_weights import ClassWeightStep
from cafe.kernels.class_weights_reference import WeightsShape
from cafe.training.trainer import Batch, Configuration, Step


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

        With G = (softmax(logits) - onehot) / b and y = A(x):  dw = s G^T y,  dy = s G w,  and through A by the chain
        rule, each ReLU passing what it passed forward.
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
        """Return the step on class weights, whose rows are images and, after them, text; None with an adapter."""
        if shape:
            return None
        rows, labels = torch.cat([X, self.text]), torch.cat([y, torch.arange(len(self.text), device=y.device)])
        no_decay = {"logit_scale": hyper["logit_scale"], "decay": torch.zeros_like(hyper["logit_scale"])}
        class_weights = ClassWeightStep(WeightsShape(cosines=False), no_decay, rows, labels, self.text)

        def step(
            parameters: dict[str, Tensor], index: Tensor, with_losses: bool
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            half = (index.shape[1] + 1) // 2
            both = torch.cat([index[:, :half], len(X) + y[index[:, -half:]]], dim=1)  # (g, 2 half)
            losses, gradients = class_weights({"weights": parameters["head"]}, both, with_losses)
            return losses, {"head": gradients["weights"]}

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
