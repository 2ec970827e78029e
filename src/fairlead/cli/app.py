"""``fairlead app``"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class App:
    """Open the playground: settings side by side in a browser, on this machine.

    Two guidances from one noise, images that form step by step, what each method did, scales in a row, classes mixed,
    exact distributions in two dimensions, and the sweeps and searches that were measured. Ctrl-C ends it.

    Example: fairlead app demo
    """

    places: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Training runs, RUN@step500, pipelines, folders of sweeps, or folders that hold such; nothing opened is outside of
    them. None: two dimensions only."""
    host: str = "127.0.0.1"
    """Address to serve on. Any other than this machine's own is behind a password: FAIRLEAD_PASSWORD, or one that is
    printed."""
    port: int = 7860
    """0 takes any that is free."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        from fairlead.app.serving import USER, serve

        def ready(address: str, password: str) -> None:
            print(f"playground: {address}  (Ctrl-C ends it)", flush=True)
            if password:
                print(f"user {USER}, password {password}", flush=True)

        serve(self.places, host=self.host, port=self.port, device=self.device, on_ready=ready)
