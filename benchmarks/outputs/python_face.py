"""What Python users see: public names with their signatures, and what calls return."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from outputs.normalise import described_array


def described_error(error: BaseException) -> str:
    """Return the type of an error, the public types that it also is, and what it says."""
    also = [kind.__name__ for kind in type(error).__mro__[1:-1]]
    return f"{type(error).__name__} ({', '.join(also)}): {error}"


def attempt(tell: Callable[[str], None], name: str, call: Callable[[], Any]) -> Any:
    """Make a call and tell what it returned or raised."""
    try:
        value = call()
    except Exception as error:
        tell(f"{name} raised {described_error(error)}")
        return None
    tell(f"{name} = {described_array(value) if isinstance(value, np.ndarray) else repr(value)}")
    return value


def public_names(module: ModuleType) -> list[str]:
    """Describe every public name of a module: functions and classes of the package, no modules, nothing imported."""
    lines = []
    for name in sorted(dir(module)):
        if name.startswith("_"):
            continue
        try:
            value = getattr(module, name)
        except Exception as error:
            lines.append(f"{name} raises {described_error(error)}")
            continue
        if inspect.ismodule(value) or not str(getattr(value, "__module__", "")).startswith("cafe"):
            continue
        lines.append(f"{name}{signature_of(value)}: {first_line(value)}")
        if inspect.isclass(value):
            lines += members_of(value)
    return lines


def members_of(kind: type) -> list[str]:
    """Describe the public members of a class, inherited or not, and what it is beside the package's own bases."""
    lines = [f"    is a {', '.join(base.__name__ for base in kind.__mro__ if not base.__module__.startswith('cafe'))}"]
    for name in sorted(dir(kind)):
        if name.startswith("_") or hasattr(object, name):
            continue
        member = inspect.getattr_static(kind, name)
        if callable(getattr(kind, name)):
            lines.append(f"    .{name}{signature_of(getattr(kind, name))}: {first_line(getattr(kind, name))}")
        else:
            shown = type(member).__name__ if hasattr(member, "__get__") else repr(member)
            lines.append(f"    .{name} {shown}")
    return lines


def signature_of(value: Any) -> str:
    """Return a signature, or nothing where there is none."""
    try:
        return str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""


def first_line(value: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(value) or "").partition("\n")[0]


def features_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Load a cache, whole and mapped."""
    for memmap in (False, True, "auto"):
        features = cafe.load_features(cache, memmap=memmap)
        for name, split in features.splits.items():
            for array in ("image_features", "labels", "sample_ids", "view_features", "projection_features"):
                tell(f"{memmap} {name} {array} {described_array(getattr(split, array))}")
            tell(f"{len(split)} rows; taken: {described_array(split.take(np.array([3, 1])).image_features)}")
        for name in ("text_features", "class_embeddings", "projection", "prompt_features", "prompt_classes"):
            tell(f"{name} {described_array(getattr(features, name))}")
        tell(f"{features.class_names} {features.templates} {features.logit_scale!r} {features.logit_bias!r}")
        tell(json.dumps(dict(features.provenance), indent=1, sort_keys=True))
    attempt(tell, "no such split", lambda: features.split("valid"))
    attempt(tell, "no such file", lambda: cafe.load_features("nothing.h5"))
    attempt(tell, "no features", lambda: cafe.Features({}, ("a", "b"), np.zeros((2, 2))))
    attempt(tell, "no such name", lambda: cafe.Nothing)


def draws_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Draw few shots, and fail to."""
    features = cafe.load_features(cache)
    train, val = features.split("train").labels, features.split("val").labels
    for shots in (1, 4, 16, 100):
        for seed in (0, 1, 2, 3):
            rows, own = cafe.draw_few_shot(train, val, shots, seed, features.class_names)
            tell(f"{shots} shots, seed {seed}: {rows[:20].tolist()} {described_array(rows)} {described_array(own)}")
    for arguments in (([], None, 1, 1), ([1.5], None, 1, 1), ([0, 1], None, 0, 1), ([0, 1], None, 1, -1)):
        attempt(tell, f"draw_few_shot{arguments}", lambda arguments=arguments: cafe.draw_few_shot(*arguments))


def few_rows(cafe: Any, cache: Path, shots: int = 2) -> tuple[Any, Any, Any, Any, Any]:
    """Return features, rows and labels of one draw, and test rows and labels."""
    features = cafe.load_features(cache)
    train, test = features.split("train"), features.split("test")
    rows, _ = cafe.draw_few_shot(train.labels, features.split("val").labels, shots, 1)
    return features, train.image_features[rows], train.labels[rows], test.image_features, test.labels


def adapter_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Use CLIP-Adapter as the README does, and as scikit-learn does."""
    from sklearn.base import clone

    features, X, y, test, labels = few_rows(cafe, cache)
    model = cafe.CLIPAdapter(features.class_embeddings, variant="image", alpha=0.2, random_state=1)
    tell(f"score {model.fit(X, y).score(test, labels)!r}")
    tell(f"probabilities {model.predict_proba(test[:5]).round(6).tolist()}")
    tell(f"decision {model.decision_function(test[:2]).tolist()}")
    both = cafe.CLIPAdapter(features.class_embeddings, variant="both", alpha=0.3, beta=0.6, random_state=2, epochs=5)
    tell(f"both {described_array(both.fit(X, y).predict_proba(test))} {described_array(both.adapt(test))}")
    tell(f"clone {described_array(clone(both).fit(X, y).predict_proba(test))}")
    named = cafe.CLIPAdapter(features.class_embeddings, classes=list(features.class_names), random_state=1)
    words = np.array(features.class_names)[y]
    tell(f"named {named.fit(X, words).predict(test[:20]).tolist()}")
    bare = cafe.CLIPAdapter(random_state=1).fit(X.astype(np.float64), y)
    tell(f"without text {described_array(bare.predict_proba(test))}")
    tell(f"other classes {described_array(both.for_classes(features.class_embeddings[:4]).predict_proba(test))}")
    attempt(tell, "not fitted", lambda: cafe.CLIPAdapter(features.class_embeddings).predict(test))
    attempt(tell, "wrong width", lambda: model.predict(test[:, :5]))
    attempt(tell, "wrong labels", lambda: cafe.CLIPAdapter(features.class_embeddings).fit(X, y + 5))
    attempt(tell, "wrong ratio", lambda: cafe.CLIPAdapter(features.class_embeddings, alpha=2).fit(X, y))
    attempt(tell, "wrong variant", lambda: cafe.CLIPAdapter(features.class_embeddings, variant="side").fit(X, y))


def methods_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Fit every method on two shots, and tell everything that it learned."""
    features, X, y, test, labels = few_rows(cafe, cache)
    more = {"class_names": list(features.class_names), "text_tower": "cafe:mini", "n_context": 2, "random_state": 1}
    classes = {name: getattr(cafe, name) for name in dir(cafe) if inspect.isclass(getattr(cafe, name))}
    for name, kind in ((name, kind) for name, kind in classes.items() if hasattr(kind, "fit")):
        known = inspect.signature(kind).parameters
        own = {key: value for key, value in more.items() if key in known}
        if name == "CoOp":
            own["epochs"] = 1
        model = kind(class_embeddings=features.class_embeddings, logit_scale=features.logit_scale, **own)
        tell(f"\n{name}: {kind().get_params()}\ngrid {kind.grid}")
        if attempt(tell, "fit", lambda model=model: type(model.fit(X, y)).__name__) is None:
            continue
        for key, value in sorted(vars(model).items()):
            if key.endswith("_") and not key.startswith("_"):
                tell(f"  {key} {described_array(value) if isinstance(value, np.ndarray) else shown(value)}")
        for call in ("predict", "predict_proba", "decision_function"):
            attempt(tell, f"  {call}", lambda model=model, call=call: getattr(model, call)(test))
        attempt(tell, "  score", lambda model=model: model.score(test, labels))
        attempt(tell, "  for_classes", lambda model=model: type(model.for_classes(features.class_embeddings)).__name__)
        bare = kind(**own)
        attempt(tell, "  without text", lambda bare=bare: bare.fit(X, y).predict_proba(test))


def shown(value: Any) -> str:
    """Return how an object prints, without its address in memory; arrays within it as hashes."""
    if isinstance(value, dict):
        return str({key: shown(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return str([shown(item) for item in value])
    return described_array(value) if isinstance(value, np.ndarray) else re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def grid_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Fit many at once: different methods, parameters and rows."""
    features, X, y, test, _ = few_rows(cafe, cache, shots=4)
    text, halves = features.class_embeddings, [np.arange(0, len(y), 2), np.arange(1, len(y), 2)]
    methods = [
        *(cafe.CLIPAdapter(text, alpha=alpha, random_state=seed) for alpha in (0.2, 0.6) for seed in (1, 2)),
        cafe.CLIPAdapter(text, variant="both", alpha="learned", beta="scalar", random_state=1),
        cafe.TipAdapter(text), cafe.LinearProbe(text, C=1.0), cafe.LinearProbe(text, C=0.1), cafe.ZeroShot(text),
        cafe.TipAdapterF(text, random_state=1, epochs=3),
    ]  # fmt: skip
    fits = cafe.fit_many(X, y, methods)
    fits += cafe.fit_many(X, y, methods[:2] + methods[5:7], [*halves, *halves])
    for model in fits:
        tell(f"{model!r}\nprobabilities {described_array(model.predict_proba(test))}")
    attempt(tell, "nothing", lambda: cafe.fit_many(X, y, []))


def runs_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Load what ``cafe fit`` saved."""
    _, _, _, test, labels = few_rows(cafe, cache)
    model = cafe.load("run")
    tell(f"{type(model).__name__} {model.score(test, labels)!r} {described_array(model.predict_proba(test))}")
    tell(json.dumps(model.run_, indent=1, sort_keys=True))
    attempt(tell, "no run", lambda: cafe.load("nothing"))


def caches_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Find, list and check caches; the public names of ``cafe.cache`` beside extraction."""
    import cafe.cache as caches

    folder = cache.parent
    attempt(tell, "cache_dir", lambda: caches.cache_dir())
    attempt(tell, "cache_path", lambda: caches.cache_path(folder, "my photos", "openai/clip"))
    for name in (None, "digits", "digits--cafe-mini.h5", str(cache), cache, "nothing", "a/b.h5"):
        attempt(tell, f"find_cache {name}", lambda name=name: caches.find_cache(name, folder))
    attempt(tell, "list_caches", lambda: caches.list_caches(folder))
    attempt(tell, "summarise", lambda: json.dumps(caches.summarise(cache).to_json()))
    attempt(tell, "verify_cache", lambda: caches.verify_cache(cache))
    attempt(tell, "nothing", lambda: caches.summarise(folder / "nothing.h5"))
    for name in ("load_features", "write_cache"):
        attempt(tell, f"cafe.cache.{name}", lambda name=name: getattr(caches, name).__name__)
    from_loader = attempt(tell, "load", lambda: described_array(caches.load_features(cache).split("val").labels))
    if from_loader is not None:
        written_to = folder / "written.h5"
        attempt(tell, "write", lambda: caches.write_cache(written_to, caches.load_features(cache)))


def documented_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """What the pages of ``docs/`` import beyond the public names: images in memory, and a comparison."""
    from cafe.cache import extract
    from cafe.compare import compare as compare_methods
    from cafe.data import from_arrays
    from cafe.encoders import open_encoder

    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    dataset = from_arrays(images, labels=[0, 1] * 10, class_names=["cat", "hot dog"])
    states: list[Any] = []
    summary = extract(dataset, open_encoder("cafe:mini"), "arrays.h5", progress=states.append)
    tell(json.dumps(summary.to_json()))
    # Rates aside; the stages and counts are what a caller's progress bar shows.
    tell("\n".join(f"{state.stage} {state.split} {state.done} of {state.total}" for state in states))
    features = cafe.load_features(cache)
    comparison = compare_methods("baselines", [features], shots=[1], seeds=[1, 2])
    for name in ("suite", "title", "rows", "summary", "pairs", "published", "notes", "layout"):
        value = getattr(comparison, name)
        tell(f"{name}: {json.dumps(value, default=dataclasses.asdict, indent=1)}")


def named_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Methods by name, and the draws under the name of their module."""
    from cafe import methods
    from cafe.protocol.draws import draw_few_shot

    attempt(tell, "method_names", methods.method_names)
    for name in methods.method_names():
        attempt(tell, f"make_method {name}", lambda name=name: methods.make_method(name))
        kind = type(methods.make_method(name))
        attempt(tell, "expected failed checks", lambda kind=kind: sorted(kind.expected_failed_checks))
    attempt(tell, "unknown method", lambda: methods.make_method("clipadapter"))
    attempt(tell, "unknown parameter", lambda: methods.make_method("gda", nothing=1))
    attempt(tell, "expected_failed_checks", lambda: signature_of(methods.expected_failed_checks))
    tell(f"{methods.fit_many is cafe.fit_many} {draw_few_shot is cafe.draw_few_shot}")
