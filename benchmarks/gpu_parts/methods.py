"""Every method on the GPU and on the CPU, by the product's own calls."""

from __future__ import annotations

import time
import warnings

from gpu_parts.shared import DEVICE, Rows, Sizes, made_up


def methods(sizes: Sizes, row: Rows) -> None:
    """Every method on the GPU and on the CPU, with accuracies."""
    import numpy as np

    from cafe.methods import make_method, method_names

    c, shots = (4, 4) if sizes.smoke else (100, 16)
    X, y, text = made_up(c * shots, c, sizes.d)
    T, t, _ = made_up(20 * c, c, sizes.d, seed=1)
    for name in method_names():
        if name == "coop":
            row(method=name, note="needs a text tower; see the part 'towers'")
            continue
        accuracies = {}
        for device in ("cuda", "cpu"):
            model = make_method(name, class_embeddings=text, device=device, logit_scale=30.0)
            known = model.get_params(deep=False)
            changes = {"random_state": 0, "C": 1.0, "epochs": 3 if sizes.smoke else 20}
            model.set_params(**{k: v for k, v in changes.items() if k in known})
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    start = time.perf_counter()
                    model.fit(X, y)
                    middle = time.perf_counter()
                    logits = model.logits(T)
                seconds = {"fit_seconds": middle - start, "score_seconds": time.perf_counter() - middle}
                accuracy = float(np.mean(model.classes_[logits.argmax(1)] == t))
                accuracies[device] = accuracy
                ok = model.device_.startswith(device) and abs(accuracy - accuracies["cuda"]) <= 0.01
                row(method=name, device=model.device_, kernel=model.kernel_, accuracy=accuracy, **seconds, ok=ok)
            except Exception as error:
                row(method=name, device=device, error=repr(error)[:500], ok=False)
                accuracies.setdefault(device, float("nan"))


def probe(sizes: Sizes, row: Rows) -> None:
    """The linear probe's path of C on the GPU and on the CPU: objectives, iterations and seconds."""
    import numpy as np
    import torch

    from cafe.solvers.logistic import logistic_path

    n, c = (60, 4) if sizes.smoke else (sizes.n, sizes.c)
    X, y, _ = made_up(n, c, sizes.d)
    path = [float(value) for value in np.geomspace(0.01, 100.0, 2 if sizes.smoke else 7)]
    objectives = {}
    for device in (DEVICE, "cpu"):
        rows = torch.from_numpy(X).to(device)
        logistic_path(rows[: 4 * c], y[: 4 * c], c, path[:1])  # loads the library's kernels
        start = time.perf_counter()
        fits = logistic_path(rows, y, c, path)
        seconds = time.perf_counter() - start
        objectives[device] = np.array([fit.objective for (fit,) in fits])
        apart = float(np.abs(objectives[device] / objectives[DEVICE] - 1).max())
        iterations = [fit.iterations for (fit,) in fits]
        row(device=device, n=n, c=c, seconds=seconds, iterations=iterations, apart=apart, ok=apart <= 1e-4)
