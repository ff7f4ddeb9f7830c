"""Submits a script to a pool, follows its output and exits as it did: a client that knows schema/*.capnp and
docs/protocol.md, and nothing of the program's code.

    client.py SCHEMA-DIRECTORY HOST:PORT TOKEN DIRECTORY SCRIPT

DIRECTORY is where it keeps its key: a second run with the same one needs no token, and takes `-` for it. Needs pycapnp,
and the tool `openssl` to make the key.
"""

import asyncio
import base64
import hashlib
import os
import socket
import ssl
import subprocess
import sys
import zlib

import capnp

WORK, ENROL = "clusterctl/1", "clusterctl-enroll/1"
NAME = b"python"


def read_token(text):
    """The role, the first half of the pool's fingerprint, the token's id and its secret."""
    text = "".join(text.split())
    body, checksum = text.rsplit("-", 1)
    if int(checksum, 16) != zlib.crc32(body.encode()):
        sys.exit("this token is mistyped or cut off")
    magic, role, pool, number, secret = body.split("-")
    assert magic == "CCT1"
    raw = lambda word: base64.b32decode(word.upper() + "======")
    return role.encode(), raw(pool), int(number), raw(secret)


def make_key(directory):
    """A P-256 key and a certificate over it, that nobody signs."""
    key, certificate = os.path.join(directory, "key.pem"), os.path.join(directory, "certificate.pem")
    if not os.path.exists(key):
        words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj /CN=client"
        subprocess.run(words.split() + ["-keyout", key, "-out", certificate], check=True, capture_output=True)
        os.chmod(key, 0o600)
    return key, certificate


def tls(directory, protocol):
    """TLS 1.3 with our key. No authority and no name is looked at: `fingerprint` is what counts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    key, certificate = make_key(directory)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols([protocol])
    return context


def fingerprint(connection, protocol):
    """SHA-256 of the key that the other side proved to hold."""
    assert connection.selected_alpn_protocol() == protocol
    run = lambda words, given: subprocess.run(words.split(), input=given, check=True, capture_output=True).stdout
    key = run("openssl x509 -inform DER -pubkey -noout", connection.getpeercert(binary_form=True))
    return hashlib.sha256(run("openssl pkey -pubin -outform DER", key)).digest()


def enrol(address, token, directory):
    """Has our key let in; the pool's whole fingerprint."""
    role, half, number, secret = read_token(token)
    with socket.create_connection(address) as plain, tls(directory, ENROL).wrap_socket(plain) as connection:
        if fingerprint(connection, ENROL)[:16] != half:
            sys.exit("this is not the pool that the token is for")
        request = bytes([1]) + role + number.to_bytes(8, "big") + secret + bytes([1]) + NAME
        connection.sendall(len(request).to_bytes(2, "big") + request)
        answer = connection.makefile("rb")
        said = answer.read(int.from_bytes(answer.read(2), "big"))
    if said[0] != 0:
        sys.exit(f"refused ({said[0]}): {said[1:].decode()}")
    with open(os.path.join(directory, "pool"), "wb") as file:
        file.write(said[1:33])


async def connect(address, directory):
    """A stream to the pool, by a key that it knows."""
    reader, writer = await asyncio.open_connection(*address, ssl=tls(directory, WORK))
    with open(os.path.join(directory, "pool"), "rb") as file:
        if fingerprint(writer.get_extra_info("ssl_object"), WORK) != file.read():
            sys.exit("the pool presented a different key than before")
    # pycapnp does not show whose key it speaks to, so it is given a stream on which that has been seen.
    ours, theirs = socket.socketpair()
    near_reader, near_writer = await asyncio.open_connection(sock=ours)

    async def carry(source, target):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        target.close()

    carrying = [asyncio.ensure_future(carry(reader, near_writer)), asyncio.ensure_future(carry(near_reader, writer))]
    return await capnp.AsyncIoStream.create_connection(sock=theirs), carrying


def check(refused):
    """An expected "no" is a value: `code` is for programs, the rest for people."""
    if refused.code:
        sys.exit(f"{refused.code}: {refused.message}")


def exit_code(outcome):
    """As the program's own client has it."""
    match outcome.which():
        case "exited":
            return outcome.exited
        case "signaled":
            return 128 + outcome.signaled
        case "timedOut":
            return 124
        case "cancelled":
            return 143
        case _:
            return 125


def printer(schema, ended):
    """What the pool calls with a job's output and events."""

    class Sink(schema.Sink.Server):
        async def write(self, task, attempt, chunk, **_):
            stream = sys.stdout if chunk.stream == "stdout" else sys.stderr
            stream.buffer.write(chunk.bytes)
            stream.flush()

        async def event(self, event, **_):
            if event.which() == "ended":
                ended["code"] = exit_code(event.ended.outcome)

        async def gone(self, refused, **_):
            print(refused.message, file=sys.stderr)

        async def done(self, info, **_):
            ended["done"].set_result(None)

        async def failed(self, refused, **_):
            ended["done"].set_exception(RuntimeError(refused.message))

    return Sink()


async def run(schema_directory, address, directory, script):
    schema = capnp.load(os.path.join(schema_directory, "pool.capnp"), imports=[schema_directory])
    stream, _carrying = await connect(address, directory)
    door = capnp.TwoPartyClient(stream).bootstrap().cast_as(schema.ClientDoor)
    first = await door.hello(hello={"major": 1, "minor": 0, "build": "client.py"})
    check(first.refused)

    submitted = await first.pool.submit(request=os.urandom(16), spec={"script": script.encode()})
    check(submitted.refused)

    ended = {"done": asyncio.get_running_loop().create_future()}
    followed = await submitted.handle.follow(sink=printer(schema, ended), what={"live": True})
    check(followed.refused)
    await ended["done"]
    return ended["code"]


def main():
    schema_directory, address, token, directory, script = sys.argv[1:]
    host, port = address.rsplit(":", 1)
    address = (host.strip("[]"), int(port))
    if token != "-":
        enrol(address, token, directory)
    sys.exit(asyncio.run(capnp.run(run(schema_directory, address, directory, script))))


main()
