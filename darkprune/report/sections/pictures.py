"""The sections with images: boxes of both networks, and where they look."""

from __future__ import annotations

import shlex
from xml.etree.ElementTree import Element

from darkprune.report.markup import Node, picture, tag
from darkprune.report.measure import Look, Sample
from darkprune.report.told import Lack, Section, Told


def samples(told: Told) -> Section | Lack:
    """Shows boxes of the networks side by side."""
    found = told.measured.samples
    if not found:
        reason = told.measured.problems.get("networks")
        return Lack("sample images", reason or f"darkprune report {shlex.quote(told.run)} --images DIR --overwrite")
    names = [network.name for network in told.networks]
    about = tag("p", "Boxes with a score above 0.25.", class_="soft")
    return Section(
        "samples", "Sample images", (about, tag("div", [_sample(sample, names) for sample in found], class_="samples"))
    )


def _sample(sample: Sample, names: list[str]) -> Element:
    figures = [
        tag(
            "figure",
            picture(data, "jpeg", f"{sample.name}: boxes of {name}"),
            tag("figcaption", f"{name}: {many} object{'' if many == 1 else 's'}"),
        )
        for name, data, many in zip(names, sample.pictures, sample.found, strict=True)
    ]
    return tag("figure", tag("figcaption", sample.name), tag("div", figures, class_="pair"))


def attention(told: Told) -> Section | Lack:
    """Shows where teacher and student look."""
    looks, problems = told.measured.looks, told.measured.problems
    if not looks:
        missing = "--images DIR" if len(told.networks) > 1 else "--original CFG WEIGHTS --images DIR"
        command = f"darkprune report {shlex.quote(told.run)} {missing} --overwrite"
        return Lack("spatial attention", problems.get("attention") or problems.get("networks") or command)
    names = (told.networks[0].name, told.networks[-1].name)
    about = (
        f"Σ over the channels of |A|², at the maps that distillation compares: left {names[0]}, right {names[1]}; "
        "brighter is more. The number is the cosine of the two maps: 1 is the same."
    )
    return Section("attention", "Spatial attention", (tag("p", about, class_="soft"), [_look(x, names) for x in looks]))


def _look(look: Look, names: tuple[str, str]) -> list[Node]:
    figures = [
        tag(
            "figure",
            tag(
                "div",
                [
                    picture(data, "jpeg", f"{look.name}: {who}, layer {layer}")
                    for data, who, layer in zip(both, names, (tap.teacher, tap.student), strict=True)
                ],
                class_="two",
            ),
            tag("figcaption", f"layer {tap.teacher}: {alike:.3f}"),
        )
        for tap, both, alike in look.maps
    ]
    given = picture(look.picture, "jpeg", look.name)
    seen = tag("figure", tag("div", given, class_="two"), tag("figcaption", "what the networks are given"))
    return [tag("h3", look.name), tag("div", seen, figures, class_="maps")]
