"""Finding inputs and planning outputs: collisions are refused before any work."""

from __future__ import annotations

import glob
import hashlib
import os
import shlex
import stat
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from cutout.atomic import real_path, status_of
from cutout.enums import Existing, OnCollision
from cutout.errors import UsageError
from cutout.output_formats import SUFFIXES, OutputFormat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["STDIO", "Job", "Plan", "Unreadable", "plan"]

STDIO = "-"
"""The name of standard input and standard output on the command line."""

_OUR_SUFFIX = "-cutout"
"""Of a result that lies beside its picture."""

_STANDARD_INPUT = frozenset({STDIO, "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"})
_STANDARD_OUTPUT = frozenset({STDIO, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One picture to do. A source or target of None is standard input or output."""

    source: Path | None
    target: Path | None
    output_format: OutputFormat
    existing: Existing = Existing.OVERWRITE

    @property
    def source_name(self) -> str:
        """The input, as messages name it."""
        return STDIO if self.source is None else str(self.source)

    @property
    def target_name(self) -> str:
        """The output, as messages name it."""
        return STDIO if self.target is None else str(self.target)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable(Job):
    """A folder that cannot be read, and what the system says of it."""

    reason: OSError


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All that a run will do.

    Attributes:
        jobs: In the order they will be started; those whose output exists already are among them.
        ignored: Files of the input folders that are no pictures, and links to folders, which are not followed.
        earlier: Results of earlier runs among the inputs that nobody named.
        unreadable: Folders below the input folders that cannot be read; they count as failed, the others are done.
        batch: More than one explicit file was asked for.
    """

    jobs: tuple[Job, ...]
    ignored: tuple[Path, ...] = ()
    earlier: tuple[Path, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    batch: bool = False


def plan(
    inputs: Sequence[str],
    output: str | None,
    *,
    output_format: OutputFormat | None = None,
    recursive: bool = True,
    existing: Existing | None = None,
    on_collision: OnCollision = OnCollision.REFUSE,
    keep: Sequence[Path] = (),
    listed: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    suffix: str | None = None,
) -> Plan:
    """Decide which file becomes which, and refuse what could lose one, before any work is done.

    Args:
        inputs: Files, folders, glob patterns, or `-`.
        output: A file, a folder, `-`, or None for `NAME-cutout.EXT` beside each input (`FOLDER-cutout/` for a folder).
        output_format: Of every output; None goes by the extension of `output`, else PNG.
        recursive: Walk the folders below an input folder.
        existing: What to do with outputs that are there; None overwrites a single one and skips in a batch.
        on_collision: What to do when two inputs would write one output.
        keep: Further files that no output may be, such as a background picture.
        listed: Further files and folders, never patterns; such a run is one of many files, however few there are.
        exclude: Patterns for what is left out of folders and of what patterns match.
        suffix: Added to the name of each result; None is "-cutout" for those that lie beside their pictures.

    Raises:
        UsageError: An input does not exist, two outputs collide, an output is an input, or an output exists and
            `existing` is `fail`.
    """
    if output == "":
        raise UsageError("the output has an empty name", hint="leave -o out, or name a file or a folder")
    if output in _STANDARD_OUTPUT:  # written through a temporary file, the device would become one
        output = STDIO
    if suffix is not None and (not suffix or {"/", os.sep, "\0"} & set(suffix)):
        raise UsageError(f"suffix {suffix!r} is no part of a file's name", options=("suffix",))
    beside = suffix or _OUR_SUFFIX
    ignored: list[Path] = []
    earlier: list[Path] = []
    names = [*_expand(inputs, exclude, beside, earlier), *(listed or ())]
    batch = listed is not None or len(names) > 1 or any(_is_folder(name) for name in names)
    _check_standard(names, output, batch=batch)
    into_folder = output is not None and output != STDIO and _means_folder(output, batch=batch)
    if not into_folder and output is not None and output != STDIO:
        output_format = _format_of(output, output_format)
    chosen = output_format or OutputFormat.PNG
    rule = existing or (Existing.SKIP if batch else Existing.OVERWRITE)
    pairs: list[tuple[Path | None, Path | None]] = []
    unreadable: list[Unreadable] = []
    for name in names:
        root = Path(output) if into_folder and output is not None else None
        if not _is_folder(name):
            source = None if name == STDIO else Path(name)
            pairs.append((source, _target(source, root, output, chosen, suffix)))
            continue
        folder = Path(name)
        tail = f"{'' if root is None else suffix or ''}.{chosen.value}"
        root = root or _beside(folder, "", beside)
        from cutout.jobs.inputs import walk

        found = walk(folder, root, recursive=recursive, exclude=exclude, suffix=beside)
        pairs += [(path, root / path.relative_to(folder).with_name(path.stem + tail)) for path in found.pictures]
        ignored += found.ignored
        earlier += found.earlier
        unreadable += [
            Unreadable(source=path, target=root / path.relative_to(folder), output_format=chosen, reason=error)
            for path, error in found.locked
        ]
    jobs = [Job(source=source, target=target, output_format=chosen, existing=rule) for source, target in pairs]
    jobs = _without_collisions(jobs, on_collision)
    _check_targets(jobs, rule, keep)
    return Plan(
        jobs=tuple(jobs), ignored=tuple(ignored), earlier=tuple(earlier), unreadable=tuple(unreadable), batch=batch
    )


def _is_folder(name: str) -> bool:
    status = None if name == STDIO else status_of(Path(name))
    return status is not None and stat.S_ISDIR(status.st_mode)


def _expand(inputs: Sequence[str], exclude: Sequence[str], suffix: str, earlier: list[Path]) -> Iterator[str]:
    """Files and folders, patterns resolved; results of earlier runs that these match are put aside."""
    for name in inputs:
        if name in _STANDARD_INPUT:
            yield STDIO
            continue
        if _exists(name):
            yield name
            continue
        if "://" in name:
            way = f"curl -L {shlex.quote(name)} | cutout remove - -o photo.png"
            raise UsageError(f"the input {name} is an address, and nothing is fetched", hint=way)
        if not glob.has_magic(name):
            raise UsageError(f"the input {name} does not exist", hint="check the path; names with spaces need quotes")
        from cutout.jobs.inputs import matching

        matches, results = matching(name, exclude, suffix)
        earlier += results
        yield from matches


def _exists(name: str) -> bool:
    """Whether anything bears the name, be it a link to nowhere."""
    try:
        os.lstat(name)
    except PermissionError as error:
        raise UsageError(f"the input {name} cannot be reached: permission denied", hint="check the folders") from error
    except (OSError, ValueError):
        return False
    return True


def _check_standard(names: list[str], output: str | None, *, batch: bool) -> None:
    if names.count(STDIO) > 1:
        raise UsageError("standard input (-) can be read only once")
    if output == STDIO and batch:
        raise UsageError("-o - writes one picture to standard output, but there are several inputs")


def _means_folder(output: str, *, batch: bool) -> bool:
    path = Path(output)
    if _is_folder(output) or output.endswith(("/", os.sep)):
        return True
    exists = status_of(path) is not None
    if batch:
        if exists or path.suffix.lower() in SUFFIXES:
            raise UsageError(
                f"the output {output} is a file, but several pictures go into a folder",
                hint="give a folder; a slash at the end makes any name one",
            )
        return True
    return not path.suffix and not exists


def _format_of(output: str, asked: OutputFormat | None) -> OutputFormat:
    """The format of a single output file: by its extension, which must not contradict what was asked for."""
    suffix = Path(output).suffix.lower()
    if asked is not None:
        if SUFFIXES.get(suffix, asked) is not asked:
            text = f"the output {output} ends in {suffix}, but format says {asked.value}"
            raise UsageError(text, options=("format",))
        return asked
    if suffix not in SUFFIXES:
        raise UsageError(
            f"the output {output} has the extension {suffix or '(none)'}, which is none that can be written",
            hint=f"use one of {' '.join(SUFFIXES)}, or say format",
            options=("format",),
        )
    return SUFFIXES[suffix]


def _beside(source: Path, extension: str, suffix: str) -> Path:
    path = source if source.name not in {"", ".", ".."} else source.resolve()
    if not path.name:
        raise UsageError(f"nothing lies beside {path}", hint="name the output folder: -o FOLDER")
    return path.with_name((path.stem if extension else path.name) + suffix + extension)


def _target(
    source: Path | None, root: Path | None, output: str | None, output_format: OutputFormat, suffix: str | None
) -> Path | None:
    """Where the result of one input goes that is no folder's."""
    extension = f".{output_format.value}"
    if root is not None:
        return root / f"{'stdin' if source is None else source.stem}{suffix or ''}{extension}"
    if output is not None:
        return None if output == STDIO else Path(output)
    return None if source is None else _beside(source, extension, suffix or _OUR_SUFFIX)


def _key(path: Path, known: dict[str, str]) -> str:
    """Equal for two names that some file system takes for one: upper and lower case, composed and decomposed letters.

    Whether the output's does is not known beforehand (a memory card or a network share may be mounted there), and
    losing a file is worse than refusing two that differ in nothing else.
    """
    return unicodedata.normalize("NFC", real_path(path, known)).casefold()


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _without_collisions(jobs: list[Job], rule: OnCollision) -> list[Job]:
    """Two jobs never share an output: refused, or told apart by a suffix that depends on the source alone."""
    known: dict[str, str] = {}
    suffixes = iter(() if rule is OnCollision.REFUSE else (_extension, _hash))
    while True:
        groups: dict[str, list[int]] = defaultdict(list)
        for number, job in enumerate(jobs):
            if job.target is not None:
                groups[_key(job.target, known)].append(number)
        colliding = [group for group in groups.values() if len(group) > 1]
        if not colliding:
            return jobs
        if (suffix := next(suffixes, None)) is None:
            first, second = (jobs[number] for number in colliding[0][:2])
            more = f" ({len(colliding) - 1} more such outputs)" if len(colliding) > 1 else ""
            twice = first.source is not None and second.source is not None and _same(first.source, second.source)
            raise UsageError(
                f"{first.source_name} and {second.source_name} would both become {first.target_name}{more}",
                hint="they are one file: name it once" if twice else "on_collision suffix tells them apart by name",
                options=("on_collision",),
            )
        for number in chain.from_iterable(colliding):
            job, target = jobs[number], Path(jobs[number].target_name)
            jobs[number] = replace(job, target=target.with_name(f"{target.stem}-{suffix(job)}{target.suffix}"))


def _extension(job: Job) -> str:
    return job.source.suffix.lower().removeprefix(".") if job.source else "stdin"


def _hash(job: Job) -> str:
    return hashlib.sha256(os.fsencode(os.path.realpath(job.source_name))).hexdigest()[:8]


def _check_targets(jobs: list[Job], rule: Existing, keep: Sequence[Path]) -> None:
    inputs = [*keep, *(job.source for job in jobs if job.source is not None)]
    known: dict[str, str] = {}
    names = {real_path(path, known): path for path in inputs}
    files: dict[tuple[int, int], Path] | None = None
    for job in jobs:
        if job.target is None:
            continue
        owner = names.get(real_path(job.target, known))
        status = status_of(job.target)
        if owner is None and status is not None:
            if files is None:  # most runs find no output there and need not ask
                files = {(seen.st_dev, seen.st_ino): path for path in inputs if (seen := status_of(path)) is not None}
            owner = files.get((status.st_dev, status.st_ino))  # a hard link is one file under two names
        if owner is not None:
            raise UsageError(
                f"the output {job.target} of {job.source_name} is the input {owner}",
                hint="inputs are never overwritten: choose another output"
                + (", or leave earlier results out of the inputs" if "-cutout" in owner.stem else ""),
            )
        if rule is Existing.FAIL and status is not None:
            raise UsageError(
                f"the output {job.target} exists already",
                hint="existing skip or overwrite says what to do with it",
                options=("existing",),
            )
