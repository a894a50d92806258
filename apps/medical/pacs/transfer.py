"""Pull and push: which files, where they lie, what happens when the PACS goes away in between.

A pulled instance is ``OUT/<study UID>/<series UID>/<SOP instance UID>.dcm``, byte for byte as the
PACS sent it. It gets this name only when it is whole and its header says it is that instance, so a
run that was interrupted is continued by the same command: what is there is not asked for again.
Nothing of a patient is part of a name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from apps.medical.pacs.config import Query, is_uid
from apps.medical.pacs.service import Instance, Item, Pacs, Series, patiently
from core.errors import DataError, ResourceError, UsageError
from core.files import atomic_path, require_writable
from core.progress import Progress, SilentProgress, Task

DIRECTORY = "1.2.840.10008.1.3.10"  # DICOMDIR: a table of files, which no PACS stores


@dataclass(kw_only=True)
class SeriesPlan:
    """One series of a pull: all its instances, those to bring, and what came of it."""

    series: Series
    folder: Path
    instances: list[Instance]
    missing: list[Instance]
    there: int
    received: int = 0
    bytes: int = 0
    why: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        found = asdict(self.series)
        return {
            "study": found["study"],
            "series": found["uid"],
            **{key: found[key] for key in ("modality", "number", "description", "date")},
            "folder": str(self.folder),
            "instances": len(self.instances),
            "there": self.there,
            "received": self.received,
            "bytes": self.bytes,
            "missing": [item.uid for item in self.missing],
            "why": self.why,
        }


def pull(
    pacs: Pacs,
    query: Query,
    out: Path,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Bring every instance that ``query`` finds into ``out``; ``dry_run`` only says which.

    Returns the report: per series what is ``there`` already, ``received`` and ``missing`` (UIDs)
    with the reasons, their sums, and ``stopped``, one line when the PACS or this machine ended the
    transfer. Received files stay whatever happens.

    Raises DataError when nothing matches, UsageError when too much does or ``out`` is a file,
    ResourceError when the PACS cannot be reached or refuses the search, or ``out`` the writing.
    """
    progress = progress or SilentProgress()
    started = time.monotonic()
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; --out needs a folder")
    if not dry_run:
        require_writable(out, ())
    plans = _plan(pacs, query, out, progress)
    stopped = None
    if not dry_run:
        total = sum(len(plan.missing) for plan in plans)
        with progress.task("pull", total=total) as task:
            inbox = _Inbox(pacs.bounds.total_bytes, task)
            for plan in plans:
                try:
                    _bring(pacs, plan, inbox)
                except DataError as error:
                    plan.why.append(str(error))
                except ResourceError as error:
                    stopped = str(error)
                    break
    return {
        "pacs": pacs.address.url,
        "out": str(out),
        "dry_run": dry_run,
        "studies": len({plan.series.study for plan in plans}),
        "series": [plan.report() for plan in plans],
        "instances": sum(len(plan.instances) for plan in plans),
        "there": sum(plan.there for plan in plans),
        "received": sum(plan.received for plan in plans),
        "missing": sum(len(plan.missing) for plan in plans),
        "bytes": sum(plan.bytes for plan in plans),
        "stopped": stopped,
        "seconds": round(time.monotonic() - started, 3),
    }


def push(
    pacs: Pacs | None,
    sources: Sequence[Path],
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Store DICOM files, and those in folders, in a PACS; ``dry_run`` (or no PACS) only lists them.

    To store the same file twice does no harm (PS3.4 section B.2.3: an instance has one identity),
    so after a failure the same command is simply run again. Returns the report: ``stored`` and
    ``failed`` files with reasons, ``notes`` of the PACS, ``ignored`` files that are not DICOM.

    Raises DataError where a named file is not DICOM or nothing is.
    """
    progress = progress or SilentProgress()
    started = time.monotonic()
    items, ignored = collect(sources)
    stopped = None
    outbox = _Outbox()
    if pacs is not None and not dry_run:
        with progress.task("push", total=len(items)) as task:
            outbox.task = task
            try:
                patiently(
                    pacs.bounds,
                    lambda: pacs.store([i for i in items if i.path not in outbox.done], outbox),
                    lambda: len(outbox.done),
                )
            except (ResourceError, DataError) as error:
                stopped = str(error)
    return {
        "pacs": pacs.address.url if pacs is not None else None,
        "dry_run": dry_run,
        "files": [{"path": str(i.path), "uid": i.uid, "bytes": i.bytes} for i in items],
        "ignored": ignored,
        "stored": len(outbox.stored_files),
        "bytes": sum(item.bytes for item in outbox.stored_files),
        "notes": outbox.notes,
        "failed": outbox.failed,
        "missing": [
            str(item.path) for item in items if not dry_run and item.path not in outbox.done
        ],
        "stopped": stopped,
        "seconds": round(time.monotonic() - started, 3),
    }


def collect(sources: Sequence[Path]) -> tuple[list[Item], int]:
    """The DICOM files among ``sources`` and in folders among them, and how many others were there.

    Hidden files and links in folders are passed over; one instance is taken once. Raises DataError
    for a named file that is not DICOM, and when there is nothing to send.
    """
    items: dict[str, Item] = {}
    ignored = 0
    for source in map(Path, sources):
        if not source.exists():
            raise DataError(f"{source}: no such file or folder")
        for file in _files(source) if source.is_dir() else [source]:
            try:
                item = _item(file)
            except DataError:
                if file == source:
                    raise
                ignored += 1
                continue
            if item.sop_class == DIRECTORY or item.uid in items:
                ignored += 1
            else:
                items[item.uid] = item
    if not items:
        raise DataError(f"{sources[0]}: holds no DICOM file to send")
    return list(items.values()), ignored


def _plan(pacs: Pacs, query: Query, out: Path, progress: Progress) -> list[SeriesPlan]:
    found = pacs.find(query)
    if not found:
        raise DataError(
            f"{pacs.address.url}: nothing matches; check the spelling, or search by --patient with "
            "a wild card such as 'P12*'"
        )
    plans = []
    with progress.task("list", total=len(found)) as task:
        for series in found:
            instances = pacs.instances(series)
            folder = out / series.study / series.uid
            missing = [item for item in instances if not _is(folder / f"{item.uid}.dcm", item.uid)]
            plan = SeriesPlan(
                series=series,
                folder=folder,
                instances=instances,
                missing=missing,
                there=len(instances) - len(missing),
            )
            if series.count is not None and series.count > len(instances):
                plan.why.append(f"the PACS counts {series.count} but lists {len(instances)}")
            plans.append(plan)
            task.advance()
    return plans


def _bring(pacs: Pacs, plan: SeriesPlan, inbox: _Inbox) -> None:
    """Retrieve what is missing of one series. Raises as ``Pacs.retrieve``."""
    inbox.open(plan)

    def go() -> None:
        wanted = list(plan.missing)
        if wanted:
            whole = len(wanted) == len(plan.instances)
            pacs.retrieve(plan.series, wanted, whole, inbox)

    patiently(pacs.bounds, go, lambda: plan.received)
    if plan.missing and not plan.why:
        plan.why.append("the PACS lists these images but did not send them")


class _Inbox:
    """The ``Receiver`` of a pull: writes files, one series after another."""

    def __init__(self, limit: int, task: Task) -> None:
        self._left = limit
        self._limit = limit
        self._task = task
        self._plan: SeriesPlan | None = None

    def open(self, plan: SeriesPlan) -> None:
        self._plan = plan

    def wants(self, uid: str) -> bool:
        assert self._plan is not None
        return any(item.uid == uid for item in self._plan.missing)

    def keep(self, uid: str, chunks: Iterable[bytes]) -> None:
        plan = self._plan
        assert plan is not None
        if not is_uid(uid):  # it becomes a file's name
            raise DataError("the PACS sent an instance without a valid UID")
        size = 0
        path = plan.folder / f"{uid}.dcm"
        with atomic_path(path, force=True) as temporary:
            with open(temporary, "wb") as stream:
                for chunk in chunks:
                    size += len(chunk)
                    if size > self._left:
                        raise ResourceError(
                            f"more than {self._limit / 2**30:.3g} GB came; the transfer was "
                            "stopped, go on with a larger --max-gb"
                        )
                    stream.write(chunk)
            _check(temporary, uid, plan.series)
        self._left -= size
        plan.bytes += size
        plan.received += 1
        plan.missing = [item for item in plan.missing if item.uid != uid]
        self._task.advance(note=f"{plan.series.modality} {plan.series.number}".strip())

    def refuse(self, uid: str, why: str) -> None:
        assert self._plan is not None
        line = f"{uid}: {why}" if uid else why
        if line not in self._plan.why and len(self._plan.why) < 20:
            self._plan.why.append(line)


class _Outbox:
    """The ``Sender`` of a push: remembers."""

    def __init__(self) -> None:
        self.done: set[Path] = set()
        self.stored_files: list[Item] = []
        self.failed: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self.task: Task | None = None

    def stored(self, item: Item, note: str = "") -> None:
        self.stored_files.append(item)
        if note:
            self.notes[str(item.path)] = note
        self._finish(item)

    def refused(self, item: Item, why: str) -> None:
        self.failed[str(item.path)] = why
        self._finish(item)

    def _finish(self, item: Item) -> None:
        self.done.add(item.path)
        if self.task is not None:
            self.task.advance(note=item.path.name)


def _check(path: Path, uid: str, series: Series) -> None:
    """DataError unless the file is DICOM and the instance of the series that was asked for."""
    header = _header(path, "the PACS sent something that is not a DICOM file")
    wanted = {
        "SOPInstanceUID": uid,
        "SeriesInstanceUID": series.uid,
        "StudyInstanceUID": series.study,
    }
    for keyword, value in wanted.items():
        if header.get(keyword) != value:
            raise DataError(f"the PACS sent another object ({keyword} is not the one asked for)")


def _is(path: Path, uid: str) -> bool:
    """Whether this instance is on disk. What has its name was whole when it got it."""
    try:
        return path.is_file() and _header(path, "").get("SOPInstanceUID") == uid
    except DataError:
        return False


def _header(path: Path, wrong: str) -> dict[str, str]:
    """The identifying attributes of a DICOM file by keyword, as text; DataError if it is none."""
    import pydicom

    tags = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"]
    try:
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
        syntax = found.file_meta.get("TransferSyntaxUID", "")
        header = {tag: str(found.get(tag, "") or "") for tag in tags}
        header["MediaStorageSOPInstanceUID"] = str(
            found.file_meta.get("MediaStorageSOPInstanceUID", "")
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise DataError(wrong or f"{path}: is not a DICOM file") from error
    return header | {"TransferSyntaxUID": str(syntax)}


def _item(path: Path) -> Item:
    header = _header(path, f"{path}: is not a DICOM file; push sends DICOM only")
    keys = ("SOPInstanceUID", "SOPClassUID", "TransferSyntaxUID")
    if not all(is_uid(header[key]) for key in keys):
        raise DataError(f"{path}: lacks a valid {' or '.join(keys)}; it cannot be stored")
    if header["MediaStorageSOPInstanceUID"] != header["SOPInstanceUID"]:
        raise DataError(f"{path}: names two different instances in its two headers")
    return Item(
        path=path,
        uid=header["SOPInstanceUID"],
        sop_class=header["SOPClassUID"],
        transfer_syntax=header["TransferSyntaxUID"],
        bytes=path.stat().st_size,
    )


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
    )
