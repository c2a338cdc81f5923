"""Sends lines and a million bytes to an echo server: argv has how, its port, a file to wait for."""

import asyncio
import socket
import ssl
import sys
import time
from pathlib import Path

HOW, PORT, GO = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
PIECES = [b"first words", b"x" * 1_000_000, b"last words"]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE


def by_socket() -> None:
    with (
        socket.create_connection(("127.0.0.1", PORT)) as raw,
        context.wrap_socket(raw) as connection,
    ):
        for piece in PIECES:
            connection.sendall(piece)
            got = 0
            while got < len(piece):
                got += len(connection.recv(65536))


async def by_memory() -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT, ssl=context)
    for piece in PIECES:
        writer.write(piece)
        await reader.readexactly(len(piece))
    writer.close()


print("ready", flush=True)
while not GO.exists():
    time.sleep(0.01)
if HOW == "socket":
    by_socket()
else:
    asyncio.run(by_memory())
