"""The options that commands share: what they are called and what their help says."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Micrographs = Annotated[
    list[str] | None,
    typer.Option("--micrographs", "-m", help="Files, folders, quoted patterns, or a text or STAR list; repeatable."),
]
Labels = Annotated[
    str | None, typer.Option(help="A folder with a file per micrograph (same name), or one file for all.")
]
LabelsAre = Annotated[
    Literal["complete", "partial"] | None, typer.Option(help="Is every particle of a labelled micrograph labelled?")
]
DiameterPx = Annotated[
    float | None, typer.Option(help="Diameter of the particle in pixels of the micrographs on disk.")
]
DiameterAngstrom = Annotated[float | None, typer.Option(help="Diameter of the particle in Å; needs a pixel size.")]
PixelSize = Annotated[float | None, typer.Option(help="Å per pixel; overrules what the files say.")]
Config = Annotated[Path | None, typer.Option(help="A TOML file of settings; options on the command line overrule it.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as section.key=value; repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
MicrographsStar = Annotated[
    Path | None, typer.Option(help="RELION's file of the micrographs, whose names relion-folder then uses.")
]
Algorithm = Annotated[str | None, typer.Option(help="How to learn; see the manual for a list.")]
Gaps = Annotated[bool, typer.Option("--gaps", help="Show results although runs are missing.")]
Slow = Annotated[bool, typer.Option("--slow", help="Also checks that train for a while.")]
Strict = Annotated[bool, typer.Option("--strict", help="Leave with 1 for a warning, too.")]
CsY = Annotated[Literal["asis", "flip"] | None, typer.Option(help="Which way y runs in cryoSPARC files; no default.")]
BoxPx = Annotated[int | None, typer.Option(help="Side of the boxes that corner formats draw, in micrograph pixels.")]
