"""Every method found in cafe/methods keeps the same contract; exceptions carry a reason."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import cafe
from cafe.errors import InputError
from cafe.methods import expected_failed_checks, fit_many, make_method, method_names
from cafe.methods.inference.fitted import FittedMethod
from cafe.methods.inference.scores import SCORES
from cafe.registry import entries
from cafe.runs import load, load_to_predict, save

METHODS = method_names()


def problem(n_classes=4, per_class=6, d=12, noise=0.6, seed=0):
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(n_classes, d)).astype(np.float32)
    y = np.arange(n_classes * per_class) % n_classes
    X = (text[y] + noise * rng.normal(size=(len(y), d))).astype(np.float32)
    return X, y, text


@pytest.fixture(autouse=True)
def _tower(tower_parameters):
    make.tower_parameters = tower_parameters


def make(name, text, n_classes=4, **parameters):
    model = make_method(name, class_embeddings=text, **parameters)
    tower = make.tower_parameters(model, n_classes if text is None else len(text))
    model.set_params(**{k: v for k, v in tower.items() if k not in parameters})
    if "random_state" in model.get_params():
        model.set_params(random_state=0)
    return model


@parametrize_with_checks([make_method(name) for name in METHODS], expected_failed_checks=expected_failed_checks)
def test_scikit_learn_contract(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


@pytest.mark.parametrize("name", METHODS)
def test_is_exported_with_documented_parameters(name):
    entry = entries("methods", "METHOD")[name]
    method = getattr(cafe, entry.class_name)
    assert entry.class_name in dir(cafe)
    assert entry.summary.endswith(".")
    for parameter in method().get_params():
        assert f"\n    {parameter} : " in method.__doc__, f"{parameter} is not documented"
    for section in ("Parameters", "References", "Examples"):
        assert f"    {section}\n    ---" in method.__doc__


@pytest.mark.parametrize("name", METHODS)
def test_better_than_chance_from_text_and_from_class_means(name):
    X, y, text = problem()
    assert make(name, text).fit(X, y).score(X, y) > 0.8
    assert make(name, None).fit(X, y).score(X, y) > 0.8


@pytest.mark.parametrize("name", METHODS)
def test_string_labels_and_their_order(name):
    X, y, text = problem()
    names = np.array(["zebra", "ant", "mule", "cat"])
    model = make(name, text, classes=names).fit(X, names[y])
    plain = make(name, text).fit(X, y)
    assert model.classes_.tolist() == names.tolist()
    np.testing.assert_array_equal(model.predict(X), names[plain.predict(X)])


@pytest.mark.parametrize("name", METHODS)
def test_classes_without_a_training_row_keep_their_column(name):
    X, y, text = problem()
    seen = y != 2
    model = make(name, text).fit(X[seen], y[seen])
    assert model.predict_proba(X).shape == (len(X), 4)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_predicts_the_same_from_its_arrays_alone(name, tmp_path):
    X, y, text = problem()
    names = np.array(["zebra", "ant", "mule", "cat"])
    save(make(name, text, classes=names).fit(X, names[y]), tmp_path / "run")
    light, whole = load_to_predict(tmp_path / "run"), load(tmp_path / "run")
    assert isinstance(light, FittedMethod) == (name in SCORES)
    for queries in (X.astype(np.float16), X, X.astype(np.float64)):
        np.testing.assert_array_equal(light.predict_proba(queries), whole.predict_proba(queries))
    np.testing.assert_array_equal(light.predict(X), whole.predict(X))
    assert light.run_["method"] == name


@pytest.mark.parametrize("name", METHODS)
def test_pickle_clone_pipeline_and_grid_search(name):
    X, y, text = problem()
    model = make(name, text).fit(X, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).logits(X), model.logits(X))
    assert not hasattr(clone(model), "classes_")
    pipeline = make_pipeline(FunctionTransformer(), make(name, text)).fit(X, y)
    np.testing.assert_array_equal(pipeline.predict(X), model.predict(X))
    search = GridSearchCV(make(name, text), {"normalize": [True, False]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.7


@pytest.mark.parametrize("name", METHODS)
def test_deterministic_for_a_seed(name):
    X, y, text = problem()
    a, b = (make(name, text).fit(X, y).logits(X) for _ in range(2))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", METHODS)
def test_many_fits_give_what_single_fits_give(name):
    X, y, text = problem(per_class=8)
    rows = [np.arange(len(y)), np.arange(0, 24), np.flatnonzero(np.arange(len(y)) % 3 > 0)]
    many = fit_many(X, y, [make(name, text) for _ in rows], rows)
    for fit, chosen in zip(many, rows, strict=True):
        single = make(name, text).fit(X[chosen], y[chosen])
        np.testing.assert_allclose(fit.logits(X), single.logits(X), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", METHODS)
def test_a_grid_shares_one_copy_of_the_class_embeddings(name):
    """1,000 classes times hundreds of candidates would not fit in memory otherwise."""
    X, y, text = problem()
    model = make(name, text)
    model.set_params(**dict.fromkeys(model.grid, "auto"))
    tried = []

    def score(candidates):
        tried.extend(candidates)
        return [-float(i) for i in range(len(candidates))]

    if model.automatic():
        model.search(score)
        assert len(tried) > 1
    assert all(candidate.class_embeddings is text for candidate in tried)
    fits = fit_many(X, y, [make(name, text), make(name, text)])
    assert all(fit.class_embeddings is text for fit in fits)


@pytest.mark.parametrize("name", METHODS)
def test_more_classes_than_samples_and_duplicate_rows(name):
    X, y, text = problem(n_classes=30, per_class=1)
    model = make(name, text).fit(X[:5], y[:5])
    assert model.predict_proba(X).shape == (30, 30)
    doubled = make(name, text).fit(np.vstack([X, X]), np.concatenate([y, y]))
    assert np.isfinite(doubled.predict_proba(X)).all()


@pytest.mark.parametrize("name", METHODS)
def test_one_shot_is_no_reason_to_warn(name):
    X, y, text = problem(n_classes=4, per_class=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(name, text).fit(X, y).predict(X)


@pytest.mark.parametrize("name", METHODS)
def test_zero_rows_are_scored_without_nan(name):
    X, y, text = problem()
    X[0] = 0
    assert np.isfinite(make(name, text).fit(X, y).predict_proba(X)).all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda X, y, W: (X, y + 10, W), "integers 0 to 3"),
        (lambda X, y, W: (X, y.astype(float) + 0.5, W), "label"),
        (lambda X, y, W: (X, y, W[:, :5]), "as wide as the image features"),
        (lambda X, y, W: (X, y, np.full_like(W, np.nan)), "NaN"),
        (lambda X, y, W: (np.full_like(X, np.nan), y, W), "NaN"),
        (lambda X, y, W: (X, y * 0, W[:1]), "one class"),
        (lambda X, y, W: (X, y * 0, None), "one class"),
    ],
)
def test_bad_input_is_told_in_a_sentence(name, change, words):
    X, y, text = change(*problem())
    with pytest.raises(ValueError, match=words):
        make(name, text, n_classes=len(np.unique(y))).fit(X, y)


@pytest.mark.parametrize("name", METHODS)
def test_strange_label_and_wrong_scale(name):
    X, y, text = problem()
    with pytest.raises(InputError, match="none of the 4 classes"):
        make(name, text, classes=list("abcd")).fit(X, np.array(list("abcx"))[y])
    with pytest.raises(InputError, match="logit_scale"):
        make(name, text, logit_scale=-1.0).fit(X, y)


def test_unknown_method_and_parameter_name_the_nearest():
    with pytest.raises(InputError, match="did you mean 'zero-shot'"):
        make_method("zeroshot")
    with pytest.raises(InputError, match="takes no parameter 'gamma'; it takes class_embeddings"):
        make_method("clip-adapter", gamma=1)


@pytest.mark.parametrize("name", METHODS)
def test_features_on_disk_are_learned_from_as_if_in_memory(name, tmp_path):
    X, y, text = problem()
    stored = X.astype(np.float16)
    stored.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.float16, mode="r", shape=X.shape)
    memory, disk = (make(name, text).fit(v, y).logits(X) for v in (stored, mapped))
    np.testing.assert_allclose(disk, memory, rtol=1e-4, atol=1e-4)
