"""A web server that answers as a test says, for the commands that talk to one."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class ScriptedServer(ThreadingHTTPServer):
    """Answers each request with the next of ``answers``: a status, a type, the body's pieces.

    A piece that is an Event is waited for. Without an answer left it says 204.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers = []
        self.seen = []

    def stream(self, *pieces):
        self.answers.append((200, "text/event-stream", pieces))

    def json(self, status, text, **headers):
        self.answers.append((status, "application/json", [text.encode()], headers))


class Handler(BaseHTTPRequestHandler):
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        answers = self.server.answers
        status, kind, pieces, *more = answers.pop(0) if answers else (204, "", [])
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in (more[0] if more else {}).items():
            self.send_header(name, value)
        self.end_headers()
        for piece in pieces:
            if isinstance(piece, threading.Event):
                piece.wait(30)
            else:
                self.wfile.write(piece)
                self.wfile.flush()

    do_GET = do_POST = answer

    def log_message(self, *args):
        pass


@pytest.fixture
def scripted_server():
    server = ScriptedServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
