"""The nearest queries of each row, against all affinities sorted."""

import numpy as np
import pytest
import torch
from made_up_rows import unit

from cafe.solvers.transductive import neighbours


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["array", "tensor"])
@pytest.mark.parametrize("skip_self", [False, True])
@pytest.mark.parametrize("block_rows", [16, 1024])
def test_neighbours_are_the_nearest_queries_however_rows_are_cut_into_blocks(make, skip_self, block_rows):
    queries = unit(np.random.default_rng(0).normal(size=(45, 6)))
    affinity = queries @ queries.T
    if skip_self:
        np.fill_diagonal(affinity, -np.inf)
    nearest, values = neighbours(make(queries), make(queries), 3, skip_self, block_rows)
    np.testing.assert_array_equal(np.sort(np.asarray(nearest)), np.sort(np.argsort(-affinity)[:, :3]))
    np.testing.assert_allclose(np.asarray(values), np.take_along_axis(affinity, np.asarray(nearest), 1), rtol=1e-12)
