"""Training: `train` puts a run together, and `_fit` is the loop.

    data, design, recipe ──make_plan──▶ Plan ──┐
    Loader: uint8 batches ──Augmenter──────────┼─ _fit: Learner.step, … ──▶ Epoch, Epoch, … ──▶ run folder
    Checkpoints: the newest whole state ───────┘

Every random number is drawn from the seed, the epoch and the step (`data.chance`), never from a generator that runs on:
so the same seed on the same machine gives bit-equal weights, and a run that was stopped goes on as if it had not been.
The weights kept are those after the last whole epoch, where the learning rate has come down to zero. They are not
chosen by their accuracy on the held-out images, which would then flatter it. Images are N C H W.
"""

import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from plusx import environment, run_folder
from plusx import tensorboard as board
from plusx.checkpoint import WEIGHTS_FILE, Weights, write_text, write_weights
from plusx.data import Images, Loader, open_data
from plusx.data.augment import Augmenter
from plusx.data.chance import chance
from plusx.design import Design
from plusx.dialects import load
from plusx.display import Display
from plusx.errors import DivergedError, InputError
from plusx.inference import OnBadImage, check_on_bad_image, given_path, judge
from plusx.interrupts import Asked, Interrupted, listening
from plusx.learner import Learner, Pixels
from plusx.metrics import Tally
from plusx.network import Network, build
from plusx.pace import worthwhile_threads
from plusx.plan import Plan, describe, make_plan, origin, usual_recipe
from plusx.ranks import Ranks, ranks
from plusx.recipe import Progress, Recipe
from plusx.records import (
    Clock,
    Epoch,
    Run,
    after,
    close_epoch,
    draw_curves,
    epoch_text,
    next_epoch,
    past_epochs,
    step_text,
)
from plusx.report import write_report
from plusx.resume import newest_state, old_plan, refuse_beside_resume, resumed_folder
from plusx.state import Checkpoints, Position

BAD_STEPS = 3
"""Steps in a row that are undone, because something in them is not finite, before a run gives up."""


def train(
    data: str | Path | None = None,
    *,
    design: Design | str | Path | None = None,
    recipe: Recipe | str | Path | None = None,
    set: Sequence[str] = (),
    epochs: int | None = None,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    workers: int = 0,
    on_bad_image: OnBadImage = "fail",
    checkpoint_minutes: float = 10.0,
    keep_every: int | None = None,
    tensorboard: bool = False,
    show: bool = True,
) -> Run:
    """Train a network on labelled images; leaves a run folder.

    data: "digits" (by default), "fashion-mnist", "cifar10", or a folder of class folders (see `plusx.data.sources`).
    design: a Design, a published name, or a `.toml` or `.json` file; its classes become the data's. A published one
        takes the data's channels, grey or colour; one of your own keeps its channels, and the images are made to fit.
        By default cifar_resnet20 for images of up to 64 pixels, else resnet18; for digits 8 layers at twice its width.
    recipe: a Recipe, a preset's name, or a file; by default "digits" for digits, "finetune" with weights, else "quick".
    set: changes to it, such as "optimizer.lr=0.05". epochs, seed: likewise.
    weights: a weights file of any dialect to start from; it brings its Design, and its head gives way to a fresh one.
    out: a folder that is new or empty; by default runs/<data>-<design>-<n>.
    resume: the folder of a run that was stopped: it goes on from its newest whole checkpoint, to the same weights, to
        the last bit, as if it had not been stopped. Everything else is as it was.
    device: as torch names it; "auto", the default, is cuda, mps or xpu where there is one, else cpu.
    workers: processes that decode images where the set is too large to be kept decoded.
    on_bad_image: "skip" names and leaves out files that are no images; "fail" stops at the first.
    checkpoint_minutes: how often the state is saved, beside the end of each epoch.
    keep_every: also keep the weights after every so many epochs, as RUN/epochs/epoch-0005.safetensors; with `resume`
        it is to be said again.
    tensorboard: whether each epoch is also written to RUN/tensorboard (an extra).
    show: progress on standard error.

    Raises an InputError, before anything is written, for whatever is wrong with these; DivergedError when steps stay
    not finite, WorkError when the disk refuses. Interrupted (Ctrl-C, SIGTERM), it saves its state, says how to go on,
    and raises KeyboardInterrupt.
    """
    check_on_bad_image(on_bad_image)
    if keep_every is not None and (type(keep_every) is not int or keep_every < 1):
        raise InputError(f"keep_every {keep_every!r} is not a whole number of epochs, 1 or more")
    if tensorboard:
        board.check()
    started, out = time.perf_counter(), None if out is None else given_path("out", out)
    with ExitStack() as stack:
        here = stack.enter_context(ranks(device))
        display = Display(show and here.first)
        folder = resumed_folder(resume, out, here)
        if folder is not None:
            refuse_beside_resume(
                data=data, design=design, recipe=recipe, epochs=epochs, weights=weights, seed=seed, set=set or None
            )
            plan = old_plan(folder, here, display)
        else:
            dataset = open_data("digits" if data is None else data, say=display.line)
            chosen = usual_recipe(recipe, dataset, weights is not None).set(set)
            changes = {name: value for name, value in (("epochs", epochs), ("seed", seed)) if value is not None}
            start = None if weights is None else load(weights, num_classes=0)
            if start is not None and design is not None:
                raise InputError("train: the weights bring their design; leave the design out")
            plan = make_plan(dataset, design if start is None else start.design, chosen.replace(**changes), here)
            if out is not None and here.first:
                run_folder.refuse_used(out)
        display.line(describe(plan, here))
        net = _network(plan, weights)
        job = _Job(plan, here, display, workers, on_bad_image, checkpoint_minutes * 60, keep_every, tensorboard)
        return _train(job, net, folder, out, started)


@dataclass(frozen=True)
class _Job:
    """A plan, and the circumstances it is carried out in."""

    plan: Plan
    ranks: Ranks
    display: Display
    workers: int
    on_bad_image: OnBadImage
    checkpoint_s: float
    keep_every: int | None
    tensorboard: bool

    def to_go_on(self, folder: Path) -> str:
        """The command that resumes this."""
        kept = [] if self.keep_every is None else ["--keep-every", str(self.keep_every)]
        return shlex.join(["plusx", "train", "--resume", str(folder), *kept])

    def loader(self, images: Images, advance: Callable[[int], None], crop: tuple[float, float] | None = None) -> Loader:
        """Images of the plan's size and channels."""
        return Loader(
            images,
            self.plan.size,
            self.plan.design.stem.in_channels,
            advance=advance,
            crop=crop,
            workers=self.workers,
            on_bad_image=self.on_bad_image,
            say=self.display.line,
        )


def _train(job: _Job, net: Network, resumed: Path | None, out: Path | None, started: float) -> Run:
    """Carry out the plan."""
    plan, here, display = job.plan, job.ranks, job.display
    mine = plan.held_out.take(range(*here.share(len(plan.held_out)).indices(len(plan.held_out))))
    with display.bar("decoding", len(plan.images) + len(mine)) as advance:
        train_set = job.loader(plan.images, advance, plan.recipe.augment.resized_crop)
        test_set = job.loader(mine, advance)
    train_set.move(here.device)
    pixels = Pixels(*train_set.statistics())
    learner = Learner(net, plan.recipe, pixels, here, plan.speed)
    history: list[Epoch] = []
    with ExitStack() as stack:
        stack.callback(train_set.close)
        stack.enter_context(worthwhile_threads(plan.price.macs * plan.recipe.batch_size // here.world))
        stack.enter_context(torch.random.fork_rng([here.device] if here.device.type == "cuda" else []))
        folder = _folder(stack, job, resumed, out)
        saved = newest_state(resumed, here, display) if resumed is not None else None
        if saved is not None:
            learner.restore(saved)
            history = past_epochs(saved.position)
        position = saved.position if saved is not None else Position()
        checkpoints = stack.enter_context(Checkpoints(folder)) if here.first else None
        if here.first:
            _start_folder(folder, plan, history, here.device)
        if here.first and history and not position.in_epoch:  # the run may have ended before it could write these
            _keep(folder, job, learner, history)
        asked = stack.enter_context(listening())
        advance = stack.enter_context(display.bar("", plan.steps))
        advance(position.step)
        boards = _boards(stack, job, folder, position)
        stack.enter_context(_last_words(job, folder, history))
        for epoch in _fit(job, learner, train_set, test_set, position, checkpoints, asked, advance):
            history.append(epoch)
            if here.first:
                _keep(folder, job, learner, history)
                run_folder.append_metrics(folder, asdict(epoch))
                for shown in boards:
                    shown.add(asdict(epoch))
            display.epoch_line(epoch_text(epoch, plan.epochs))
    if here.first:
        display.line(write_report(folder))
    return Run(
        folder=folder,
        data=plan.dataset.spec,
        split=plan.split,
        classes=plan.dataset.classes,
        train_images=len(train_set),
        held_out_images=len(plan.held_out),
        design=plan.design,
        recipe=plan.recipe,
        input_size=plan.size,
        params=plan.price.params,
        macs=plan.price.macs,
        history=tuple(history),
        seconds=time.perf_counter() - started,
    )


def _fit(
    job: _Job,
    learner: Learner,
    train_set: Loader,
    test_set: Loader,
    at: Position,
    checkpoints: Checkpoints | None,
    asked: Asked,
    advance: Callable[..., None],
) -> Iterator[Epoch]:
    """The loop: trains the learner's network from position `at` on, and gives an Epoch after each pass.

    Raises DivergedError, naming step and layer, when steps stay not finite; KeyboardInterrupt, its state saved, when
    asked.
    """
    plan, recipe, here = job.plan, job.plan.recipe, job.ranks
    changes = recipe.augment.replace(resized_crop=None) if train_set.crops else recipe.augment
    augment = Augmenter(changes, plan.design.stem.in_channels, seed=recipe.seed)
    changing = torch.device("cpu") if here.device.type == "mps" else here.device  # MPS knows no float64
    saved_at = time.monotonic()
    while at.step < plan.steps:
        order = torch.randperm(len(train_set), generator=chance(recipe.seed, at.epoch, "order"))
        whole = torch.tensor_split(order, plan.steps_each)[: plan.steps - at.epoch * plan.steps_each][at.in_epoch :]
        shares = [here.share(len(batch)) for batch in whole]
        mine = [batch[share] for batch, share in zip(whole, shares, strict=True)]
        clock = Clock()
        stream = clock.waiting(train_set.batches(mine, epoch=at.epoch, seed=recipe.seed))
        for (images, labels), batch, share, indices in zip(stream, whole, shares, mine, strict=True):
            progress = Progress(
                at.epoch + (at.in_epoch + 1) / plan.steps_each,
                plan.steps / plan.steps_each,
                at.warmed,
                [100 - record["held_out_accuracy_percent"] for record in at.history],
            )
            torch.manual_seed(chance(recipe.seed, at.step, here.rank, "depth").initial_seed())
            mixed = augment(
                images.to(changing),
                labels.to(changing),
                chance=chance(recipe.seed, at.step, "augment"),
                epoch=at.epoch,
                size=_size(plan, progress),
                whole=len(batch),
                start=share.start,
                indices=indices,
            ).to(here.device)
            factor = recipe.schedule.factor(progress)
            head_only = recipe.finetune is not None and progress.epoch <= recipe.finetune.head_epochs
            outcome = learner.step(
                mixed, len(batch), factor, updates=at.updates, head_only=head_only, stop=asked.signum is not None
            )
            at = after(at, outcome, len(batch), recipe.optimizer.lr * factor, clock, recipe)
            if at.bad_steps == BAD_STEPS:
                where = learner.suspect(mixed)
                raise DivergedError(
                    f"training: {BAD_STEPS} steps in a row, up to step {at.step}, are not finite: {where}; lower lr"
                )
            advance(1, step_text(at, plan, outcome.loss))
            due = time.monotonic() - saved_at > job.checkpoint_s
            if outcome.stop or (due and checkpoints is not None and not checkpoints.busy):
                saved_at = time.monotonic()
                _save(checkpoints, learner, at)
            if outcome.stop:
                _stop(job, checkpoints, asked, at)
        result = _held_out(learner, test_set, job)
        epoch = close_epoch(at, result, clock)
        at = next_epoch(at, epoch)
        _save(checkpoints, learner, at)
        yield epoch


def _held_out(learner: Learner, test_set: Loader, job: _Job) -> Tally:
    """What the kept network makes of the images held out: each process judges its share of them."""
    here, pixels = job.ranks, learner.pixels
    here.spread(list(learner.kept.buffers()))  # batch norms' statistics are each process's own until here
    tally = judge(learner.kept, test_set, pixels.mean, pixels.std)
    return Tally(here.gather(tally.logits), here.gather(tally.labels))


def _size(plan: Plan, progress: Progress) -> int:
    """The side of the training images now: smaller at first, where the recipe is progressive."""
    growing = plan.recipe.progressive
    if growing is None:
        return plan.size
    done = min(1.0, progress.epoch / (progress.epochs * growing.until))
    side, unit = plan.size * (growing.start + (1 - growing.start) * done), max(4, plan.design.output_stride // 2)
    return min(plan.size, max(plan.design.output_stride, round(side / unit) * unit))


def _save(checkpoints: Checkpoints | None, learner: Learner, at: Position) -> None:
    if checkpoints is not None:
        checkpoints.save(learner.capture(at))


def _stop(job: _Job, checkpoints: Checkpoints | None, asked: Asked, at: Position) -> None:
    """Once the state is on the disk, say how to go on, and leave as a program does that a signal ends."""
    if checkpoints is not None:
        checkpoints.wait()
        folder = checkpoints.folder.parent
        job.display.line(f"interrupted at step {at.step:,} of {job.plan.steps:,}; go on with: {job.to_go_on(folder)}")
    raise Interrupted(asked.signum or signal.SIGTERM)


@contextmanager
def _last_words(job: _Job, folder: Path, history: Sequence[Epoch]) -> Iterator[None]:
    """When a person cannot wait for the step under way, say what is left of the run."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        kept = f"after epoch {len(history)} of {job.plan.epochs}; go on with: {job.to_go_on(folder)}"
        job.display.line(
            f"interrupted {kept}" if history else "interrupted: no epoch was whole yet, so no run folder is left"
        )
        raise


def _network(plan: Plan, weights: str | Path | None) -> Network:
    recipe = plan.recipe
    if weights is None:
        return build(plan.design, seed=recipe.seed, zero_init=recipe.zero_init)
    stem = plan.design.stem.in_channels
    return load(weights, num_classes=plan.design.head.classes, in_channels=stem, seed=recipe.seed).network


def _folder(stack: ExitStack, job: _Job, resumed: Path | None, out: Path | None) -> Path:
    if resumed is not None:
        return resumed
    if not job.ranks.first:
        assert out is not None
        return out
    return stack.enter_context(run_folder.new_run(out, f"{job.plan.dataset.name}-{job.plan.design.name or 'net'}"))


def _boards(stack: ExitStack, job: _Job, folder: Path, at: Position) -> list[board.Board]:
    """TensorBoard's, where it is wanted; of a run that goes on, without what came after `at`."""
    if not (job.tensorboard and job.ranks.first):
        return []
    return [stack.enter_context(board.Board(folder, purge_from=at.epoch + 1 if at.step else None))]


def _start_folder(folder: Path, plan: Plan, history: Sequence[Epoch], device: torch.device) -> None:
    write_text(folder / run_folder.DESIGN_FILE, plan.design.to_toml())
    write_text(folder / run_folder.RECIPE_FILE, plan.recipe.to_toml())
    command = (
        {"command": shlex.join(["plusx", *sys.argv[1:]])}
        if Path(sys.argv[0]).name.startswith(("plusx", "__main__"))
        else {}
    )
    about = run_folder.read_about(folder) or {"started": datetime.now(UTC).isoformat(timespec="seconds"), **command}
    about |= {"environment": environment.describe(device), **origin(plan)}
    run_folder.write_metrics(folder, [{"run": about}, *map(asdict, history)])


def _keep(folder: Path, job: _Job, learner: Learner, history: Sequence[Epoch]) -> None:
    """The weights and the curves after a whole epoch."""
    plan, epoch = job.plan, len(history)
    tensors = learner.kept.state_dict()
    weights = Weights(plan.design, tensors, plan.dataset.classes, plan.size, learner.pixels.mean, learner.pixels.std)
    write_weights(folder / WEIGHTS_FILE, weights)
    if job.keep_every and epoch % job.keep_every == 0:
        write_weights(run_folder.epoch_file(folder, epoch), weights)
    write_text(folder / run_folder.CURVES_FILE, draw_curves(history, plan.recipe))
