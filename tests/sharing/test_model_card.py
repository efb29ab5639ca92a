"""The card of a run: valid for the Hub, true to run.json, and safe whatever names hold."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from cafe.errors import InputError
from cafe.runs import read_run
from cafe.sharing.model_card import check_card, model_card, write_card

HUB = "openai/clip-vit-base-patch32"


def head_of(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_run_is_a_folder_that_explains_itself(digit_run):
    assert {path.name for path in digit_run.iterdir()} == {
        "README.md", "local.json", "model.safetensors", "report.html", "run.json",
    }  # fmt: skip
    document = read_run(digit_run)
    card = (digit_run / "README.md").read_text(encoding="utf-8")
    head = head_of(card)
    assert (head["library_name"], head["pipeline_tag"], head["license"]) == ("cafe", "image-classification", "mit")
    (result,) = head["model-index"][0]["results"]
    values = {each["type"]: each["value"] for each in result["metrics"]}
    assert values["accuracy"] == document["row"]["acc1"]
    low, high = document["row"]["acc1_interval"]
    assert f"{100 * low:.2f} % to {100 * high:.2f} %" in card
    for part in ("one, two, zero", "cafe:mini", "licence of the base model: mit", "## Limits", "temperature"):
        assert part in card
    assert str(digit_run.parent) not in card  # nothing of this machine


def test_the_hubs_own_reader_takes_it(digit_run):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard.load(digit_run / "README.md")
    assert card.data.library_name == "cafe" and card.data.eval_results[0].metric_type == "accuracy"


def test_base_model_and_revision_stand_in_the_head():
    recorded = {"recorded": {"image": {"revision": "abc123"}}}
    document = {"method": "auto", "encoder": HUB, "class_names": ["a"], "provenance": recorded}
    head = head_of(model_card(document))
    assert (head["base_model"], head["base_model_revision"], head["license"]) == (HUB, "abc123", "mit")
    other = head_of(model_card({**document, "encoder": "someone/unknown"}))
    assert other["license"] == "other" and "base_model" in other
    folder = model_card({**document, "encoder": "/home/somebody/secret/tower"})
    assert "somebody" not in folder and "base_model" not in head_of(folder)


@pytest.mark.parametrize(
    "name", ["a: b\n---\nlicense: x", "<script>alert(1)</script>", "| a |", "\x1b[31mred", "'\"{}"]
)
def test_no_name_is_a_command(name):
    row = {"dataset": name, "acc1": 0.5, "n_test": 2, "untested_classes": [name]}
    card = model_card({"method": "auto", "encoder": name, "class_names": [name], "row": row})
    assert head_of(card)["license"] == "other"
    assert "\x1b" not in card and "<script" not in card.split("---\n", 2)[2]


def test_an_edited_card_is_refused_only_where_it_lies(digit_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(digit_run, run)
    path = run / "README.md"
    card = path.read_text(encoding="utf-8")
    check_card(run)
    path.write_text(card + "\nMore of my own.\n", encoding="utf-8")
    check_card(run)
    accuracy = json.dumps(read_run(run)["row"]["acc1"])
    path.write_text(card.replace(f'"value": {accuracy}', '"value": 0.999', 1), encoding="utf-8")
    with pytest.raises(InputError, match="was edited: its model-index is not what the run says"):
        check_card(run)
    for broken in ("no head", card.replace("license:", "license: [", 1)):
        path.write_text(broken, encoding="utf-8")
        with pytest.raises(InputError, match="has no head in YAML"):
            check_card(run)
    path.unlink()
    with pytest.raises(InputError, match="has no model card"):
        check_card(run)
    write_card(run)
    check_card(run)
