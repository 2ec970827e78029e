"""Blocks closed in any order, and several threads on one pipeline or one network: each call as if it were alone."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.errors import UsageError
from tests.pipelines import made
from tests.pipelines.families import FAMILIES, apart, run
from tests.pipelines.test_block import traces


def guided(scale: float) -> Callable[[Any, dict[str, Any]], Tensor]:
    return lambda pipe, arguments: run(pipe, arguments, 2, guidance_scale=scale)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_blocks_are_closed_in_any_order(order: tuple[int, ...]) -> None:
    """A call is guided by the last of those that are open."""
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    own = [guided(scale)(pipe, arguments) for scale in (2.0, 4.0, 7.0)]
    plain = run(pipe, arguments, 2)
    before = traces(pipe)
    blocks = [fl.attach(pipe, f"cfg({scale})") for scale in (2, 4, 7)]
    for block in blocks:
        block.__enter__()
    still = [0, 1, 2]
    for which in order:
        assert apart(run(pipe, arguments, 2), own[still[-1]]) < 1e-4
        blocks[which].__exit__(None, None, None)
        still.remove(which)
    assert torch.equal(run(pipe, arguments, 2), plain)
    assert traces(pipe) == before


def test_one_block_is_opened_and_the_other_closed_by_an_error() -> None:
    case = FAMILIES["sd controlnet"]
    pipe, arguments = case.make(), case.arguments(1)
    own, plain = guided(3.0)(pipe, arguments), run(pipe, arguments, 2)
    before, outer = traces(pipe), ExitStack()
    with pytest.raises(KeyboardInterrupt), fl.attach(pipe, "cfg(2)"):
        _interrupted(lambda: outer.enter_context(fl.attach(pipe, "cfg(3)")))
    assert apart(run(pipe, arguments, 2), own) < 1e-4
    with pytest.raises(UsageError), fl.attach(pipe, 'auto(2, weak="nowhere")'):
        pass
    assert apart(run(pipe, arguments, 2), own) < 1e-4
    outer.close()
    assert torch.equal(run(pipe, arguments, 2), plain)
    assert traces(pipe) == before


def _interrupted(work: Callable[[], object]) -> None:
    work()
    raise KeyboardInterrupt


def test_a_network_replaced_between_two_blocks() -> None:
    pipe, other, arguments = made.sd(), made.unet(seed=31), FAMILIES["sd"].arguments(1)
    first = fl.attach(pipe, "cfg(2)")
    first.__enter__()
    pipe.unet = other
    second = fl.attach(pipe, "cfg(3)")
    second.__enter__()
    own = guided(3.0)(made.sd(network=other), arguments)
    assert apart(run(pipe, arguments, 2), own) < 1e-4
    second.__exit__(None, None, None)
    with pytest.raises(UsageError, match="replaced inside the block"):
        run(pipe, arguments, 2)
    first.__exit__(None, None, None)
    assert vars(pipe)["unet"] is other
    assert type(pipe).__call__ is type(made.sd()).__call__


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [job.result() for job in [pool.submit(job) for job in jobs]]


def test_three_threads_with_a_block_each_on_one_pipeline() -> None:
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    scales = (2.0, 4.0, 7.0)
    own = [guided(scale)(pipe, arguments) for scale in scales]
    plain = run(pipe, arguments, 2)
    before = traces(pipe)
    opened, closed = threading.Barrier(3), threading.Barrier(3)

    def job(scale: float) -> list[Tensor]:
        with fl.attach(pipe, f"cfg({scale})"):
            opened.wait(60)
            found = [run_seeded(pipe, arguments) for _ in range(2)]
            closed.wait(60)
        return found

    for latents, wanted in zip(at_once(*(lambda s=s: job(s) for s in scales)), own, strict=True):
        assert all(apart(one, wanted) < 1e-4 for one in latents)
    assert torch.equal(run(pipe, arguments, 2), plain)
    assert traces(pipe) == before


def run_seeded(pipe: Any, arguments: dict[str, Any]) -> Tensor:
    """As ``run``, without torch's own seed, which threads share."""
    answer: Tensor = pipe(generator=made.seeded(3), num_inference_steps=2, **arguments)[0]
    return answer


def test_a_call_from_a_thread_that_has_no_block() -> None:
    """It is guided by the only one who guides; by nobody where two do."""
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    own = guided(3.0)(pipe, arguments)
    with fl.attach(pipe, "cfg(3)"):
        assert apart(at_once(lambda: run_seeded(pipe, arguments))[0], own) < 1e-4
        other = fl.attach(pipe, "cfg(5)")
        at_once(lambda: other.__enter__())
        with pytest.raises(UsageError, match="2 threads guide this pipeline"):
            at_once(lambda: run_seeded(pipe, arguments))
        assert apart(run_seeded(pipe, arguments), own) < 1e-4
        at_once(lambda: other.__exit__(None, None, None))
    assert torch.equal(guided(3.0)(pipe, arguments), own)


def test_tasks_have_blocks_of_their_own() -> None:
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    own = {scale: guided(scale)(pipe, arguments) for scale in (2.0, 5.0)}

    async def task(scale: float) -> bool:
        with fl.attach(pipe, f"cfg({scale})"):
            await asyncio.sleep(0.01)
            found = apart(run(pipe, arguments, 2), own[scale]) < 1e-4
            await asyncio.sleep(0.01 * scale)
        return found

    async def both() -> list[bool]:
        return list(await asyncio.gather(task(2.0), task(5.0)))

    assert asyncio.run(both()) == [True, True]
    assert type(pipe).__call__ is type(made.sd()).__call__


def test_threads_that_perturb_one_network_do_not_see_each_other() -> None:
    """Different batches, different perturbations, recorded attention, and plain calls, on one network of one pipeline
    each; with the hooks of one in place while another calls."""
    case = FAMILIES["sd"]
    network = made.unet()
    texts = ("pag(2)", "seg(2) + sag(0.5)", "slg(1)", None)
    pipes = [made.sd(network=network) for _ in texts]
    for pipe in pipes:  # fast tokenizers of transformers are not for two threads
        pipe.tokenizer = copy.deepcopy(pipe.tokenizer)
    calls = [case.arguments(n) for n in (1, 2, 3, 2)]

    def job(pipe: Any, text: str | None, arguments: dict[str, Any]) -> Tensor:
        if text is None:
            return run_seeded(pipe, arguments)
        with fl.attach(pipe, text):
            return run_seeded(pipe, arguments)

    jobs = [lambda p=p, t=t, a=a: job(p, t, a) for p, t, a in zip(pipes, texts, calls, strict=True)]
    alone = [one() for one in jobs]
    before = traces(pipes[0])
    layer = network.mid_block.attentions[0].transformer_blocks[0].attn1
    meeting = threading.Barrier(len(jobs), timeout=60)
    handle = layer.register_forward_pre_hook(lambda *_: _met(meeting))  # all are inside the layer at once
    together = at_once(*(_times(one, meeting) for one in jobs))
    handle.remove()
    for latents, wanted in zip(together, alone, strict=True):
        assert torch.equal(latents, wanted)
    assert traces(pipes[0]) == before


def _met(meeting: threading.Barrier) -> None:
    with suppress(threading.BrokenBarrierError):
        meeting.wait()


def _times(job: Callable[[], Tensor], meeting: threading.Barrier) -> Callable[[], Tensor]:
    """The job, after which the others need not wait for it."""

    def work() -> Tensor:
        try:
            return job()
        finally:
            meeting.abort()

    return work


def test_models_sampled_in_threads() -> None:
    model = fl.load(made.sd())
    texts = ("cfg(3) + pag(2)", "cfg(3)", "seg(2)", "slg(1)")

    def job(text: str) -> Tensor:
        return fl.sample(model, "red", guidance=text, n=2, steps=2).x0

    alone = [job(text) for text in texts]
    for latents, wanted in zip(at_once(*(lambda t=t: job(t) for t in texts)), alone, strict=True):
        assert torch.equal(latents, wanted)
