"""open_clip's live text tower against the library's own ``encode_text``, and CoOp through it."""

import json

import numpy as np
import pytest
import torch

from cafe import CoOp
from cafe.encoders import open_encoder
from cafe.encoders.text_towers.open_clip import OpenCLIPTextTower
from cafe.errors import InputError
from cafe.methods.learned_prompts.prompts import make_prompts
from cafe.runs import load, save

NAMES = ["cat", "hot dog", "phone", "at"]
PROMPTS = ["a", "a photo of a hot dog.", "x " * 40]  # the last is cut at the context of 16
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 4, "layers": 2}
EOS = {"pool_type": "eos", "eos_id": 49407}


@pytest.fixture
def make_model(open_clip):
    """A random model of the library in float64, of one of its classes, with changes in its text side."""

    def make(kind="CLIP", **text):
        from open_clip import model

        vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = getattr(model, kind)(embed_dim=12, vision_cfg=vision, text_cfg={**TEXT, **text})
            for parameter in made.parameters():  # norms and biases start at one and zero, and would hide mistakes
                parameter.data += 0.1 * torch.randn_like(parameter)
        return made.eval().requires_grad_(False).double()

    return make


@pytest.fixture
def tokenizer(open_clip):
    return open_clip.SimpleTokenizer(context_length=16)


def close(actual, expected, steps=1.0):
    """Equal up to ``steps`` times 256 roundings of the largest entry: a few hundred products in another order."""
    return float((actual - expected).abs().max()) <= steps * 256 * torch.finfo(expected.dtype).eps * float(
        expected.abs().max()
    )


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
@pytest.mark.parametrize("text", [{}, EOS, {"proj_bias": True}, {"proj_type": "none"}, {"width": 12, "heads": 2}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_written_prompts_give_the_librarys_features(make_model, tokenizer, kind, text, dtype):
    model = make_model(kind, **text).to(dtype)
    tower = OpenCLIPTextTower("m", model, "0" * 64, tokenizer)
    expected = model.encode_text(tokenizer(PROMPTS))
    tokens = tower.tokenize(PROMPTS)
    assert close(tower.forward(tokens, tower.embed(tokens)), expected)
    assert close(tower.encode(PROMPTS), expected)
    assert not close(expected[:1], expected[1:2])  # the prompts are told apart at all
    assert (tower.max_tokens, tower.leading_tokens, tower.dtype) == (16, 1, dtype)
    assert (tower.width, tower.dim) == (text.get("width", 24), expected.shape[1])


@pytest.mark.parametrize("text", [{}, EOS])
def test_prompts_are_cut_behind_the_longest_ones_end(make_model, tokenizer, text):
    tower = OpenCLIPTextTower("m", make_model(**text), "0" * 64, tokenizer)
    ids = tower.tokenize(["cat", "a photo of a cat"])["input_ids"]
    assert ids.shape == (2, 7)  # start, five words, end
    assert tower.tokenize(PROMPTS)["input_ids"].shape == (3, 16)


def test_gradients_reach_the_contexts(make_model, tokenizer):
    """Against central differences of the library's own forward, its table's rows moved by the step.

    Step h = 1e-5 leaves errors of h^2 times a third derivative and 1e-16 / h: 1e-7 of the values is far above both.
    """
    model = make_model()
    tower = OpenCLIPTextTower("m", model, "0" * 64, tokenizer)
    prompts = make_prompts(tower, NAMES, 3, "end")
    whole = prompts.parts(True, 4, 1e9)
    generator = torch.Generator().manual_seed(0)
    contexts = torch.randn(1, 3, 24, generator=generator, dtype=torch.float64).requires_grad_()
    weights = torch.randn(len(NAMES), 12, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * prompts.all_features(contexts, whole, False)[0]).sum(), contexts)
    assert bool((gradient.abs().amax(dim=2) > 0).all())  # every context vector
    ids = tokenizer([f"! # $ {name}." for name in NAMES])  # three words that no name holds
    direction = torch.randn(3, 24, generator=generator, dtype=torch.float64)

    def value(step):
        model.token_embedding.weight[ids[0, 1:4]] = contexts.detach()[0] + step * direction
        return float((weights * model.encode_text(ids)).sum())

    difference = (value(1e-5) - value(-1e-5)) / 2e-5
    assert float((gradient[0] * direction).sum()) == pytest.approx(difference, rel=1e-7)


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("CLIP", {"no_causal_mask": True}, "no causal mask"),
        ("CustomTextCLIP", {"no_causal_mask": True, "pool_type": "last"}, "no causal mask"),
        ("CLIP", {"pool_type": "last"}, "pools by 'last'"),
        ("CustomTextCLIP", {"pool_type": "first"}, "pools by 'first'"),
        ("CustomTextCLIP", {"embed_cls": True}, "class token behind the prompt"),
    ],
)
def test_other_text_sides_are_refused(make_model, tokenizer, kind, text, words):
    with pytest.raises(InputError, match=f"encoder 'm' gives no live text tower.*{words}; possible with open_clip"):
        OpenCLIPTextTower("m", make_model(kind, **text), "0" * 64, tokenizer)


def test_towers_of_hugging_face_are_refused(make_model, tokenizer):
    from open_clip.hf_model import HFTextEncoder
    from transformers import RobertaConfig

    config = RobertaConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = make_model("CustomTextCLIP")
    model.text = HFTextEncoder("roberta", output_dim=12, config=config, proj_type="linear", pretrained=False)
    with pytest.raises(InputError, match="its text side is a HFTextEncoder; possible with open_clip"):
        OpenCLIPTextTower("m", model, "0" * 64, tokenizer)
    with pytest.raises(InputError, match="its model is a Linear; possible"):
        OpenCLIPTextTower("m", torch.nn.Linear(1, 1), "0" * 64, tokenizer)


def test_an_end_token_that_the_tokeniser_does_not_give_is_refused(make_model, tokenizer):
    tower = OpenCLIPTextTower("m", make_model(pool_type="eos", eos_id=2), "0" * 64, tokenizer)
    with pytest.raises(InputError, match="ends a prompt without token 2"):
        tower.tokenize(["cat"])


# ---------------------------------------------------------------------- CoOp


@pytest.fixture
def problem(tiny_open_clip):
    encoder = open_encoder(tiny_open_clip, device="cpu")
    text = encoder.encode_text(NAMES)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    y = np.arange(24) % 4
    noise = np.random.default_rng(0).normal(size=(24, text.shape[1]))
    return (text[y] + 0.05 * noise).astype(np.float32), y


def coop(model_id, **parameters):
    given = {"class_names": NAMES, "text_tower": model_id, "n_context": 4, "random_state": 0, "device": "cpu"}
    return CoOp(**{**given, **parameters})


def test_contexts_that_are_words_give_the_librarys_encoding(tiny_open_clip, problem):
    still = {"lr": 0.0, "warmup_epochs": 0, "epochs": 1}
    for token, words, template in (("end", "a photo of a", "a photo of a {}."), ("middle", "a b at c", "a b {} at c.")):
        model = coop(tiny_open_clip, context_init=words, class_token=token, **still).fit(*problem)
        written = open_encoder(tiny_open_clip, device="cpu").encode_text([template.format(name) for name in NAMES])
        assert close(torch.from_numpy(model.text_), torch.from_numpy(written))


def test_coop_learns_through_open_clip_and_is_saved(tiny_open_clip, problem, tmp_path):
    X, y = problem
    model = coop(tiny_open_clip, epochs=60, lr=0.05).fit(X, y)
    assert model.loss_ < 0.8 * coop(tiny_open_clip, epochs=1, warmup_epochs=0, lr=0.0).fit(X, y).loss_
    assert (model.tower_id_, model.contexts_.shape) == (tiny_open_clip, (4, 24))
    assert model.tower_sha256_ == open_encoder(tiny_open_clip).identity()["text"]["weights_sha256"]
    chunked = coop(tiny_open_clip, epochs=60, lr=0.05, class_chunk=1).fit(X, y)
    np.testing.assert_allclose(chunked.logits(X), model.logits(X), rtol=1e-3, atol=1e-2)
    save(model, tmp_path / "run")
    np.testing.assert_array_equal(load(tmp_path / "run").logits(X), model.logits(X))


def test_a_name_that_is_too_long_is_told(tiny_open_clip, problem):
    with pytest.raises(InputError, match=r"make a prompt of 19 tokens, but the text tower .* reads 16"):
        coop(tiny_open_clip, class_names=["cat", "dog", "a", "b"], n_context=15).fit(*problem)


def test_extract_and_fit_from_the_command_line(make_open_clip, tmp_path):
    from cafe.cli.app import call

    make_open_clip(tmp_path / "clip", text_cfg={**TEXT, "context_length": 24})  # 16 contexts and a digit's name
    model, cache = f"open_clip:local-dir:{tmp_path / 'clip'}", str(tmp_path / "a.h5")
    assert call(["extract", "--dataset", "digits", "--model", model, "--out", cache, "--quiet"]) == 0
    words = ["--cache", cache, "--method", "coop", "--shots", "1", "--device", "cpu"]
    assert call(["fit", *words, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["method"], run["params"]["text_tower"]) == ("coop", model)
