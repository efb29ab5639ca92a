"""What each verb may import: start-up is most of what a short command costs.

Verbs that need nothing heavy run one after the other in one process, in which what is heavy would stay; of the others
each is a process, so that nothing is in memory that the verb itself did not ask for.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import typer

import cafe
from cafe.cache import extract
from cafe.cli.app import app_with
from cafe.data import open_dataset
from cafe.encoders import open_encoder

HEAVY = (
    "torch",
    "transformers",
    "sklearn",
    "scipy",
    "scipy.stats",
    "pandas",
    "matplotlib",
    "h5py",
    "datasets",
    "pyarrow",
    "tokenizers",
    "huggingface_hub",
    "onnx",
    "onnxruntime",
    "fastapi",
    "uvicorn",
    "ray",
)
PROGRAM = (
    "import resource, sys; from cafe.cli.app import call; code = call(sys.argv[1:]);"
    f"heavy = [name for name in {HEAVY} if name in sys.modules];"
    "used = resource.getrusage(resource.RUSAGE_SELF);"
    "print(__import__('json').dumps([code, heavy, used.ru_utime + used.ru_stime]), file=sys.stderr)"
)
# The help of every verb, and the verbs that read and list.
LIGHT = [
    "--help",
    "--version",
    *(f"{verb} --help" for verb in typer.main.get_command(app_with()).commands),
    "models",
    "datasets",
    "methods",
    "suites",
    "templates",
    "cache ls",
    "cache info digits--cafe-mini",
    "cache verify digits--cafe-mini",
    "cache export digits--cafe-mini --out digits.npz",
    "runs ls",
    "runs info run",
]
LIGHT_PROGRAM = (
    "import json, sys; from cafe.cli.app import call\n"
    "for line in json.loads(sys.argv[1]):\n"
    "    code = call(line.split())\n"
    f"    heavy = [name for name in {HEAVY} if name in sys.modules]\n"
    "    assert code == 0 and not heavy, (line, code, heavy)"
)


# What a fit on a cache does not use: packages and modules, each with a dot behind its name.
NEEDLESS_FOR_A_FIT = (
    "PIL.",
    "matplotlib.",
    "numpy.f2py.",
    "cafe.cache.extract.plan.",
    "cafe.cache.extract.run.",
    "cafe.cache.format.writer.",
    "cafe.cache.transfer.",
    "cafe.classifier.prediction_table.",
    "cafe.classifier.reading.",
    "cafe.classifier.scoring.",
    "cafe.compare.",
    "cafe.data.images.decoding.",
    "cafe.encoders.onnx.",
    "cafe.encoders.onnx_int8.",
    "cafe.encoders.open_clip.",
    "cafe.encoders.standalone.",
    "cafe.encoders.towers.",
    "cafe.encoders.transformers.",
    "cafe.encoders.vision.",
    "cafe.kernels.cuda.",
    "cafe.serving.",
    "cafe.sharing.hub.",
    "cafe.sharing.onnx_export.",
    "cafe.solvers.",
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A cache of digits, a run on it, and an image."""
    folder = tmp_path_factory.mktemp("desk")
    digits = open_dataset("digits")
    extract(digits, open_encoder("cafe:mini", "cpu", "float32"), folder / "digits--cafe-mini.h5")
    features = cafe.load_features(folder / "digits--cafe-mini.h5")
    cafe.Classifier.fit(features, method="tip-adapter", refit=False, save=folder / "run", cache_dir=folder)
    digits.image("test", 3).save(folder / "image.png")
    return folder


def run(folder, *arguments):
    environment = {**os.environ, "CAFE_CACHE": str(folder), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    code, heavy, seconds = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return done.stdout, set(heavy), seconds


def test_verbs_that_compute_nothing_import_nothing_heavy(desk):
    environment = {**os.environ, "CAFE_CACHE": str(desk)}
    command = [sys.executable, "-c", LIGHT_PROGRAM, json.dumps(LIGHT)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=desk, check=False)
    assert done.returncode == 0, done.stderr


def test_a_prediction_needs_neither_torch_nor_scikit_learn(desk):
    out, heavy, seconds = run(desk, "predict", desk / "image.png", "--run", desk / "run", "--json")
    assert heavy == set()
    (image,) = json.loads(out)["images"]
    # The processor time is 1 s at most on a quiet machine; busy ones have taken up to twice as much.
    assert seconds < 3
    whole = cafe.Classifier.load(desk / "run", device="cpu")
    assert type(whole.estimator).__name__ == "TipAdapter"  # which brings scikit-learn, here
    encoder = whole.encoder
    crops = encoder.cropper(open_dataset("digits").image("test", 3))[None]
    expected = np.sort(whole.estimator.predict_proba(encoder.encode_images(crops))[0])[::-1][:3]
    probabilities = [guess["probability"] for guess in image["predictions"]]
    if whole.promises is None:
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-4)


def test_an_extraction_needs_torch_alone_to_encode(desk, tmp_path):
    _, heavy, _ = run(tmp_path, "extract", "digits", "--json")
    assert heavy <= {"torch", "h5py", "tokenizers"}


def test_a_fit_needs_no_transformers(desk):
    _, heavy, _ = run(desk, "fit", desk / "digits--cafe-mini.h5", "--no-promises", "--json", "--out", desk / "again")
    assert heavy <= {"torch", "sklearn", "scipy"}


def test_a_fit_on_a_cache_imports_neither_what_reads_and_encodes_images_nor_other_verbs(desk):
    program = (
        "import json, sys; from cafe.cli.app import call; code = call(sys.argv[1:]);"
        "print(json.dumps([code, list(sys.modules)]), file=sys.stderr)"
    )
    words = ("fit", desk / "digits--cafe-mini.h5", "--method", "clip-adapter", "--no-promises", "--out", desk / "third")
    command = [sys.executable, "-c", program, *map(str, words)]
    environment = {**os.environ, "CAFE_CACHE": str(desk)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    needless = [name for name in modules if f"{name}.".startswith(NEEDLESS_FOR_A_FIT)]
    verbs = {f"cafe.cli.{verb}" for verb in (*typer.main.get_command(app_with()).commands, "lists")}
    assert needless == []
    assert verbs & set(modules) == {"cafe.cli.fit"}


def test_a_comparison_needs_no_transformers(desk):
    suite = ("compare", "baselines", "--methods", "tip-adapter", "--shots", "1", "--seeds", "1")
    _, heavy, _ = run(desk, *suite, "--cache", desk / "digits--cafe-mini.h5", "--json", "--out", desk / "table")
    assert heavy <= {"torch", "sklearn", "scipy", "matplotlib"}


def test_scikit_learn_finds_what_was_left_out_once_it_is_used():
    program = (
        "import sys; from cafe.cli.scikit_learn import import_scikit_learn; import_scikit_learn();"
        "assert not {'pandas', 'scipy.stats', 'numpy.f2py'} & set(sys.modules);"
        "import scipy, pandas; from sklearn.linear_model import LogisticRegression;"
        "table = pandas.DataFrame({'a': [0.0, 1.0], 'b': [1.0, 0.0]});"
        "assert LogisticRegression().fit(table, [0, 1]).feature_names_in_.tolist() == ['a', 'b'];"
        "assert scipy.stats.norm.cdf(0) == 0.5;"
        "import numpy; assert numpy.f2py.get_include()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_program_rarely_collects_garbage_among_imported_objects_and_never_at_its_end():
    program = (
        "import atexit, gc, sys; from cafe.cli.app import main; sys.argv = ['cafe', '--version']\n"
        "def end(): print(len(gc.get_objects()) < gc.get_freeze_count() and gc.get_threshold()[2] == 100)\n"
        "atexit.register(end); main()"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "True"
