"""An S3 server that costs next to nothing, so that transfers measure their clients: `python -m benchmarks.quick_s3`.

The embedded server reads a whole object for each range of it, and copies what it receives once for every piece: it
moves 10 MB/s, whoever asks. This one keeps parts as they come and sends ranges from disk; it checks nothing. Only what
copying one large file needs is there, on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

PIECE = 1 << 20
XML = "application/xml"


@dataclass
class Stored:
    """An object as it came: files of its parts by number, their SHA-256 as told, and headers to keep."""

    kept: dict[str, str]
    parts: dict[int, tuple[Path, int]] = field(default_factory=dict)
    sha256: dict[int, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(size for _, size in self.parts.values())

    def headers(self) -> dict[str, str]:
        told = {"ETag": f'"{len(self.parts)}"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", **self.kept}
        if len(self.sha256) == len(self.parts):
            of_parts = hashlib.sha256(b"".join(self.sha256[number] for number in sorted(self.parts)))
            told["x-amz-checksum-sha256"] = f"{base64.b64encode(of_parts.digest()).decode()}-{len(self.parts)}"
        return told

    def remove(self) -> None:
        for path, _ in self.parts.values():
            path.unlink()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: ClassVar[Path]
    objects: ClassVar[dict[str, Stored]] = {}  # by path; what is being uploaded by upload id
    lock: ClassVar[threading.Lock] = threading.Lock()

    def log_message(self, *_: object) -> None:
        pass

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}

    @property
    def key(self) -> str:
        return urlsplit(self.path).path

    def answer(self, status: int, body: str = "", **headers: str) -> None:
        content = body.encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Content-Type": XML, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        query, told = self.query, self.rfile.read(int(self.headers["Content-Length"] or 0))
        if "uploads" in query:
            kept = {name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}
            with self.lock:
                upload = f"upload-{len(self.objects)}-{os.urandom(4).hex()}"
                self.objects[upload] = Stored(kept)
            self.answer(
                200, f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        elif "uploadId" in query and told:
            self.objects[self.key] = self.objects.pop(query["uploadId"])
            self.answer(200, '<CompleteMultipartUploadResult><ETag>"done"</ETag></CompleteMultipartUploadResult>')
        else:
            self.answer(501)

    def do_PUT(self) -> None:
        size, query = int(self.headers["Content-Length"] or 0), self.query
        if "uploadId" not in query:
            self.answer(200 if size == 0 else 501)  # a bucket
            return
        number, path = int(query["partNumber"]), self.folder / f"{query['uploadId']}.{query['partNumber']}"
        with path.open("wb", buffering=0) as f:
            buffer, left = memoryview(bytearray(PIECE)), size
            while left:
                left -= f.write(buffer[: self.rfile.readinto(buffer[: min(left, PIECE)])])
        stored, sha256 = self.objects[query["uploadId"]], self.headers["x-amz-checksum-sha256"]
        stored.parts[number] = (path, size)
        if sha256:
            stored.sha256[number] = base64.b64decode(sha256)
        self.answer(200, ETag=f'"{number}"')

    def do_HEAD(self) -> None:
        stored = self.objects.get(self.key)
        if stored is None:
            self.answer(404 if self.key.count("/") > 1 else 200)
        else:
            self.answer(200, **{**stored.headers(), "Content-Length": str(stored.size)})

    def do_GET(self) -> None:
        if "uploads" in self.query or self.key == "/":
            self.answer(
                200, "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
            )
            return
        stored, asked = self.objects[self.key], re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "bytes=0-")
        assert asked
        first, last = int(asked[1]), min(int(asked[2] or stored.size), stored.size - 1)
        self.send_response(206 if "Range" in self.headers else 200)
        told = {"Content-Length": str(last + 1 - first), "Content-Range": f"bytes {first}-{last}/{stored.size}"}
        for name, value in {**stored.headers(), **told}.items():
            if name != "x-amz-checksum-sha256":  # it is of the whole
                self.send_header(name, value)
        self.end_headers()
        self._send(stored, first, last + 1)

    def _send(self, stored: Stored, first: int, end: int) -> None:
        """Bytes [first, end) of an object, straight from the files of its parts."""
        start = 0
        for _, (path, size) in sorted(stored.parts.items()):
            begin, stop = max(first - start, 0), min(end - start, size)
            if begin < stop:
                with path.open("rb") as f:
                    while begin < stop:
                        begin += os.sendfile(self.connection.fileno(), f.fileno(), begin, stop - begin)
            start += size

    def do_DELETE(self) -> None:
        stored = self.objects.pop(self.key, None)
        if stored:
            stored.remove()
        self.answer(204)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    Handler.folder = arguments.folder
    arguments.folder.mkdir(exist_ok=True)
    Server(("127.0.0.1", arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
