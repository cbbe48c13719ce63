"""Sections with images: boxes and spatial attention of both networks."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from darkprune.pages.context import Missing, ReportContext, Section
from darkprune.pages.markup import Node, picture, tag
from darkprune.pages.measure import THRESHOLD, ImageAttention, SampleImage, TapAttention


def samples(context: ReportContext) -> Section | Missing:
    """Shows the boxes of the networks side by side."""
    found = context.measured.samples
    if not found:
        reason = context.measured.problems.get("networks")
        return Missing("sample images", reason or context.command("--images DIR"))
    about = tag("p", f"Boxes with a score above {THRESHOLD:g}.", class_="soft")
    wide = max(len(sample.pictures) for sample in found) > 2
    images = tag("div", map(_sample, found), class_="samples wide" if wide else "samples")
    return Section("samples", "Sample images", (about, images))


def _sample(sample: SampleImage) -> Element:
    figures = [
        tag(
            "figure",
            picture(shown.picture, "jpeg", f"{sample.name}: boxes of {shown.of}"),
            tag("figcaption", f"{shown.of}: {shown.objects} object{'' if shown.objects == 1 else 's'}"),
        )
        for shown in sample.pictures
    ]
    return tag("figure", tag("figcaption", sample.name), tag("div", figures, class_="beside"))


def attention(context: ReportContext) -> Section | Missing:
    """Shows where teacher and student are active."""
    found, problems = context.measured.attention, context.measured.problems
    if not found:
        flags = "--images DIR" if len(context.networks) > 1 else "--original CFG WEIGHTS --images DIR"
        reason = problems.get("attention") or problems.get("networks") or context.command(flags)
        return Missing("spatial attention", reason)
    names = (context.networks[0].name, context.networks[-1].name)
    about = (
        f"Σ over the channels of |A|², at the maps that distillation compares: left {names[0]}, right {names[1]}; "
        "brighter is more. The number is the cosine of the two maps: 1 is the same."
    )
    images = [_image_attention(image, names) for image in found]
    return Section("attention", "Spatial attention", (tag("p", about, class_="soft"), images))


def _image_attention(image: ImageAttention, names: tuple[str, str]) -> list[Node]:
    given = tag("div", picture(image.picture, "jpeg", image.name), class_="two")
    input_figure = tag("figure", given, tag("figcaption", "what the networks are given"))
    figures = [_tap(tap, image.name, names) for tap in image.taps]
    return [tag("h3", image.name), tag("div", input_figure, figures, class_="maps")]


def _tap(shown: TapAttention, image: str, names: tuple[str, str]) -> Element:
    layers = (shown.tap.teacher, shown.tap.student)
    pictures = [
        picture(data, "jpeg", f"{image}: {name}, layer {layer}")
        for data, name, layer in zip(shown.pictures, names, layers, strict=True)
    ]
    caption = f"layer {shown.tap.teacher}: {shown.cosine:.3f}"
    return tag("figure", tag("div", pictures, class_="two"), tag("figcaption", caption))
