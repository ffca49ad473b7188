"""A client of the REST API as the tests need it: one request, or raw bytes, on a UNIX socket."""

import array
import http.client
import json
import socket
import struct

from harness import DEADLINE


def connect(path):
    """Where the backlog is full it waits for room: a socket with a time-out of Python's would not."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(DEADLINE), 0))
    sock.connect(str(path))
    sock.settimeout(DEADLINE)
    return sock


class Connection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=DEADLINE)
        self.path = path

    def connect(self):
        self.sock = connect(self.path)


class Api:
    """Each call is a connection of its own. Answers are (status, decoded body or None)."""

    def __init__(self, path):
        self.path = path

    def call(self, method, name, body=None, headers=None):
        connection = Connection(self.path)
        text = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        connection.request(method, f"/api/v1/{name}", text, headers or {})
        answer = read_answer(connection.getresponse())
        connection.close()
        return answer

    def get(self, name):
        return self.call("GET", name)

    def put(self, name, body=None):
        return self.call("PUT", name, body)

    def does(self, name, body=None):
        """It is done, and there is nothing to say."""
        assert self.put(name, body) == (204, None), name

    def refuses(self, name, status, text, body=None):
        got, why = self.put(name, body)
        assert (got, why) == (status, [text])

    def info(self):
        status, info = self.get("vm.info")
        assert status == 200, info
        return info

    def state(self):
        return self.info()["state"]

    def raw(self):
        return connect(self.path)


def read_answer(response):
    text = response.read()
    return response.status, json.loads(text) if text else None


def answer_on(sock):
    """Read one answer from a raw socket."""
    response = http.client.HTTPResponse(sock, method="PUT")
    response.begin()
    return read_answer(response)


def request(method, name, body=b"", *headers):
    head = [f"{method} /api/v1/{name} HTTP/1.1", "Host: localhost", *headers]
    if body or method == "PUT":
        head.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def send_fds(sock, data, fds):
    packed = array.array("i", fds).tobytes()
    return sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])
