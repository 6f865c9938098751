"""What a run's page shows: tables, pictures, text, links, progress.

Telling is not doing: a server that does not answer costs a picture, never a night. So everything is posted by one
thread of its own, in order, again and again for some minutes, while the work goes on.
"""

from __future__ import annotations

import contextvars
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import artifacts
from prefect.exceptions import PrefectException

_PATIENCE_SECONDS = 300.0
"""How long one post is tried: longer than a server takes to restart and migrate."""
_PAUSE_SECONDS = 2.0
_WAIT_SECONDS = 10.0
"""How long a step waits for its own post before it goes on without."""

_posts = ThreadPoolExecutor(max_workers=1, thread_name_prefix="run-page")


def table(key: str, description: str, rows: Sequence[dict[str, Any]]) -> None:
    """A table, one dictionary a row."""
    _post(lambda: artifacts.create_table_artifact(key=key, description=description, table=list(rows)))


def text(key: str, description: str, markdown: str) -> None:
    """Markdown."""
    _post(lambda: artifacts.create_markdown_artifact(key=key, description=description, markdown=markdown))


def picture(key: str, description: str, address: str) -> None:
    """A picture, by its address; a data: address shows without another request."""
    _post(lambda: artifacts.create_image_artifact(key=key, description=description, image_url=address))


def link(key: str, description: str, address: str) -> None:
    """A link."""
    _post(lambda: artifacts.create_link_artifact(key=key, description=description, link=address))


class Bar:
    """A progress bar on the run's page; a move that finds the last one still on its way is dropped."""

    def __init__(self, what: str) -> None:
        """Show an empty bar."""
        self._identity = _post(lambda: artifacts.create_progress_artifact(progress=0.0, description=what))
        self._last: Future[Any] = self._identity

    def move(self, percent: float, described: str | None = None) -> None:
        """Show `percent`, 0 to 100, and another description where one is given, without waiting."""
        if self._last.done():
            self._last = _submit(lambda: self._update(percent, described))

    def finish(self) -> None:
        """Show a full bar."""
        _wait(_submit(lambda: self._update(100.0)))

    def _update(self, percent: float, described: str | None = None) -> None:
        identity = self._identity.result(timeout=0)
        if identity is not None:
            artifacts.update_progress_artifact(cast("UUID", identity), percent, description=described)


def _post(what: Callable[[], Any]) -> Future[Any]:
    """Post and wait a little, so that a page is whole when its step is; not for ever."""
    return _wait(_submit(what))


def _submit(what: Callable[[], Any]) -> Future[Any]:
    return _posts.submit(contextvars.copy_context().run, _patiently, what)


def _wait(posted: Future[Any]) -> Future[Any]:
    try:
        posted.result(_WAIT_SECONDS)
    except NotYet:
        logging.getLogger("medgan.page").warning("the server is slow: the run's page will be filled later")
    return posted


def _patiently(what: Callable[[], Any]) -> Any:
    """The answer of the server, or None when it gave none in time; never an error."""
    limit = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return what()
        except (httpx.HTTPError, PrefectException, OSError, RuntimeError) as error:
            if time.monotonic() > limit:
                logging.getLogger("medgan.page").warning("the run's page lacks something: %s", type(error).__name__)
                return None
            time.sleep(_PAUSE_SECONDS)
