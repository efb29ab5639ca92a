"""``cafe serve``: a classifier behind an address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cafe.cli.chosen import chosen_run, is_exported_file, open_exported_file
from cafe.cli.options import CacheDir, Device, Dtype, Json, MovedModel, Quiet, RunOrFile, listed, option
from cafe.cli.screen import Screen
from cafe.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from cafe.serving.predictor import Predictor


def serve(
    run: RunOrFile = None,
    host: Annotated[str, option("--host", "ADDRESS", "Where to listen; 0.0.0.0 for all networks.")] = "127.0.0.1",
    port: Annotated[int, option("--port", "N", "Of the address; 0 takes a free one.")] = 8000,
    cors: Annotated[
        list[str] | None, option("--cors", "ORIGIN", "Origins whose pages may call the API [default: none]; a list.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        option(
            "--allow-host",
            "NAME",
            "Further names by which it may be called, as behind a proxy; a list. An address other than this "
            "machine's own takes any.",
        ),
    ] = None,
    training_images: Annotated[
        bool,
        typer.Option(
            "--training-images/--no-training-images",
            help="Show the nearest training images, where these are on this machine.",
        ),
    ] = True,
    max_megabytes: Annotated[float, option("--max-megabytes", "N", "Of a request.")] = 32.0,
    max_pixels: Annotated[int, option("--max-pixels", "N", "Of an image.")] = 50_000_000,
    max_waiting: Annotated[int, option("--max-waiting", "N", "Images held at once; more are answered with 429.")] = 256,
    model: MovedModel = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve a classifier: a page for people, an HTTP API, the Open Inference Protocol.

    The page is at `/`; `POST /predict` takes files, `/v2` what talks to Triton, KServe or Seldon, `/openapi.json` says
    all of it, `/metrics` counts for Prometheus. Ctrl-C ends it, once what has begun is answered. With --json its
    address is printed as soon as it answers.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port takes a number of 0 to 65535; got {port}")
    for flag, limit in (
        ("--max-megabytes", max_megabytes),
        ("--max-pixels", max_pixels),
        ("--max-waiting", max_waiting),
    ):
        if limit <= 0:
            raise InputError(f"{flag} takes a number above 0; got {limit:g}")
    with Screen(json=json, quiet=quiet) as screen:
        try:
            from cafe.serving.server import address_of, allowed_hosts, bind
            from cafe.serving.server import serve as run_server
        except ImportError as error:
            raise MissingDependencyError(str(error.name), "serve", "serving") from error
        with bind(host, port) as taken:  # before the encoder: a wrong address should not wait for it
            from cafe.serving.app import make_app
            from cafe.serving.service import Limits

            opened, predictor = _predictor(run, training_images, model, device, dtype, cache_dir, screen)
            hosts = allowed_hosts(host)
            app = make_app(
                predictor,
                Limits(megabytes=max_megabytes, pixels=max_pixels, waiting=max_waiting),
                cors=listed(cors),
                hosts=[*hosts, *listed(allow_host)] if hosts else [],
            )

            def tell_address() -> None:
                url = address_of(taken)
                if json:
                    screen.answer({"run": opened, "url": url}, url)
                else:
                    screen.say(f"serving at {url}; Ctrl-C ends it")

            run_server(app, taken, tell_address)
            screen.say("ended")


def _predictor(
    run: str | None,
    training_images: bool,
    model: str | None,
    device: str,
    dtype: str,
    cache_dir: Path | None,
    screen: Screen,
) -> tuple[str, Predictor]:
    """Open the run or the exported file; return its name, and what answers for it."""
    from cafe.serving.predictor import OnnxPredictor, RunPredictor

    if is_exported_file(run):
        return str(run), OnnxPredictor(open_exported_file(str(run), screen))
    from cafe.classifier.classifier import Classifier

    folder = chosen_run(run, cache_dir, screen)
    classifier = Classifier.load(folder, model=model, device=device, dtype=dtype, cache_dir=cache_dir)
    return str(folder), RunPredictor(classifier, with_training_images=training_images)
