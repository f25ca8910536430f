"""Studies: planned to a budget, each training run once, resumed, shared; and what each makes of known outcomes."""

import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from filelock import FileLock
from torch import nn

from plusx import train
from plusx.blocks import ResidualBlock
from plusx.data import open_data
from plusx.data.published import CIFAR10
from plusx.design import Design
from plusx.errors import DivergedError, InputError, WorkError
from plusx.families import cifar, cifar_plain
from plusx.inference import open_model
from plusx.network import build
from plusx.plan import make_plan
from plusx.ranks import Ranks
from plusx.recipe import Recipe, preset
from plusx.records import Epoch, Run
from plusx.studies import NAMES, StudyList, identity, signals, study, trials
from plusx.studies.arms import train_error
from plusx.studies.economy import EQUALS
from plusx.studies.folder import claimed
from plusx.studies.numbers import Spread, beyond_chance, duration, parse_duration
from plusx.studies.question import Finding
from plusx.studies.trials import Arm, Outcome, Outcomes, Place, Trial
from tests.commands import in_process

trials_module = import_module("plusx.studies.trials")
QUICK: dict[str, Any] = {"epochs": 1, "seeds": 1, "show": False}


def found(name: str, folder: Path, *runs: Path, **options: Any) -> Finding:
    result = study(name, runs, out=folder, **{**QUICK, **options})
    assert isinstance(result, Finding)
    return result


def place(folder: Path) -> Place:
    dataset = open_data("digits")
    here = Ranks(0, 1, torch.device("cpu"))
    return Place(folder, "digits", dataset, "digits", len(dataset.train), 360, here, lambda _: None)


def arm(name: str = "one", tier: int = 0, epochs: int = 1) -> Arm:
    return Arm(name, cifar(8).with_in_channels(1), preset("digits").replace(epochs=epochs), tier)


# numbers


def test_a_spread_and_its_interval() -> None:
    spread = Spread.of([1.0, 2.0, 3.0])
    assert spread == (2.0, 1.0, 3)
    low, high = spread.interval()
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), rel=1e-6)
    assert Spread.of([4.0]).interval() == (-math.inf, math.inf)
    assert Spread.of([4.0]).text() == "4.00"
    assert math.isnan(Spread.of([]).mean)


@pytest.mark.parametrize(
    ("text", "seconds"), [("15m", 900), ("90s", 90), ("90", 90), ("1h30m", 5400), ("1.5h", 5400), ("2m5s", 125)]
)
def test_spans_of_time(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "-5m", "5 minutes", "1m1h", ".h"])
def test_no_span_of_time(text: str) -> None:
    with pytest.raises(InputError, match="budget"):
        parse_duration(text)


def test_many_comparisons_are_judged_together() -> None:
    """Holm: the smallest of three p-values is held against 0.05 / 3, the next against 0.05 / 2."""
    sure, unsure = Spread(2.0, 0.1, 3), Spread(2.0, 0.75, 3)  # p = 0.0008 and 0.044
    t = 2.0 * math.sqrt(3) / 0.1
    assert sure.p_value() == pytest.approx(1 - t / math.sqrt(2 + t * t))  # as it is for 2 degrees of freedom
    assert 0.04 < unsure.p_value() < 0.05
    assert beyond_chance([unsure]) == [True]
    assert beyond_chance([unsure, sure]) == [True, True]
    assert beyond_chance([unsure, sure, Spread(0.0, 1.0, 3)]) == [False, True, False]
    assert beyond_chance([Spread(9.0, 0.0, 1), Spread(0.0, 0.0, 3), Spread(1.0, 0.0, 3)]) == [False, False, True]
    assert beyond_chance([]) == []
    assert beyond_chance([Spread(9.0, 0.001, 2), Spread(math.nan, math.nan, 0)]) == [False, False]


def test_equal_errors_are_no_surer_than_one_image() -> None:
    """Errors go in steps of one image: that three gaps are the same to a rounding says little."""
    given = outcomes(a=[1.0, 1.2, 1.4], b=[1.0 + 0.1, 1.2 + 0.1, 1.4 + 0.1])
    assert given.gap("b", "a", train_error).std < 1e-9
    seen = Outcomes(given.whole, trained=1000, held_out=100)
    gap = seen.gap("b", "a", train_error)
    assert gap.std == pytest.approx(1 / math.sqrt(12))
    assert beyond_chance([gap]) == [False]
    assert seen.gap("b", "a", train_error, "train").std == pytest.approx(0.1 / math.sqrt(12))
    assert math.isnan(seen.gap("b", "c", train_error).mean)


def test_spans_in_words() -> None:
    assert [duration(s) for s in (4.21, 59.94, 59.97, 200, 3900)] == ["4.2s", "59.9s", "1m00s", "3m20s", "1h05m"]


# planning


def test_a_trials_name_says_all_that_it_depends_on() -> None:
    base = Trial(arm(), 0, "digits")
    others = [
        replace(base, seed=1),
        replace(base, images="others"),
        replace(base, arm=replace(base.arm, design=cifar_plain(8))),
        replace(base, arm=replace(base.arm, recipe=base.arm.recipe.replace(epochs=2))),
    ]
    assert len({trial.name for trial in [base, *others]}) == 5
    assert Trial(replace(base.arm, tier=3), 0, "digits").name == base.name


def test_the_budget_leaves_out_later_tiers_and_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials_module, "run_seconds", lambda plan, here: 9.0)
    arms = [arm("a"), arm("b"), arm("c", tier=1)]
    whole = trials.schedule(arms, 2, 1000, place(tmp_path))
    assert [(trial.arm.name, trial.seed) for trial in whole.trials] == [
        ("a", 0),
        ("b", 0),
        ("a", 1),
        ("b", 1),
        ("c", 0),
        ("c", 1),
    ]
    assert whole.seconds == 60
    assert whole.left_out == ()
    some = trials.schedule(arms, 2, 45, place(tmp_path))
    assert [(trial.arm.name, trial.seed) for trial in some.trials] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert some.left_out == ("seeds 0, 1 of c; a budget of 1m07s has time for all of it",)
    with pytest.raises(InputError, match=r"5\.0s is too short for one training of each of a, b; 23\.0s would do"):
        trials.schedule(arms, 2, 5, place(tmp_path))


def test_what_is_done_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials_module, "run_seconds", lambda plan, here: 9.0)
    here = place(tmp_path)
    done = Trial(arm("a"), 0, "digits")
    epoch = asdict(Epoch(1, 1, 0.1, 1.0, 90.0, 1.0, 80.0, 1.0, 1.0, 0.0, 0))
    here.keep(done, Outcome("a", 0, here.run(done), (epoch,), 3.0))
    assert trials.schedule([arm("a"), arm("b")], 1, 11, here).seconds == 10
    kept = here.outcome(done)
    assert kept is not None
    assert (kept.train_error_percent, kept.held_out_error_percent) == (10, 20)


def test_damaged_results_are_run_again(tmp_path: Path) -> None:
    here, trial = place(tmp_path), Trial(arm(), 0, "digits")
    (tmp_path / "results").mkdir()
    for text in ("", "{", "[]", '{"epochs": []}', '{"epochs": [], "seconds": 1, "failed": ""}'):
        (tmp_path / "results" / f"{trial.name}.json").write_text(text)
        assert here.outcome(trial) is None


def test_the_estimate_is_near_what_a_run_takes(tmp_path: Path) -> None:
    from plusx.pace import run_seconds
    from plusx.plan import make_plan

    here = Ranks(0, 1, torch.device("cpu"))
    plan = make_plan(open_data("digits"), cifar(14).with_in_channels(1), preset("digits").replace(epochs=3), here)
    estimate = run_seconds(plan, here)
    run = train("digits", design=plan.design, recipe=plan.recipe, out=tmp_path / "run", show=False)
    took = sum(epoch.seconds for epoch in run.history)
    assert took / 4 < estimate < 4 * took  # the machine may be busy during either


# running


def begun(*words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "plusx", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_runs_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"depths": (8, 14)}
    first = found("degradation", tmp_path / "a", **options)
    assert (tmp_path / "a" / "study.html").read_text().count("<svg") == 2
    calls: list[Any] = []
    monkeypatch.setattr(trials_module, "train", lambda *args, **named: calls.append(args))
    again = found("degradation", tmp_path / "a", **options)
    assert calls == []
    assert again.numbers == first.numbers
    assert again.verdict == first.verdict


def test_a_study_trains_as_train_does(tmp_path: Path) -> None:
    finding = found("order", tmp_path / "study", depth=8)
    command = next(line for line in finding.commands if "original-seed0" in line).split()
    design, recipe = (command[command.index(option) + 1] for option in ("--design", "--recipe"))
    run = train("digits", design=design, recipe=recipe, out=tmp_path / "alone", show=False)
    row = next(row for row in finding.numbers["arms"] if row["order"] == "original")
    assert row["held_out_error_percent"]["mean"] == 100 - run.accuracy_percent


def test_it_goes_on_after_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "study"
    words = ["study", "order", "--depth", "8", "--epochs", "3", "--seeds", "1", "--out", str(folder)]
    process = begun(*words)
    until = time.monotonic() + 60
    while not list(folder.glob("runs/*/checkpoints/*.safetensors")) and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = len(list(folder.glob("results/*.json")))
    assert done < 5
    training = Mock(side_effect=train)
    monkeypatch.setattr(trials_module, "train", training)
    killed = found("order", folder, depth=8, epochs=3)
    assert [call for call in training.call_args_list if "resume" in call.kwargs]
    monkeypatch.undo()
    whole = found("order", tmp_path / "whole", depth=8, epochs=3)
    assert killed.numbers == whole.numbers


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    words = ["study", "degradation", "--depths", "8,14", "--epochs", "1", "--seeds", "2", "--json"]
    words += ["--out", str(tmp_path / "study")]
    both = [begun(*words) for _ in range(2)]
    told = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    one, two = (json.loads(out) for out, _ in told)
    assert one["numbers"] == two["numbers"]
    lines = [line for _, error in told for line in error.splitlines() if "training error" in line]
    assert len(lines) == 8  # each training was run by one of them, and by one only


def test_processes_of_one_machine_share_its_threads(tmp_path: Path) -> None:
    here, before = place(tmp_path), torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with here.joined():
            other = here.folder / "processes" / f"{platform.node()}-1.lock"
            with FileLock(other), here.share_of_threads():
                assert torch.get_num_threads() == 2
            with here.share_of_threads():  # that one is gone
                assert torch.get_num_threads() == 4
            assert not other.exists()
    finally:
        torch.set_num_threads(before)


def test_past_the_budget_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = place(tmp_path)
    trials_ = tuple(Trial(arm(), seed, "digits") for seed in range(3))
    clock = iter([0.0, 0.0, 100.0, 100.0])
    monkeypatch.setattr(trials_module.time, "monotonic", lambda: next(clock, 100.0))
    with here.joined():
        outcomes, missing = trials.carry_out(trials.Schedule(trials_, (), 1.0), here, 10.0)
    assert len(outcomes.whole) == 1
    assert missing == ("one, seed 1 (out of time)", "one, seed 2 (out of time)")


def test_what_does_not_train_is_told_and_the_rest_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def training(*args: Any, **named: Any) -> Run:
        if named["design"].name.endswith("full_preact"):
            raise DivergedError("training: 3 steps in a row are not finite")
        return train(*args, **named)

    monkeypatch.setattr(trials_module, "train", training)
    finding = found("order", tmp_path, depth=8)
    assert finding.failed == ("full_preact, seed 0: training: 3 steps in a row are not finite",)
    assert [row["order"] for row in finding.numbers["arms"]] == [
        "original",
        "bn_after_add",
        "relu_before_add",
        "relu_preact",
    ]


# each study


def outcomes(**errors: list[float]) -> Outcomes:
    """Of arms (underscores for blanks), by seed: the training error, twice that for the images held out."""
    return Outcomes(
        Outcome(
            name.replace("_", " "),
            seed,
            Path(),
            ({"train_accuracy_percent": 100 - error, "held_out_accuracy_percent": 100 - 2 * error},) * 2,
            1.0,
        )
        for name, values in errors.items()
        for seed, error in enumerate(values)
    )


def question(name: str, tmp_path: Path, **options: Any) -> Any:
    """What `study` would ask."""
    module = import_module(f"plusx.studies.{name}")
    conclude = Mock(side_effect=InterruptedError)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STUDY", replace(module.STUDY, arms=lambda _: [], conclude=conclude))
        with pytest.raises(InterruptedError):
            study(name.replace("_", "-"), out=tmp_path, show=False, **options)
    return conclude.call_args.args[0]


def test_degradation_is_said_where_it_is_and_not_where_it_is_not(tmp_path: Path) -> None:
    from plusx.studies.degradation import conclude

    asked = question("degradation", tmp_path, depths=(20, 56))
    given = outcomes(plain_20=[5, 6, 5], plain_56=[9, 10.5, 9.2], residual_20=[5, 6, 5], residual_56=[5, 6.1, 4.9])
    verdict = conclude(asked, given).verdict
    assert verdict.startswith("The claim holds here. Plain")
    assert "Plain networks' training error goes from 5.33 ± 0.58 % to 9.57 ± 0.81 %" in verdict
    assert "+4.23 points" in verdict
    assert verdict.count("it gets worse with depth") == 1
    assert verdict.count("no difference is shown") == 1
    better = outcomes(plain_20=[5, 6, 7], plain_56=[3, 4.01, 5], residual_20=[1, 1, 1], residual_56=[2, 2.1, 2])
    verdict = conclude(asked, better).verdict
    assert verdict.startswith("The claim does not hold here: plain networks get better with depth.")
    assert "it gets better with depth" in verdict
    both = outcomes(plain_20=[5, 6, 7], plain_56=[9, 10, 11.1], residual_20=[1, 1, 1], residual_56=[2, 2.1, 2])
    assert conclude(asked, both).verdict.startswith("The claim holds by half here: residual networks get worse as well")
    one = conclude(asked, outcomes(plain_20=[5], plain_56=[9], residual_20=[5], residual_56=[4]))
    assert one.verdict.startswith("Whether the claim holds cannot be told from this: it takes 3 seeds to tell")
    none = outcomes(plain_20=[80] * 3, plain_56=[90] * 3, residual_20=[85] * 3, residual_56=[80] * 3)
    assert conclude(asked, none).verdict.startswith("Nothing can be said: plain 20 and residual 20 hardly did better")


def test_depths_of_a_design_of_ones_own_are_multiples(tmp_path: Path) -> None:
    design = cifar(8).replace(name="mine")
    finding = found("degradation", tmp_path / "mine", design=design, depths=(1, 2))
    rows = finding.numbers["errors"]
    assert [(row["network"], row["depth"]) for row in rows] == [
        ("plain", 1),
        ("plain", 2),
        ("residual", 1),
        ("residual", 2),
    ]
    with pytest.raises(InputError, match="give the residual network"):
        found("degradation", tmp_path / "plain", design=cifar_plain(8))


def test_signals_of_a_linear_chain_are_what_they_must_be() -> None:
    torch.manual_seed(0)
    net = build(cifar(8).with_in_channels(1), seed=0)
    images, labels = torch.randn(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)
    images[4:] = images[:4] + 1e-4 * torch.randn(4, 1, 8, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = signals.measure(net, images, labels)
    assert len(found) == 3
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(signal.likeness > 0.98 for signal in found)  # images that are almost the same
    for block, signal_ in zip(net.blocks(), found, strict=True):
        assert signal_.response == pytest.approx(1, abs=0.05)  # a fresh batch norm's
        assert signal_.gradient > 0
        assert block.training == net.training


def test_without_norms_gradients_vanish_in_plain_networks_and_not_in_residual_ones(tmp_path: Path) -> None:
    finding = found("signals", tmp_path, depths=(20,))
    decades = {row["network"]: row["gradient_decades_first_over_last"]["mean"] for row in finding.numbers["networks"]}
    assert decades["plain 20, new, no norms, small"] < -10
    assert decades["plain 20, new, no norms"] < -1
    assert decades["plain 20, new"] > 0.5  # with batch norm they grow instead, on the way back
    assert abs(decades["residual 20, new, no norms, small"]) < 1
    holds = "The claim holds here, the gradient vanishing in the plain network alone: without norms ("
    assert holds in finding.verdict
    assert "Of fewer than 3 seeds it is not known how much is chance." in finding.notes
    assert "after 1 of 1 epochs" in finding.verdict


def test_economys_networks_are_as_equal_as_widths_allow(tmp_path: Path) -> None:
    from plusx import cost
    from plusx.studies.economy import _compared

    asked = question("economy", tmp_path)
    compared = _compared(asked)
    again = _compared(asked)
    assert compared == again  # latencies are measured once
    base = cost(compared["building"].design, asked.size)
    for name, one in compared.items():
        price = cost(one.design, asked.size)
        if "params" in name:
            assert 0.9 < price.params / base.params < 1.1
        if "macs" in name:
            assert 0.9 < price.macs / base.macs < 1.1
        if "width" in name:
            assert [stage.width for stage in one.design.stages] == [16, 32, 64]
            assert price.params < 0.1 * base.params


def test_leaving_out_a_block_leaves_its_shortcut() -> None:
    net = build(cifar(14).with_in_channels(1), seed=0).eval()
    x = torch.rand(2, 1, 8, 8)
    edits = {name: edited for name, _, edited in identity.without_blocks(net)}
    names = [f"stage {stage}, block {block}" for stage in (1, 2, 3) for block in (1, 2)]
    assert list(edits) == names
    assert [number for _, number, _ in identity.without_blocks(net)] == [1, 2, 3, 4, 5, 6]
    stages = [list(stage) for stage in net.stages if isinstance(stage, nn.Sequential)]
    h = net.stem(x)
    for k, stage in enumerate(stages):
        for j, block in enumerate(stage):
            h = block(h) if (k, j) != (1, 1) else h
    assert torch.allclose(edits["stage 2, block 2"](x), net.head(h))
    h = net.stem(x)
    for k, stage in enumerate(stages):
        for j, block in enumerate(stage):
            assert isinstance(block, ResidualBlock)
            assert block.shortcut is not None
            h = block(h) if (k, j) != (1, 0) else block.act(block.shortcut(h))
    assert torch.allclose(edits["stage 2, block 1"](x), net.head(h))
    plain = build(cifar_plain(14).with_in_channels(1), seed=0)
    assert [(name, number) for name, number, _ in identity.without_blocks(plain)] == [
        (names[k], k + 1) for k in (1, 3, 5)
    ]


def test_exchanging_blocks_exchanges_them() -> None:
    net = build(cifar(20).with_in_channels(1), seed=0)
    edits = dict(identity.with_blocks_exchanged(net, list(identity.pairs_of_blocks(net))))
    assert list(edits) == [f"stage {n}, blocks 2 and 3" for n in (1, 2, 3)]
    turned = edits["stage 2, blocks 2 and 3"]
    for one, two in ((1, 2), (2, 1), (0, 0)):
        assert torch.equal(
            turned.get_parameter(f"stages.1.{one}.branch.0.conv.weight"),
            net.get_parameter(f"stages.1.{two}.branch.0.conv.weight"),
        )


def test_identity_of_a_run_trains_nothing(tmp_path: Path, digits_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials_module, "train", lambda *_, **__: pytest.fail("trained"))
    finding = study("identity", digits_run.folder, out=tmp_path, show=False)
    assert isinstance(finding, Finding)
    (row,) = finding.numbers["networks"]
    assert row["error_percent"]["mean"] == pytest.approx(100 - digits_run.accuracy_percent)
    assert len(row["without_block_error_percent"]) == len(list(open_model(digits_run.folder).net.blocks()))


def test_identity_says_whether_the_claim_holds(tmp_path: Path) -> None:
    asked = question("identity", tmp_path)

    def judged(kind: str, base: float, *costs: float) -> list[identity.Judged]:
        edits = [identity.Edit(f"stage 1, block {k}", k, base + cost) for k, cost in enumerate(costs, 1)]
        pair = identity.Edit("stage 1, blocks 2 and 3", 0, base + costs[-1])
        return [identity.Judged(kind, seed, base, 0.1, tuple(edits), (pair,)) for seed in range(3)]

    def verdict(residual: list[identity.Judged], plain: list[identity.Judged], seeds: int = 3) -> str:
        groups = {"residual": residual[:seeds], "plain": plain[:seeds]}
        both = [identity._common(groups, lambda run: run.without), identity._common(groups, lambda run: run.exchanged)]
        return identity._verdict(asked, groups, *both)

    good, bad = judged("residual", 1.0, 50.0, 1.0, 2.0, 3.0), judged("plain", 2.0, 60.0, 70.0, 80.0)
    bad = [one._replace(without=one.without[1:]) for one in bad]
    said = verdict(good, bad)
    assert said.startswith("The claim holds here: leaving out one of the 2 blocks that both can do without costs, in")
    assert "1.50 ± 0.00 points of the residual network and 75.00 ± 0.00 of the plain one" in said
    assert "The claim holds here: exchanging two of a stage costs, in the median, 3.00 ± 0.00 points" in said
    assert verdict(bad, good).count("The claim does not hold here") == 2
    assert verdict(good, bad, seeds=2).startswith("Whether the claim holds cannot be told from this (it takes 3 seeds")
    assert "plain hardly did better than guessing" in verdict(good, judged("plain", 80.0, 1.0, 2.0))
    much = judged("residual", 1.0, 50.0, 20.0, 20.0, 20.0)
    assert verdict(much, bad).count("holds by half here, but the residual network suffers too") == 2
    assert "but the plain network is not ruined" in verdict(good, judged("plain", 2.0, 9.0, 9.0, 9.0))
    little = judged("residual", 1.0, 50.0, 20.0, 20.0, 20.0), judged("plain", 2.0, 30.0, 30.0, 30.0)
    assert verdict(*little).count("The claim does not hold here, though it is the plain network that suffers more") == 2
    # seeds are paired by their numbers, not by their places
    cost = {0: 60.0, 1: 70.0, 2: 80.0}
    uneven = [
        one._replace(without=tuple(e._replace(error_percent=2 + cost[one.seed]) for e in one.without)) for one in bad
    ]
    later = [one._replace(seed=one.seed + 1) for one in good]
    assert "it takes 3 seeds" in verdict(later, uneven)


def test_of_many_pairs_of_blocks_some_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "PAIRS", 2)
    finding = found("identity", tmp_path, depth=20)
    for row in finding.numbers["networks"]:
        assert len(row["exchanged_error_percent"]) == 2
    assert any(note.startswith("Of the pairs of blocks, 2 were drawn") for note in finding.notes)


def test_orders_shortcuts_and_economy_say_whether_their_claims_hold(tmp_path: Path) -> None:
    from plusx.studies import economy, order, shortcuts

    orders = question("order", tmp_path / "order")
    base = [4.0, 4.2, 4.1]

    def away(points: float) -> list[float]:
        return [4.0 + points, 4.2 + points, 4.15 + points]

    for preact, norm_after, words in (
        (-1.0, 1.0, "The claim holds here. "),
        (-1.0, 0.0, "The claim holds by half here. "),
        (0.0, 0.0, "Whether the claim holds cannot be told from this. "),
        (1.0, 1.0, "The claim does not hold here. "),
    ):
        given = Outcomes(_renamed(original=base, full_preact=away(preact), bn_after_add=away(norm_after)))
        assert order.conclude(orders, given).verdict.startswith(words)
    third = _renamed(original=base, full_preact=away(-1.0), bn_after_add=away(1.0), relu_preact=away(-2.0))
    assert order.conclude(orders, Outcomes(third)).verdict.startswith("The claim holds by half here. Lowest")
    tied = Outcomes(_renamed(original=[30.0] * 3, bn_after_add=[30.0] * 3))
    assert "Lowest held-out error: original and bn_after_add, 60.00" in order.conclude(orders, tied).verdict
    asked = question("shortcuts", tmp_path / "shortcuts")
    alike = [4.1, 4.1, 4.2]
    near = outcomes(shortcut_A=base, shortcut_B=alike, shortcut_C=alike, shortcut_D=alike)
    assert shortcuts.conclude(asked, near).verdict.startswith("The claim holds here: each is within 1 point of A.")
    some = outcomes(shortcut_A=base, shortcut_B=alike, shortcut_D=alike)
    assert shortcuts.conclude(asked, some).verdict.startswith("Whether the claim holds cannot be told from this.")
    far = outcomes(shortcut_A=base, shortcut_B=away(2.0))
    assert shortcuts.conclude(asked, far).verdict.startswith("The claim does not hold here: shortcut B is 4.03 points")
    blocks = question("economy", tmp_path / "economy")
    names = list(economy._compared(blocks))
    (width,) = [name for name in names if "width" in name]
    for points, words in (
        (0.1, "The claim holds here: "),
        (2.0, "The claim does not hold here: "),
    ):
        given = Outcomes(_renamed(**{"building": base, width: away(points)}))
        assert economy.conclude(blocks, given).verdict.startswith(words)


def _renamed(**errors: list[float]) -> list[Outcome]:
    """As `outcomes`, with names as they stand."""
    return [replace(one, arm=name) for name, values in errors.items() for one in outcomes(arm=values).whole]


def test_paper_cifar_says_how_far_off_in_standard_deviations(tmp_path: Path, colours: tuple[Path, Run]) -> None:
    from plusx.studies.paper_cifar import conclude

    asked = question("paper_cifar", tmp_path, data=colours[0], depth=20)
    asked = replace(asked, recipe=preset("paper-cifar"))
    near, far, one = ([4.3, 4.45, 4.5], [5.3, 5.4, 5.5], [4.0])
    assert "within" in conclude(asked, outcomes(resnet_20=near)).verdict
    assert "worse: 10.2 standard deviations above" in conclude(asked, outcomes(resnet_20=far)).verdict
    assert "-0.75 points from the published error; it takes 3 seeds" in conclude(asked, outcomes(resnet_20=one)).verdict
    asked = replace(asked, place=replace(asked.place, dataset=replace(asked.place.dataset, classes=CIFAR10)))
    assert conclude(asked, outcomes(resnet_20=near)).notes == ()


def test_paper_cifar_runs_shortened(tmp_path: Path, colours: tuple[Path, Run]) -> None:
    finding = found("paper-cifar", tmp_path / "20", data=colours[0], epochs=1, depth=20)
    assert "published 8.75 %" in finding.verdict
    assert finding.notes[0] == "This is not the paper's training: its recipe takes 64,000 steps."
    with pytest.raises(InputError, match="Table 6: 20, 32, 44, 56, 110"):
        found("paper-cifar", tmp_path / "26", data=colours[0], depth=26)


@pytest.mark.parametrize("name", ["shortcuts", "economy"])
def test_a_study_runs_on_a_design_of_ones_own(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(cifar(8).replace(name="mine").to_toml())
    finding = found(name, tmp_path / "study", design=file)
    page = finding.folder / "study.html"
    assert page.read_text().count("<svg") == 1
    assert "mine" in (next(finding.folder.glob("runs/*/design.toml"))).read_text()


# the command


def test_the_list() -> None:
    listed = study("list")
    assert isinstance(listed, StudyList)
    assert [one.name for one in listed.studies] == list(NAMES)
    for name in NAMES:
        words = import_module(f"plusx.studies.{name.replace('-', '_')}").__doc__ or ""
        assert "Claim:" in words
        assert "Source:" in words
        assert f"Command: plusx study {name}" in words
    assert [row["name"] for row in json.loads(in_process("study", "list", "--json").stdout)["studies"]] == list(NAMES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "depth"}, "there is no such study"),
        ({"name": "signal"}, "did you mean"),
        ({"name": "order", "depths": (8,)}, "study order: it takes no depths"),
        ({"name": "order", "runs": ("x",)}, "it takes no runs"),
        ({"name": "order", "seeds": 0}, "seeds 0 is not"),
        ({"name": "order", "budget": "soon"}, "no span of time"),
        ({"name": "economy", "budget": "0.01s", "depth": 8}, "is too short for one training of each of building"),
        ({"name": "identity", "runs": (3,)}, "where a path is needed"),
        ({"name": "list", "budget": "never"}, "study list: it takes no budget"),
        ({"name": "order", "budget": "0.01s", "depth": 8}, "is too short for one training of each of original"),
        ({"name": "degradation", "depths": (20,)}, "two different ones"),
        ({"name": "degradation", "depths": (20, 21)}, "21 is not 6n"),
        ({"name": "order", "design": "resnet51"}, "resnet50"),
        ({"name": "order", "recipe": "none"}, "recipe"),
        ({"name": "order", "data": "no-such-folder"}, "no-such-folder"),
        ({"name": "lst"}, "did you mean 'list'"),
        ({"name": "list", "depth": 3}, "study list: it takes no depth"),
        ({"name": "identity", "runs": ("x",), "epochs": 3}, "study identity of runs: it takes no epochs"),
        ({"name": "identity", "runs": ("x",), "design": "resnet50"}, "study identity of runs: it takes no design"),
    ],
)
def test_wrong_options_are_one_line_and_nothing_is_trained(options: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as told:
        study(**{"out": tmp_path / "a" / "study", "show": False, **options})
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path) -> None:
    done = in_process(
        "study", "degradation", "--depths", "8,14", "--epochs", "1", "--seeds", "1", "--out", tmp_path / "study"
    )
    assert done.returncode == 0, done.stderr
    assert "Verdict: Whether the claim holds cannot be told from this: it takes 3 seeds" in " ".join(
        done.stdout.split()
    )
    assert "4 trainings (1 of plain 8, 1 of residual 8, 1 of plain 14, 1 of residual 14), about" in done.stderr
    assert "4 of 4" in done.stderr
    wrong = in_process("study", "order", "--depth", "8", "--budget", "1s", "--out", tmp_path / "less")
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert "would do" in wrong.stderr


# commands, folders, and what is damaged, lost or missing


@pytest.mark.parametrize("options", [{"epochs": 2}, {"design": True}])
def test_the_commands_on_the_page_ask_the_same_again(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "design" in options:
        (tmp_path / "mine.toml").write_text(cifar(8).replace(name="mine").to_toml())
        options = {"design": tmp_path / "mine.toml"}
    found("order", tmp_path / "study", **({"depth": 8} if "design" not in options else {}), **options)
    finding = found("order", tmp_path / "study", **({"depth": 8} if "design" not in options else {}), **options)
    training = Mock(side_effect=train)
    monkeypatch.setattr(trials_module, "train", training)
    from plusx.cli import main

    program, *words = shlex.split(finding.commands[0])
    assert program == "plusx"
    assert main(words) == 0
    assert training.call_count == 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("degradation", {"depths": (8, 14)}),
        ("order", {"depth": 8}),
        ("economy", {"depth": 8}),
        ("identity", {"depth": 8}),
    ],
)
def test_where_nothing_trains_that_is_the_verdict(
    name: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials_module, "train", Mock(side_effect=DivergedError("not finite")))
    finding = found(name, tmp_path, **options)
    assert finding.verdict.startswith("Nothing can be said")
    assert finding.failed
    assert (tmp_path / "study.html").is_file()
    for command in finding.commands[1:]:
        words = shlex.split(command)
        for option, kind in (("--design", Design), ("--recipe", Recipe)):
            assert kind.read(words[words.index(option) + 1])


@pytest.mark.parametrize("name", ["degradation", "order", "economy"])
def test_where_the_first_one_does_not_train(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[str] = []

    def training(*args: Any, **named: Any) -> Run:
        first[:] = first or [named["design"].name]
        if named["design"].name == first[0]:
            raise DivergedError("not finite")
        return train(*args, **named)

    monkeypatch.setattr(trials_module, "train", training)
    finding = found(name, tmp_path, **({"depths": (8, 14)} if name == "degradation" else {"depth": 8}))
    assert finding.verdict.startswith("Nothing can be said")


def test_damaged_results_of_the_right_kind_are_run_again(tmp_path: Path) -> None:
    first = found("order", tmp_path / "order", depth=8)
    damages: tuple[dict[str, Any], ...] = ({"epochs": [{}]}, {"failed": [1]}, {"seconds": "long"}, {"epochs": []}, {})
    for file, damage in zip(sorted(tmp_path.glob("order/results/*.json")), damages, strict=True):
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, **damage}))
    again = found("order", tmp_path / "order", depth=8)
    assert (again.numbers, again.failed) == (first.numbers, ())
    first = found("economy", tmp_path / "economy", depth=8)
    for file in tmp_path.glob("economy/measured/*.json"):
        file.write_text("{}")
    again = found("economy", tmp_path / "economy", depth=8)
    for finding in first, again:  # what equals in two things is one network, and times differ from run to run
        base, *others = [each["network"] for each in finding.numbers["networks"]]
        assert base == "building"
        assert sorted(re.findall("width|macs|params|latency", " ".join(others))) == sorted(EQUALS)
    assert all(json.loads(file.read_text()) for file in tmp_path.glob("economy/measured/*.json"))


def test_weights_that_are_gone_or_cut_are_trained_again(tmp_path: Path) -> None:
    first = found("identity", tmp_path, depth=8)
    one, two = sorted(tmp_path.glob("runs/*/model.safetensors"))
    one.write_bytes(one.read_bytes()[:-8])
    two.unlink()
    again = found("identity", tmp_path, depth=8)
    assert again.numbers == first.numbers
    assert again.verdict == first.verdict


def test_a_disk_that_refuses_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials_module, "train", Mock(side_effect=WorkError("writing x: no space left")))
    with pytest.raises(WorkError, match="no space left"):
        found("order", tmp_path, depth=8)
    monkeypatch.undo()
    assert not found("order", tmp_path, depth=8).failed


def test_a_training_that_is_done_again_can_be_stopped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run has lost is brought back by going on, or by training anew; either goes on where it was stopped."""
    options: dict[str, Any] = {"epochs": 2, "depths": 8}
    first = found("signals", tmp_path, **options)
    one, two = sorted(tmp_path.glob("runs/*"))
    kept = one / "epochs" / "epoch-0001.safetensors"
    kept.write_bytes(kept.read_bytes()[:-8])  # which only training gives again
    (two / "model.safetensors").unlink()  # which its checkpoint has
    (two / "notes.txt").write_text("mine")
    calls: list[str] = []

    def stopped(*args: Any, **named: Any) -> Run:
        calls.append("on" if "resume" in named else "anew")
        if calls.count("anew") == 1 and calls[-1] == "anew":
            train(*args, **named)
            (one / "model.safetensors").unlink()  # as if it was stopped before it wrote this
            raise KeyboardInterrupt
        return train(*args, **named)

    monkeypatch.setattr(trials_module, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        found("signals", tmp_path, **options)
    assert calls == ["on", "anew"]
    again = found("signals", tmp_path, **options)
    assert again.numbers == first.numbers
    assert calls[2:] == ["on", "on"]  # what was stopped has its checkpoint
    assert (two / "notes.txt").read_text() == "mine"


def test_other_images_are_another_study(tmp_path: Path, colours: tuple[Path, Run]) -> None:
    images = tmp_path / "images"
    shutil.copytree(colours[0], images)
    first = found("order", tmp_path / "study", depth=8, data=images)
    again = found("order", tmp_path / "study", depth=8, data=images)
    assert again.numbers == first.numbers
    some = next(folder for folder in sorted(images.rglob("*")) if folder.is_dir() and any(folder.glob("*.*")))
    picture = next(some.glob("*.*"))
    shutil.copy(picture, picture.with_name(f"another{picture.suffix}"))
    with pytest.raises(InputError, match="it holds another study"):
        found("order", tmp_path / "study", depth=8, data=images)


def test_a_folder_of_ones_own_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.html").write_text("mine")
    with pytest.raises(InputError, match="mine: it holds another study, or files that are none"):
        found("identity", tmp_path / "mine", depth=8)
    assert [file.read_text() for file in (tmp_path / "mine").iterdir()] == ["mine"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials_module, "train", Mock(side_effect=DivergedError("not finite")))
    folders = [
        study("order", design=design, **QUICK).folder  # type: ignore[union-attr]
        for design in (cifar(8).replace(name="a"), cifar(14).replace(name="b"), cifar(8).replace(name="a"))
    ]
    assert folders == [Path("studies/order"), Path("studies/order-2"), Path("studies/order")]
    for folder in folders[:2]:
        assert json.loads((folder / "study.json").read_text())["study"] == "order"
    shutil.rmtree("studies/order")
    assert study("order", design=cifar(14).replace(name="b"), **QUICK).folder == Path("studies/order-2")  # type: ignore[union-attr]
    assert not list(tmp_path.glob("studies/*/locks/*"))
    assert not list(tmp_path.glob("studies/*/processes/*"))


def test_a_folder_is_claimed_by_one_question(tmp_path: Path) -> None:
    """By two processes that ask the same, too; whatever one of them that is refused takes away."""
    out, asked = tmp_path / "a" / "study", {"study": "order"}

    def refused(folder: Path, before: Callable[[], object] = lambda: None) -> None:
        with claimed(folder, "order", asked) as found:
            assert found == folder
            before()
            raise InputError("no budget")

    with claimed(out, "order", asked):
        with pytest.raises(InputError, match="no budget"):
            refused(out)
        assert (out / "study.json").exists()
        with pytest.raises(InputError, match="it holds another study"), claimed(out, "order", {"study": "other"}):
            pass

    def another() -> None:
        with claimed(out, "order", asked):
            (out / "study.json").unlink()  # as one does that is refused
            (out / "study.html").touch()
        assert (out / "study.json").exists()

    with pytest.raises(InputError, match="no budget"):
        refused(out, another)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / ".git").touch()
    with pytest.raises(InputError, match="no budget"):
        refused(mine, (mine / "measured").mkdir)
    assert [file.name for file in mine.iterdir()] == [".git"]
    with pytest.raises(InputError, match="that is a file"):
        refused(mine / ".git")


def test_what_is_not_finite_is_no_number() -> None:
    for bad in (math.nan, math.inf):
        spread = Spread.of([bad, 1.0, 2.0])
        assert (spread.text(), spread.gap_text(), spread.p_value()) == ("·", "·", 1.0)
    gone = [[signals.Signal(1.0, math.nan, math.nan), signals.Signal(1.0, 1.0, 1.0)]] * 3
    row, numbers = signals._told("plain 8, new", gone)
    assert row[3:6] == ("·", "·", "·")
    assert signals._vanished(Spread.of([math.nan] * 3)) is None
    assert numbers["likeness_at_first_block"]["n"] == 3


def test_arms_without_a_seed_in_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plusx.studies.order import conclude

    monkeypatch.setattr(trials_module, "train", Mock(side_effect=DivergedError("not finite")))
    whole = _renamed(original=[1.0], full_preact=[2.0])
    given = Outcomes([whole[0], replace(whole[1], seed=1)])
    told = found("order", tmp_path / "a", depth=8)
    conclusion = conclude(question("order", tmp_path / "b"), given)
    assert conclusion.tables[0].rows[1][3] == "·"
    plain = replace(told, numbers=conclusion.numbers, verdict=conclusion.verdict).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["numbers"]["arms"][1]["points_from_original"]["mean"] is None


def test_small_gradients_are_as_like_as_large_ones() -> None:
    one, two = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    like = [signals._likeness(size * torch.cat([one, one + 0.5 * two])) for size in (1.0, 1e-30, 1e-200)]
    assert like == pytest.approx([like[0]] * 3)
    assert 0.7 < like[0] < 1
    assert math.isnan(signals._likeness(torch.zeros(2, 3, 5, 5)))
    assert signals._power(310) == signals._power(math.nan) == "·"


@pytest.mark.parametrize(
    ("epochs", "measured"), [(1, [1]), (3, [1, 2, 3]), (7, [2, 3, 5, 7]), (11, [2, 6, 8, 11]), (20, [5, 10, 15, 20])]
)
def test_trained_networks_are_measured_near_each_quarter_and_at_the_end(
    epochs: int, measured: list[int], tmp_path: Path
) -> None:
    every = max(1, epochs // signals.QUARTERS)
    (tmp_path / "epochs").mkdir()
    for epoch in range(every, epochs + 1, every):
        (tmp_path / "epochs" / f"epoch-{epoch:04}.safetensors").touch()
    record = {"train_accuracy_percent": 90.0, "held_out_accuracy_percent": 90.0}
    assert signals._moments(Outcomes([Outcome("plain 8", 0, tmp_path, (record,) * epochs, 1.0)])) == measured


def test_weights_are_kept_from_quarter_to_quarter(tmp_path: Path) -> None:
    asked = question("signals", tmp_path)
    for epochs, quarter in ((20, 5), (7, 1), (1, 1)):
        arms = signals.arms(replace(asked, recipe=preset("digits").replace(epochs=epochs)))
        assert [(one.name, one.keep_every) for one in arms] == [("plain 56", quarter), ("residual 56", quarter)]
    (one,) = {arm.keep_every for arm in signals.arms(replace(asked, recipe=preset("paper-cifar")))}
    plan = make_plan(asked.place.dataset, cifar(56), preset("paper-cifar"), asked.place.here, as_is=True)
    assert one == plan.epochs // 4


def test_one_path_and_one_depth_are_several(digits_run: Run, tmp_path: Path) -> None:
    finding = study("identity", str(digits_run.folder), out=tmp_path / "a", show=False)
    assert isinstance(finding, Finding)
    with pytest.raises(InputError, match="two different ones"):
        study("degradation", depths=20, out=tmp_path / "b", show=False)


def test_what_is_not_cifar_is_not_compared_in_silence(tmp_path: Path, colours: tuple[Path, Run]) -> None:
    from plusx.studies.paper_cifar import conclude

    asked = replace(question("paper_cifar", tmp_path, data=colours[0], depth=110), recipe=preset("paper-cifar"))
    conclusion = conclude(asked, outcomes(resnet_110=[3.25, 3.3, 3.35]))
    assert "published 6.61 %" in conclusion.verdict
    assert conclusion.notes == ("These are not the paper's images: the published error is that of CIFAR-10.",)
