"""nginx, HAProxy and Caddy with TLS, each with its configuration of the documentation."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.markdown import ROOT
from support.processes import Program

__all__ = ["FRONTS", "Caddy", "Front", "HAProxy", "Nginx", "certificate"]

_CONFIGURATIONS = ROOT / "docs" / "how-to" / "proxies"
_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
access_log off;
gzip on;
gzip_types *;
gzip_proxied any;
client_body_temp_path {folder}/body;
proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi;
scgi_temp_path {folder}/scgi;
{page}
}}
"""
_CADDY = """
{{
admin off
auto_https disable_redirects
storage file_system {folder}/storage
}}
{page}
"""


def certificate(folder: Path) -> Path:
    """A certificate of ``localhost`` that signed itself; its file, which has the key too."""
    file = folder / "app.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subprocess.run(
        [
            *command.split(),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", folder / "app.key", "-out", folder / "app.crt"),
        ],
        check=True,
        capture_output=True,
    )
    file.write_bytes((folder / "app.crt").read_bytes() + (folder / "app.key").read_bytes())
    return file


class Front(Program):
    """A proxy before servers on this machine.

    Arguments:
        folder: of its configuration and its log.
        pem: a certificate and its key.
        servers: the ports of the backend's processes.

    Attributes:
        address: where browsers go.
    """

    name = ""
    package = ""

    def __init__(self, folder: Path, pem: Path, *servers: int) -> None:
        super().__init__(folder)
        self.address = f"https://localhost:{self.port}"
        self.pem = pem
        self.servers = servers
        (folder / self.name).write_text(self.configured())

    def configured(self) -> str:
        """The page's configuration, with the ports and files of this test."""
        raise AssertionError

    def page(self, **changes: str) -> str:
        """The page's configuration; each key of ``changes`` stands in it."""
        text = (_CONFIGURATIONS / self.name).read_text()
        for old, new in changes.items():
            assert old in text, f"{old} is not in {self.name}"
            text = text.replace(old, new)
        return text

    def each(self, line: str) -> str:
        """One line for each server."""
        return "\n".join(line.format(n=n, port=port) for n, port in enumerate(self.servers))

    def reached(self) -> bool:
        """``answers`` where no event loop runs."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def tls(self) -> ssl.SSLContext:
        """For clients, which trust this certificate alone."""
        return ssl.create_default_context(cafile=self.pem)

    @classmethod
    def program(cls) -> str:
        """Its executable; skips the test where there is none."""
        found = shutil.which(cls.package) or shutil.which(cls.package, path="/usr/sbin")
        if found is None or shutil.which("openssl") is None:
            pytest.skip(f"{cls.package} or openssl is not installed (apt install {cls.package})")
        return found


class Nginx(Front):
    name, package = "nginx.conf", "nginx"

    def configured(self) -> str:
        page = self.page(
            **{
                "server 127.0.0.1:8000 max_fails=0;": self.each(
                    "server 127.0.0.1:{port} max_fails=0;"
                ),
                "listen 443": f"listen 127.0.0.1:{self.port}",
                "/etc/ssl/app.pem": str(self.pem.with_suffix(".crt")),
                "/etc/ssl/app.key": str(self.pem.with_suffix(".key")),
            }
        )
        return _NGINX.format(folder=self.folder, page=page)

    def command(self) -> Sequence[str]:
        return [self.program(), "-c", str(self.folder / self.name), "-p", str(self.folder)]


class HAProxy(Front):
    name, package = "haproxy.cfg", "haproxy"

    def configured(self) -> str:
        return self.page(
            **{
                "server one 127.0.0.1:8000": self.each("server s{n} 127.0.0.1:{port}"),
                "bind :443": f"bind 127.0.0.1:{self.port}",
                "/etc/ssl/app.pem": str(self.pem),
            }
        )

    def command(self) -> Sequence[str]:
        return [self.program(), "-db", "-f", str(self.folder / self.name)]


class Caddy(Front):
    name, package = "Caddyfile", "caddy"

    def configured(self) -> str:
        crt, key = self.pem.with_suffix(".crt"), self.pem.with_suffix(".key")
        page = self.page(
            **{
                "app.example.com {": f"{self.address} {{\n\ttls {crt} {key}",
                "127.0.0.1:8000": " ".join(f"127.0.0.1:{port}" for port in self.servers),
            }
        )
        return _CADDY.format(folder=self.folder, page=page)

    def command(self) -> Sequence[str]:
        file = str(self.folder / self.name)
        return [self.program(), "run", "--config", file, "--adapter", "caddyfile"]


FRONTS = (Nginx, HAProxy, Caddy)
