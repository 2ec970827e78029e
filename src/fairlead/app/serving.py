"""The server of the playground: on this machine alone unless a host is named, and then behind a password."""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fairlead.app.library import Library, Limits
from fairlead.core.errors import UsageError, shortened

LOCAL = ("127.0.0.1", "localhost")
USER = "fairlead"
PAGES = 16
"""Pages that gradio remembers anything of. The playground keeps what it needs itself, and drops it with the page."""
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'self'"
)
"""What the browser may fetch: nothing of others."""


def serve(
    places: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    limits: Limits | None = None,
    on_ready: Callable[[str, str], object] = lambda address, password: None,
) -> None:
    """Open the playground and wait until the process is interrupted.

    Args:
        places: see :meth:`Library.of`.
        host: another than this machine's own address is served behind a password: that of the environment variable
            FAIRLEAD_PASSWORD, or one that is made up.
        port: 0 takes any that is free.
        on_ready: called with the address and the password, "" where there is none.

    Raises:
        UsageError: if gradio is not installed, for what cannot be opened, and for a port that is taken.
    """
    with serving(places, host=host, port=port, device=device, limits=limits) as (address, password):
        on_ready(address, password)
        threading.Event().wait()


@contextmanager
def serving(
    places: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    limits: Limits | None = None,
) -> Iterator[tuple[str, str]]:
    """The playground while the block lasts: its address and password. See :func:`serve`."""
    if not 0 <= port < 65536:
        raise UsageError(f"port: expected 0 to 65535, got {port}")
    library = Library.of(places, limits, device)
    if find_spec("gradio") is None:
        raise UsageError("the playground needs gradio, which is not installed; pip install 'fairlead[app]'")
    with (
        tempfile.TemporaryDirectory(prefix="fairlead-app-") as folder,
        _set(folder),
        _launched(library, Path(folder), host, port) as found,
    ):
        yield found


@contextmanager
def _launched(library: Library, folder: Path, host: str, port: int) -> Iterator[tuple[str, str]]:
    from fairlead.app.window import CSS, LIGHT, theme, window

    local = host in LOCAL
    password = "" if local else os.environ.get("FAIRLEAD_PASSWORD") or secrets.token_urlsafe(12)
    if not local and len(password) < 8:
        raise UsageError("FAIRLEAD_PASSWORD: expected at least 8 characters, since others reach this host")
    page = window(library, folder / "pages")
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port or _free_port(host),
            auth=None if local else (USER, password),
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=False,
            max_file_size="1kb",
            state_session_capacity=PAGES,
            run_history=False,
            footer_links=[],
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            theme=theme(),
            css=CSS,
            js=LIGHT,
            app_kwargs={"middleware": _middleware(host if local else "*"), "docs_url": None, "redoc_url": None},
        )
    except OSError as error:
        raise UsageError(f"cannot serve on {shortened(host)} port {port}: {error}; choose another --port") from error
    try:
        yield address, password
    finally:
        page.close(verbose=False)


@contextmanager
def _set(folder: str) -> Iterator[None]:
    """What gradio reads from the environment: no telemetry, and files in a folder that goes with the server."""
    wanted = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _middleware(host: str) -> list[Any]:
    """A policy for the browser with every answer; and where only this machine is meant, requests by another name, as of
    a page that rebinds its own to 127.0.0.1, are refused."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    found = [Middleware(_Policy)]
    return found if host == "*" else [*found, Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL])]


class _Policy:
    """ASGI: the headers that keep the browser from fetching anything elsewhere and from saying where it was."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", _POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self._app(scope, receive, with_policy)


def _free_port(host: str) -> int:
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])
