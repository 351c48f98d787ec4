"""Blocks of the vocabulary dealt out to threads: who takes what, and what stays as it was around it."""

from __future__ import annotations

import os
from threading import Barrier, Thread, current_thread
from threading import enumerate as enumerate_threads

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from prefopt.divergences import ForwardKL
from prefopt.scoring import BufferPool
from prefopt.scoring.lm_head import online_softmax, worker_threads
from prefopt.scoring.lm_head.vocabulary_blocks import LabelEntries, VocabularyBlocks, block_rows, workers_for
from prefopt.scoring.lm_head.worker_threads import OrderedSum, Workers
from tests.scoring.token_cases import HIDDEN, TOKENS, VOCABULARY, fused, gradients, loss_of, setting

THREADS = 6
TWO = Workers(2, 3)


@pytest.fixture
def threads():
    """So many threads of torch's, where the tests have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield THREADS
    torch.set_num_threads(before)


def threads_of_a_new_thread():
    numbers = []
    thread = Thread(target=lambda: numbers.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return numbers[0]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_workers_share_the_threads_and_leave_their_number_alone(count):
    workers, numbers, together = [None] * count, [None] * count, Barrier(count, timeout=60)

    def work(index):
        together.wait()
        torch.zeros(100_000).exp_()  # after which torch has looked at the number
        workers[index], numbers[index] = current_thread().ident, torch.get_num_threads()

    team = Workers.sharing_threads(count)
    with team.beside():
        assert torch.get_num_threads() == (THREADS if count == 1 else 1)
        team.run(work)
    assert len(set(workers)) == count
    assert (current_thread().ident in workers) == (count == 1)
    assert numbers == [THREADS // count] * count
    assert torch.get_num_threads() == THREADS
    assert threads_of_a_new_thread() == THREADS


@pytest.mark.usefixtures("threads")
def test_what_a_worker_raises_is_raised_and_the_number_is_set_back():
    def work(index):
        if index == 1:
            raise ValueError("of the second")

    with pytest.raises(ValueError, match="of the second"), TWO.beside():
        TWO.run(work)
    assert torch.get_num_threads() == THREADS
    assert threads_of_a_new_thread() == THREADS


@pytest.mark.usefixtures("threads")
def test_the_threads_stay():
    for _ in range(20):
        with TWO.beside():
            TWO.run(lambda _: torch.zeros(8).exp_())
    workers = [thread for thread in enumerate_threads() if thread.name.startswith("prefopt-blocks")]
    assert 1 <= len(workers) <= worker_threads._MOST_WORKERS


def test_where_no_thread_can_be_started_this_one_takes_the_work(monkeypatch):
    class Exiting:
        def submit(self, work):
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(worker_threads, "_pool", Exiting)
    taken = []
    TWO.run(lambda worker: taken.append((worker, current_thread().ident)))
    assert taken == [(0, current_thread().ident), (1, current_thread().ident)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own():
    done = []
    TWO.run(done.append)
    if (child := os.fork()) == 0:
        TWO.run(done.append)
        os._exit(len(done))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("inference", [False, True])
def test_workers_take_no_gradients_and_are_in_the_inference_mode_of_the_caller(inference):
    modes = [None, None]

    def work(index):
        modes[index] = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    with torch.inference_mode(inference):
        TWO.run(work)
    assert modes == [(False, inference)] * 2


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("rows", [64, 1024, 4096])
@pytest.mark.parametrize("vocabulary", [1, 64, 512, 513, 5000, 50_257, 151_936])
def test_every_block_is_taken_once(vocabulary, rows, workers):
    blocks = VocabularyBlocks(vocabulary, rows, Workers(workers, 1))
    bounds = [(block.start, block.stop) for block in blocks.slices]
    assert [0, *(stop for _, stop in bounds)] == [*(start for start, _ in bounds), vocabulary]
    assert min(blocks.sizes) > 0
    assert max(blocks.sizes) == blocks.rows <= rows
    assert all(block.start % 64 == 0 for block in blocks.slices)
    assert len(blocks.slices) % workers == 0 or blocks.rows <= 64  # as many for each, where there are as many
    taken = []
    blocks.run(lambda index, worker: taken.append((index, worker)))
    assert sorted(index for index, _ in taken) == list(range(len(blocks.slices)))
    assert {worker for _, worker in taken} <= set(range(workers))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_sum_is_rounded_as_in_order(order):
    values = [torch.tensor([1e8]), torch.tensor([-1e8]), torch.tensor([3.0])]
    total = OrderedSum(torch.tensor([1.0]))
    for index in order:
        total.add(index, values[index])
    assert total.total.tolist() == [3.0]  # the 1 is lost to 1e8, the 3 is not


@pytest.mark.parametrize("workers", [1, 3])
def test_labels_are_read_in_their_blocks(workers):
    labels, logits = torch.randint(513, (40,)), torch.randn(2, 513, 40)
    blocks = VocabularyBlocks(513, 64, Workers(workers, 1))
    entries = LabelEntries(labels, blocks)
    of_blocks = [logits[:, block][:, *entries[index]] for index, block in enumerate(blocks.slices)]
    at_labels = logits[:, labels, torch.arange(40)]
    assert torch.equal(entries.by_token(of_blocks), at_labels)
    assert all(map(torch.equal, entries.by_block(at_labels[0]), [values[0] for values in of_blocks]))


@pytest.mark.parametrize(
    ("available", "vocabulary", "rows", "workers"),
    [(1, 50_257, 1024, 1), (2, 50_257, 1024, 2), (2, 4095, 1024, 1), (4, 5000, 1024, 2), (64, 151_936, 1024, 16)],
)
def test_every_worker_has_two_blocks_or_there_is_one(available, vocabulary, rows, workers, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: available)
    assert workers_for(vocabulary, rows) == Workers(workers, max(1, available // workers))


def test_a_block_takes_half_a_mebibyte():
    assert block_rows(128, torch.float32) == block_rows(128, torch.bfloat16) == 1024
    assert block_rows(128, torch.float64) == 512
    assert block_rows(10**6, torch.float32) == 64


@pytest.fixture
def several_blocks(monkeypatch):
    monkeypatch.setattr(online_softmax, "block_rows", lambda *_: 4)


@pytest.mark.usefixtures("threads", "several_blocks")
def test_two_steps_are_equal_bit_by_bit():
    at, pool = setting(bias=True, softcap=2.0), BufferPool()
    first, *others = [
        gradients(at, loss_of(at, fused(at, ForwardKL(), budget=budget, buffers=pool, log_collision=True)))
        for budget in (2**30, 0) * 5
    ]
    for other in others:
        assert all(torch.equal(*pair) for pair in zip(first, other, strict=True))


@pytest.mark.usefixtures("threads", "several_blocks")
def test_a_counter_of_operations_sees_those_of_all_blocks():
    flops = []
    for threads in (1, THREADS):
        torch.set_num_threads(threads)
        at = setting()
        with FlopCounterMode(display=False) as counter:
            gradients(at, loss_of(at, fused(at, ForwardKL())))
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] >= 3 * 2 * TOKENS * HIDDEN * VOCABULARY  # it knows no product that is added in place


@pytest.mark.usefixtures("several_blocks")
def test_another_default_device_changes_nothing():
    at = setting()
    with torch.device("meta"):
        actual = fused(at, ForwardKL())
    assert all(map(torch.equal, actual[:3], fused(at, ForwardKL())[:3]))
