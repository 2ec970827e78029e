"""``fairlead app``"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class App:
    """Open the playground: settings side by side in a browser, on this machine.

    It compares two guidances from the same noise, shows images as they form and what each method did, draws one image
    per scale, mixes classes, shows exact distributions in two dimensions, and opens sweeps and searches. Ctrl-C ends
    it.

    Example: fairlead app demo
    """

    places: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Training runs, RUN@step500, pipelines, folders of sweeps, or folders that contain these. Nothing else can be
    opened. Default: only the tab "Two dimensions"."""
    host: str = "127.0.0.1"
    """Address to serve on. Any other than this machine's own needs a password: FAIRLEAD_PASSWORD, or one that is
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
