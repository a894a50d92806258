"""The verbs ``pull`` and ``push``: images from a PACS, results back into it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core import cli
from core.cli import Json, Quiet
from core.errors import ResourceError

if TYPE_CHECKING:
    from apps.medical.pacs.config import Address, Login

Url = Annotated[str, typer.Option(help="http(s)://HOST/PATH (DICOMweb) or dicom://AET@HOST:PORT.")]
Title = Annotated[str, typer.Option(help="Our own AE title, as the PACS knows us.")]
Certificates = Annotated[
    Path | None, typer.Option("--ca", help="PEM file of certificates to trust for https.")
]
Timeout = Annotated[float, typer.Option(help="Longest silence of the PACS, in seconds.", min=0.1)]
Retries = Annotated[int, typer.Option(help="Attempts after one that brought nothing.", min=0)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would travel, and stop.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to ``app``."""

    @app.command()
    def pull(
        url: Url,
        out: Annotated[Path, typer.Option(help="Folder; running again continues.")] = Path("dicom"),
        patient: Annotated[str, typer.Option(help="Patient ID; * and ? are wild cards.")] = "",
        accession: Annotated[str, typer.Option(help="Accession number.")] = "",
        study: Annotated[str, typer.Option(help="Study instance UID.")] = "",
        series: Annotated[str, typer.Option(help="Series instance UID.")] = "",
        date: Annotated[str, typer.Option(help="YYYYMMDD, or 20240101-20240131.")] = "",
        modality: Annotated[str, typer.Option(help="Such as MR, CT or SEG.")] = "",
        aet: Title = "TRIPTYCH",
        listen: Annotated[
            str | None,
            typer.Option(help="[HOST:]PORT to receive at: C-MOVE in place of C-GET."),
        ] = None,
        ca: Certificates = None,
        limit: Annotated[int, typer.Option(help="Most series to take.", min=1)] = 100,
        max_gb: Annotated[float, typer.Option(help="Most data to take, in GB.", min=0.0)] = 50.0,
        timeout: Timeout = 30.0,
        retries: Retries = 2,
        dry_run: DryRun = False,
        quiet: Quiet = False,
        json: Json = False,
    ) -> None:
        """Fetch series from a PACS over DICOMweb or C-GET/C-MOVE; continues where it stopped."""
        from apps.medical.pacs.config import Bounds, Query, check_aet, parse_listen
        from apps.medical.pacs.service import connect
        from apps.medical.pacs.transfer import pull as implementation
        from core.progress import get_progress

        query = Query(
            patient=patient,
            accession=accession,
            study=study,
            series=series,
            date=date,
            modality=modality,
        )
        bounds = Bounds(
            timeout=timeout, retries=retries, series=limit, total_bytes=int(max_gb * 2**30)
        )
        pacs = connect(
            _address(url),
            aet=check_aet(aet),
            listen=parse_listen(listen),
            login=_login(ca),
            bounds=bounds,
        )
        try:
            report = implementation(
                pacs, query, out, dry_run=dry_run, progress=get_progress(quiet or json)
            )
        finally:
            pacs.close()
        cli.emit(report, as_json=json, human=lambda: _print_pull(report))
        if report["stopped"] or (report["missing"] and not dry_run):
            _fail(
                f"{report['missing']} of {report['instances']} images are missing"
                + (f": {report['stopped']}" if report["stopped"] else "")
                + "; run the same command again to continue"
            )

    @app.command()
    def push(
        sources: Annotated[
            list[Path], typer.Argument(help="DICOM files, or folders of them.", show_default=False)
        ],
        url: Url,
        aet: Title = "TRIPTYCH",
        ca: Certificates = None,
        timeout: Timeout = 30.0,
        retries: Retries = 2,
        dry_run: DryRun = False,
        quiet: Quiet = False,
        json: Json = False,
    ) -> None:
        """Store DICOM files (series, segmentations, reports) in a PACS: C-STORE or STOW-RS."""
        from apps.medical.pacs.config import Bounds, check_aet
        from apps.medical.pacs.service import connect
        from apps.medical.pacs.transfer import push as implementation
        from core.progress import get_progress

        pacs = connect(
            _address(url),
            aet=check_aet(aet),
            login=_login(ca),
            bounds=Bounds(timeout=timeout, retries=retries),
        )
        try:
            report = implementation(
                pacs, sources, dry_run=dry_run, progress=get_progress(quiet or json)
            )
        finally:
            pacs.close()
        cli.emit(report, as_json=json, human=lambda: _print_push(report))
        lost = len(report["failed"]) + len(report["missing"])
        if lost and not dry_run:
            _fail(
                f"{lost} of {len(report['files'])} files were not stored"
                + (f": {report['stopped']}" if report["stopped"] else "")
            )


def _address(url: str) -> Address:
    from apps.medical.pacs.config import parse_address

    address = parse_address(url)
    if address.exposed:
        print(f"warning: images travel unencrypted to {address.url}", file=sys.stderr)
    return address


def _login(ca: Path | None) -> Login:
    from apps.medical.pacs.config import Login

    return Login.from_environment(ca)


def _fail(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)
    raise typer.Exit(ResourceError.exit_code)


def _print_pull(report: dict[str, Any]) -> None:
    for series in report["series"]:
        count = f"{series['instances']} images"
        state = f"{series['there']} there" if series["there"] else ""
        if not report["dry_run"]:
            state = f"{series['received']} received" + (f", {state}" if state else "")
            if series["missing"]:
                state += f", {len(series['missing'])} missing"
        name = f"{series['modality']:<4} {series['number']:>4}  {series['description']}"
        print(f"{series['date'] or '-':<8}  {name}: {count}" + (f" ({state})" if state else ""))
        print(f"          {series['folder']}")
        for reason in series["why"]:
            print(f"          note: {reason}")
    if report["dry_run"]:
        print(
            f"{report['instances']} images in {len(report['series'])} series; nothing was fetched"
        )
    else:
        print(
            f"{report['received']} images ({report['bytes'] / 2**20:.1f} MB) in "
            f"{report['seconds']:.1f} s, {report['there']} were there; all in {report['out']}"
        )


def _print_push(report: dict[str, Any]) -> None:
    if report["dry_run"]:
        for file in report["files"]:
            print(f"{file['path']}  {file['bytes']} bytes")
        print(f"{len(report['files'])} DICOM files; nothing was sent")
    else:
        for path, why in report["failed"].items():
            print(f"{path}: not stored, {why}")
        for path, note in report["notes"].items():
            print(f"{path}: stored; note: {note}")
        print(
            f"{report['stored']} files ({report['bytes'] / 2**20:.1f} MB) stored in "
            f"{report['seconds']:.1f} s"
        )
    if report["ignored"]:
        print(f"{report['ignored']} other files were passed over (not DICOM, or twice there)")
