"""The tables of docs/performance.md from rows of benchmarks/results."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def made():
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("performance_table", BENCHMARKS / "performance_table.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(BENCHMARKS))
    for name in (spec.name, "harness"):
        del sys.modules[name]


@pytest.fixture(scope="module")
def put_between(made):
    return sys.modules["harness"].put_between


def row(time, ratio, shape="1632x512x102", **more):
    machine = {"device": "CPU", "cores": 2, "torch": "2", "sklearn": "1", "bfloat16_units": {"amx": False}}
    machine["bfloat16_units"]["avx512_bf16"] = True
    own = {"time": time, "ratio": ratio, "shape": shape, "target": 3.0, "commit": "abc", "kernel": "cpu"}
    return own | machine | more


def write(folder, benchmark, *rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{benchmark}.jsonl").write_text(lines, encoding="utf-8")


def line_of(made, folder, entry):
    return made.table(folder, [entry]).splitlines()[-1]


def test_the_newest_run_counts_and_its_first_row(made, tmp_path):
    old, new, float32 = row("2026-01-01", 9.0), row("2026-01-02", 4.26), row("2026-01-02", 1.5)
    write(tmp_path, "adapter", old, new, float32)
    entry = made.Entry("adapter", "1632x", "a fit", "a loop")
    assert line_of(made, tmp_path, entry) == "| a fit | a loop | - | - |  | - | 4.3x (3x) | abc | not measured |"
    assert made.table(tmp_path, [entry]).startswith("On 2 threads of CPU (AVX512-BF16), torch 2, scikit-learn 1:")


def test_what_falls_short_is_said(made, tmp_path):
    write(tmp_path, "adapter", row("2026-01-01", 2.96, accuracy=90.126))
    entry = made.Entry("adapter", "", "a fit", "a loop", "accuracy {accuracy:.2f}")
    assert "| 3.0x (3x): missed, accuracy 90.13 |" in line_of(made, tmp_path, entry)


def test_peak_floor_and_share_stand_beside_the_ratio(made, tmp_path):
    entry = made.Entry("adapter", "", "a fit", "a loop")
    write(tmp_path, "adapter", row("2026-01-01", 3.5, cafe_seconds=2.0, fraction_of_peak=0.5, peak_gflops=985.0))
    assert "| 985 | 1 s | 2 s | 0.50 | 3.5x (3x) |" in line_of(made, tmp_path, entry)
    shares = {"cafe_seconds": 2.0, "floor_seconds": 1.4, "fraction": 0.7, "wanted_fraction": 0.8}
    write(tmp_path, "adapter", row("2026-01-01", 3.5, **shares))
    assert "| - | 1.4 s | 2 s | 0.70 (0.8): missed | 3.5x (3x) |" in line_of(made, tmp_path, entry)


def test_every_processor_has_a_table_of_its_own(made, tmp_path):
    """One name, two processors: neither's rows may stand among the other's."""
    amx = {"device": "Other", "bfloat16_units": {"amx": True, "avx512_bf16": True}}
    first = row("2026-01-01", 5.0, processor="family 26, model 2", commit="old")
    second = row("2026-01-03", 2.0, processor="family 25, model 17", commit="new")
    write(tmp_path, "adapter", first, row("2026-01-02", 3.5, commit="amx", **amx), second)
    entries = [made.Entry("adapter", "", "a fit", "a loop"), made.Entry("grid", "", "a grid", "loops")]
    write(tmp_path, "grid", row("2026-01-02", 6.0, commit="grid", **amx))
    parts = made.table(tmp_path, entries).split("\n\n")
    assert [part.splitlines()[0] for part in parts[::2]] == [
        "On 2 threads of CPU (family 25, model 17, AVX512-BF16), torch 2, scikit-learn 1:",
        "On 2 threads of Other (AMX), torch 2, scikit-learn 1:",
        "On 2 threads of CPU (family 26, model 2, AVX512-BF16), torch 2, scikit-learn 1:",
    ]
    commits = [[line.split(" | ")[-2] for line in part.splitlines()[2:]] for part in parts[1::2]]
    assert commits == [["new"], ["amx", "grid"], ["old"]]
    scale = {"at": [1, 2], "seconds": [1, 2], "slope": 1.0}
    write(tmp_path, "scaling", *(row | scale for row in (first, second)))
    assert [
        line.split(" | ")[-1] for line in made.scaling(tmp_path, tmp_path / "x").splitlines() if "x102" in line
    ] == [
        "new |",
        "old |",
    ]


def test_a_gpus_rows_have_their_own_column(made, tmp_path):
    write(tmp_path, "adapter", row("2026-01-01", 3.5), row("2026-01-02", 250.4, kernel="triton", target=10.0))
    line = line_of(made, tmp_path, made.Entry("adapter", "", "a fit", "a loop"))
    assert line == "| a fit | a loop | - | - |  | - | 3.5x (3x) | abc | 250x (10x) |"


def test_what_never_ran_is_not_measured(made, tmp_path):
    line = line_of(made, tmp_path, made.Entry("adapter", "", "a fit", "a loop, in {chunks} chunks", "{chunks}"))
    assert line == "| a fit | a loop |  |  |  |  | not measured |  | not measured |"
    assert "not measured" in made.time_to_accuracy(tmp_path)
    assert "not measured" in made.scaling(tmp_path, tmp_path / "scaling.png")


def test_a_row_without_a_later_field_still_counts(made, tmp_path):
    write(tmp_path, "adapter", row("2026-01-01", 3.5))
    assert "| 3.5x (3x) |" in line_of(made, tmp_path, made.Entry("adapter", "", "a", "b", "{never_reported}"))


def test_time_to_accuracy_and_scaling(made, tmp_path):
    times = {"released_seconds": 7.8, "released_steps": 6900, "default_seconds": 0.06, "default_steps": 38}
    full = {"released_full_acc1": 94.0, "released_full_seconds": 8.5, "default_full_acc1": 94.3}
    more = {**times, **full, "default_full_seconds": 0.8, "mark": 93.8, "default_passed": False}
    times = [("2026-01-01", 9.0, "digits"), ("2026-01-02", 0.0, "digits"), ("2026-01-03", 1.0, "flowers")]
    write(tmp_path, "time_to_accuracy", *(row(*each, **more) for each in times))
    digits, flowers = made.time_to_accuracy(tmp_path).splitlines()[-2:]  # data sets are no one run
    assert digits.startswith("| digits | 93.80 | 7.80, 6900 | not reached | 0.0x |")
    assert flowers.startswith("| flowers |")
    write(
        tmp_path, "scaling",
        row("2026-01-01", 0, "renamed since", at=[1, 2], seconds=[1, 2], slope=1.0),
        row("2026-01-02", 0, "fit against rows", at=[10, 1e6], seconds=[0.1, 20.0], slope=0.987),
    )  # fmt: skip
    text = made.scaling(tmp_path, tmp_path / "scaling.png")
    assert "| fit against rows | 0.1 s at 10 | 20 s at 1,000,000 | 0.99 | abc |" in text
    assert "renamed" not in text and "![" not in text
    (tmp_path / "scaling.png").touch()
    assert "](scaling.png)" in made.scaling(tmp_path, tmp_path / "scaling.png")


def test_content_is_put_between_markers(put_between):
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb <!-- y -->\n"
    assert put_between(text, "x", "new") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb <!-- y -->\n"
    with pytest.raises(ValueError, match="one pair of markers <!-- y -->"):
        put_between(text, "y", "new")


def test_every_entry_has_its_script_and_the_page_its_markers(made, put_between):
    for entry in made.ENTRIES:
        assert (BENCHMARKS / f"bench_{entry.benchmark}.py").is_file()
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    tables = (
        "benchmarks",
        "steps",
        "step-parts",
        "class-weights",
        "time-to-accuracy",
        "scaling",
        "compiled",
        "estimates",
    )
    for name in tables:
        assert put_between(page, name, "").count(f"<!-- /{name} -->") == 1


def test_the_readme_of_the_benchmarks_names_every_file():
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    unnamed = [path.name for path in BENCHMARKS.glob("*.py") if path.name not in text]
    assert not unnamed


def test_steps_say_what_was_measured_and_which_fits_are_slower(made, tmp_path):
    assert made.steps(tmp_path) == "Steps: not measured."
    old = row("2026-01-01", 9.0, "step 16000x512x1000")
    step = {
        "dtype": "bfloat16", "kernel": "cpu-direct", "peak_gflops": 985.0, "products_gflops": 800.0, "floor_ms": 0.8,
        "step_ms": 1.0, "fraction": 0.8, "wanted_fraction": 0.85, "ratio_low": 1.9, "ratio_high": 2.1, "set_up_ms": 9.0,
        "products_ms": 0.6, "softmax_ms": 0.05, "update_ms": 0.15, "threads": 1,
    }  # fmt: skip
    write(tmp_path, "steps", old | step, row("2026-01-02", 2.0, "step 16000x512x1000") | step)
    table = made.steps(tmp_path)
    assert table.splitlines()[4] == (
        "| 16000 x 512 x 1000 | bfloat16, cpu-direct, one thread | 985, 800 | 0.80 ms: 0.60, 0.05, 0.15 | 1.00 ms "
        "| 0.80 (0.85): missed "
        "| 2.00x (1.90 to 2.10) | 9 ms | abc |"
    )
    fits = [{"ratio_high": 1.02, "steps": 313}, {"ratio_high": 0.97, "steps": 313}, {"ratio_high": 3.2, "steps": 313}]
    pairs = zip((0.98, 0.9, 3.0), fits, strict=True)
    write(tmp_path, "step_grid", *(row("2026-01-02", ratio, f"fit {ratio}") | fit for ratio, fit in pairs))
    said = made.steps(tmp_path).splitlines()[-1]
    assert "takes 0.90 to 3.00 times as long, 0.98 in the middle" in said
    assert said.endswith("by the upper 95 % bound: 1; 0.9 (0.90x).")
    assert made.slower(tmp_path) == ["fit 0.9 is slower than the straight loop: 0.90x, at most 0.97"]


@pytest.fixture
def gpu(made, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("gpu_tables", BENCHMARKS / "gpu_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_compilers_say_is_by_card_and_release_and_the_last_run_counts(gpu, tmp_path):
    assert gpu.compiled(tmp_path) == "Kernels for real cards: not compiled yet."
    card = {
        "triton": "3.8.0", "target": "90", "card": "H100", "kernels": 8, "compiled": 90, "most_registers": 255,
        "most_spilled": 16, "spilled_by": "a fp32 32x32x32", "most_shared": 98304, "shared_limit": 227 * 1024,
        "faults": [], "commit": "new",
    }  # fmt: skip
    write(
        tmp_path, "compile_matrix", card | {"commit": "old"}, card | {"triton": "3.6.0", "most_spilled": 0}, card,
        card | {"target": "86", "card": "A10", "faults": ["b bf16: uses no matrix units"]},
    )  # fmt: skip
    assert gpu.compiled(tmp_path).splitlines()[2:] == [
        "| H100 | 3.8.0 | 8 kernels, 90 times | 255 | 16 (a fp32 32x32x32) | 96 of 227 | none | new |",
        "| H100 | 3.6.0 | 8 kernels, 90 times | 255 | 0 | 96 of 227 | none | new |",
        "| A10 | 3.8.0 | 8 kernels, 90 times | 255 | 16 (a fp32 32x32x32) | 96 of 227 "
        "| b bf16: uses no matrix units | new |",
    ]


def test_estimates_say_that_they_are(gpu, tmp_path):
    sizes = {"g": 1, "b": 256, "d": 512, "h": 128, "c": 20_000}
    step = {"target": "90", "card": "H100", "triton": "3.8.0", "shape": "1x256x512x128x20000", "precision": "bf16"}
    estimate = {"launches": 6, "microseconds": 40.0, "longest": "a 9", "commit": "x"}
    estimate |= {"megabytes": 54.4, "least_megabytes": 4.6, "floor_us": 0.94}
    write(tmp_path, "gpu_estimates", step | sizes | estimate)
    head, _, line, _, last = gpu.estimates(tmp_path).splitlines()
    assert line == "| one fit | 256 x 512 x 128, 20,000 | bf16 | 6 | 54 (5) | 0.9 | 40 | a 9 | 0.50 | x |"
    assert head.count("estimate") == 3 and last == "Estimated, not measured, for H100, Triton 3.8.0."


def test_the_parts_of_a_step_are_said(made, tmp_path):
    assert made.step_parts(tmp_path) == "Parts of a step: not measured."
    spent = {"products": 0.6, "calls": 0.2, "step": 1.0, "floor": 0.7}
    more = {"milliseconds": spent, "dtype": "bfloat16", "kernel": "cpu-folded"}
    write(tmp_path, "step_parts", row("2026-01-01", 0.0, "parts 16000x512x102", **more))
    head, _, line = made.step_parts(tmp_path).splitlines()[2:]
    assert head == "| ms of a step | runs as | products | calls | step | floor | fraction | commit |"
    assert line == "| 16000 x 512 x 102 | bfloat16, cpu-folded | 0.60 | 0.20 | 1.00 | 0.70 | 0.70 | abc |"


def test_methods_on_class_weights_say_what_is_missed_and_what_is_slower(made, tmp_path):
    assert made.class_weights(tmp_path) == "Class weights: not measured."
    shared = {"method": "clap", "dtype": "float32", "products_ms": 2.0, "products_gflops": 100.0, "peak_gflops": 200.0}
    shared |= {"floor_ms": 2.5, "step_ms": 5.0, "fraction": 0.5, "wanted_fraction": 0.667, "ratio_low": 0.8}
    write(tmp_path, "class_weights", row("2026-01-01", 0.9, "Caltech69", ratio_high=0.95, **shared))
    (line,) = (line for line in made.class_weights(tmp_path).splitlines() if line.startswith("| clap"))
    assert line == (
        "| clap | Caltech69 | float32 | 2.00, 100 (200) | 2.50 ms | 5.00 ms | 0.50 (0.67): missed "
        "| 0.90x (0.80 to 0.95): slower | abc |"
    )
