"""`darkprune detect`: boxes on images, folders and videos."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from darkprune.api.detect import DetectResult, DetectSettings, ImageObjects, detect
from darkprune.api.pair import load
from darkprune.cli.console import add_json, add_pair, print_result
from darkprune.cli.flags import add_flags, read_flags


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument("source", metavar="IMAGE|DIR|VIDEO", help="what to look at; a list of images (.txt) too")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder for images (or a video) with boxes drawn")
    add_flags(parser, DetectSettings)
    add_json(parser)


def run(args: Namespace) -> int:
    """Finds objects and shows them."""
    result = detect(load(args.cfg, args.weights), args.source, read_flags(DetectSettings, args), output=args.output)
    print_result(args, result.to_json(), result.warnings, lambda: _print(result, args.output))
    return 0


def _print(result: DetectResult, output: str | None) -> None:
    if any(path.suffix == ".mp4" for path in result.drawn):
        print(f"{result.drawn[0]}: {len(result.images)} frames")
        return
    for image in result.images:
        _print_objects(image)
    if result.drawn:
        print(f"drawn: {len(result.drawn)} image{'' if len(result.drawn) == 1 else 's'} in {output}")


def _print_objects(found: ImageObjects) -> None:
    count = len(found.objects)
    print(f"{found.image}: {count} object{'' if count == 1 else 's'}")
    for entry in found.objects:
        left, top, right, bottom = entry.box
        print(f"  {entry.name:<16} {entry.score:.3f}  {left:.0f},{top:.0f} to {right:.0f},{bottom:.0f}")
