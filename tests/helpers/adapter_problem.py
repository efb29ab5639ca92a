"""One step of CLIP-Adapter on random rows, for every kernel that computes it."""

import torch
from torch.nn.functional import normalize


def adapter_parameters(shape, draw, g, d, q=2):
    """Draw the parameters of g configurations: a bottleneck for each adapted side, a network for each trained ratio."""
    parameters, h = {}, shape.bottleneck
    for side, used in (("image", shape.adapts_image), ("text", shape.adapts_text)):
        if used:
            parameters |= {f"{side}_down": draw(g, d, h) / d**0.5, f"{side}_up": draw(g, h, d) / h**0.5}
    for ratio, mode, used in (
        ("alpha", shape.alpha_mode, shape.adapts_image),
        ("beta", shape.beta_mode, shape.adapts_text),
    ):
        if used and mode != "fixed":
            parameters[f"{ratio}_bias"] = draw(g)
        if used and mode == "learned":
            parameters |= {f"{ratio}_own": draw(g, d, q), f"{ratio}_other": draw(g, d, q), f"{ratio}_out": draw(g, q)}
    return parameters


def normal_numbers(generator):
    """Return a function that draws tensors of the given size in float64."""
    return lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)


def adapter_problem(shape, hyper, b, c, d, n, seed=0, dtype=torch.float64):
    """Draw n rows of c classes, and a batch of b of them for each configuration.

    Returns parameters, ``hyper``, rows, labels, the rows of each batch, text and the mean row of each batch, all that
    is no index as ``dtype``.
    """
    g = len(hyper["logit_scale"])
    generator = torch.Generator().manual_seed(seed)
    draw = normal_numbers(generator)
    parameters = adapter_parameters(shape, draw, g, d)
    text = normalize(draw(1, c, d), dim=-1)
    y = torch.randint(0, c, (n,), generator=generator)
    X = normalize(text[0, y] + 0.2 * draw(n, d), dim=-1)
    index = torch.randint(0, n, (g, b), generator=generator)

    def cast(tree):
        return {k: v.to(dtype) for k, v in tree.items()} if isinstance(tree, dict) else tree.to(dtype)

    return cast(parameters), cast(hyper), cast(X), y, index, cast(text), cast(X[index].mean(1, keepdim=True))
