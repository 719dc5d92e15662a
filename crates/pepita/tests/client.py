#!/usr/bin/env python3
"""A host's client of a guest agent, generation 1, as crates/wire/README.md describes it.

usage: client.py RUN_DIRECTORY PORT INCARNATION COMMAND [ARG...]
Greets the agent, asks for a ping, its status and COMMAND's end, then sends the daemon a SIGTERM and reads on until the
agent tells its exit or is gone. Prints what was answered as one JSON object.
"""
import json
import socket
import sys


class Agent:
    def __init__(self, directory, port, incarnation):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(directory + "/v.sock")
        self.socket.sendall(b"CONNECT %d\n" % port)
        self.stream = self.socket.makefile("rb")
        answer = self.stream.readline(32)
        if not answer.startswith(b"OK "):
            raise SystemExit("no agent listens on port %d: %r" % (port, answer))
        with open(directory + "/token") as file:
            token = file.read().strip()
        self.send({"hello": {"generation": 1, "version": "python", "incarnation": incarnation, "token": token}})
        self.events, self.last = [], 0
        first = self.read()
        if "hello" not in first:
            raise SystemExit("refused: %s" % first)
        self.hello = first["hello"]

    def send(self, frame):
        self.socket.sendall(json.dumps(frame).encode() + b"\n")

    def read(self):
        line = self.stream.readline(256 * 1024)
        if not line.endswith(b"\n"):
            raise EOFError("the agent hung up")
        return json.loads(line)

    def ask(self, method, **params):
        self.last += 1
        self.send({"id": self.last, "method": method, "params": params})
        while True:
            frame = self.read()
            if "event" in frame:
                self.events.append(frame)
            elif frame.get("id") == self.last:
                return frame.get("ok", frame.get("error"))


def main():
    directory, port, incarnation, command = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    agent = Agent(directory, port, incarnation)
    said = {"hello": agent.hello}
    said["ping"] = agent.ask("ping")
    said["status"] = agent.ask("status")
    said["exec"] = agent.ask("exec", command=command, timeout_ms=10000)
    said["unknown"] = agent.ask("fly")
    said["watch"] = agent.ask("watch", since=0)
    # The events that the agent keeps come first. Events at the very end of a guest may be lost with the guest.
    while len(agent.events) < said["watch"]["seq"]:
        agent.events.append(agent.read())
    said["signal"] = agent.ask("signal", signal=15)
    try:
        while not any(event["event"] == "exited" for event in agent.events):
            frame = agent.read()
            if "event" in frame:
                agent.events.append(frame)
        agent.send({"id": 99, "method": "ack", "params": {"seq": agent.events[-1]["seq"]}})
    except (OSError, EOFError):
        # The monitor has acknowledged the exit before this client, and the guest is gone.
        said["hung_up"] = True
    said["events"] = agent.events
    print(json.dumps(said))


main()
