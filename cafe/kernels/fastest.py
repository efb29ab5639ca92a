"""Which form of a CPU's step runs, in which precision, and on how many threads: whatever is fastest here.

The adapter's step has forms and precisions, that of class weights has precisions. Neither follows from what a
processor says of itself: with AVX512_BF16 and no AMX, bfloat16 products ran at 0.6 of float32's rate on an Intel and at
4 times it on an AMD; on an Intel with AMX at 6 times. So the steps themselves are run on random rows of the sizes in
question, first the plain form in every precision, then every form in the faster one, once for each class of shapes
(``cafe/measured.py`` times and keeps them). A class is sizes rounded to powers of two, so that the answer does not
depend on which of its members came first.

The plain form is the direct one, with compiled passes where an installation has them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Protocol

import torch

from cafe.compute import SMALL, threads_for
from cafe.errors import InputError
from cafe.kernels.choose import COMPILED, CPU_FORMS, DIRECT, FOLDED, PROJECTED
from cafe.kernels.compiled.library import why_not_compiled
from cafe.kernels.cpu_forms import adapter_step
from cafe.kernels.cpu_projected import direct_multiply_adds, projected_multiply_adds
from cafe.kernels.cpu_sides import in_order_of_step
from cafe.kernels.optimizers import copied_in_a_row
from cafe.kernels.reference import AdapterShape
from cafe.measured import BUDGET, seconds_of, time_ways

PRECISIONS = ("float32", "bfloat16")
# Multiply-adds of a step (forward and backward) from which timing pays: below, the default recipe's 313 steps take less
# than a tenth of a second, at 150 thousand million a second, and timing takes as long.
LEAST_MEASURED = 20_000_000
# Most multiply-adds of a step that is timed: of larger steps, not every way would be run within the budget. The rate of
# a product no longer depends on its size at this number.
MOST_TIMED = 550_000_000
# Least rows to which a timed batch is cut: with fewer, copies of weights between precisions weigh more.
LEAST_BATCH = 256
# How much faster bfloat16 has to be to be taken, since it rounds; and another form than the plain one, which rounds
# least, and in whose favour a grid's stacks speak: there it was 3 to 6 % faster where a single step was 3 % slower.
GAIN_OF_BFLOAT16, GAIN_OF_FORM = 1.1, 1.06
# How much faster a single thread has to be to be taken.
GAIN_OF_ONE_THREAD = 1.03
# A precision that takes so many times longer for one small product is not timed further: without an instruction of
# its own bfloat16 can be a hundred times slower.
HOPELESS = 4
# Share of the direct form's multiply-adds from which on the projected form's more and smaller products do not pay.
PROJECTED_SHARE = 0.85
# Revision of the adapter's step: a larger number makes the notes of older programs void.
REVISION = 7
# The projected form's frozen logits have to be earned back within so many steps, and to fit in so many bytes.
EARNED_BACK, FROZEN_BYTES = 100, 512 * 2**20


@dataclass(frozen=True)
class StepSizes:
    """What decides how long a step of one configuration takes.

    Attributes
    ----------
    shape : AdapterShape
        Variant, form, bottleneck and kinds of ratio.
    batch, width, classes : int
        b, d, c.
    """

    shape: AdapterShape
    batch: int
    width: int
    classes: int

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of logits and of the two maps of each adapted side, once forward and twice backward."""
        rows = self.batch * self.shape.adapts_image + self.classes * self.shape.adapts_text
        return 3 * self.width * (self.batch * self.classes + 2 * rows * self.shape.bottleneck)

    def representative(self) -> StepSizes:
        """Return the sizes that stand for their class: powers of two, not too large to be timed.

        Which form is faster depends on the ratio of classes to features, so that both are halved together where there
        are neither many classes nor a large batch to halve.
        """
        width = _power_of_two(self.width)
        bottleneck = max(1, round(self.shape.bottleneck * width / self.width))
        shape = AdapterShape(self.shape.variant, self.shape.form, bottleneck)
        sizes = StepSizes(shape, _power_of_two(self.batch), width, _power_of_two(self.classes))
        while sizes.multiply_adds > MOST_TIMED:
            if sizes.classes >= 4 * sizes.width:
                sizes = replace(sizes, classes=sizes.classes // 2)
            elif sizes.batch > LEAST_BATCH:
                sizes = replace(sizes, batch=sizes.batch // 2)
            else:
                shape = replace(sizes.shape, bottleneck=max(1, sizes.shape.bottleneck // 2))
                sizes = StepSizes(shape, sizes.batch, sizes.width // 2, max(1, sizes.classes // 2))
        return sizes

    def can_be_projected(self) -> bool:
        """Whether the projected form exists for such a step."""
        shape = self.shape
        return shape.variant == "image" and shape.form == "paper" and shape.alpha_mode == "fixed"

    def learns_ratio(self) -> bool:
        """Whether an adapter's ratio is learned row by row."""
        shape = self.shape
        of_sides = (shape.adapts_image, shape.alpha_mode), (shape.adapts_text, shape.beta_mode)
        return any(adapts and mode == "learned" for adapts, mode in of_sides)


def _power_of_two(size: int) -> int:
    """Return the power of two that is nearest as a factor."""
    return 1 << round(math.log2(max(1, size)))


def choose_cpu_step(kernel: str, dtype: str, sizes: StepSizes, n: int, *, in_memory: bool = True) -> tuple[str, str]:
    """Return the form of the step that will run, and the precision of its products.

    Parameters
    ----------
    kernel : {"auto", "cpu", "cpu-direct", "cpu-folded", "cpu-projected", "cpu-compiled"}
        A named form is taken as it is; ``"auto"`` and ``"cpu"`` take the fastest form.
    dtype : {"auto", "float32", "bfloat16", "float64"}
        A named precision is taken as it is; ``"auto"`` takes the faster of float32 and bfloat16.
    sizes : StepSizes
        Sizes of the step of one configuration, however many are stacked.
    n : int
        Rows of the features.
    in_memory : bool, default=True
        Whether the features of all n rows are in memory: the projected form computes logits of all rows once.

    Returns
    -------
    tuple of str and str
        One of ``CPU_FORMS``, and the name of a dtype.

    Raises
    ------
    InputError
        If a form is named that does not exist for such a step or such features, or was not built.

    Examples
    --------
    >>> small = StepSizes(AdapterShape("image", "paper", 32), 160, 128, 10)
    >>> choose_cpu_step("cpu-direct", "auto", small, 160)
    ('cpu-direct', 'float32')
    """
    given = kernel if kernel in CPU_FORMS else None
    _check_form(given, dtype, sizes, in_memory)
    if dtype == "float64":
        return given or DIRECT, dtype
    plain = DIRECT if why_not_compiled() else COMPILED
    if (given and dtype != "auto") or sizes.multiply_adds < LEAST_MEASURED:
        return given or plain, "float32" if dtype == "auto" else dtype
    if given == FOLDED and dtype == "auto" and sizes.learns_ratio():
        return given, "float32"  # see _may_pay
    precision = _faster_precision(given or plain, sizes) if dtype == "auto" else dtype
    return given or _fastest_form(plain, sizes, precision, n, in_memory), precision


def _check_form(given: str | None, dtype: str, sizes: StepSizes, in_memory: bool) -> None:
    """Raise where the form that was asked for cannot run."""
    if given == PROJECTED and not (sizes.can_be_projected() and in_memory):
        raise InputError(
            f"kernel {given!r} has image adapters of form 'paper' with a given alpha, on features in memory; "
            "use kernel='cpu' for others"
        )
    if given == COMPILED and dtype == "float64":
        raise InputError(f"kernel {given!r} multiplies float32 or bfloat16; use kernel='cpu' for dtype='float64'")
    if given == COMPILED and why_not_compiled():
        raise InputError(f"kernel {given!r} cannot run: {why_not_compiled()}; or use kernel='cpu'")


def _faster_precision(form: str, sizes: StepSizes) -> str:
    """Return bfloat16 where a step in that form is clearly faster in it, else float32."""
    seconds = measured_steps(sizes, [(form, precision) for precision in PRECISIONS])
    wide, narrow = (seconds.get((form, precision), math.inf) for precision in PRECISIONS)
    return PRECISIONS[1] if narrow * GAIN_OF_BFLOAT16 < wide else PRECISIONS[0]


def _fastest_form(plain: str, sizes: StepSizes, precision: str, n: int, in_memory: bool) -> str:
    """Return the fastest form in that precision, the plain one unless another is clearly faster."""
    others = [form for form in (DIRECT, FOLDED, PROJECTED) if form != plain and _may_pay(form, sizes, precision)]
    forms = [plain, *others]
    seconds = measured_steps(sizes, [(form, precision) for form in forms])
    by_form = {form: value for (form, _), value in seconds.items()}
    if not (in_memory and PROJECTED in by_form and _earned_back(sizes, n, precision, by_form)):
        by_form.pop(PROJECTED, None)
    return min(by_form, key=lambda form: by_form[form] * (1 if form == plain else GAIN_OF_FORM))


def _may_pay(form: str, sizes: StepSizes, precision: str) -> bool:
    """Return whether a form exists for such a step, is exact enough in that precision, and may be the fastest.

    The projected form may be the fastest only with clearly fewer multiply-adds than the direct one.
    """
    if form == FOLDED and precision == "bfloat16" and sizes.learns_ratio():
        # Rounding errors of the folded form add up in a learned ratio: 0.42 to 0.49 in place of 0.35 on Caltech69 at
        # one shot, and 1.5 points of accuracy. The direct form's ratios are float32's within 0.01.
        return False
    if form != PROJECTED:
        return True
    of_step = (sizes.batch, sizes.width, sizes.classes, sizes.shape.bottleneck)
    fewer = projected_multiply_adds(*of_step) < PROJECTED_SHARE * direct_multiply_adds(*of_step)
    return sizes.can_be_projected() and fewer


def _earned_back(sizes: StepSizes, n: int, precision: str, seconds: Mapping[str, float]) -> bool:
    """Return whether frozen logits of n rows fit in memory and cost less than ``EARNED_BACK`` projected steps save.

    ``seconds`` has those of a timed step in each form.
    """
    if n * sizes.classes * (2 if precision == "bfloat16" else 4) > FROZEN_BYTES:
        return False
    others = [value for form, value in seconds.items() if form != PROJECTED]
    if not others:
        return False
    seconds_each = min(others) / sizes.representative().multiply_adds
    # Both costs are those of the step itself, which may be larger than the timed step.
    saved = (1 - seconds[PROJECTED] / min(others)) * sizes.multiply_adds * seconds_each
    return n * sizes.width * sizes.classes * seconds_each <= EARNED_BACK * saved


def measured_steps(
    sizes: StepSizes, ways: Sequence[tuple[str, str]], budget: float = BUDGET / 2
) -> dict[tuple[str, str], float]:
    """Return the seconds of a step of that class, update included, by form and precision.

    Parameters
    ----------
    sizes : StepSizes
        Of the step.
    ways : sequence of (form, precision)
        To be compared. Two precisions are both timed even where that takes longer than the budget: a wrong choice costs
        most on a machine that is so slow, or so busy.
    budget : float
        Seconds that timing may take.
    """
    timed = sizes.representative()
    names = {way: " ".join(way) for way in ways}
    precisions = {precision for _, precision in ways}
    library, threads = f"torch {torch.__version__}", torch.get_num_threads()
    with threads_for(0):
        seconds = seconds_of(
            f"{_question(timed)}, {' or '.join(names.values())}", tuple(names.values()),
            partial(_make_steps, timed, ways), library=library, threads=threads,
            budget=budget, at_least=len(precisions),
        )  # fmt: skip
    return {way: seconds[name] for way, name in names.items() if name in seconds}


def choose_cpu_threads(kernel: str, dtype: str, sizes: StepSizes) -> int:
    """Return on how many threads a step runs: all that PyTorch has, or a single one where that was timed to be faster.

    A step is some forty short operations, and threads wait for each other after each. On a virtual machine whose two
    processors share one unit for matrix products, waiting costs more than the second processor gains.

    Parameters
    ----------
    kernel, dtype : str
        Form and precision, from :func:`choose_cpu_step`.
    sizes : StepSizes
        Of the step.

    Examples
    --------
    >>> choose_cpu_threads("cpu-direct", "float32", StepSizes(AdapterShape("image", "paper", 32), 160, 128, 10))
    1
    """
    threads = torch.get_num_threads()
    if threads == 1 or sizes.multiply_adds < SMALL:
        return 1
    timed = sizes.representative()

    def make() -> dict[str, Callable[[], object]]:
        run = _make_step(_drawn(timed), timed, kernel, dtype)

        def on(number: int) -> Callable[[], object]:
            def limited() -> None:
                torch.set_num_threads(number)
                run()

            return limited

        return {"all": on(threads), "one": on(1)}

    # Elapsed seconds are compared here, and other programs lengthen those of several threads most: what is measured
    # while other programs run is kept for this process alone.
    is_quiet = _load_of_others() < threads / 2
    try:
        seconds = seconds_of(
            f"threads of {_question(timed)}, {kernel}, {dtype}", ("all", "one"), make,
            library=f"torch {torch.__version__}", threads=threads, clock=time.perf_counter, keep=is_quiet,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return 1 if seconds.get("one", math.inf) * GAIN_OF_ONE_THREAD < seconds["all"] else threads


def _load_of_others() -> float:
    """Return how many other threads wanted to run in the last minute, on average; 0 where the system does not say."""
    try:
        return max(0.0, os.getloadavg()[0] - 1)
    except (AttributeError, OSError):
        return 0.0


def _question(timed: StepSizes) -> str:
    """Return the key under which the measured seconds for these sizes are stored."""
    shape = timed.shape
    return (
        f"adapter step, revision {REVISION}, {shape.variant}, {shape.form}, batch {timed.batch}, width {timed.width}, "
        f"bottleneck {shape.bottleneck}, {timed.classes} classes"
    )


def _make_steps(sizes: StepSizes, ways: Sequence[tuple[str, str]]) -> dict[str, Callable[[], object]]:
    """Return steps on random rows by the name of their way; a step is made when first run, since not all may be run."""
    tried = {precision for _, precision in ways}
    hopeless = _hopeless_precisions() if len(tried) > 1 else []
    draw = cache(partial(_drawn, sizes))

    def way(form: str, precision: str) -> Callable[[], object]:
        made: list[Callable[[], object]] = []

        def run() -> None:
            if not made:
                made.append(_make_step(draw(), sizes, form, precision))
            made[0]()

        return run

    return {" ".join(each): way(*each) for each in ways if each[1] not in hopeless}


@dataclass(frozen=True)
class _Drawn:
    """Random rows (b, d), class embeddings (1, c, d) and parameters of a step of one configuration."""

    rows: torch.Tensor
    text: torch.Tensor
    parameters: dict[str, torch.Tensor]


def _drawn(sizes: StepSizes) -> _Drawn:
    """Draw rows, class embeddings and parameters of such sizes, always the same."""
    generator = torch.Generator().manual_seed(0)
    shape, b, d, c, h = sizes.shape, sizes.batch, sizes.width, sizes.classes, sizes.shape.bottleneck

    def draw(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator).mul_(2 / math.sqrt(size[-1])).sub_(1 / math.sqrt(size[-1]))

    sides = [side for side, used in (("image", shape.adapts_image), ("text", shape.adapts_text)) if used]
    maps = (("down", (d, h)), ("up", (h, d)))
    parameters = {f"{side}_{part}": draw(1, *size) for side in sides for part, size in maps}
    return _Drawn(draw(b, d), draw(1, c, d), parameters)


def _make_step(drawn: _Drawn, sizes: StepSizes, form: str, precision: str) -> Callable[[], object]:
    """Return a step of that form and precision, its update included."""
    b, c = sizes.batch, sizes.classes
    hyper = {"alpha": torch.tensor([0.2]), "beta": torch.tensor([0.2]), "logit_scale": torch.tensor([100.0])}
    rows, labels = drawn.rows.to(getattr(torch, precision)), torch.arange(b) % c
    arguments = (sizes.shape, hyper, rows, labels, drawn.text, drawn.rows.mean(0)[None, None])
    step = adapter_step(form, *arguments)
    parameters = copied_in_a_row(in_order_of_step(drawn.parameters))
    update = step.make_update("adamw", parameters, torch.zeros(1))
    index, rate = torch.arange(b)[None], [1e-3]

    def run() -> None:
        update(parameters, step(parameters, index, False)[1], rate)

    return run


class TimedSizes(Protocol):
    """Sizes of a step that has precisions and no forms, and whatever else decides between them; a dataclass."""

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the step of one configuration."""

    def __str__(self) -> str:
        """Name the step and its sizes."""

    def timed_step(self, products: torch.dtype) -> Callable[[], object]:
        """Return a step on random rows, a function without arguments, with products in that dtype."""


def choose_precision(dtype: str, device: str, sizes: TimedSizes) -> str:
    """Return the precision in which a step of such sizes multiplies, by timing the step where that pays.

    Parameters
    ----------
    dtype : {"auto", "float32", "float64"}
        A named precision is taken as it is; ``"auto"`` takes the faster of float32 and bfloat16 on a CPU, else float32.
    device : str
        As :func:`cafe.compute.choose_device` returns it.
    sizes : dataclass with ``multiply_adds`` and ``timed_step``
        Sizes of the step of one configuration; they are rounded to powers of two where the step is timed.

    Returns
    -------
    str
        The name of a dtype.

    Examples
    --------
    >>> from cafe.kernels.projection import ProjectionSizes
    >>> choose_precision("auto", "cpu", ProjectionSizes(16, 512, 512, 10)), choose_precision("float64", "cpu", None)
    ('float32', 'float64')
    """
    if dtype != "auto":
        return dtype
    if device != "cpu" or sizes.multiply_adds < LEAST_MEASURED:
        return "float32"
    seconds = measured_precisions(sizes)
    faster = seconds.get("bfloat16", math.inf) * GAIN_OF_BFLOAT16 < seconds.get("float32", 0.0)
    return "bfloat16" if faster else "float32"


def measured_precisions(sizes: TimedSizes, most_timed: int = MOST_TIMED) -> dict[str, float]:
    """Return the seconds of a step by precision, timed at powers of two with at most so many multiply-adds."""
    timed: Any = sizes
    names = [name for name, value in vars(timed).items() if not isinstance(value, bool)]
    timed = replace(timed, **{name: _power_of_two(getattr(timed, name)) for name in names})
    while timed.multiply_adds > most_timed and max(getattr(timed, name) for name in names) > 1:
        largest = max(names, key=lambda name: getattr(timed, name))
        timed = replace(timed, **{largest: getattr(timed, largest) // 2})

    def make() -> dict[str, Callable[[], object]]:
        hopeless = _hopeless_precisions()
        return {name: timed.timed_step(getattr(torch, name)) for name in PRECISIONS if name not in hopeless}

    library, threads = f"torch {torch.__version__}", torch.get_num_threads()
    with threads_for(0):
        return seconds_of(str(timed), PRECISIONS, make, library=library, threads=threads, at_least=2)


def _hopeless_precisions() -> list[str]:
    """Return the precisions whose small product takes so long that no step has to be timed."""

    def multiply(dtype: torch.dtype) -> Callable[[], object]:
        a = torch.ones(128, 128, dtype=dtype)
        return lambda: torch.mm(a, a)

    # In four turns: a first product also waits for its code to be made, and by that alone bfloat16 was once called
    # hopeless on a processor where it is twice as fast.
    ways = {name: multiply(getattr(torch, name)) for name in PRECISIONS}
    seconds = time_ways(ways, budget=0.005, at_least=2, turns=4)
    return [name for name in PRECISIONS if name in seconds and seconds[name] > HOPELESS * seconds["float32"]]
