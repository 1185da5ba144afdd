"""AWS's instance metadata service, as far as cluster/spot.sh asks it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class _Metadata(BaseHTTPRequestHandler):
    life_cycle: str | None
    questions: list[str]
    fails: int

    def do_PUT(self) -> None:
        self.answer("the token" if "X-aws-ec2-metadata-token-ttl-seconds" in self.headers else None)

    def do_GET(self) -> None:
        name = self.path.removeprefix("/latest/meta-data/")
        self.questions.append(name)
        if self.questions.count(name) <= self.fails:
            self.answer(None, 503)
            return
        known = {"instance-life-cycle": self.life_cycle}
        if self.questions.count("spot/instance-action") == self.fails + 3:
            known["spot/instance-action"] = '{"action": "terminate", "time": "2026-01-01T00:00:00Z"}'
        self.answer(known.get(name) if self.headers["X-aws-ec2-metadata-token"] == "the token" else None)

    def answer(self, text: str | None, missing: int = 404) -> None:
        self.send_response(missing if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def metadata_service(life_cycle: str | None, fails: int = 0) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The service of an instance with this life cycle, which AWS takes back at the third question; None: of a machine
    that is not of AWS. fails: how often it fails first, for each thing that it is asked. Yields the setting that names
    it, and what it was asked."""
    questions: list[str] = []
    handler = type("Metadata", (_Metadata,), {"life_cycle": life_cycle, "questions": questions, "fails": fails})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}, questions
        server.shutdown()
