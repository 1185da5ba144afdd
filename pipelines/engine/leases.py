"""Locks for an object store: a lease is an object that conditional writes create, renew and take over."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from botocore.exceptions import BotoCoreError
from fsspec.asyn import sync

from datagen.storage import store_of
from pipelines.engine.processes import has_ended_here, this_process

RENEW_SECONDS, STALE_SECONDS = 15, 60
ANSWER_SECONDS = 10  # for each request
REFUSED = ("PreconditionFailed", "ConditionalRequestConflict")

log = logging.getLogger(__name__)


class LeaseHeld(Exception):
    """Another process holds the lease; `owner` is its description of itself."""

    def __init__(self, owner: dict[str, Any]) -> None:
        self.owner = owner


@contextmanager
def hold_lease(path: Path, owner: dict[str, Any]) -> Iterator[None]:
    """Hold the lease at `path`; a thread renews it. `owner`: host, pid, and whatever else identifies the holder.

    A lease is taken over when it was not renewed for STALE_SECONDS by the object store's clock, or when its process, on
    this host since it was booted, is dead. A process that loses its lease, as after a suspend, or cannot renew it for
    STALE_SECONDS - RENEW_SECONDS, gets SIGTERM, so that it does not go on.
    Raises LeaseHeld where another process holds it, OSError where the object store ignores a write's conditions.
    """
    lease = _Lease(path, owner)
    lease.take()
    done = threading.Event()
    renewing = threading.Thread(target=lease.renew_until, args=(done,), name=f"lease-{path.name}", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        lease.release()


class _Lease:
    def __init__(self, path: Path, owner: dict[str, Any]) -> None:
        self.path = path
        self.fs, bucket, key = store_of(path)
        self.object = {"Bucket": bucket, "Key": key}
        self.body = json.dumps({**owner, **this_process(), "lease": uuid4().hex}).encode()
        self.etag, self.lost = "", False

    def take(self) -> None:
        if not self._write(IfNoneMatch="*"):
            try:
                etag, age = self._head()
                content = self._read()
            except FileNotFoundError:  # released in the meantime
                return self.take()
            owner = json.loads(content)
            if content == self.body:  # our write succeeded, and its answer was lost
                self.etag = etag
            elif (age < STALE_SECONDS and not has_ended_here(owner)) or not self._write(IfMatch=etag):
                raise LeaseHeld(owner)
        elif self._write(IfNoneMatch="*"):
            raise OSError(
                f"{self.path}: this object store ignores If-None-Match, so it cannot keep two pipelines apart: use one "
                "with conditional writes, or a directory as the root"
            )

    def renew_until(self, done: threading.Event) -> None:
        renewed = time.monotonic()
        while not done.wait(RENEW_SECONDS):
            try:
                self.lost = not self._renew()
                renewed = time.monotonic()
            except FileNotFoundError:  # another process took it over and has released it
                self.lost = True
            except (OSError, BotoCoreError) as error:
                log.warning("%s cannot be renewed: %s", self.path, error)
                # before it is stale, as this process takes a while to end
                self.lost = time.monotonic() - renewed >= STALE_SECONDS - RENEW_SECONDS
            if self.lost:
                log.error("%s was lost and another pipeline may hold it: this process ends", self.path)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def release(self) -> None:
        """Remove the lease if it is still ours. An error is only logged, so as not to hide how the work ended."""
        try:
            if not self.lost and self._read() == self.body:
                self.path.unlink(missing_ok=True)
        except (OSError, BotoCoreError) as error:
            log.warning("%s cannot be released, and expires in %s s: %s", self.path, STALE_SECONDS, error)

    def _renew(self) -> bool:
        if self._write(IfMatch=self.etag):
            return True
        self.etag, _ = self._head()
        return self._read() == self.body  # our write succeeded, and its answer was lost

    def _write(self, **condition: str) -> bool:
        """Whether the lease was written: the condition held."""
        try:
            self.etag = self._call("put_object", Body=self.body, **condition)["ETag"]
        except OSError as error:  # s3fs translates the answer; the original is the cause
            if getattr(error.__cause__, "response", {}).get("Error", {}).get("Code") in REFUSED:
                return False
            if isinstance(error, PermissionError):
                raise PermissionError(f"{self.path}: no permission to write there: {error}") from error
            raise
        return True

    def _head(self) -> tuple[str, float]:
        """The lease's ETag, and the seconds since it was written, by the object store's clock."""
        head = self._call("head_object")
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        return head["ETag"], (now - head["LastModified"]).total_seconds()

    def _read(self) -> bytes:
        return bytes(self._answer(partial(self.fs._cat_file, f"{self.object['Bucket']}/{self.object['Key']}")))

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        return dict(self._answer(partial(self.fs._call_s3, operation, **self.object, **arguments)))

    def _answer(self, request: Callable[[], Any]) -> Any:
        """The answer to a request, a coroutine function. Raises TimeoutError after ANSWER_SECONDS: a store that is
        silent before it lets a write through has no other limit."""
        try:
            return sync(self.fs.loop, request, timeout=ANSWER_SECONDS)
        except TimeoutError as error:
            raise TimeoutError(
                f"{self.path}: the object store did not answer within {ANSWER_SECONDS} s; check it and the network, "
                "then run the same command again"
            ) from error
