"""Training runs end to end and writes a folder that loads."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.models.auto.image_processing_auto import (
    AutoImageProcessor,
)  # the short import may ask for torchvision

from cafe.mini import bank, fonts
from cafe.mini.train import contrastive_loss, learning_rate, main


def test_three_steps_write_a_folder_that_loads(tmp_path, monkeypatch):
    pytest.importorskip("HersheyFonts")
    pytest.importorskip("font_roboto")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    few = fonts.font_files()[::15]
    monkeypatch.setattr(bank, "font_files", lambda held_out: few)
    out = tmp_path / "model"
    sizes = ["--batch-size", "16", "--bank-size", "4"]
    assert main(["--out", str(out), "--steps", "3", *sizes]) == 0
    model = AutoModel.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    processor = AutoImageProcessor.from_pretrained(out, backend="pil")
    tokens = tokenizer(["the digit two"], return_tensors="pt")
    features = model.get_text_features(**tokens).pooler_output
    assert features.shape == (1, 128)
    assert processor.size["shortest_edge"] == 32


def test_captions_that_mean_the_same_are_not_negatives():
    true = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    together = torch.where(true, 20.0, -20.0)
    alone = torch.where(torch.eye(3, dtype=torch.bool), 20.0, -20.0)
    assert contrastive_loss(together, true) < contrastive_loss(alone, true)


def test_the_rate_rises_then_falls_to_zero():
    rates = [learning_rate(p) for p in (0.0, 0.02, 0.05, 0.5, 1.0)]
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4]
    assert rates[4] == pytest.approx(0, abs=1e-9)


def test_importing_the_room_is_light():
    code = (
        "import sys, cafe.mini; "
        "assert cafe.mini.MODEL_FOLDER.name == 'model'; "
        "heavy = {'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
