"""Runs models in onnxruntime-web, in a browser: python web.py BROWSER NODE_MODULES JOBS.json RESULT.json.

The page and all that it reads are served by this process on a port of this machine, and to it the page posts what it
found. What a job is, run.py says.
"""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent
PATIENCE = 300.0
"""Seconds after which a browser that has posted no result is stuck."""

FLAGS = (
    "--headless",
    "--no-sandbox",  # a container's root has no other way
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TYPES = {".html": "text/html", ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}


def main() -> None:
    """Serve, start the browser, and wait for the result."""
    browser, modules, jobs, result = sys.argv[1:]
    done = threading.Event()
    asked = json.loads(Path(jobs).read_text())
    outputs = {file for job in asked for file in job["outputs"].values()}
    named = {file for job in asked for file in (job["model"], *job["inputs"].values())}

    class Handler(http.server.BaseHTTPRequestHandler):
        """Reads what the jobs name and the page needs; writes the jobs' outputs and the result, and nothing else."""

        def do_GET(self) -> None:
            path = self._read()
            if not path.is_file():
                self._answer(404)
                return
            self._answer(200, path.read_bytes(), TYPES.get(path.suffix, "application/octet-stream"))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            url = urlsplit(self.path)
            finished = url.path == "/result"
            file = result if finished else unquote(url.query)
            if not finished and (url.path != "/file" or file not in outputs):
                self._answer(404)
                return
            Path(file).write_bytes(body)
            self._answer(204)
            if finished:
                done.set()

        def log_message(self, *arguments: object) -> None:
            """Say nothing of requests."""

        def _read(self) -> Path:
            url = urlsplit(self.path)
            if url.path == "/file" and unquote(url.query) in named:
                return Path(unquote(url.query))
            if url.path.startswith("/modules/onnxruntime-web/dist/"):
                return Path(modules, "onnxruntime-web", "dist", Path(url.path).name)
            own = {"/": HERE / "web.html", "/npy.mjs": HERE / "npy.mjs", "/jobs": Path(jobs)}
            return own.get(url.path, HERE / "none")

        def _answer(self, code: int, body: bytes = b"", kind: str = "text/plain") -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        command = [browser, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", address]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:  # noqa: S603 - the browser that the caller names
            finished = done.wait(PATIENCE)
            running.terminate()
    server.shutdown()
    if not finished:
        sys.exit(f"{browser}: no result after {PATIENCE:.0f} seconds")


if __name__ == "__main__":
    main()
