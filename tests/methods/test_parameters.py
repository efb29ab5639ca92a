"""Parameters are checked before any array is read, and a refusal says which, what was given and what is possible."""

import numpy as np
import pytest

from cafe.errors import InputError
from cafe.methods import make_method


@pytest.mark.parametrize(
    ("method", "parameters", "words"),
    [
        (
            "clip-adapter",
            {"alpha": 1.5},
            "alpha of clip-adapter must be a number from 0 to 1, 'auto', 'scalar', or 'lear",
        ),
        (
            "clip-adapter",
            {"reduction": 2.5},
            "reduction of clip-adapter must be a whole number, at least 1, but is 2.5",
        ),
        ("clip-adapter", {"weight_decay": "x"}, "at least 0, or None, but is 'x'"),
        ("task-res", {"text_norm": 0}, "text_norm of task-res must be a number, above 0, or None, but is 0"),
        ("cross-modal-adapter", {"alpha": np.nan}, "alpha of cross-modal-adapter .* is nan"),
        ("ape", {"share": 0.0}, "share of ape must be a number, above 0 and at most 1, but is 0.0"),
        ("prolip", {"strength": "1/n3"}, "strength of prolip must be a number, at least 0, 'auto', '1/n', or '1/n2'"),
        ("linear-probe", {"C": 0}, "C of linear-probe must be a number, above 0, or 'auto', but is 0"),
        ("trans-clip", {"neighbors": True}, "neighbors of trans-clip must be a whole number, at least 1, but is True"),
        ("gda", {"zero_covariance": "totl"}, "unknown zero_covariance of gda 'totl'; did you mean 'total'"),
        ("auto", {"random_state": 1.5}, "random_state of auto must be an integer or None, but is 1.5"),
    ],
)
def test_a_refusal_names_parameter_value_and_what_is_possible(method, parameters, words):
    with pytest.raises(InputError, match=words):
        make_method(method, **parameters).fit(None, None)
