"""Every Triton kernel, compiled for real cards: it fits, spills next to nothing, and uses matrix units.

The whole matrix of cards, tiles and precisions is benchmarks/compile_matrix.py; this is each kernel once for two cards.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

from cafe.kernels.cards import SIZES, Card, choose_tile, possible_tiles

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: nothing to compile with"
)
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def matrix():
    sys.path.insert(0, str(BENCHMARKS))  # for its harness
    spec = importlib.util.spec_from_file_location("compile_matrix", BENCHMARKS / "compile_matrix.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    sys.path.remove(str(BENCHMARKS))
    return module


@needs_triton
@pytest.mark.parametrize(("target", "precision"), [("80", "tf32"), ("90", "bf16")])
def test_compile_every_kernel(matrix, target, precision):
    rows = matrix.compile_all([target], [precision], quick=True)
    kernels = {row.kernel for row in rows}
    assert kernels == {
        "_adamw", "_sgd", "_hidden", "_blend", "_reciprocal", "_logits", "_errors", "_rows", "_through", "_weights",
    }  # fmt: skip
    assert not [(row, row.faults()) for row in rows if row.faults()]
    assert all(0 < row.registers <= 255 for row in rows)
    assert all(row.multiply_adds < 64 for row in rows if row.kernel not in matrix.ELEMENTWISE)


def test_a_row_tells_what_would_go_wrong(matrix):
    fine = matrix.Compiled("_hidden", "image", "tf32", "86", shared=99 * 1024, registers=64, matrix=8)
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
            tiles = possible_tiles(card, width)
            assert len(tiles) == len(SIZES)
            for tile in tiles:
                assert (tile.rows + tile.columns) * tile.depth * width * tile.stages <= card.shared_memory
            # One of them is taken, whatever the problem.
            for rows, columns, stack in ((1, 1, 1), (256, 1000, 1), (256, 128, 45), (20_000, 1024, 3)):
                assert choose_tile(card, rows, columns, stack, width) in tiles


def test_a_card_without_room_has_smaller_tiles():
    (tile,) = possible_tiles(Card(12 * 1024, 8), 4)
    assert (tile.rows, tile.columns, tile.stages) == (32, 32, 1)
