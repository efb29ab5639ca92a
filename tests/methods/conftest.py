"""What methods need beside arrays, so that the contract tests can walk all of them."""

import pytest


@pytest.fixture(scope="session")
def tower_parameters(make_tiny_clip, tmp_path_factory):
    """Parameters for a method that needs a live text tower, {} for others: ``tower_parameters(model, n_classes)``.

    A tiny random tower 12 wide, as wide as the contract tests' features, and a recipe that trains it in a second.
    """
    folder = make_tiny_clip(tmp_path_factory.mktemp("models") / "tower", projection_dim=12)

    def parameters(model, n_classes):
        if "text_tower" not in model.get_params():
            return {}
        names = [f"{chr(97 + i % 26)}{i // 26}" for i in range(n_classes)]
        recipe = {"n_context": 4, "class_specific": True, "epochs": 120, "lr": 0.02, "logit_scale": 5.0}
        return {"text_tower": str(folder), "class_names": names, **recipe}

    return parameters
