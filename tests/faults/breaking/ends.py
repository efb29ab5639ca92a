"""Commands that end before their time: killed at any instant, on a full disk, in a folder that cannot be written to."""

from __future__ import annotations

import importlib
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from breaking.caches import OLD, content_of, difference, write_new_cache, write_split_caches
from breaking.campaign import Campaign, Outcome
from breaking.children import Child, cafe, limit_files, start, without_rights, without_stdin
from breaking.command import judge, run_cafe
from breaking.pool import note
from breaking.shards import TIMES, DamagedShards, fakes

_RUN_TIMES = ("fit_seconds", "select_seconds", "seconds", "timings", "sha256", "content_sha256")


@dataclass
class Verb:
    """A command that writes.

    Attributes
    ----------
    start : callable
        Starts it, with its output below a folder, and with what is done before in the child.
    out : str
        Name of its output below that folder.
    content : callable
        Everything in the output but times; raises if it is not whole.
    seconds : float
        How long it takes undisturbed.
    reference : dict
        The content of an undisturbed run.
    size : int
        Bytes of its largest file.
    """

    start: Callable[[Path, Callable[[], None]], Child]
    out: str
    content: Callable[[Path], dict[str, Any]]
    seconds: float = 0.0
    reference: dict[str, Any] | None = None
    size: int = 0


def _cache_content(path: Path) -> dict[str, Any]:
    from cafe.cache.format.verify import verify_cache

    report = verify_cache(path)
    if not report.ok:
        raise ValueError("; ".join(report.findings))
    return {key: value for key, value in content_of(path).items() if key not in TIMES}


def _npz_content(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: (file[name].dtype.str, file[name].shape, file[name].tobytes()) for name in file.files}


def _safetensors_content(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            return {
                **{name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()},
                "": sorted((file.metadata() or {}).items()),
            }
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _run_content(folder: Path) -> dict[str, Any]:
    from cafe.runs import load

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(inner) for key, inner in value.items() if key not in _RUN_TIMES}
        return value

    run = load(folder)
    arrays = {name: value.tobytes() for name, value in vars(run).items() if isinstance(value, np.ndarray)}
    return {**arrays, "document": clean(run.run_)}


class Verbs(Campaign):
    """What is common to commands that end before their time."""

    limit = 60.0

    def prepare(self, folder: Path) -> None:
        """Write what the commands read, and let each come to its end once."""
        from cafe.cache.format.reader import read_features

        self.folder = folder
        whole = write_new_cache(folder / "whole.h5")
        write_split_caches(whole, folder)
        arrays = {}
        for name, split in read_features(whole).splits.items():
            arrays[f"{name}_features"], arrays[f"{name}_labels"] = split.image_features, split.labels
        np.savez(folder / "features.npz", **arrays, class_names=np.array(["cat", "dog", "fox"]))
        fitted = folder / "digits.h5"
        fitted.write_bytes((OLD / "extracted-0.1.0.h5").read_bytes())
        self.fakes = fakes()
        self.verbs = {
            "extract": Verb(self._extract, "a.h5", _cache_content),
            "import": self._cafe("a.h5", _cache_content, "cache", "import", folder / "features.npz", "--name", "toys"),
            "merge": self._cafe("a.h5", _cache_content, "cache", "merge", folder / "train.h5", folder / "test.h5"),
            "export": self._cafe("a.npz", _npz_content, "cache", "export", whole),
            "export safetensors": self._cafe(
                "a.safetensors", _safetensors_content, "cache", "export", whole
            ),
            "fit": self._cafe(
                "run", _run_content, "fit", "--cache", fitted, "--method", "tip-adapter", "--shots", "1",
                "--device", "cpu",
            ),
        }  # fmt: skip
        for name, verb in self.verbs.items():
            own = folder / f"undisturbed {name}"
            for round_ in range(2):  # the second has everything imported
                below = own / str(round_)
                (below / "try").mkdir(parents=True)
                if name == "extract":
                    self._import_what_an_extraction_imports(below)
                else:
                    self._here(name, below)
                began = time.monotonic()
                answer = verb.start(below / "try", lambda: None).answer()
                verb.seconds = time.monotonic() - began
                assert answer.code == 0, (name, answer)
            out = below / "try" / verb.out
            verb.reference = verb.content(out)
            files = out.iterdir() if out.is_dir() else [out]
            verb.size = max(file.stat().st_size for file in files)

    def _extract(self, folder: Path, before: Callable[[], None]) -> Child:
        return start(lambda: self._extract_here(folder / "a.h5"), before=before)

    def _extract_here(self, path: Path) -> int:
        from cafe.cli.problems import run

        def work() -> None:
            DamagedShards.extract(self, path)  # type: ignore[arg-type]

        return run(work)

    def _import_what_an_extraction_imports(self, below: Path) -> None:
        """Import the modules that a child has imported at the end of an extraction.

        Children that give up the rights of root may not be able to read Python's own files. An extraction in this
        process would leave a thread behind, which forked children lack.
        """
        names = below / "modules.txt"

        def work() -> int:
            status = self._extract_here(below / "here.h5")
            names.write_text("\n".join(sys.modules), encoding="utf-8")
            return status

        answer = start(work).answer()
        assert answer.code == 0, answer
        for name in names.read_text(encoding="utf-8").splitlines():
            with suppress(ImportError):
                importlib.import_module(name)

    def _here(self, name: str, below: Path) -> None:
        """Run a command in this process, so that everything is imported before children are forked."""
        answer = run_cafe(below / "try", *self._words[name], "--out", below / self.verbs[name].out)
        assert answer.code == 0, (name, answer)

    def _cafe(self, out: str, content: Callable[[Path], dict[str, Any]], *words: object) -> Verb:
        known: dict[str, tuple[object, ...]] = self.__dict__.setdefault("_words", {})
        label = str(words[0]) if words[0] != "cache" else str(words[1])
        known["export safetensors" if out.endswith(".safetensors") else label] = words
        return Verb(lambda folder, before: cafe([*words, "--out", folder / out], folder, before=before), out, content)

    def whole_or_absent(self, verb: Verb, folder: Path) -> str | None:
        """Say what is wrong with what stands under the final name; None if that is whole, or nothing stands there."""
        from cafe.errors import CafeError

        out = folder / verb.out
        if not out.exists() or (out.is_dir() and not (out / "run.json").exists()):
            return None
        try:
            other = difference(verb.reference or {}, verb.content(out))
        except (CafeError, ValueError, OSError) as error:
            return f"what stands there is not whole: {error}"
        return None if other is None else f"{other or 'the whole'} differs from the undisturbed run"

    def carried_on(self, name: str, verb: Verb, folder: Path, kind: str, what: str) -> Outcome:
        """Run the command once more, undisturbed, and compare; nothing may be left behind."""
        out = folder / verb.out
        if out.is_file() and name != "extract":
            out.unlink()  # import, merge and export refuse to write over what is there
        answer = verb.start(folder, lambda: None).answer()
        if answer.code != 0:
            return Outcome("wrong", kind, f"{what}; does not carry on: {answer.shown()}")
        wrong = self.whole_or_absent(verb, folder)
        if wrong is not None or not out.exists():
            return Outcome("silent", kind, f"{what}; carried on, but {wrong or 'nothing is there'}")
        left = [path.name for path in folder.rglob("*") if path.name.startswith(".") or "partial" in path.name]
        if left:
            return Outcome("wrong", kind, f"{what}; left behind: {left}")
        return Outcome("mended", kind, what)

    def expected(self, tries: int) -> tuple[str, ...]:
        """All of them end well."""
        return ("mended",)


class Kills(Verbs):
    """SIGKILL at any instant of extract, import, merge, export and fit; then the same command again."""

    name, tries, short = "kills", 600, 12

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Kill a command one to three times, and let it come to its end."""
        kind = list(self.verbs)[number % len(self.verbs)]
        verb = self.verbs[kind]
        note(folder, kind)
        killed = []
        for _ in range(rng.choice([1, 1, 2, 3])):
            seconds = rng.uniform(0, 1.1 * verb.seconds)
            child = verb.start(folder, lambda: None)
            if child.kill_after(seconds):
                killed.append(f"{seconds:.3f}")
            elif child.answer().code not in (0, 2):  # 2: an earlier one came through, and its file is not replaced
                return Outcome("wrong", kind, f"after {len(killed)} kills: {child.answer().shown()}")
            wrong = self.whole_or_absent(verb, folder)
            if wrong is not None:
                return Outcome("silent", kind, f"killed after {', '.join(killed)} s; {wrong}")
        what = f"killed after {', '.join(killed)} s" if killed else "was quicker than the kill"
        return self.carried_on(kind, verb, folder, kind, what)


class FullDisks(Verbs):
    """A limit on the size of files, growing from nothing to more than is needed: a disk that is full."""

    name, tries, short = "full-disks", 360, 12

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Run a command under a limit, look at its answer, and run it again without one."""
        kind = list(self.verbs)[number % len(self.verbs)]
        verb = self.verbs[kind]
        note(folder, kind)
        limit = round(rng.uniform(0, 1.2) * verb.size)
        if number % 5 == 4:  # room enough, also for what is reserved before the size is known
            limit = 1 << 24
        what = f"{limit} bytes of {verb.size}"
        answer = verb.start(folder, limit_files(limit)).answer()
        if answer.code < 0:
            return Outcome("crash", kind, f"{what}; ended by signal {-answer.code}; {answer.shown()}")
        outcome = judge(answer, kind, what, failing=True)
        if outcome.verdict not in ("accepted", "detected"):
            return outcome
        wrong = self.whole_or_absent(verb, folder)
        if wrong is not None:
            return Outcome("silent", kind, f"{outcome.detail}; {wrong}")
        if answer.code and (folder / verb.out).is_file():
            return Outcome("silent", kind, f"{outcome.detail}; and yet a file stands there")
        again = self.carried_on(kind, verb, folder, kind, outcome.detail)
        return outcome if again.verdict == "mended" and outcome.verdict == "detected" else again

    def expected(self, tries: int) -> tuple[str, ...]:
        """Small limits are noticed, large ones are enough."""
        return ("detected", "mended")


class Circumstances(Verbs):
    """Read-only folders, closed standard input, several extractors at once with some of them killed."""

    name, tries, short = "circumstances", 60, 9

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """One of three."""
        kind = ("read-only folder", "closed stdin", "several at once")[number % 3]
        note(folder, kind)
        if kind == "read-only folder":
            return self._read_only(kind, number, folder)
        if kind == "closed stdin":
            return self._closed(kind, number, folder)
        return self._together(kind, rng, folder)

    def _read_only(self, kind: str, number: int, folder: Path) -> Outcome:
        name = list(self.verbs)[number // 3 % len(self.verbs)]
        verb = self.verbs[name]
        closed = folder / "closed"
        closed.mkdir()
        for path in (folder.parent.parent, folder.parent, folder):
            path.chmod(0o755)  # the way there is open to whoever gives up the rights of root
        closed.chmod(0o555)
        answer = verb.start(closed, without_rights).answer()
        outcome = judge(answer, kind, name, failing=True)
        if outcome.verdict == "accepted":
            return Outcome("wrong", kind, f"{name} says that it wrote to a read-only folder")
        if any(closed.iterdir()):
            return Outcome("harm", kind, f"{outcome.detail}; something was written")
        return outcome

    def _closed(self, kind: str, number: int, folder: Path) -> Outcome:
        caches = folder / "caches"
        caches.mkdir()
        cache = caches / "whole.h5"
        cache.write_bytes((self.folder / "whole.h5").read_bytes())
        commands: list[list[object]] = [
            ["cache", "rm", "whole"], ["cache", "ls"], ["cache", "verify", cache], ["predict", "-", "--run", "none"],
            ["fit", "--cache", cache, "--method", "zero-shot", "--out", folder / "run"],
        ]  # fmt: skip
        words = commands[number // 3 % len(commands)]
        outcome = judge(cafe(words, folder, before=without_stdin).answer(), kind, " ".join(map(str, words)))
        if not cache.exists():
            return Outcome("harm", kind, f"{outcome.detail}; removed without being asked")
        return outcome

    def _together(self, kind: str, rng: random.Random, folder: Path) -> Outcome:
        verb = self.verbs["extract"]
        n = rng.choice([2, 3, 4])
        children = [verb.start(folder, lambda: None) for _ in range(n)]
        doomed = children[: rng.randrange(n)]
        for child in doomed:
            child.kill_after(rng.uniform(0, 0.5 * verb.seconds))
        answers = [child.answer() for child in children if child not in doomed]
        what = f"{n} at once, {len(doomed)} killed"
        for answer in answers:
            if answer.code != 0:
                return Outcome("wrong", kind, f"{what}; {answer.shown()}")
        wrong = self.whole_or_absent(verb, folder)
        if wrong is not None:
            return Outcome("silent", kind, f"{what}; {wrong}")
        return self.carried_on("extract", verb, folder, kind, what)

    def expected(self, tries: int) -> tuple[str, ...]:
        """Read-only folders are refused, extractors agree."""
        return ("detected", "mended", "accepted") if tries >= 9 else ()
