"""A service for the tests of `cauce dev`: `python dev_service.py PORT`, obedient unless the environment says otherwise.

STUBBORN=1      ignores SIGTERM
NEVER_READY=1   answers 503 for ever
CHILD=1         starts a child that would sleep for ten minutes
GET /exit/3     ends with that code, at once
"""

import os
import signal
import socket
import subprocess
import sys


def drain(*_: object) -> None:
    print("draining")
    if not os.environ.get("STUBBORN"):
        print("drained")
        sys.exit(0)


def main() -> None:
    signal.signal(signal.SIGTERM, drain)
    port = int(sys.argv[1])
    print(f"listening on {port}, redis at {os.environ.get('REDIS_PORT')}, \x1b[31mred\x1b[0m")
    print("to standard error", file=sys.stderr)
    if os.environ.get("CHILD"):
        subprocess.Popen(["sleep", "600"])
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                path = connection.recv(4096).decode().split(" ")[1]
                if path.startswith("/exit/"):
                    print("going down")
                    os._exit(int(path.removeprefix("/exit/")))
                if os.environ.get("NEVER_READY"):
                    connection.sendall(b'HTTP/1.0 503 \r\n\r\n{"redis": "no Redis at 127.0.0.1:1"}')
                else:
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n{}")


if __name__ == "__main__":
    main()
