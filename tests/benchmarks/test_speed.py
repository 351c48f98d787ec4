"""The speed benchmark at toy size: what is said to be the same is the same, and every figure is there. Times are not
judged here."""

from __future__ import annotations

import json
import multiprocessing
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.speed.__main__ import speed
from benchmarks.speed.contender import Contender, UnavailableError
from benchmarks.speed.contenders import CONTENDERS, GROWTH, SAME, TARGETS, Target
from benchmarks.speed.measure import TOLERANCES, agreement, compare, hire
from benchmarks.speed.profiling import costs
from benchmarks.speed.ratios import against_targets
from benchmarks.speed.report import tell
from benchmarks.speed.setting import LENGTHS, Setting
from tests.forked import SERVER

TOY = Setting(prompt=5, response=7, pairs=2, vocabulary=97, hidden=32, layers=2)

pytestmark = [
    pytest.mark.outside,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
]


def built(name: str) -> Contender:
    try:
        return CONTENDERS[name].build(TOY)
    except UnavailableError as reason:
        pytest.skip(str(reason))


def taken(contender: Contender, batch: int) -> tuple[float, dict[str, Tensor]]:
    """A step's loss and gradients."""
    contender.clear()
    loss = contender.step(batch)
    return loss, {name: weight.grad for name, weight in contender.parameters.items() if weight.grad is not None}


@pytest.mark.parametrize(("one", "other"), SAME)
def test_contenders_that_compute_the_same_agree(one: str, other: str) -> None:
    contenders = [built(name) for name in (one, other)]
    for batch in range(2):
        (loss, gradients), (other_loss, others) = (taken(contender, batch) for contender in contenders)
        assert agreement(loss, other_loss, gradients, others)["agree"]
        assert all(float(gradient.abs().max()) > 0 for gradient in others.values()), "a gradient of zero shows nothing"


def test_agreement_notices_a_small_difference() -> None:
    gradients = {"a": torch.ones(4), "b": torch.ones(2)}
    moved = gradients | {"b": torch.tensor([1.0, 1.001])}
    assert agreement(1.0, 1.0, gradients, gradients)["agree"]
    assert not agreement(1.0, 1.0, moved, gradients)["agree"]
    assert not agreement(1.001, 1.0, gradients, gradients)["agree"]
    with pytest.raises(ValueError, match=r"different parameters: \['b'\]"):
        agreement(1.0, 1.0, gradients, {"a": torch.ones(4)})


def test_the_floor_gives_gradients_to_the_whole_policy() -> None:
    contender = built("floor")
    _, gradients = taken(contender, 0)
    assert gradients.keys() == contender.parameters.keys()


def test_rounds_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two contenders, measured and reported as the whole benchmark is; a third is left out for its memory."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: SERVER)  # below, one starts anew
    entries = {name: CONTENDERS[name] for name in ("sparsepo", "naive")}
    with ExitStack() as stack:
        workers = hire(stack, entries)
        result = compare(workers, entries, TOY, rounds=3, same=SAME)
        small = compare(workers, entries, TOY, rounds=1, memory_limit=0)
    assert [pair["agree"] for pair in result["agreements"]] == [True]
    for run in result["runs"].values():
        assert len(run["steps"]) == 3
        assert all(step["seconds"] > 0 and step["cpu_seconds"] > 0 for step in run["steps"])
        assert all(0 < step["peak_mib"] - step["added_mib"] == pytest.approx(run["ready_mib"]) for step in run["steps"])
        assert run["steps"][0]["loss"] == run["steps"][2]["loss"], "batches are taken in turn"
    assert small["left_out"].keys() == {"naive"}

    target = Target("sparsepo", "naive", None, time=1e9, memory=0)
    facts = {
        "date": "2026-01-01",
        "command": "",
        "hardware": "",
        "versions": {},
        "model": {"hidden": TOY.hidden, "layers": TOY.layers, "parameters": 1},
        "contenders": {name: entry.words for name, entry in entries.items()},
        "shapes": {"toy": result},
        "growth": {"vocabulary": [{"at": TOY.vocabulary} | small]},
        "ratios": against_targets({"toy": result}, [target]),
    }
    page = tmp_path / "page.md"
    page.write_text("## What it shows\n\nBy hand.\n", encoding="utf-8")
    tell(json.loads(json.dumps(facts)), page)
    text = page.read_text(encoding="utf-8")
    assert text.endswith("By hand.\n")
    assert "1000000000.00: met" in text
    assert "0.00: not met" in text


def test_a_failing_process_is_named() -> None:
    with ExitStack() as stack:
        (worker,) = hire(stack, ["floor"]).values()
        with pytest.raises(AttributeError):
            worker.step(0)  # nothing was prepared
        worker._process.terminate()
        with pytest.raises(RuntimeError, match="'floor' ended during prepare"):
            worker.prepare(TOY)


def test_the_profile_names_operations() -> None:
    assert "aten::mm" in costs(CONTENDERS["floor"], TOY)


def test_tables_name_contenders_and_shapes_that_exist() -> None:
    named = {name for pair in SAME for name in pair} | set(GROWTH)
    named |= {name for target in TARGETS for name in (target.contender, target.against)}
    assert named <= CONTENDERS.keys()
    assert {target.shape for target in TARGETS} <= {None, *LENGTHS}


def test_a_card_is_measured_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here, which the next test measures")
    with pytest.raises(SystemExit, match=r"--device cuda: torch sees no CUDA device here; .* is measured$"):
        speed(out=tmp_path, device="cuda")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_contenders_agree_on_a_card(dtype: str) -> None:
    names = ("dpo", "sparsepo", "naive", "floor")
    with ExitStack() as stack:
        workers = hire(stack, names)
        result = compare(workers, CONTENDERS, replace(TOY, device="cuda", dtype=dtype), rounds=1, same=SAME)
    assert [pair["agree"] for pair in result["agreements"]] == [True]
    assert all(run["steps"][0]["added_mib"] > 0 for run in result["runs"].values())


def test_contenders_agree_in_bfloat16() -> None:
    results = [
        taken(CONTENDERS[name].build(replace(TOY, dtype="bfloat16")), 0) for name in ("sparsepo", "naive", "floor")
    ]
    for _, gradients in results:
        policy = {gradient.dtype for name, gradient in gradients.items() if not name.startswith("objective")}
        assert policy == {torch.bfloat16}
    (loss, gradients), (other_loss, others), _ = results
    assert agreement(loss, other_loss, gradients, others, tolerance=TOLERANCES["bfloat16"])["agree"]
