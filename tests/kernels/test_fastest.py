"""Which form and precision runs: what was measured here, whatever the processor says of itself."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from cafe import CLIPAdapter, ProLIP, TipAdapterF
from cafe.errors import InputError
from cafe.kernels.cache_keys import KeysSizes
from cafe.kernels.choose import CPU_FORMS
from cafe.kernels.class_weights import WeightSizes
from cafe.kernels.compiled.library import why_not_compiled
from cafe.kernels.fastest import (
    LEAST_MEASURED,
    MOST_TIMED,
    StepSizes,
    _hopeless_precisions,
    choose_cpu_step,
    choose_cpu_threads,
    choose_precision,
    measured_precisions,
    measured_steps,
)
from cafe.kernels.projection import ProjectionSizes
from cafe.kernels.reference import AdapterShape
from cafe.measured import keep_in

IMAGE = StepSizes(AdapterShape("image", "paper", 64), 256, 512, 1000)
# Seconds of a step relative to float32's, by processor, as seen: see docs/performance.md.
AMX, VECTORS_OF_INTEL, VECTORS_OF_AMD = 1 / 3, 1.75, 1 / 3


@pytest.fixture(params=["cpu-direct", "cpu-compiled"])
def plain(request, monkeypatch):
    """The form that an installation without compiled passes takes, and one with them, where nothing else is faster."""
    built = request.param == "cpu-compiled"
    monkeypatch.setattr("cafe.kernels.fastest.why_not_compiled", lambda: "" if built else "they were not built")
    return request.param


@pytest.fixture
def rates(monkeypatch):
    """Return a function that replaces the measured seconds of a step by those that a test wants."""

    def set_rates(bfloat16, **forms):
        """Give the plain forms 4 ms, others a factor of that, and their bfloat16 steps ``bfloat16`` times that."""
        seconds = {
            (f"cpu-{form}", precision): 0.004 * factor * (1 if precision == "float32" else bfloat16)
            for form, factor in ({"direct": 1.0, "compiled": 1.0} | forms).items()
            for precision in ("float32", "bfloat16")
        }
        measured = lambda sizes, ways: {way: seconds[way] for way in ways if way in seconds}  # noqa: E731
        monkeypatch.setattr("cafe.kernels.fastest.measured_steps", measured)

    return set_rates


@pytest.mark.parametrize(
    ("bfloat16", "taken"),
    [
        (AMX, "bfloat16"),
        (VECTORS_OF_AMD, "bfloat16"),
        (VECTORS_OF_INTEL, "float32"),
        (0.97, "float32"),  # what gains nothing does not round
    ],
)
def test_the_precision_follows_the_measurement(plain, rates, bfloat16, taken):
    rates(bfloat16)
    assert choose_cpu_step("auto", "auto", IMAGE, 16_000) == (plain, taken)
    for dtype in ("float32", "bfloat16", "float64"):
        assert choose_cpu_step("cpu", dtype, IMAGE, 16_000)[1] == dtype  # a named precision is taken


def test_the_form_follows_the_measurement(plain, rates):
    rates(2.0, folded=0.9, projected=0.95)
    assert choose_cpu_step("auto", "auto", IMAGE, 16_000) == ("cpu-folded", "float32")
    rates(2.0, direct=0.9)
    assert choose_cpu_step("auto", "auto", IMAGE, 16_000) == ("cpu-direct", "float32")  # compiled passes may be slower
    rates(2.0, folded=0.99, projected=0.99)
    assert choose_cpu_step("auto", "auto", IMAGE, 16_000) == (plain, "float32")  # no gain to speak of
    for form in CPU_FORMS:
        if form == "cpu-compiled" and plain == "cpu-direct":
            with pytest.raises(InputError, match="cannot run: they were not built"):
                choose_cpu_step(form, "float32", IMAGE, 16_000)
            continue
        assert choose_cpu_step(form, "float32", IMAGE, 16_000) == (form, "float32")
        assert choose_cpu_step(form, "auto", IMAGE, 16_000) == (form, "float32")


def test_the_projected_form_has_to_earn_its_logits_back(plain, rates):
    rates(2.0, projected=0.5)
    assert choose_cpu_step("auto", "auto", IMAGE, 16_000) == ("cpu-projected", "float32")
    assert choose_cpu_step("auto", "auto", IMAGE, 1_280_000)[0] == plain  # 5 GB of logits
    assert choose_cpu_step("auto", "auto", IMAGE, 16_000, in_memory=False)[0] == plain
    rates(2.0, projected=0.9)
    assert choose_cpu_step("auto", "auto", IMAGE, 130_000)[0] == plain  # saves too little of each step


@pytest.mark.parametrize(("seconds_of_one", "threads"), [(0.9, 1), (0.99, 2), (2.0, 2)])
@pytest.mark.parametrize(("others", "kept"), [(0.0, True), (16.0, False)])
def test_threads_follow_the_measurement_and_a_busy_moment_is_not_noted(
    monkeypatch, seconds_of_one, threads, others, kept
):
    asked = []

    def seconds(*_, keep, **__):
        asked.append(keep)
        torch.set_num_threads(1)
        return {"all": 1.0, "one": seconds_of_one}

    before = torch.get_num_threads()
    monkeypatch.setattr("cafe.kernels.fastest.seconds_of", seconds)
    monkeypatch.setattr("os.getloadavg", lambda: (others, 0.0, 0.0))
    torch.set_num_threads(2)
    try:
        assert choose_cpu_threads("cpu-direct", "float32", IMAGE) == threads
        assert torch.get_num_threads() == 2  # the setting from before comes back
    finally:
        torch.set_num_threads(before)
    assert asked == [kept]


def test_threads_are_timed_for_real(tmp_path):
    before = torch.get_num_threads()
    keep_in(tmp_path)
    torch.set_num_threads(2)
    try:
        sizes = StepSizes(AdapterShape("image", "paper", 64), 256, 256, 256)
        assert choose_cpu_threads("cpu-folded", "float32", sizes) in (1, 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
        keep_in(None)


def test_a_projected_step_that_does_not_exist_is_refused():
    for shape in (AdapterShape("both", "paper", 128), AdapterShape("image", "released", 128)):
        with pytest.raises(InputError, match="use kernel='cpu'"):
            choose_cpu_step("cpu-projected", "auto", StepSizes(shape, 256, 512, 1000), 16_000)
    with pytest.raises(InputError, match="features in memory"):
        choose_cpu_step("cpu-projected", "auto", IMAGE, 16_000, in_memory=False)


def test_compiled_passes_do_not_multiply_float64():
    with pytest.raises(InputError, match="use kernel='cpu' for dtype='float64'"):
        choose_cpu_step("cpu-compiled", "float64", IMAGE, 16_000)


def test_both_precisions_are_timed_however_long_that_takes(tmp_path, monkeypatch):
    """Making the steps once took the whole budget, so that float32 alone, the first, was timed, and kept for good."""
    monkeypatch.setattr("cafe.measured._of_this_process", {})
    keep_in(tmp_path)
    try:
        sizes = StepSizes(AdapterShape("image", "paper", 16), 64, 64, 64)
        seconds = measured_steps(sizes, [("cpu-direct", "float32"), ("cpu-direct", "bfloat16")], budget=1e-9)
        assert len(seconds) == 2 or "bfloat16" in _hopeless_precisions()
        assert len(measured_steps(sizes, [("cpu-direct", "float32"), ("cpu-folded", "float32")], budget=1e-9)) == 1
    finally:
        keep_in(None)


def test_a_projected_form_without_a_gain_is_not_timed(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "cafe.kernels.fastest.measured_steps", lambda _, ways: asked.append(ways) or dict.fromkeys(ways, 0.01)
    )
    for reduction, timed in ((4, False), (16, True)):
        sizes = StepSizes(AdapterShape("image", "paper", 512 // reduction), 256, 512, 1000)
        choose_cpu_step("auto", "float32", sizes, 16_000)
        assert (("cpu-projected", "float32") in asked.pop()) == timed


def test_small_steps_are_not_asked_about(plain, monkeypatch):
    monkeypatch.setattr("cafe.kernels.fastest.measured_steps", lambda *_: pytest.fail("measured"))
    small = StepSizes(AdapterShape("image", "paper", 32), 160, 128, 10)
    assert small.multiply_adds < LEAST_MEASURED
    assert choose_cpu_step("auto", "auto", small, 160) == (plain, "float32")


def test_members_of_a_class_get_one_answer_and_none_is_too_large_to_time():
    shape = AdapterShape("both", "released", 256, "learned", "fixed")
    first, second = (StepSizes(shape, 256, d, c).representative() for d, c in ((1024, 1000), (1024, 800)))
    assert first == second
    for variant in ("image", "text", "both"):
        for d, c in itertools.product((64, 512, 1152), (2, 102, 1000, 20_000)):
            sizes = StepSizes(AdapterShape(variant, "paper", d // 4), 256, d, c).representative()
            assert sizes.multiply_adds <= MOST_TIMED
            # What decides between the forms stays as it is.
            assert (sizes.classes > sizes.width) == (c > d)
            assert sizes.shape.bottleneck == sizes.width // 4


def test_what_is_measured_here_is_kept_and_obeyed(tmp_path, monkeypatch):
    """The seconds of small steps are measured once and kept on disk, where another process finds them."""
    sizes = StepSizes(AdapterShape("image", "paper", 8), 16, 32, 16)
    monkeypatch.setattr("cafe.measured._of_this_process", {})
    keep_in(tmp_path)
    try:
        forms = [form for form in CPU_FORMS if form != "cpu-compiled" or not why_not_compiled()]
        ways = [(form, precision) for form in forms for precision in ("float32", "bfloat16")]
        seconds = measured_steps(sizes, ways)
        assert ("cpu-direct", "float32") in seconds
        assert all(value > 0 for value in seconds.values())
        assert (tmp_path / "measured.json").is_file()
        monkeypatch.setattr("cafe.measured._of_this_process", {})
        monkeypatch.setattr("cafe.kernels.fastest._make_steps", lambda *_: pytest.fail("measured again"))
        assert measured_steps(sizes, ways) == seconds
    finally:
        keep_in(None)


@pytest.mark.parametrize("variant", ["image", "text", "both"])
def test_a_fit_shows_what_ran_and_every_form_gives_one_answer(monkeypatch, rates, variant):
    plain = "cpu-direct" if why_not_compiled() else "cpu-compiled"
    rng = np.random.default_rng(0)
    text = rng.standard_normal((200, 128)).astype(np.float32)  # with 256 rows large enough to be measured
    y = np.arange(256) % 200
    X = (text[y] + rng.standard_normal((256, 128))).astype(np.float32)
    fits = []
    for form in CPU_FORMS:
        if (form == "cpu-projected" and variant != "image") or (form == "cpu-compiled" and plain == "cpu-direct"):
            continue
        kernel = "auto"
        if form in ("cpu-folded", "cpu-projected"):
            rates(2.0, **{form.removeprefix("cpu-"): 0.5})
        else:
            rates(2.0)
            kernel = "auto" if form == plain else form
        fit = CLIPAdapter(
            text, variant=variant, kernel=kernel, reduction=16, epochs=20, device="cpu", random_state=0
        ).fit(X, y)
        assert (fit.kernel_, fit.dtype_) == (form, "float32")
        fits.append(fit)
    rates(0.3)
    low = CLIPAdapter(text, variant=variant, epochs=20, device="cpu", random_state=0).fit(X, y)
    assert (low.kernel_, low.dtype_) == (plain, "bfloat16")
    for fit in fits[1:]:
        # Rounding of 20 steps in float32; Adam's first steps have the size of the rate whatever the gradient's.
        np.testing.assert_allclose(fit.logits(X), fits[0].logits(X), atol=0.05)
        assert (fit.predict(X) == fits[0].predict(X)).all()


def test_steps_of_class_weights_are_measured_once_for_a_class_of_sizes(tmp_path):
    keep_in(tmp_path)
    try:
        first = measured_precisions(WeightSizes(False, 4000, 16, 60))
        assert first["float32"] > 0
        assert measured_precisions(WeightSizes(False, 4100, 17, 64)) == first
        assert measured_precisions(WeightSizes(True, 4100, 17, 64)) != first
    finally:
        keep_in(None)


def test_a_step_that_takes_as_long_as_its_measurement_is_not_measured():
    assert choose_precision("auto", "cpu", WeightSizes(True, 32, 512, 10)) == "float32"


SIZES = [
    ProjectionSizes(4000, 768, 512, 1000),
    KeysSizes(256, 512, 1000, 4000),
    WeightSizes(True, 256, 512, 1000),
    WeightSizes(False, 16_000, 512, 1000),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("bfloat16", "taken"), [(0.3, "bfloat16"), (0.97, "float32"), (None, "float32")])
def test_the_precision_of_a_step_follows_its_measurement(sizes, bfloat16, taken, monkeypatch):
    """bfloat16 is taken where its step is clearly faster; None stands for a precision too slow to be timed."""
    seconds = {"float32": 0.002} | ({} if bfloat16 is None else {"bfloat16": 0.002 * bfloat16})
    monkeypatch.setattr("cafe.kernels.fastest.measured_precisions", lambda sizes: seconds)
    assert choose_precision("auto", "cpu", sizes) == taken
    assert choose_precision("auto", "cuda:0", sizes) == "float32"
    for dtype in ("float32", "float64"):
        assert choose_precision(dtype, "cpu", sizes) == dtype


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_step_is_timed_at_a_size_that_fits_its_budget(sizes, monkeypatch):
    questions = []

    def seconds_of(question, names, make, **_):
        for run in make().values():
            run()
        questions.append(question)
        return {}

    monkeypatch.setattr("cafe.kernels.fastest.seconds_of", seconds_of)
    measured_precisions(sizes, most_timed=1_000_000)
    *_, last = vars(sizes)
    measured_precisions(replace(sizes, **{last: getattr(sizes, last) + 1}), most_timed=1_000_000)
    assert questions[0] == questions[1]  # of one class of sizes


@pytest.mark.parametrize("method", [TipAdapterF, ProLIP])
def test_a_fit_shows_the_precision_of_its_products(method, monkeypatch):
    rng = np.random.default_rng(0)
    text = rng.standard_normal((200, 128)).astype(np.float32)  # with 256 rows large enough to be measured
    y = np.arange(256) % 200
    X = (text[y] + 4 * rng.standard_normal((256, 128))).astype(np.float32)  # text is wrong about many
    fits = {}
    for precision, ratio in (("float32", 2.0), ("bfloat16", 0.5)):
        seconds = {"float32": 1.0, "bfloat16": ratio}
        monkeypatch.setattr("cafe.kernels.fastest.measured_precisions", lambda sizes, seconds=seconds: seconds)
        fits[precision] = method(text, device="cpu", random_state=0).fit(X, y)
        assert fits[precision].dtype_ == precision
    # Unit rows of the products are rounded by 2^-9, and a scale of 100 multiplies their cosines, at every step.
    np.testing.assert_allclose(fits["bfloat16"].logits(X), fits["float32"].logits(X), atol=100 / 2**8)
    assert not np.array_equal(fits["bfloat16"].logits(X), fits["float32"].logits(X))
