"""No identifier can cross a task border: what the signatures allow, and what the border lets through."""

from __future__ import annotations

import errno
import importlib
import inspect
import pkgutil
import typing
from enum import Enum

import icechunk
import pytest
from prefect import Flow, Task

import flows
import tasks
from medgan.errors import Conflict, PrivacyRefused, StoreUnavailable
from medgan.records import Record
from tasks.runtime import UnexpectedFailure, scrubbed

_PLAIN = {str, int, float, bool, type(None)}


def _callables(package):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, Flow | Task):
                yield pytest.param(value, id=f"{module.name}.{name}")


def _leaves(annotation):
    inner = [a for a in typing.get_args(annotation) if a is not Ellipsis and not isinstance(a, str)]
    if typing.get_origin(annotation) is typing.Annotated:
        inner = inner[:1]
    return [leaf for a in inner for leaf in _leaves(a)] if inner else [annotation]


@pytest.mark.parametrize("border", [*_callables(flows), *_callables(tasks)])
def test_only_records_and_short_plain_values_cross_a_border(border):
    hints = typing.get_type_hints(border.fn, include_extras=True)
    assert hints, "a border without annotations cannot be checked"
    for name, annotation in hints.items():
        for leaf in _leaves(annotation):
            is_closed = inspect.isclass(leaf) and issubclass(leaf, Record | Enum)
            assert is_closed or leaf in _PLAIN, f"{name}: {leaf}"


def test_an_unforeseen_error_leaves_only_its_type_and_place():
    @scrubbed
    def reads_a_header():
        raise ValueError("cannot parse DOE^JANE")

    with pytest.raises(UnexpectedFailure, match=r"ValueError at test_borders\.py:\d+") as caught:
        reads_a_header()
    assert "DOE" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_panic_of_a_library_leaves_only_its_type_and_place(tmp_path):
    """It is no `Exception`: Prefect would keep what it says."""
    (tmp_path / "DOE^JANE").write_bytes(b"no folder")

    @scrubbed
    def opens():
        icechunk.Repository.exists(icechunk.local_filesystem_storage(str(tmp_path / "DOE^JANE" / "main")))

    with pytest.raises(UnexpectedFailure, match=r"PanicException at \w+\.py:\d+") as caught:
        opens()
    assert "DOE" not in str(caught.value)
    assert caught.value.__context__ is None


def test_whoever_stops_a_step_is_not_taken_for_an_error():
    @scrubbed
    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()


def test_a_disk_that_refuses_is_told_without_its_path_and_tried_again():
    @scrubbed
    def writes():
        raise OSError(errno.ENOSPC, "No space left on device", "/identified/DOE^JANE.dcm")

    with pytest.raises(StoreUnavailable, match="No space left on device") as caught:
        writes()
    assert caught.value.retryable
    assert "DOE" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("error", [PrivacyRefused("refused: 3 copies"), Conflict("another writer won")])
def test_an_error_of_ours_passes_the_border_as_it_is(error):
    @scrubbed
    def fails():
        raise error

    with pytest.raises(type(error), match=str(error)):
        fails()
