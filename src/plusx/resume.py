"""Going on with a run that was stopped: its folder, its plan as it was, and its newest whole state."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from plusx import run_folder
from plusx.data import open_data
from plusx.design import Design
from plusx.display import Display
from plusx.errors import InputError, WorkError
from plusx.inference import given_path
from plusx.plan import Plan, make_plan
from plusx.ranks import Ranks, restarted
from plusx.recipe import Recipe
from plusx.speed import Speed, recorded
from plusx.state import State, has_checkpoints, newest


def resumed_folder(resume: str | Path | None, out: Path | None, here: Ranks) -> Path | None:
    """The run to go on with: the one asked for, or, when torchrun starts anew, the one it had begun."""
    if resume is not None:
        if out is not None:
            raise InputError("train: a run goes on in its own folder; leave out out")
        folder = given_path("resume", resume)
        if not (folder / run_folder.RECIPE_FILE).is_file():
            raise InputError(f"resume {folder}: there is no run of plusx train in it (recipe.toml is missing)")
        return folder
    if here.world > 1 and out is None:
        raise InputError("train: several processes need --out, so that they can go on in it after a failure")
    begun = out is not None and (out / run_folder.RECIPE_FILE).is_file()
    return out if out is not None and begun and restarted() else None


def refuse_beside_resume(**given: object) -> None:
    """Raise InputError for what a run that goes on has already: all that is not None."""
    if restarted():
        return
    if odd := [name for name, value in given.items() if value is not None]:
        raise InputError(
            f"train: a run goes on with its own {', '.join(odd)}; leave {'it' if len(odd) == 1 else 'them'} out"
        )


def old_plan(folder: Path, here: Ranks, display: Display) -> Plan:
    """The plan of a run that was begun, as its folder says. Raises InputError where its data is not the same now."""
    about = run_folder.read_origin(folder)
    if about is None:
        raise InputError(f"resume {folder}: {run_folder.METRICS_FILE} does not say what it was trained on")
    design, recipe = Design.read(folder / run_folder.DESIGN_FILE), Recipe.read(folder / run_folder.RECIPE_FILE)
    plan = make_plan(open_data(about.data, say=display.line), design, recipe, here, as_is=True)
    said = run_folder.read_about(folder)
    if said.get("images_digest") != plan.digest:
        raise InputError(f"resume {folder}: the images of {about.data} are not the same as when the run began")
    return replace(plan, speed=_as_before(plan.speed, said, display))


def _as_before(now: Speed, said: Mapping[str, Any], display: Display) -> Speed:
    """How the run was run until now, where that can be done here; a line where it cannot."""
    try:
        before = recorded(said["running"])
    except (KeyError, TypeError, AttributeError):  # begun before runs recorded it
        return now
    if now.can_follow(before):
        return before
    words = (f"{speed.why}, on {speed.device}{', images by C++' if speed.native else ''}" for speed in (before, now))
    display.line("going on otherwise than before, so not to the same bits: {} then, {} now".format(*words))
    return now


def newest_state(folder: Path, here: Ranks, display: Display) -> State | None:
    """The newest whole state; every process takes the same.

    None where torchrun starts anew before there was any. Raises InputError where none is whole: what is there is not
    begun anew and written over.
    """
    found = newest(folder)
    if found is not None:
        for line in found[1]:
            display.line(f"{line}; an older one is taken")
    elif has_checkpoints(folder) or not restarted():
        raise InputError(f"resume {folder}: there is no whole checkpoint in it; train anew, in another folder")
    step = here.agree(found[0].position.step if found is not None else -1)
    if (found[0].position.step if found is not None else -1) != step:
        raise WorkError(f"resume {folder}: the processes see different checkpoints; they need one folder in common")
    return found[0] if found is not None else None
