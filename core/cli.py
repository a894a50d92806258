"""The edge every application shares: options, exit codes, one JSON object, errors in one line.

Exit codes: 0 done, 1 defect of the program, 2 usage, 3 data, 4 resources, 130 interrupted.
Standard output carries the result and nothing else; progress, warnings and errors go to standard
error. With ``--json`` standard output is exactly one JSON object, also when the command fails.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from core.errors import ResourceError, TriptychError, UsageError, nearest, unknown
from core.files import plain

if TYPE_CHECKING:
    import torch

INTERRUPTED = 130

EXIT_CODES = {
    0: "done",
    1: "a defect of the program (please report it; TRIPTYCH_DEBUG=1 shows where)",
    2: "usage: the command line, a setting or an output that already exists",
    3: "data: an input that is missing, unreadable or not what the model takes",
    4: "resources: disk, memory, permission or device",
    INTERRUPTED: "interrupted",
}

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")
]
Seed = Annotated[int, typer.Option(help="Seed of every random number generator.", min=0)]
Device = Annotated[
    str, typer.Option(help="auto (a CUDA GPU if there is one), cpu, cuda, cuda:1, mps.")
]
Threads = Annotated[
    int | None, typer.Option(help="Processor threads; PyTorch's own choice when not given.", min=1)
]
Force = Annotated[bool, typer.Option("--force", help="Replace outputs that already exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]

# Where --json writes while everything else that prints is sent to standard error.
_results: TextIO | None = None

# typer vendors click under a private name; its public BadParameter leads to the base class.
_ClickError: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


def make_app(name: str, help: str) -> typer.Typer:
    """A typer application with this project's manners."""
    app = typer.Typer(
        name=name,
        help=help,
        no_args_is_help=True,
        add_completion=False,
        # Plain help: rich's costs about 0.1 s of imports on every --help, and wraps worse in pipes.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    # Without a callback typer drops the verb from the command line while there is only one.
    app.callback(help=help)(lambda: None)
    return app


def main(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run ``app`` and return the process's exit code. It raises nothing itself.

    TriptychError becomes one line ``error: ...`` on standard error. An unexpected exception becomes
    one line as well, with its traceback only when TRIPTYCH_DEBUG=1.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not _debugging():
        # Other libraries' notes to their own users; the person here can do nothing about them.
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
    as_json = "--json" in arguments
    try:
        with _only_json_on_stdout(as_json):
            result = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()
        # Commands return None; typer hands back the code of an Exit, its own form of ^C included.
        code = result if isinstance(result, int) else 0
        return _interrupted(as_json) if code == INTERRUPTED else code
    except BrokenPipeError:
        # The reader went away (`| head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(as_json)
    except TriptychError as error:
        _trace()
        return _fail(error.exit_code, type(error).__name__, str(error), as_json)
    except _ClickError as error:
        return _usage(error, as_json)
    except Exception as error:
        _trace()
        known = _out_of_resources(error)
        if known is not None:
            return _fail(known.exit_code, type(known).__name__, str(known), as_json)
        message = f"unexpected {type(error).__name__}: {error}; set TRIPTYCH_DEBUG=1 to see where"
        return _fail(1, type(error).__name__, message, as_json)


def emit(obj: dict[str, Any], *, as_json: bool, human: Callable[[], None] | None = None) -> None:
    """Give the command's result: one JSON object, or whatever ``human`` prints."""
    if as_json:
        stream = _results or sys.stdout
        stream.write(json.dumps(plain(obj), ensure_ascii=False) + "\n")
        stream.flush()
    elif human is not None:
        human()


def parse_options(items: Sequence[str]) -> dict[str, Any]:
    """``["a=1", "b=[2, 3]", "c=none"]`` as a dict, the values read as YAML; UsageError otherwise."""
    import yaml

    options: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        try:
            none = value.strip().lower() == "none"  # which YAML would take for a word
            read = None if none else yaml.safe_load(value)
            options[name.strip()] = _number(read) if isinstance(read, str) else read
        except yaml.YAMLError:
            equals = ""
        if not equals or not name.strip():
            raise UsageError(f"option {item!r}: want name=value, e.g. window=5 or heads=[2, 4].")
    return options


def _number(text: str) -> str | float:
    """1e-3, which YAML 1.1 takes for a word without a point, as a number; other words as they are."""
    return float(text) if re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", text) else text


def set_threads(threads: int | None) -> None:
    """Limit the processor threads of PyTorch and of the libraries loaded after this call."""
    if threads is None:
        return
    if threads < 1:
        raise UsageError(f"--threads must be 1 or more, got {threads}")
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def pick_device(name: str = "auto") -> torch.device:
    """The torch device for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    ``auto`` takes a CUDA GPU when there is one and the processor otherwise; ``mps`` has to be asked
    for, since it lacks some 3-D operators. UsageError for a name that is none of these,
    ResourceError for a device this machine or this build of PyTorch does not have.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise UsageError(unknown("device", name, ("auto", "cpu", "cuda", "cuda:0", "mps")))
    found = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if int(index or 0) >= found[kind]:
        raise ResourceError(
            f"device '{name}' is not available to PyTorch {torch.__version__} here "
            f"({found[kind]} {kind} device(s) found); use --device cpu or --device auto"
        )
    return torch.device(name)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators (the GPUs' included)."""
    from core.training.seeding import seed_generators

    seed_generators(seed)


@contextmanager
def _only_json_on_stdout(as_json: bool) -> Iterator[None]:
    """Keep standard output for ``emit``: what libraries print goes to standard error meanwhile."""
    global _results
    if not as_json:
        yield
        return
    previous, _results = _results, sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results = previous


def _fail(code: int, kind: str, message: str, as_json: bool) -> int:
    line = " ".join(message.splitlines())
    print(f"error: {line}" if code != INTERRUPTED else line, file=sys.stderr)
    if as_json:
        report = {"type": kind, "message": line, "exit_code": code}
        emit({"error": report}, as_json=True)
    return code


def _interrupted(as_json: bool) -> int:
    return _fail(INTERRUPTED, "Interrupted", "interrupted", as_json)


def _usage(error: Any, as_json: bool) -> int:
    """A mistake on the command line, as the parser reports it."""
    if type(error).__name__ == "NoArgsIsHelpError":
        # Not an error in a person's eyes: they asked what there is.
        print(error.ctx.get_help() if error.ctx else error.format_message())
        return 0
    context = getattr(error, "ctx", None)
    hint = f" (see: {context.command_path} --help)" if context is not None else ""
    message = error.format_message().rstrip(".")
    command = re.match(r"No such command '(.+)'", message)
    if command and context is not None:
        message += f".{nearest(command[1], context.command.commands)}".rstrip(".")
    return _fail(UsageError.exit_code, "UsageError", f"{message}{hint}", as_json)


def _out_of_resources(error: Exception) -> ResourceError | None:
    """The machine's fault, told apart from the program's by class or by PyTorch's wording."""
    text = str(error)
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in text)
    ):
        return ResourceError(
            "out of memory; close other programs, or ask for less at once: a smaller network, "
            "batch, patch or horizon"
        )
    if isinstance(error, OSError):
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return ResourceError(f"no space left on disk ({error.filename or 'while writing'})")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return ResourceError(f"{error.filename or 'a file'}: permission denied")
    return None


def _debugging() -> bool:
    return os.environ.get("TRIPTYCH_DEBUG", "") not in ("", "0")


def _trace() -> None:
    if _debugging():
        traceback.print_exc()
