"""The servers, each a process of its own: nginx for throughput, a bucket, models of limits, heavy answers."""

from __future__ import annotations

import getpass
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tools import BenchError, environment, script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "127.0.0.1"
START_SECONDS = 10.0
PICTURE = "picture.png"

_CONFIG = """
{user}
worker_processes 1;
pid {prefix}/nginx.pid;
error_log {prefix}/error.log;
events {{ worker_connections 4096; multi_accept on; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000000;
    keepalive_timeout 300s;
    {temporary}
    types {{ image/png png; }}
    server {{
        listen {host}:{port} backlog=4096;
        root {prefix}/www;
        location = /v1/images/generations {{
            default_type application/json;
            return 200 '{{"data":[{{"url":"http://{host}:{port}/{picture}"}}],"created":1}}';
        }}
    }}
}}
"""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def nginx_program() -> str:
    """Return the path of nginx.

    Raises:
        BenchError: it is not installed.
    """
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")
    if found is None:
        raise BenchError(
            "Part a needs nginx, which is not installed: apt-get install nginx-light (macOS: brew install nginx)."
        )
    return found


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """Serve `folder`/www/picture.png and the API's answer with its link; give the base URL."""
    program, port = nginx_program(), free_port()
    config = folder / "nginx.conf"
    config.write_text(_config(program, folder, port), encoding="utf-8")
    folder.chmod(0o755)  # its worker may be another user
    command = [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config), "-g", "daemon off;"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        _wait_for(process, port, "nginx")
        yield f"http://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait()


def _config(program: str, folder: Path, port: int) -> str:
    built = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stderr
    names = [
        "client_body",
        *(name for name in ("proxy", "fastcgi", "uwsgi", "scgi") if f"without-http_{name}" not in built),
    ]
    return _CONFIG.format(
        user=f"user {getpass.getuser()};" if os.geteuid() == 0 else "",
        prefix=folder,
        host=HOST,
        port=port,
        picture=PICTURE,
        temporary=" ".join(f"{name}_temp_path {folder}/{name};" for name in names),
    )


def _wait_for(process: subprocess.Popen[Any], port: int, name: str) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise BenchError(f"{name} did not start to listen on {HOST}:{port}; see its messages above.")


class Control:
    """Talks to a bucket server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.url = f"http://{HOST}:{port}"

    def stats(self, *, times: bool = False) -> dict[str, Any]:
        """Return what the server counted; `times` adds the time of every answer."""
        return self._ask("GET", "/stats?times" if times else "/stats")

    def limit(self, rate: float, capacity: float) -> float:
        """Change the limit of every key; return when, on the monotonic clock."""
        return float(self._ask("POST", "/limit", {"rate": rate, "capacity": capacity})["at"])

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=60)
        try:
            connection.request(method, path, body=json.dumps(body) if body is not None else None)
            answer: dict[str, Any] = json.load(connection.getresponse())
        finally:
            connection.close()
        return answer


@contextmanager
def _serving(name: str, port: int, *arguments: object) -> Iterator[None]:
    """Run a script of this folder as a server on a port, in a process of its own."""
    command = script(name, "--port", port, *arguments)
    process = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        _wait_for(process, port, f"the {name.replace('_', ' ')}")
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def bucket_server(
    picture: Path, *, rate: float = 0.0, capacity: float = 0.0, latency: float = 0.0, retry_after: bool = False
) -> Iterator[Control]:
    """Serve the API behind a token bucket per key (`rate` a second, 0: no limit), in a process of its own."""
    port = free_port()
    arguments = ["--rate", rate, "--capacity", capacity, "--latency", latency, "--picture", picture]
    with _serving("bucket_server", port, *arguments, *(["--retry-after"] if retry_after else [])):
        yield Control(port)


@contextmanager
def limit_server(picture: Path, scene: str) -> Iterator[Control]:
    """Serve the API behind a model of tests/engine/limit_scenes.py, in a process of its own."""
    port = free_port()
    with _serving("limit_server", port, "--scene", scene, "--picture", picture):
        yield Control(port)


@contextmanager
def poll_server(picture: Path, seconds: float) -> Iterator[Control]:
    """Serve pictures that take so many seconds, in one call or as tasks, in a process of its own."""
    port = free_port()
    with _serving("poll_server", port, "--picture", picture, "--seconds", seconds):
        yield Control(port)


@contextmanager
def bytes_server(picture: Path, seconds: float = 0.0) -> Iterator[str]:
    """Serve heavy answers with one picture, each after so many seconds, in a process of its own; give its base URL."""
    port = free_port()
    with _serving("bytes_server", port, "--picture", picture, "--seconds", seconds):
        yield f"http://{HOST}:{port}"
