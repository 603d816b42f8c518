"""The command ``horde-dataset``. Exit codes: 0 done, 1 not done or something is wrong, 2 usage."""

import argparse
import datetime as dt
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from horde_dataset import __version__, manifest, sources
from horde_dataset.download import Wanted, download
from horde_dataset.errors import DatasetError, shown
from horde_dataset.manifest import Manifest
from horde_dataset.removed import apply_removed
from horde_dataset.sheet import MAX_TILES, contact_sheet
from horde_dataset.sources import Source, open_source
from horde_dataset.stats import stats
from horde_dataset.verify import verify

MAX_JOBS = 32
INTERRUPTED = 130
"""What a shell says of a command that was ended by Ctrl-C."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    main = argparse.ArgumentParser(
        prog="horde-dataset", description="Download, check and show the Horde Commons data set."
    )
    main.add_argument("--version", action="version", version=__version__)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    each = commands.add_parser("releases", help="list the releases")
    _source(each)
    each.add_argument("--last", type=_positive, default=30, help="at most so many (30)")
    each = commands.add_parser("download", help="download a release or a part of it")
    _source(each)
    each.add_argument("folder", metavar="FOLDER", type=Path)
    each.add_argument("--date", type=_dates, default=("0000-00-00", "9999-99-99"), metavar="A..B")
    each.add_argument("--where", default="", metavar="SQL", help="only images that fit; extracted")
    each.add_argument(
        "--whole-parts", action="store_true", help="with --where: the parts that hold hits, as tars"
    )
    each.add_argument("--metadata-only", action="store_true", help="the tables without the images")
    each.add_argument("--jobs", type=_positive, default=4, help="transfers at a time (4)")
    each = commands.add_parser("verify", help="check a copy")
    each.add_argument("folder", metavar="FOLDER", type=Path)
    each = commands.add_parser("apply-removed", help="take withdrawn images out of a copy")
    each.add_argument("folder", metavar="FOLDER", type=Path)
    each.add_argument(
        "--from", dest="source", metavar="SOURCE", help="fetch newer tombstones first"
    )
    _signing(each)
    each = commands.add_parser("contact-sheet", help="draw evenly sampled images")
    each.add_argument("folder", metavar="FOLDER", type=Path)
    each.add_argument("-o", dest="output", type=Path, default=Path("contact-sheet.png"))
    each.add_argument("-n", dest="number", type=_positive, default=100)
    each = commands.add_parser("stats", help="draw plots and print a summary")
    each.add_argument("folder", metavar="FOLDER", type=Path)
    each.add_argument("-o", dest="output", type=Path, default=Path("stats"), metavar="DIR")
    _training(commands)
    return main


def _training(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    each = commands.add_parser("train", help="fit an aesthetic scorer to the ratings")
    each.add_argument("folder", metavar="FOLDER", type=Path)
    each.add_argument("-o", dest="output", type=Path, default=Path("scorer"), metavar="DIR")
    each.add_argument(
        "--embedder", default="plain", metavar="plain|onnx:FILE[:SIZE]", help="a vision model"
    )
    for name, what in (("--mean", "mean"), ("--std", "deviation")):
        each.add_argument(
            name,
            type=_triple,
            metavar="R,G,B",
            help=f"{what} that its input is normalised by (CLIP's)",
        )
    each.add_argument("--held-out", type=_share, default=0.2, help="share of the images (0.2)")
    each.add_argument("--seed", type=_whole, default=0, help="another one holds out others (0)")
    each.add_argument("--min-ratings", type=_positive, default=3, help="of an image (3)")
    each.add_argument(
        "--own", action="store_true", help="count authors' ratings of their own images"
    )
    each.add_argument(
        "--ratings", type=Path, action="append", default=[], metavar="FILE", help="a further table"
    )
    each = commands.add_parser("score", help="score the images of a copy")
    each.add_argument("folder", metavar="FOLDER", type=Path)
    each.add_argument("--model", type=Path, required=True, metavar="scorer.onnx")
    each.add_argument("-o", dest="output", type=Path, default=Path("scores.parquet"))


def _source(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source", metavar="SOURCE", help="a folder, s3://bucket[/prefix] or https://…"
    )
    _signing(command)


def _signing(command: argparse.ArgumentParser) -> None:
    command.add_argument("--no-sign-request", action="store_true", help="s3: without credentials")
    command.add_argument("--request-payer", action="store_true", help="s3: you pay the transfer")


def _positive(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,6}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _whole(text: str) -> int:
    if not re.fullmatch(r"\d{1,7}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"0?\.\d{1,4}", text) or not 0.05 <= float(text) <= 0.5:  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0.05 and 0.5")
    return float(text)


def _triple(text: str) -> tuple[float, float, float]:
    if not re.fullmatch(r"\d(\.\d{1,12})?(,\d(\.\d{1,12})?){2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} are no three numbers such as 0.5,0.5,0.5")
    red, green, blue = map(float, text.split(","))
    return red, green, blue


def _dates(text: str) -> tuple[str, str]:
    first, dots, last = text.partition("..")
    last = last if dots else first
    for day in filter(None, (first, last)):
        try:
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", day):
                raise ValueError  # noqa: TRY301
            dt.date.fromisoformat(day)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{day!r} is no day such as 2026-11-25") from error
    if not (first or last) or (first and last and first > last):
        raise argparse.ArgumentTypeError(f"{text!r} is no range such as 2026-11-25..2026-11-30")
    return first or "0000-00-00", last or "9999-99-99"


# --- the commands --------------------------------------------------------------------------------


def _open(options: argparse.Namespace) -> Source:
    return open_source(
        options.source, sign=not options.no_sign_request, requester_pays=options.request_payer
    )


def _releases(options: argparse.Namespace) -> int:
    source = _open(options)
    newest = sources.read_manifest(source)
    found = {newest.release: newest}
    listed = source.releases()
    named = {Path(path).stem: path for path in listed or () if _is_release(path)}
    for release in sorted(named, key=manifest.release_order)[-options.last :]:
        found.setdefault(release, sources.read_manifest(source, named[release]))
    shown_releases = sorted(found, key=manifest.release_order)[-options.last :]
    print(f"{'release':<14}{'images':>12}{'bytes':>18}{'removed':>9}  kept back")
    for release in shown_releases:
        print(_line(found[release]))
    return 0


def _is_release(path: str) -> bool:
    return bool(manifest.RELEASE.fullmatch(Path(path).stem))


def _line(release: Manifest) -> str:
    fields = release.fields
    kept = fields.get("kept_back", {})
    reasons = ", ".join(f"{shown(reason)} {number:,}" for reason, number in sorted(kept.items()))
    kept_back = f"{sum(kept.values()):,}" + (f" ({reasons})" if reasons else "")
    return (
        f"{release.release:<14}{fields['images']:>12,}{fields['bytes']:>18,}"
        f"{fields['removed']:>9,}  {kept_back}"
    )


def _download(options: argparse.Namespace) -> int:
    first, last = options.date
    wanted = Wanted(
        first,
        last,
        options.where,
        options.whole_parts,
        options.metadata_only,
        min(options.jobs, MAX_JOBS),
    )
    print(download(_open(options), options.folder, wanted))
    return 0


def _verify(options: argparse.Namespace) -> int:
    wrong = 0
    for problem in verify(options.folder):
        print(problem)
        wrong += 1
    print("all is right" if not wrong else f"{wrong} problems")
    return 1 if wrong else 0


def _apply_removed(options: argparse.Namespace) -> int:
    source = _open(options) if options.source else None
    print(f"{apply_removed(options.folder, source)} images removed")
    return 0


def _contact_sheet(options: argparse.Namespace) -> int:
    number = contact_sheet(options.folder, options.output, min(options.number, MAX_TILES))
    print(f"{number} images in {options.output}")
    return 0


def _stats(options: argparse.Namespace) -> int:
    summary, drawn = stats(options.folder, options.output)
    print(summary)
    print("\n".join(str(path) for path in drawn))
    return 0


def _train(options: argparse.Namespace) -> int:
    with _extra():
        from horde_dataset import train  # noqa: PLC0415 - an extra
    if options.std and min(options.std) <= 0:
        raise DatasetError("--std has a number that is not above 0")
    given = {name: getattr(options, name) for name in ("mean", "std") if getattr(options, name)}
    chosen = train.Options(
        options.embedder,
        options.held_out,
        options.seed,
        options.min_ratings,
        options.own,
        tuple(options.ratings),
        **given,
    )
    print(train.train(options.folder, options.output, chosen).summary())
    print(options.output / train.SCORER)
    return 0


def _score(options: argparse.Namespace) -> int:
    with _extra():
        from horde_dataset import score  # noqa: PLC0415 - an extra
    scored, problems = score.score(options.folder, options.model, options.output)
    print(f"{scored:,} images scored in {options.output}")
    for why, number in sorted(problems.items()):
        print(f"{number:,} images not scored: {why}")
    return 0


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        needed = "numpy, onnx and onnxruntime: pip install 'horde-dataset[train]'"
        raise DatasetError(f"train and score need {needed} ({shown(error)})") from error


COMMANDS = {
    "releases": _releases,
    "download": _download,
    "verify": _verify,
    "apply-removed": _apply_removed,
    "contact-sheet": _contact_sheet,
    "stats": _stats,
    "train": _train,
    "score": _score,
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    options = parser().parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except DatasetError as error:
        print(f"horde-dataset: {error}", file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"horde-dataset: {shown(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("horde-dataset: interrupted: the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    return 1
