"""CoOp against the tower's own encoding of written prompts, finite differences, and a plain torch loop."""

import json
import math
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_rows import unit
from sklearn.base import clone

from cafe import CoOp, ZeroShot, fit_many
from cafe.encoders import open_encoder
from cafe.errors import InputError
from cafe.features import Features, Split
from cafe.fitting import fit_method
from cafe.methods import expected_failed_checks
from cafe.methods.learned_prompts.prompts import cut_into_parts, make_prompts, words_as_context
from cafe.methods.objectives.coop import ContextObjective
from cafe.runs import load, save
from cafe.training.trainer import Batch

NAMES = ["cat", "hot dog", "phone", "at"]


@pytest.fixture(scope="module")
def folder(make_tiny_clip, tmp_path_factory):
    return make_tiny_clip(tmp_path_factory.mktemp("models") / "clip", projection_dim=12, max_position_embeddings=32)


@pytest.fixture(scope="module")
def tower(folder):
    return open_encoder(str(folder), dtype="float32").text_tower().placed("cpu", torch.float64)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 12))
    y = np.arange(20) % 4
    return (centres[y] + 0.3 * rng.normal(size=(20, 12))).astype(np.float32), y


def make(tower, **parameters):
    tower = str(tower) if isinstance(tower, Path) else tower
    given = {"class_names": NAMES, "text_tower": tower, "n_context": 4, "epochs": 2, "random_state": 0}
    return CoOp(**{**given, **parameters})


# ---------------------------------------------------------------------- golden values


@pytest.mark.parametrize(
    ("class_token", "words", "template"),
    [("end", "a photo of a", "a photo of a {}."), ("middle", "a b at c", "a b {} at c.")],
)
@pytest.mark.parametrize("class_specific", [False, True])
def test_contexts_that_are_words_give_the_towers_own_encoding(
    folder, problem, class_token, words, template, class_specific
):
    X, y = problem
    still = {"lr": 0.0, "warmup_epochs": 0}
    model = make(folder, context_init=words, class_token=class_token, class_specific=class_specific, **still).fit(X, y)
    written = open_encoder(str(folder), dtype="float32").encode_text([template.format(name) for name in NAMES])
    # The same products in another batching: a few float32 roundings.
    np.testing.assert_allclose(model.text_, written, rtol=1e-4, atol=1e-5)
    expected = 100 * unit(X.astype(float)) @ unit(written.astype(float)).T
    np.testing.assert_allclose(model.logits(X), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("class_token", "words", "template"),
    [("end", "a photo of a", "a photo of a {}."), ("middle", "a b at c", "a b {} at c.")],
)
def test_siglip_goes_the_same_way(make_tiny_siglip, tmp_path, class_token, words, template):
    """Its tokeniser has no start token, pads to full length and gives no mask; the tower reads the padding too."""
    encoder = open_encoder(str(make_tiny_siglip(tmp_path / "siglip")), dtype="float32")
    text = encoder.encode_text(NAMES)
    X, y = np.repeat(text, 3, axis=0) + 0.01, np.repeat(np.arange(4), 3)
    still = {"context_init": words, "class_token": class_token, "lr": 0.0, "warmup_epochs": 0}
    model = make(encoder, **still).fit(X, y)
    written = encoder.encode_text([template.format(name) for name in NAMES])
    np.testing.assert_allclose(model.text_, written, rtol=1e-4, atol=1e-5)
    trained = make(encoder, lr=0.05, epochs=20, class_specific=True).fit(X, y)
    assert trained.loss_ < make(encoder, lr=0.0, epochs=1, class_specific=True).fit(X, y).loss_
    with pytest.raises(InputError, match="make a prompt of 17 tokens, but .* reads 16; use a smaller n_context"):
        make(encoder, n_context=13).fit(X, y)


def test_a_tokeniser_that_merges_placeholders_is_refused(folder, problem, monkeypatch):
    tower = open_encoder(str(folder), dtype="float32").text_tower()
    plain = tower.tokenize
    monkeypatch.setattr(tower, "tokenize", lambda texts: plain([text.replace("x x", "x") for text in texts]))
    monkeypatch.setattr(tower, "length", lambda text: int(tower.tokenize([text])["attention_mask"].sum()))
    with pytest.raises(InputError, match="reads 4 placeholder words 'x' as 2 tokens"):
        make(tower).fit(*problem)


def test_the_published_layout_of_prompts(tower):
    """[start] v1 v2 v3 NAME . [end], and v1 NAME v2 v3 . [end], by the token embeddings themselves."""
    contexts = torch.full((1, 3, tower.width), 7.0, dtype=torch.float64)
    table = tower.table.weight

    def expected(parts, length):
        rows = [contexts[0, 0] if p is None else table[p] for p in parts]
        return torch.stack(rows)[:length]

    name = tower.tokenize(["hot dog"])["input_ids"][0, 1:-1].tolist()
    dot = tower.tokenize(["."])["input_ids"][0, 1].item()
    start, end = (tower.tokenize(["a"])["input_ids"][0, i].item() for i in (0, -1))
    for class_token, parts in (
        ("end", [start, None, None, None, *name, dot, end]),
        ("middle", [start, None, *name, None, None, dot, end]),
    ):
        prompt = make_prompts(tower, NAMES, 3, class_token).prompts(contexts, torch.tensor([1]))[0, 0]
        torch.testing.assert_close(prompt[: len(parts)], expected(parts, len(parts)), rtol=0, atol=0)


def objective(tower, class_chunk=None, checkpoint=None, class_specific=False, class_token="middle"):
    prompts = make_prompts(tower, NAMES, 3, class_token)
    return ContextObjective(prompts, None, class_specific, class_chunk, checkpoint)


def a_step(objective, g=2):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    contexts, features = draw(g, *objective.shape), draw(g, 5, 12)
    labels = torch.randint(4, (g, 5), generator=generator)
    hyper = {"logit_scale": torch.full((g,), 5.0, dtype=torch.float64)}

    def losses(contexts):
        return objective.losses_and_gradients(
            Batch(None, {"contexts": contexts}, hyper, features, labels, features[:, :1])
        )

    return contexts, losses


@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("class_token", ["end", "middle"])
def test_gradient_is_the_finite_difference(tower, class_specific, class_token):
    contexts, losses = a_step(objective(tower, class_specific=class_specific, class_token=class_token))
    gradient, h = losses(contexts)[1]["contexts"], 1e-5
    generator = torch.Generator().manual_seed(2)
    for _ in range(6):
        direction = torch.randn(contexts.shape, generator=generator, dtype=torch.float64)
        up, down = (losses(contexts + sign * h * direction)[0] for sign in (1, -1))
        # Per configuration: neither configuration's loss may depend on the other's contexts.
        along = (gradient * direction).flatten(1).sum(1)
        torch.testing.assert_close(along, (up - down) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("class_specific", [False, True])
def test_chunked_and_checkpointed_give_the_same(tower, class_specific):
    contexts, losses = a_step(objective(tower, class_specific=class_specific))
    whole = losses(contexts)
    for chunk, checkpoint in ((1, False), (3, False), (3, True), (4, True), (2, None)):
        _, other = a_step(objective(tower, chunk, checkpoint, class_specific))
        value, gradient = other(contexts)
        torch.testing.assert_close(value, whole[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient["contexts"], whole[1]["contexts"], rtol=1e-9, atol=1e-12)


def test_checkpointing_keeps_one_chunk_only(tower):
    """Bytes that autograd saves in the forward pass: all classes' without, next to nothing with."""

    def saved(**how):
        trained = objective(tower, class_chunk=1, **how)
        contexts, total = torch.zeros((1, *trained.shape), dtype=torch.float64, requires_grad=True), 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            trained.class_features(contexts)
        return total

    assert saved(checkpoint=True) < 0.05 * saved(checkpoint=False)


def test_the_memory_estimate_is_of_the_right_size(tower):
    """The estimate that chunks are cut by, against the bytes that autograd really saves (weights left out)."""
    single = objective(tower, checkpoint=False)
    held = {p.data_ptr() for p in tower.model.parameters()}
    contexts, total = torch.zeros((1, *single.shape), dtype=torch.float64, requires_grad=True), 0

    def pack(tensor):
        nonlocal total
        if tensor.data_ptr() not in held:
            total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        single.class_features(contexts)
    parts, _ = single.parts_of(1)
    assert 0.5 < single.prompts.bytes_per_token * sum(part.tokens for part in parts) / total < 2


# ---------------------------------------------------------------------- what a causal tower spares


@pytest.fixture(scope="module", params=["clip", "open_clip"])
def causal_tower(request, tower):
    if request.param == "clip":
        return tower
    open_clip = pytest.importorskip("open_clip")
    from cafe.encoders.text_towers.open_clip import OpenCLIPTextTower

    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
    text = {"context_length": 32, "width": 24, "heads": 4, "layers": 2, "ls_init_value": 0.5}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.model.CLIP(embed_dim=12, vision_cfg=vision, text_cfg=text)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model = model.eval().requires_grad_(False).double()
    return OpenCLIPTextTower("m", model, "0" * 64, open_clip.SimpleTokenizer(context_length=32))


@pytest.mark.parametrize("class_token", ["end", "middle"])
@pytest.mark.parametrize("chunk", [4, 2])
def test_sharing_the_prefix_changes_nothing(causal_tower, class_token, chunk, monkeypatch):
    """Values and gradients against whole prompts through the library, padded to full length.

    Both are some hundred float64 products in two orders: 1e-12 of the largest is thousands of roundings.
    """
    names = ["cat", "a long name", "phone", "at"]
    made = make_prompts(causal_tower, names, 3, class_token)
    assert made.shared(True) == (4 if class_token == "end" else 2)
    contexts = torch.randn((2, 3, 24), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    contexts.requires_grad_()
    weights = torch.randn((2, 4, 12), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def values(prompts, most):
        features = prompts.all_features(contexts, prompts.parts(True, most, math.inf), False)
        return features.detach(), torch.autograd.grad((features * weights).sum(), contexts)[0]

    shared = values(made, chunk)
    monkeypatch.setattr(type(causal_tower), "causal_parts", lambda self: None)
    whole = values(make_prompts(causal_tower, names, 3, class_token), 4)
    for gradient, other in zip(shared, whole, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-12 * float(other.abs().max()))


def test_what_is_encoded_of_a_thousand_prompts(tower):
    names = [f"cat {i}" if i % 10 else "a long name" for i in range(1000)]
    prompts = make_prompts(tower, names, 4, "end")
    parts = prompts.parts(True, 1000, math.inf)
    least = sum(length - 5 for length in prompts.lengths)
    assert least < sum(part.tokens for part in parts) < 1.1 * least
    assert sorted(torch.cat([part.classes for part in parts]).tolist()) == list(range(1000))


def test_parts_keep_to_their_limits():
    lengths = [9, 4, 7, 7, 4, 12, 5]
    for most_classes, most_tokens in ((3, 1e9), (7, 14), (7, 3), (1, 1e9)):
        parts = cut_into_parts(lengths, 3, most_classes, most_tokens)
        assert sorted(torch.cat([part.classes for part in parts]).tolist()) == list(range(7))
        for part in parts:
            assert part.length == max(lengths[i] for i in part.classes)
            assert len(part.classes) <= most_classes
            assert part.tokens <= most_tokens or len(part.classes) == 1


def test_a_tower_is_shared_by_threads(tower):
    """Fits side by side put their own embeddings into one tower at the same time."""
    tokens = tower.tokenize(NAMES)
    given = [tower.embed(tokens) + i for i in range(2)]
    expected = [tower.forward(tokens, embeddings) for embeddings in given]
    together = threading.Barrier(2)

    def encode(i):
        same = []
        for _ in range(50):
            together.wait(10)
            same.append(torch.equal(tower.forward(tokens, given[i]), expected[i]))
        return all(same)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(encode, range(2))) == [True, True]


def test_training_is_a_plain_torch_loop(tower, problem):
    """Full batches, so that the order of rows is nothing: SGD with momentum 0.9, 1e-5 for one epoch, then a cosine."""
    X, y = problem
    model = make(tower, epochs=6, batch_size=20, lr=0.3, logit_scale=10.0, dtype="float64", class_embeddings=None).fit(
        X, y
    )
    start = 0.02 * torch.randn((4, tower.width), generator=torch.Generator().manual_seed(0))
    contexts = torch.nn.Parameter(start.double())
    optimizer = torch.optim.SGD([contexts], lr=0.3, momentum=0.9, weight_decay=5e-4)
    prompts = make_prompts(tower, NAMES, 4, "end")
    whole = prompts.parts(True, 4, math.inf)
    f, labels = torch.as_tensor(unit(X.astype(np.float64))), torch.as_tensor(y)
    for epoch in range(6):
        rate = 1e-5 if epoch == 0 else 0.3 * 0.5 * (1 + np.cos(np.pi * (epoch - 1) / 5))
        optimizer.param_groups[0]["lr"] = rate
        classes = torch.nn.functional.normalize(prompts.all_features(contexts[None], whole, False)[0], dim=-1)
        loss = torch.nn.functional.cross_entropy(10 * f @ classes.T, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.abs(model.contexts_ - start.numpy()).max() > 0.01
    # X enters in float32 and is scaled there, so the rows differ in their last float32 bit.
    np.testing.assert_allclose(model.contexts_, contexts.detach().numpy(), rtol=1e-3, atol=1e-6)


# ---------------------------------------------------------------------- the method


@pytest.mark.parametrize(("shots", "epochs"), [(1, 50), (2, 100), (4, 100), (5, 200)])
def test_default_length_is_the_papers(folder, shots, epochs):
    rng = np.random.default_rng(0)
    y = np.arange(4 * shots) % 4
    model = make(folder, epochs=None, batch_size=6).fit(rng.normal(size=(len(y), 12)), y)
    # The loader drops a short last batch; fewer rows than a batch are one batch.
    assert model.n_steps_ == epochs * max(1, len(y) // 6)


def test_learns_what_zero_shot_does_not_know(folder, problem):
    """A hundred epochs of CoOp halve the loss after one epoch; accuracy is at least 0.2 above zero-shot's."""
    X, y = problem
    recipe = {"class_specific": True, "lr": 0.02, "logit_scale": 10.0}
    long = make(folder, epochs=100, **recipe).fit(X, y)
    assert long.loss_ < 0.5 * make(folder, epochs=1, **recipe).fit(X, y).loss_
    assert long.score(X, y) > ZeroShot(long.class_embeddings_).fit(X, y).score(X, y) + 0.2
    assert long.contexts_.shape == (4, 4, 24)  # classes, context words, width of the text tower


def test_after_fit_no_tower_is_needed(folder, problem, tmp_path, monkeypatch):
    X, y = problem
    model = make(folder).fit(X, y)
    assert (model.tower_id_, len(model.tower_sha256_)) == (str(folder), 64)
    save(model, tmp_path / "run")
    monkeypatch.setattr(
        "cafe.methods.learned_prompts.tower.open_tower", lambda *given: pytest.fail("a tower was opened")
    )
    again = load(tmp_path / "run")
    np.testing.assert_array_equal(again.logits(X), model.logits(X))
    np.testing.assert_array_equal(clone(model).set_params(**model.get_params()).class_names, NAMES)
    json.dumps({k: v for k, v in model.get_params().items() if k != "class_embeddings"})


def test_a_tower_may_be_an_id_an_encoder_or_a_tower_and_is_shared_by_clones(folder, problem):
    X, y = problem
    encoder = open_encoder(str(folder), dtype="float32")
    fits = [make(given).fit(X, y) for given in (str(folder), folder, encoder, encoder.text_tower())]
    for fit in fits[1:]:
        np.testing.assert_allclose(fit.logits(X), fits[0].logits(X), rtol=1e-5)
    tower = encoder.text_tower()
    assert clone(make(tower)).text_tower is tower


def test_a_tower_in_half_precision_starts_from_its_own_embeddings(folder, problem):
    """NumPy has no bfloat16, in which an encoder may have been opened."""
    X, y = problem
    model = make(open_encoder(str(folder), dtype="bfloat16")).fit(X, y)
    assert model.class_embeddings_.dtype == X.dtype
    assert np.isfinite(model.logits(X)).all()


def test_a_tower_that_is_an_object_is_not_saved_before_it_is_named(folder, problem, tmp_path):
    X, y = problem
    encoder = open_encoder(str(folder), dtype="float32")
    for given in (encoder, encoder.text_tower(), folder):
        model = CoOp(class_names=NAMES, text_tower=given, n_context=4, epochs=2, random_state=0).fit(X, y)
        with pytest.raises(InputError, match=f"text_tower of coop is a {type(given).__name__}, which a run folder"):
            save(model, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    save(model.set_params(text_tower=encoder.id), tmp_path / "run")
    np.testing.assert_array_equal(load(tmp_path / "run").logits(X), model.logits(X))


def test_a_grid_opens_its_tower_once_and_gives_what_single_fits_give(folder, problem, monkeypatch):
    from cafe.methods.learned_prompts import tower

    X, y = problem
    opened, plain = [], tower.open_tower
    monkeypatch.setattr(tower, "open_tower", lambda *given: opened.append(given) or plain(*given))
    grid = [make(folder, random_state=s, lr=0.05, class_specific=csc) for s in (0, 1) for csc in (False, True)]
    fits = fit_many(X, y, grid)
    assert len(opened) == 1
    for fit, model in zip(fits, grid, strict=True):
        single = clone(model).fit(X, y)
        np.testing.assert_allclose(fit.logits(X), single.logits(X), rtol=1e-3, atol=1e-3)


def test_the_same_context_in_front_of_other_names(folder, problem):
    X, y = problem
    model = make(folder, lr=0.1).fit(X, y)
    new = ["at", "horse"]
    other = model.for_classes(np.eye(12)[:2], class_names=new)
    assert other.logits(X).shape == (20, 2)
    np.testing.assert_allclose(other.logits(X)[:, 0], model.logits(X)[:, NAMES.index("at")], rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="belong to the classes"):
        make(folder, class_specific=True).fit(X, y).for_classes(np.eye(12)[:2], class_names=new)
    with pytest.raises(InputError, match="class_names"):
        model.for_classes(np.eye(12)[:2])


def test_string_labels_are_the_names_where_none_are_given(folder, problem):
    X, y = problem
    model = make(folder, class_names=None, classes=NAMES).fit(X, np.array(NAMES)[y])
    np.testing.assert_array_equal(model.logits(X), make(folder).fit(X, y).logits(X))


def test_words_as_context_are_the_tables_rows(tower):
    words = words_as_context(tower, "a photo")
    ids = tower.tokenize(["a photo"])["input_ids"][0, 1:-1]
    torch.testing.assert_close(words, tower.table.weight[ids])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"text_tower": None}, "give text_tower"),
        ({"text_tower": 3}, "text_tower of coop must be"),
        ({"text_tower": "./nowhere"}, "text_tower of coop cannot be opened: no such model folder"),
        ({"text_tower_sha256": "0" * 64}, "is not the one that encoded these features"),
        ({"class_names": None}, "give class_names"),
        ({"class_names": NAMES[:3]}, "labels must be integers 0 to 2"),
        ({"class_names": NAMES[:3], "class_embeddings": np.eye(12)[:4]}, "must name 4 classes, but has 3"),
        ({"class_names": ["cat " * 40, "a", "b", "c"]}, "make a prompt of .* tokens, but"),
        ({"n_context": 0}, "n_context of coop must be a whole number, at least 1"),
        ({"class_token": "front"}, "unknown class_token of coop"),
        ({"context_init": ""}, "must be words"),
        ({"epochs": 0}, "above 0"),
        ({"class_chunk": 0}, "at least 1"),
        ({"dtype": "float31"}, "did you mean 'float32'"),
        ({"random_state": "one"}, "must be an integer"),
    ],
)
def test_bad_parameters_are_told(folder, problem, parameters, words):
    X, y = problem
    with pytest.raises(InputError, match=words):
        make(folder, **parameters).fit(X, y)


def test_another_encoders_features_are_refused(folder, problem):
    X, y = problem
    with pytest.raises(InputError, match="as wide as the image features"):
        make(folder).fit(X[:, :7], y)
    with pytest.raises(InputError, match=r"12 wide, but the image features are 7 wide"):
        make(folder, class_embeddings=np.eye(7)[:4]).fit(X[:, :7], y)


def test_every_exception_to_scikit_learns_checks_is_needed():
    """Each excepted check really fails for want of a tower; what can be passed is not excepted."""
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(CoOp(), on_fail=None)
    failed = {result["check_name"] for result in results if result["status"] == "failed"}
    assert failed == set(expected_failed_checks(CoOp()))


# ---------------------------------------------------------------------- from a cache


def cached(sha256):
    """Features as a cache of ``cafe:mini`` gives them."""
    names = ("circle", "square", "triangle")
    encoder = open_encoder("cafe:mini")
    text = encoder.encode_text([f"a photo of a {name}." for name in names])
    rng = np.random.default_rng(0)
    splits = {}
    for name, n in (("train", 12), ("test", 30)):
        y = np.arange(n) % 3
        x = unit(text[y]) + 0.05 * rng.normal(size=(n, text.shape[1]))
        splits[name] = Split(x.astype(np.float32), y, np.array([f"{name}{i}" for i in range(n)]))
    sha256 = encoder.identity()["text"]["weights_sha256"] if sha256 is None else sha256
    provenance = {"dataset": "shapes", "encoder": "cafe:mini", "text": {"encoder": {"weights_sha256": sha256}}}
    return Features(splits, names, text[None], logit_scale=encoder.logit_scale, provenance=provenance)


def test_a_cache_names_its_tower_and_its_classes():
    fitted = fit_method(cached(None), "coop", {"epochs": 2, "n_context": 4}, shots=2)
    row = json.loads(json.dumps(fitted.row))
    assert (row["params"]["text_tower"], row["kernel"]) == ("cafe:mini", "autograd")
    assert "class_names" not in row["params"]  # 1,000 names in every row would drown it
    assert fitted.estimator.class_names == ["circle", "square", "triangle"]


def test_a_tower_that_is_not_the_caches_is_refused():
    with pytest.raises(InputError, match="is not the one that encoded these features"):
        fit_method(cached("0" * 64), "coop", {"epochs": 2}, shots=2)
