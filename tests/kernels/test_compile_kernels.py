"""Every Triton kernel, compiled for real cards: it fits, spills next to nothing, and uses matrix units.

The whole matrix of cards, tiles and precisions is benchmarks/compile_matrix.py; this is each kernel once for two cards.
"""

import ast
import importlib.util
import itertools
import sys
from pathlib import Path

import pytest

from cafe.kernels.cards import COMPUTED_SIZES, SIZES, Card, choose_tile, possible_tiles

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: nothing to compile with"
)
ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def matrix():
    sys.path.insert(0, str(BENCHMARKS))  # for its harness
    spec = importlib.util.spec_from_file_location("compile_matrix", BENCHMARKS / "compile_matrix.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(BENCHMARKS))
    for name in ("compile_matrix", "kernel_launches", "harness"):
        sys.modules.pop(name, None)


def triton_functions(path):
    return [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and any("jit" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]


def kernel_modules():
    """Names of the Triton functions of each module that no other Triton function calls."""
    by_module = {path: triton_functions(path) for path in (ROOT / "cafe" / "kernels").rglob("*.py")}
    called = {
        node.func.id
        for function in itertools.chain(*by_module.values())
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    named = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): {function.name for function in functions} - called
        for path, functions in by_module.items()
    }
    return {name: kernels for name, kernels in named.items() if kernels}


@needs_triton
@pytest.mark.parametrize(("target", "precision"), [("80", "tf32"), ("90", "bf16")])
def test_compile_every_kernel(matrix, target, precision):
    rows = matrix.compile_all([target], [precision], quick=True)
    assert {row.kernel for row in rows} == set().union(*kernel_modules().values())
    assert not [(row, row.faults()) for row in rows if row.faults()]
    assert all(0 < row.registers <= 255 for row in rows)
    # A product without matrix units would have a multiply-add for each number of its tile and each turn of its depth.
    assert all(row.multiply_adds < product_of(row) for row in rows if row.kernel not in matrix.WITHOUT_PRODUCTS)


@needs_triton
def test_compile_20_000_classes_for_a_card_with_little_shared_memory(matrix, monkeypatch):
    """Both sides adapted, with the largest tile: what once needed 808 KB of an A10's 99, and spilled 2 KB a thread."""
    (family,) = (each for each in matrix.FAMILIES if "cafe.kernels.cuda.errors" in each.modules)

    def launches(precision, card, quick):
        steps = family.launches(precision, card, False)
        yield next(step for step in steps if step[0] == "both, released")

    monkeypatch.setattr(matrix, "FAMILIES", (matrix.replace(family, launches=launches),))
    rows = matrix.compile_all(["86"], ["tf32"], quick=False)
    assert {row.kernel for row in rows} == set().union(*(kernel_modules()[name] for name in family.modules))
    assert not [(row, row.faults()) for row in rows if row.faults()]


@needs_triton
@pytest.mark.parametrize("precision", ["tf32", "fp32"])
def test_compile_residuals_for_a_card_with_little_shared_memory(matrix, monkeypatch, precision):
    """Class weights made of two tensors: with the largest tile once 136 KB of an A10's 99, and 528 bytes spilled."""
    (family,) = (each for each in matrix.FAMILIES if "cafe.kernels.cuda.class_weights" in each.modules)

    def launches(precision, card, quick):
        yield next(step for step in family.launches(precision, card, False) if step[0] == "task-res")

    monkeypatch.setattr(matrix, "FAMILIES", (matrix.replace(family, launches=launches),))
    rows = matrix.compile_all(["86"], [precision], quick=False)
    assert {row.kernel for row in rows} == kernel_modules()["cafe.kernels.cuda.class_weights"]
    assert not [(row, row.faults()) for row in rows if row.faults()]


def product_of(row):
    rows, columns, depth = map(int, row.tile.split("x"))
    return rows * columns * depth // (32 * row.warps)


def test_every_module_of_kernels_is_in_the_list_that_is_compiled(matrix):
    assert {name for family in matrix.FAMILIES for name in family.modules} == set(kernel_modules())


@needs_triton
def test_what_does_not_compile_is_a_row_with_the_reason(matrix, monkeypatch):
    def launches(precision, card, quick):
        yield "broken", lambda: launch_broken(matrix)

    family = matrix.replace(matrix.FAMILIES[1], launches=launches)
    monkeypatch.setattr(matrix, "FAMILIES", (family,))
    (row,) = matrix.compile_all(["90"], ["fp32"], quick=True)
    (fault,) = row.faults()
    assert row.kernel == "broken" and fault.startswith("does not compile: CompilationError")
    (said,) = matrix.summary([row])
    assert said["card"] == "H100" and said["faults"] == [f"broken fp32 : {fault}"]


def launch_broken(matrix):
    import triton
    import triton.language as tl

    @triton.jit
    def broken(p, BLOCK: tl.constexpr):
        tl.store(p + tl.arange(0, 3), 0.0)  # three is no power of two

    broken[(1,)](matrix.torch.empty(4, device="meta"), BLOCK=4)


def test_a_row_tells_what_would_go_wrong(matrix):
    fine = matrix.Compiled("hidden_kernel", "image", "tf32", "86", shared=99 * 1024, registers=64, matrix=8)
    assert fine.faults() == []
    for change, words in (
        ({"shared": 100 * 1024}, "shared memory, A10 gives"),
        ({"spilled": 2340}, "spills 2340 bytes"),
        ({"matrix": 0}, "no matrix units"),
        ({"error": "OutOfResources: x"}, "does not compile"),
    ):
        (fault,) = matrix.replace(fine, **change).faults()
        assert words in fault
    # Products of plain float32 have none anywhere.
    assert matrix.replace(fine, precision="fp32", matrix=0).faults() == []


def test_tiles_fit_every_card(matrix):
    for _, card in matrix.CARDS.values():
        for width in (2, 4):
            tiles, computed = possible_tiles(card, width), possible_tiles(card, width, computed=True)
            assert (len(tiles), len(computed)) == (len(SIZES), len(COMPUTED_SIZES))
            for tile in (*tiles, *computed):
                assert (tile.rows + tile.columns) * tile.depth * width * tile.stages <= card.shared_memory
            for tile in possible_tiles(card, width, right=2):
                assert (tile.rows + 2 * tile.columns) * tile.depth * width * tile.stages <= card.shared_memory
            for tile in possible_tiles(card, width, crowded=True):
                assert tile.rows * tile.columns <= 64 * 64
            # One of them is taken, whatever the problem.
            for rows, columns, stack in ((1, 1, 1), (256, 1000, 1), (256, 128, 45), (20_000, 1024, 3)):
                assert choose_tile(card, rows, columns, stack, width) in tiles
                assert choose_tile(card, rows, columns, stack, width, computed=True) in computed


def test_a_card_without_room_has_smaller_tiles():
    (tile,) = possible_tiles(Card(12 * 1024, 8), 4)
    assert (tile.rows, tile.columns, tile.stages) == (32, 32, 1)
