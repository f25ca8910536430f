"""The command that tries the papers' claims: study. `cli` registers it."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from plusx.cli_common import Device, Json, numbers, show_report

Depths = Annotated[tuple[int, ...], Parameter(converter=numbers, n_tokens=1, negative=())]


def study(
    name: Annotated[str, Parameter(show_default=False)],
    runs: Annotated[tuple[Path, ...], Parameter(name="RUN", show_default=False, negative=())] = (),
    /,
    *,
    design: str | None = None,
    data: str | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    seeds: int = 3,
    budget: str = "15m",
    depths: Depths = (),
    depth: int | None = None,
    out: Annotated[Path | None, Parameter(name=("--out", "-o"))] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Try one of the papers' claims on this machine: plusx study list says which there are.

    Started again, a study goes on where it was. Several processes may share its folder.

    Parameters
    ----------
    name
        degradation, signals, economy, order, shortcuts, identity, paper-cifar, or list.
    runs
        Of identity: the run folders to look at.
    design
        Your own network, a name or a .toml or .json file, in the study instead of the paper's.
    data
        What to train on, as in plusx train; digits by default, for paper-cifar cifar10.
    recipe
        How to train: a preset or a file; by default as plusx train, without label smoothing.
    epochs
        How long to train.
    seeds
        Trainings of each network.
    budget
        The time that the trainings may take, such as 15m or 2h; what does not fit is left out, and named.
    depths
        Of degradation and signals: --depths 20,56; with a design of your own, multiples of its blocks: --depths 1,3.
    depth
        Of the network, in economy, order, shortcuts, identity and paper-cifar.
    out
        The study's folder; by default studies/NAME, or studies/NAME-2 … where that holds another one.
    """
    from plusx import study as the_study

    found = the_study(
        name,
        runs,
        design=design,
        data=data,
        recipe=recipe,
        epochs=epochs,
        seeds=seeds,
        budget=budget,
        depths=depths,
        depth=depth,
        out=out,
        device=device,
    )
    show_report(found, json)
