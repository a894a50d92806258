"""From a file to a table: CSV (also .gz), Parquet or Excel, with what was decided on the way.

Nothing is guessed silently: delimiter, encoding and decimal mark are notes where they are not the
usual ones.  Text is read twice, the first time in blocks of a mebibyte for its hash, its encoding
and its size, so that a file that is too large is refused before it is in memory.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import itertools
import os
import re
import zlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pandas as pd

from apps.timeseries.data.cells import MISSING, NUMBER, decimal_mark
from core.errors import DataError, ResourceError, UsageError, nearest
from core.files import sha256

MAX_BYTES = 4 << 30
MAX_CELLS = 200_000_000
"""What a file may hold at most: 4 GiB of text, or 1.6 GB of numbers."""

_TEXT = (".csv", ".tsv", ".txt")
_BLOCK = 1 << 20


@dataclass
class Table:
    """The rows of a file. ``frame`` has text, numbers or stamps in its columns."""

    frame: pd.DataFrame
    name: str  # of the file, for messages
    sha256: str
    decimal: str = "."
    notes: list[str] = field(default_factory=list)


def read_table(
    path: Path | str,
    *,
    text: Callable[[str], bool] = lambda name: False,
    decimal: str | None = None,
    encoding: str | None = None,
    sheet: str | None = None,
) -> Table:
    """The table in a file; columns whose name is ``text`` stay text (``007`` is no number).

    Raises DataError for a file that is missing, empty, too large, of another kind, or without a
    header row, ResourceError for one that may not be read, and UsageError for options that do not
    fit the file.
    """
    path = Path(path)
    name = path.name
    if decimal not in (None, ".", ","):
        raise UsageError(f"decimal mark '{decimal}': must be '.' or ','")
    if path.is_dir():
        raise DataError(f"{path} is a folder; give one CSV, Parquet or Excel file")
    try:
        size = path.stat().st_size
    except PermissionError as error:
        raise _denied(path) from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; check the path") from error
    if size == 0:
        raise DataError(f"{name} is empty; give a file with a header row and data")
    if not os.access(path, os.R_OK):
        raise _denied(path)
    endings = [suffix.lower() for suffix in path.suffixes]
    kind = endings[-2] if endings[-1:] == [".gz"] and len(endings) > 1 else (endings or [""])[-1]
    if kind in (".parquet", ".pq"):
        table = _parquet(path, name)
    elif kind in (".xlsx", ".xlsm"):
        table = _excel(path, name, sheet, text)
    elif kind in _TEXT or kind in ("", ".gz", ".data"):
        table = _csv(path, name, text, decimal, encoding)
    else:
        raise DataError(
            f"{name}: '{kind}' files are not read; save it as .csv, .csv.gz, .parquet or .xlsx"
        )
    if sheet is not None and kind not in (".xlsx", ".xlsm"):
        raise UsageError(f"{name} has no sheets; leave out --sheet")
    frame = table.frame
    frame.columns = [str(column).strip() for column in frame.columns]
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise DataError(f"{name}: two columns are called '{repeated[0]}'; rename one")
    if frame.shape[0] == 0:
        raise DataError(f"{name} has a header row and no data; add rows")
    _bounded(name, *frame.shape)
    return table


def _denied(path: Path) -> ResourceError:
    return ResourceError(f"{path}: no permission to read it; change its permissions or copy it")


def _bounded(name: str, rows: int, columns: int) -> None:
    if rows * columns > MAX_CELLS:
        raise DataError(
            f"{name}: {rows:,} rows of {columns:,} columns are more than {MAX_CELLS:,} numbers; "
            "split the file or leave out columns"
        )


def _parquet(path: Path, name: str) -> Table:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        about = parquet.ParquetFile(path).metadata
        _bounded(name, about.num_rows, about.num_columns)
        frame = pd.read_parquet(path)
    except (pyarrow.ArrowInvalid, OSError, ValueError) as error:
        raise DataError(f"{name} is not a readable Parquet file ({error})") from error
    if frame.index.name is not None or not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    notes = ["Parquet"]
    nested = [c for c in frame.columns if frame[c].dtype == object and _is_nested(frame[c])]
    if nested:
        notes.append(f"columns left out, whose cells hold several values: {', '.join(nested)}")
        frame = frame.drop(columns=nested)
    return Table(frame, name, sha256(path), notes=notes)


def _is_nested(values: pd.Series) -> bool:
    seen = values.dropna().head(1)
    return len(seen) > 0 and not isinstance(seen.iloc[0], Hashable)


def _excel(path: Path, name: str, sheet: str | None, text: Callable[[str], bool]) -> Table:
    notes = ["Excel"]
    try:
        with pd.ExcelFile(path, engine="openpyxl") as book:
            names = [str(found) for found in book.sheet_names]
            if sheet is not None and sheet not in names:
                raise UsageError(f"{name} has no sheet '{sheet}'; it has {', '.join(names)}")
            if sheet is None and len(names) > 1:
                notes.append(f"sheet '{names[0]}', the first of {len(names)} (--sheet)")
            header = book.parse(sheet or names[0], nrows=0).columns
            texts = [name for name in header if text(str(name).strip())]
            frame = book.parse(
                sheet or names[0],
                dtype=dict.fromkeys(texts, str),
                keep_default_na=False,
                na_values={name: list(MISSING) for name in header if name not in texts},
            )
    except UsageError:
        raise
    except Exception as error:  # openpyxl raises what zip and XML readers happen to raise
        raise DataError(f"{name} is not a readable Excel file ({error})") from error
    return Table(frame, name, sha256(path), notes=notes)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if zipped else path.open("rb") as stream:
        yield stream  # type: ignore[misc]


def _survey(path: Path, name: str, encoding: str | None) -> tuple[str, int, list[str]]:
    """The encoding, the number of lines, and notes. Reads the whole file once, a block at a time."""
    notes: list[str] = []
    decoder = codecs.getincrementaldecoder("utf-8")()
    found, size, lines = "utf-8", 0, 0
    try:
        with _opened(path) as stream:
            while block := stream.read(_BLOCK):
                if size == 0:
                    if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        found = "utf-16"
                        notes.append("UTF-16")
                    elif block.startswith(codecs.BOM_UTF8):
                        found = "utf-8-sig"
                    elif block.startswith(b"PK\x03\x04") or block.startswith(b"PAR1"):
                        raise DataError(
                            f"{name} is not text; if it is Excel or Parquet, name it .xlsx or .parquet"
                        )
                size += len(block)
                lines += block.count(b"\n")
                if size > MAX_BYTES:
                    raise DataError(
                        f"{name} holds more than {MAX_BYTES >> 30} GiB of text; split it, or save "
                        "the columns you need as Parquet"
                    )
                if found == "utf-16" or encoding is not None:
                    continue
                if b"\0" in block:
                    raise DataError(f"{name} is not text; save it as CSV, Parquet or Excel")
                if found != "latin-1":
                    try:
                        decoder.decode(block)
                    except UnicodeDecodeError:
                        found = "latin-1"
                        notes.append("not UTF-8: read as Latin-1 (--encoding)")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} cannot be read ({error}); is it complete?") from error
    if encoding is not None:
        try:
            return codecs.lookup(encoding).name, lines, [f"encoding {encoding}"]
        except LookupError as error:
            raise UsageError(f"encoding '{encoding}' is unknown; try utf-8 or latin-1") from error
    return found, lines, notes


def _delimiter(lines: list[str]) -> str:
    """The mark that splits the lines into the same number of fields, the most; else a comma."""
    best, most = ",", 1
    for mark in (",", ";", "\t", "|"):
        counts = {len(row) for row in csv.reader(lines, delimiter=mark) if row}
        fields = min(counts, default=1)
        # The decimal commas of a file with semicolons may split more often, never evenly with the
        # header.
        if len(counts) == 1 and fields > most:
            best, most = mark, fields
    if most == 1:
        header = lines[0]
        best = max((",", ";", "\t", "|"), key=lambda mark: (header.count(mark), mark == ","))
    return best


def _csv(path: Path, name: str, text: Callable[[str], bool], decimal: str | None, encoding: str | None) -> Table:  # fmt: skip
    found, count, notes = _survey(path, name, encoding)
    digest = sha256(path)
    try:
        with _opened(path) as stream:
            reader = io.TextIOWrapper(stream, encoding=found, newline="")
            lines = [line for line in itertools.islice(reader, 500) if line.strip()]
    except UnicodeError as error:
        raise DataError(
            f"{name} is not {found} text; leave out --encoding or give the right one"
        ) from error
    if not lines:
        raise DataError(f"{name} is empty; give a file with a header row and data")
    mark = _delimiter(lines)
    if mark != ",":
        notes.append(f"delimiter {'tab' if mark == chr(9) else repr(mark)}")
    rows = [row for row in csv.reader(lines, delimiter=mark) if row]
    header = [cell.strip() for cell in rows[0]]
    _check_header(header, rows, name)
    _bounded(name, count, len(header))
    given = decimal
    decimal = decimal or decimal_mark(rows[1:], mark, name)
    if decimal == ",":
        notes.append("decimal comma" + ("" if given else " (--decimal)"))
    # Ids such as NA (Namibia) are no missing values, nor is 007 a number.
    missing = {column: list(MISSING) for column in rows[0] if not text(column.strip())}
    try:
        with _opened(path) as stream:
            frame = pd.read_csv(
                stream,
                sep=mark,
                encoding=found,
                dtype=str if decimal == "," else {c: str for c in rows[0] if text(c.strip())},
                keep_default_na=False,
                na_values=missing,
                skipinitialspace=True,
                index_col=False,
                low_memory=False,
                # What is written is what is read, to the last bit: 0.1 s for a million numbers.
                float_precision="round_trip",
            )
    except pd.errors.ParserError as error:
        raise DataError(
            f"{name}: {str(error).removeprefix('Error tokenizing data. C error: ').strip()}; every "
            "row needs as many fields as the header"
        ) from error
    except UnicodeError as error:
        raise DataError(
            f"{name} is not {found} text; leave out --encoding or give the right one"
        ) from error
    except MemoryError as error:
        raise DataError(
            f"{name} does not fit into memory; split it or save it as Parquet"
        ) from error
    return Table(frame, name, digest, decimal, notes)


_STAMP = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")


def _check_header(header: list[str], rows: list[list[str]], name: str) -> None:
    """DataError for a file whose first row is data, repeats a name, or is of another length."""
    whole = [re.fullmatch(r"\d+", cell) for cell in header]
    numbers = [NUMBER.fullmatch(cell) for cell in header]
    stamp = _STAMP.match(header[0])
    if (all(numbers) and not all(whole)) or (stamp and all(numbers[1:]) and len(header) > 1):
        raise DataError(
            f"{name}: the first row holds data ('{header[0]}', ...), not names; add a header row"
        )
    if len(header) > 3 and all(_STAMP.match(cell) for cell in header[1:]):
        raise DataError(
            f"{name}: its columns are stamps ('{header[1]}', ...); turn the table, so that each stamp is "
            "a row"
        )
    seen: set[str] = set()
    for cell in header:
        if cell and cell in seen:
            raise DataError(f"{name}: two columns are called '{cell}'; rename one")
        seen.add(cell)
    for number, row in enumerate(rows[1:], 2):
        # One empty field more is a delimiter at the end of each line.
        if len(row) > len(header) and any(cell.strip() for cell in row[len(header) :]):
            raise DataError(
                f"{name}: line {number} has {len(row)} fields and the header {len(header)}; every "
                "row needs as many fields as the header"
                + (", and no line may stand above it" if len(header) == 1 else "")
            )


def column(frame: pd.DataFrame, wanted: str, name: str, option: str) -> str:
    """The column called ``wanted``. UsageError names the nearest where there is none."""
    if wanted in frame.columns:
        return wanted
    listed = ", ".join(map(str, frame.columns[:12])) + (", ..." if frame.shape[1] > 12 else "")
    raise UsageError(
        f"{name} has no column '{wanted}' ({option}).{nearest(wanted, map(str, frame.columns))} "
        f"It has {listed}"
    )


def digest_of(frame: pd.DataFrame) -> str:
    """SHA-256 of a table that is not a file: names and values."""
    found = hashlib.sha256("\0".join(map(str, frame.columns)).encode())
    found.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
    return found.hexdigest()
