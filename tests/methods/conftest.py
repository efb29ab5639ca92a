"""What methods need beside arrays, so that the contract tests can walk all of them."""

import pytest

from cafe.methods import make_method


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


@pytest.fixture(scope="session")
def ready(tower_parameters):
    """The function that makes a method with all that it needs to be fitted: ``ready(name, text, n_classes)``.

    Training is short: for tests that ask what becomes of bad input, not how good a method is.
    """

    def make(name, text, n_classes=4, **parameters):
        model = make_method(name, class_embeddings=text, **parameters)
        tower = tower_parameters(model, n_classes if text is None else len(text))
        short = {"epochs": 5} if tower else {"C": 1.0} if "C" in model.get_params() else {}
        model.set_params(**{k: v for k, v in {**tower, **short}.items() if k not in parameters})
        return model.set_params(random_state=0) if "random_state" in model.get_params() else model

    return make
