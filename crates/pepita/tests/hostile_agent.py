#!/usr/bin/env python3
"""Replaces the guest agent of `pepita run --vmm process` and attacks its monitor. HOSTILE names the attack.

Serves the console and the hybrid socket as daemonctl does; what it says there is not what daemonctl would.
"""
import json
import os
import socket
import sys
import threading


def option(name):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else ""


def listener(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(64)
    return sock


HOW = os.environ["HOSTILE"]
INCARNATION = int(option("--incarnation"))
TOKEN = open(option("--token-file")).read().strip()
# The pids of processes that are not this VM's.
PREY = [int(pid) for pid in os.environ.get("HOSTILE_PREY", "").split()] or [2**31 - 1]
HELLO = {"hello": {"generation": 1, "boot_id": "b", "incarnation": INCARNATION}}


def line(frame):
    return json.dumps(frame).encode() + b"\n"


def event(seq, name, **data):
    return line({"seq": seq, "event": name, "data": data})


def console(sock):
    while True:
        client, _ = sock.accept()
        note = b'\x1epepita {"token":"%s","note":"up"}\n' % TOKEN.encode()
        try:
            client.sendall(b"\n" + note)
            if HOW == "console-flood":
                forged = b'\x1epepita {"token":"guess","note":{"exited":{"code":0}}}\n'
                block = (b"x" * 300_000 + b"\n" + forged) * 10 + b"\x1epepita " * 100_000
                for _ in range(100):
                    client.sendall(block)
            client.recv(1)
        except OSError:
            pass


def swollen():
    body = b'{"":0},' * 37_000
    return b'{"id":1,"ok":[' + body + b'0]}\n' + b'{"seq":1,"event":"health","data":{"x":[' + body + b'0]}}\n'


def harm(client):
    if HOW == "silent":
        client.recv(1 << 20)
        threading.Event().wait()
    if HOW == "garbage":
        for _ in range(200):
            client.sendall(os.urandom(64 * 1024))
        return
    if HOW == "wrong-incarnation":
        client.sendall(line({"hello": {"generation": 1, "incarnation": INCARNATION + 1}}))
        client.sendall(event(1, "exited", code=0))
        client.recv(1)
        return
    if HOW == "refuses":
        client.sendall(line({"id": 0, "error": {"kind": "unauthorized", "message": "x" * 100_000}}))
        return
    if HOW == "unasked":
        client.sendall(event(1, "exited", code=0) + event(2, "started", pid=1) + line(HELLO))
    else:
        client.sendall(line(HELLO))
    if HOW == "long-lines":
        for _ in range(300):
            client.sendall(b'{"seq":1,"event":"' + b"x" * 300 * 1024 + b'"}\n')
    if HOW == "swollen":
        for _ in range(50):
            client.sendall(swollen())
    if HOW == "million":
        for chunk in range(100):
            client.sendall(b"".join(event(chunk * 10_000 + n, "health", status="fine") for n in range(10_000)))
    if HOW == "states":
        # A monitor that believed one of these pids could harm only the processes that the test has made for it.
        for chunk in range(100):
            pids = [PREY[n % len(PREY)] for n in range(1000)]
            client.sendall(b"".join(event(chunk * 1000 + n, "started", pid=pid) for n, pid in enumerate(pids)))
    if HOW == "answers":
        for _ in range(100):
            client.sendall(b"".join(line({"id": n, "ok": {"pid": n}}) for n in range(10_000)))
    if HOW == "exits":
        # Each line asks for an acknowledgement, and no acknowledgement is read.
        for _ in range(20):
            client.sendall(event(1, "exited", code=0) * 10_000)
        threading.Event().wait()
    if HOW == "old" or HOW.startswith(("exec-", "copy-")):
        request(client)
        return run_command(client)
    while client.recv(1 << 16):
        pass


def request(client, text=b""):
    while not text.endswith(b"\n"):
        byte = client.recv(1)
        if not byte:
            raise OSError("gone")
        text += byte
    return json.loads(text)


def chunk(kind, content):
    return bytes([kind]) + len(content).to_bytes(4, "little") + content


def run_command(client):
    """Answers as an agent that runs a command for a client, and then does not behave."""
    asked = request(client)
    while asked.get("method") not in ("exec_stream", "copy"):
        # The monitor's own conversation.
        unknown = HOW == "old" and asked.get("method") not in ("start", "watch", "ping", "status", "ack")
        answer = {"error": {"kind": "unsupported", "message": "unknown method"}} if unknown else {"ok": {}}
        client.sendall(line({"id": asked.get("id", 0), **answer}))
        asked = request(client)
    if HOW == "old":
        client.sendall(line({"id": asked["id"], "error": {"kind": "unsupported", "message": "unknown method"}}))
        return
    client.sendall(line({"id": asked["id"], "ok": {"stream": True}}))
    open("asked", "w").close()
    if HOW.startswith("copy-"):
        return send_archive(client)
    if HOW == "exec-garbage":
        client.sendall(chunk(3, b"no number"))
    if HOW == "exec-long":
        client.sendall(b"\x01\xff\xff\xff\xff")
    if HOW == "exec-escapes":
        client.sendall(chunk(4, b'{"exit":{"exec":{"path":"\\u001b[2J","errno":13,"message":"m"}}}'))
    while HOW == "exec-flood":
        client.sendall(chunk(3, b"\xff\xff\xff\xff") + chunk(99, b"x" * 1000) + chunk(1, b"x" * 60_000))
    while client.recv(1 << 16):
        pass


def header(name, kind=b"0", size=0, link=b""):
    block = bytearray(512)
    block[0:len(name)] = name
    block[100:108], block[124:136] = b"0004755\0", b"%011o\0" % size
    block[148:156], block[156:157] = b"        ", kind
    block[157:157 + len(link)] = link
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def send_archive(client):
    """Sends an archive that wants out of the target, and goes on as if all were well."""
    content = b"x" * 512
    archive = {
        "copy-up": header(b"x/../../outside", size=512) + content,
        "copy-absolute": header(b"/tmp/outside", size=512) + content,
        "copy-through-link": header(b"a", b"5") + header(b"b", b"2", link=b"a")
        + header(b"b/x", size=512) + content,
        "copy-endless": header(b"x", size=1 << 32),
        "copy-garbage": os.urandom(2048),
        "copy-cut": header(b"x", size=2048) + content,
        "copy-escapes": b"",
    }[HOW]
    client.sendall(chunk(1, archive))
    if HOW == "copy-escapes":
        client.sendall(chunk(2, b"\x1b[2J" * 100))
    elif HOW not in ("copy-cut", "copy-garbage"):
        client.sendall(chunk(1, bytes(1024)))
    code = 2 if HOW == "copy-escapes" else 0
    client.sendall(chunk(4, b'{"exit":{"code":%d}}' % code))
    while client.recv(1 << 16):
        pass


def serve(client):
    request = b""
    while not request.endswith(b"\n"):
        byte = client.recv(1)
        if not byte:
            return
        request += byte
    client.sendall(b"OK 7\n")
    # This file shows the test that the attack has begun.
    open("dialled", "w").close()
    try:
        harm(client)
    except OSError:
        pass
    client.close()


door = listener(option("--uds"))
# The console is inherited as standard input, a listening socket.
threading.Thread(target=console, args=(socket.socket(fileno=0),), daemon=True).start()
while True:
    guest, _ = door.accept()
    threading.Thread(target=serve, args=(guest,), daemon=True).start()
