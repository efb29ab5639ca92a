"""Runs on the Hub of Hugging Face: a run is pushed as a model repository, and fetched from one.

All traffic is huggingface_hub's, which finds address (``HF_ENDPOINT``) and token (``HF_TOKEN``, or what `hf auth login`
kept) itself; nothing here reads, prints or stores a token.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cafe.errors import CafeError, InputError
from cafe.runs import ARRAY_FILE, CARD_FILE, REPORT_FILE, RUN_FILE, load, read_run
from cafe.sharing.model_card import check_card, write_card

SHARED = (
    RUN_FILE,
    ARRAY_FILE,
    CARD_FILE,
)  # what goes out: not local.json, and report.html, which shows images, if asked


@dataclass(frozen=True)
class PushSummary:
    """The result of a push.

    Attributes
    ----------
    repo : str
    url : str
        Of the repository.
    files : tuple of str
    encoder : str
        What whoever fetches it needs besides.
    """

    repo: str
    url: str
    files: tuple[str, ...]
    encoder: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"repo": self.repo, "url": self.url, "files": list(self.files), "encoder": self.encoder}


def push_run(run: Path, repo: str, *, private: bool = False, with_report: bool = False) -> PushSummary:
    """Push a run to a model repository, which is made where it is not there.

    Parameters
    ----------
    run : Path
        Its folder. It is read whole first, so that nothing damaged goes out.
    repo : str
        ``"owner/name"``.
    private : bool, default=False
        Whether a new repository is seen by its owner alone.
    with_report : bool, default=False
        Whether ``report.html`` goes along, which shows some of the images.

    Returns
    -------
    PushSummary

    Raises
    ------
    InputError
        If the run is damaged, its card was edited to say something else, or the repository has no possible name.
    CafeError
        If the Hub refuses, or cannot be reached.
    """
    _check_name(repo)
    load(run)
    document = read_run(run)
    if not (run / CARD_FILE).is_file():  # a run of an older cafe
        write_card(run)
    check_card(run)
    names = [*SHARED, *([REPORT_FILE] if with_report and (run / REPORT_FILE).is_file() else [])]
    with _errors_as_sentences(repo):
        api = _api()
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=run, allow_patterns=names, commit_message="A classifier fitted by cafe"
        )
    return PushSummary(repo, str(url), tuple(names), str(document.get("encoder") or ""))


def fetch_run(repo: str, revision: str | None = None) -> Path:
    """Fetch a run from a model repository into the Hub's own cache, where it is fetched once.

    Parameters
    ----------
    repo : str
        ``"owner/name"``.
    revision : str, default=None
        A branch, tag or commit; None is the newest.

    Returns
    -------
    Path
        Folder of the run. Its checksums are not compared here, but when the run is loaded.

    Raises
    ------
    InputError
        If there is no such repository, or it holds no run.
    CafeError
        If the Hub refuses, or cannot be reached.
    """
    _check_name(repo)
    from huggingface_hub import snapshot_download

    with _errors_as_sentences(repo):
        folder = Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=[*SHARED, REPORT_FILE], endpoint=os.environ.get("HF_ENDPOINT")
            )
        )
    if not (folder / RUN_FILE).is_file():
        raise InputError(f"{repo} holds no run of cafe: it has no {RUN_FILE}")
    return folder


def _api() -> Any:
    """Return the library's client, for the endpoint that the environment names."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="cafe")


def _check_name(repo: str) -> None:
    """Raise InputError unless ``repo`` is a valid name of a repository on the Hub."""
    from huggingface_hub.errors import HFValidationError

    utilities: Any = import_module("huggingface_hub.utils")  # the library does not list what it has there
    try:
        utilities.validate_repo_id(repo)
    except HFValidationError:
        raise InputError(f"a repository is called owner/name, in letters, digits and . _ -; got {repo!r}") from None


@contextmanager
def _errors_as_sentences(repo: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into sentences, without its messages: these can hold what was sent."""
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalEntryNotFoundError:
        raise CafeError(f"{repo} is not in the Hub's local cache, and the Hub cannot be reached") from None
    except errors.OfflineModeIsEnabled:
        raise CafeError("HF_HUB_OFFLINE is set, so nothing goes to the Hub or comes from there") from None
    except errors.LocalTokenNotFoundError:
        raise InputError("the Hub needs a token: log in with `hf auth login`, or set HF_TOKEN") from None
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401 or status == 403:
            raise InputError(
                f"the Hub refuses access to {repo} ({status}): log in with `hf auth login`, or set HF_TOKEN to a token "
                "that may write there; or there is no such repository"
            ) from None
        if status == 404:
            raise InputError(f"there is no repository {repo!r} on the Hub, or no such revision of it") from None
        raise CafeError(f"the Hub answered {status or 'nothing'} about {repo}; try again later") from None
    except (OSError, ConnectionError) as error:
        if getattr(error, "filename", None):  # a file of this machine
            raise
        raise CafeError("the Hub cannot be reached") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore", "requests", "urllib3", "httpx2"):
            raise
        raise CafeError("the Hub cannot be reached") from None
