"""How a button runs something: checked at once, then in line with other pages, watched until it ends or is stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from fairlead.app import tiles
from fairlead.app.fields import QUIET
from fairlead.app.work import Desks, Job


class Runner:
    """One run at a time on this machine, one at a time in each page.

    Attributes:
        files: a folder of its own, in which every page has one for what can be downloaded.
    """

    def __init__(self, files: Path) -> None:
        self.files, self.desks = files, Desks()

    def on(
        self,
        event: Callable[..., Any],
        begin: Callable[..., Any],
        inputs: Sequence[Any],
        notes: Sequence[Any],
        watch: Callable[..., Any],
        outputs: Sequence[Any],
        more: Sequence[Any] = (),
    ) -> None:
        """Let an event check what it is asked for (``begin``, which gets values as the browser has them and says in
        ``notes`` what is wrong), and then show how it goes; ``more`` are inputs of ``watch``."""

        def show(request: gr.Request, *given: Any) -> Iterator[Any]:
            shown = False
            for values in watch(request, *given):
                shown = True
                yield values
            if not shown:  # without a value gradio would empty the outputs
                yield gr.skip() if len(outputs) == 1 else (gr.skip(),) * len(outputs)

        began = event(begin, inputs, notes, trigger_mode="multiple", preprocess=False, **QUIET)
        began.then(
            show,
            [*more],
            outputs,
            show_progress="hidden",
            api_visibility="private",
            concurrency_limit=1,
            concurrency_id="sampling",
            trigger_mode="multiple",
        )

    def begin(self, request: gr.Request, make: Callable[[], Iterator[Any]]) -> None:
        """What this page wants to run from now on, in place of anything before."""
        self.desks.begin(page_of(request), Job(make))

    def watch(self, request: gr.Request) -> Iterator[Any]:
        """Run what the page asked for last, unless it ran already or was stopped before its turn."""
        work = self.desks.take(page_of(request))
        if work is not None:
            yield from work

    def stop(self, request: gr.Request) -> str:
        self.cancel(request)
        return tiles.line("stopped")

    def cancel(self, request: gr.Request) -> None:
        self.desks.stop(page_of(request))

    def keep(self, request: gr.Request, name: str, thing: Any) -> None:
        """See :meth:`Desks.keep`."""
        self.desks.keep(page_of(request), name, thing)

    def kept(self, request: gr.Request, name: str) -> Any:
        return self.desks.kept(page_of(request), name)

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.desks.leave(page_of(request))
        shutil.rmtree(self.files / page_of(request), ignore_errors=True)

    def folder(self, request: gr.Request) -> Path:
        folder = self.files / page_of(request)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def page_of(request: gr.Request) -> str:
    """The name of a browser tab's page, as gradio gives it; only letters and digits, since it names a folder."""
    return "".join(char for char in str(request.session_hash) if char.isalnum()) or "page"
