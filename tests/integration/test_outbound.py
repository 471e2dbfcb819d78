"""No request of ours reaches an address inside, and no receiver holds us up."""

import asyncio
import ipaddress
import ssl
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from notify import outbound
from notify.outbound import Answer, ForbiddenAddress, Outbound, Unreachable, is_public, read_retry_after
from tests.receiver import NAME, Receiver, Reply

INSIDE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "100.100.100.200", "192.0.0.9", "192.0.2.1", "198.18.0.1", "203.0.113.9", "192.88.99.1", "224.0.0.1",
    "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1",
    "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:7f00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1", "3fff::1", "100::1", "5f00::1",
]  # fmt: skip
BARE = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Vouches for nobody, and is made in no time."""
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:80b::200e",
    "64:ff9b::808:808",
]


class Names:
    """A resolver of the test's own: one list of addresses an asking, the last one for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, name: str, port: int) -> Sequence[str]:
        assert port
        self.asked.append(name)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


def reach(receiver: Receiver, names: Names, *, allow_private: bool = True) -> Outbound:
    return Outbound(allow_private=allow_private, resolve=names, trust=receiver.trust)


async def post(outbound: Outbound, url: str) -> Answer:
    return await outbound.post(url, content=b"hello", headers={"Content-Type": "text/plain"})


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "//example.com/", "example.com", "", "https://", "https:///x", "https://[::1/",
        "https://user@example.com/", "https://user:pass@example.com/", "https://example.com:0/", "https://example.com:25/",
        "https://example.com:99999/", "https://example.com/" + "x" * 2_048, "https://localhost/", "https://a.LOCALHOST./",
        "https://127.0.0.1/", "https://[::1]/", "https://127.1/", "https://0x7f.1/", "https://2130706433/", "https://017700000001/",
        "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest/meta-data/", "https://[fe80::1%25eth0]/", "https://10.0.0.1:8443/",
        "https://\uff11\uff12\uff17.0.0.1/",
    ],
)  # fmt: skip
async def test_a_url_that_can_only_lead_inside_is_refused_at_once(url: str) -> None:
    names = Names(["8.8.8.8"])
    outbound = Outbound(allow_private=False, resolve=names, trust=BARE)
    with pytest.raises(ForbiddenAddress):
        outbound.check(url)
    with pytest.raises(ForbiddenAddress):
        await post(outbound, url)
    assert not names.asked


def test_a_url_of_the_internet_is_taken() -> None:
    outbound = Outbound(allow_private=False, trust=BARE)
    for url in (
        "https://example.com",
        "https://b\u00fccher.example:8443/a?b#c",
        "https://8.8.8.8/",
        "https://[2606:4700::1]/",
    ):
        outbound.check(url)


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["2606:4700::1", "::1"], ["fe80::1%eth0"], ["?"]]
)
async def test_one_address_inside_is_enough_to_refuse_a_name(receiver: Receiver, addresses: list[str]) -> None:
    names = Names(addresses)
    for attempt in (post, Outbound.probe):
        with pytest.raises(ForbiddenAddress):
            await attempt(reach(receiver, names, allow_private=False), receiver.url)
    assert not receiver.connections


async def test_the_address_that_was_looked_at_is_the_one_connected_to(receiver: Receiver) -> None:
    """A name that resolves to something else the next time gains nothing: there is no next time."""
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    assert await post(reach(receiver, names), f"{receiver.url}/hook?a=1") == Answer(201)
    assert names.asked == [NAME]
    request = await receiver.take()
    assert (request.method, request.target, request.body) == ("POST", "/hook?a=1", b"hello")
    assert request.headers["host"] == f"{NAME}:{receiver.port}"
    assert request.headers["content-type"] == "text/plain"


async def test_every_request_looks_again(receiver: Receiver) -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    outbound = reach(receiver, names)
    await post(outbound, receiver.url)
    with pytest.raises(Unreachable, match="refused"):
        await post(outbound, receiver.url)
    assert receiver.connections == 1


async def test_an_address_that_does_not_answer_gives_way_to_the_next(receiver: Receiver) -> None:
    assert await post(reach(receiver, Names(["127.0.0.2", "127.0.0.1"])), receiver.url) == Answer(201)


async def test_a_certificate_of_another_name_is_not_accepted(receiver: Receiver) -> None:
    names = Names(["127.0.0.1"])
    with pytest.raises(Unreachable, match="certificate"):
        await post(reach(receiver, names), f"https://other.example:{receiver.port}")
    with pytest.raises(Unreachable, match="certificate"):  # nor one that nobody vouches for
        await post(Outbound(allow_private=True, resolve=names), receiver.url)
    assert receiver.requests.empty()


async def test_a_redirect_is_an_answer_and_leads_nowhere(receiver: Receiver) -> None:
    receiver.reply = Reply(307, {"Location": f"{receiver.url}/other", "Set-Cookie": "a=b"})
    outbound = reach(receiver, Names(["127.0.0.1"]))
    assert await post(outbound, receiver.url) == Answer(307)
    assert await post(outbound, receiver.url) == Answer(307)
    assert receiver.requests.qsize() == 2
    await receiver.take()
    assert "cookie" not in (await receiver.take()).headers


async def test_the_environments_proxy_is_not_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.2:9")
    assert await post(reach(receiver, Names(["127.0.0.1"])), receiver.url) == Answer(201)


async def test_a_receiver_that_says_nothing_is_given_up(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "TOTAL_SECONDS", 0.2)
    receiver.reply = Reply(None)
    with pytest.raises(Unreachable, match="no answer"):
        async with asyncio.timeout(2):
            await post(reach(receiver, Names(["127.0.0.1"])), receiver.url)


async def test_a_handshake_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "TOTAL_SECONDS", 0.2)
    left = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Unreachable, match="no answer"):
        async with asyncio.timeout(2):
            await post(Outbound(allow_private=True, trust=BARE), f"https://127.0.0.1:{port}")
    async with asyncio.timeout(5):
        await left.wait()  # the connection is closed, not left to the collector
    server.close()
    await server.wait_closed()


async def test_a_name_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "TOTAL_SECONDS", 0.1)
    monkeypatch.setattr(outbound, "MAX_LOOKUPS", 1)
    answering = threading.Event()

    def resolve(_name: str, _port: int) -> Sequence[str]:
        answering.wait(10)
        return ["127.0.0.1"]

    reached = Outbound(allow_private=True, resolve=resolve, trust=BARE)
    for _ in range(2):  # the second finds every thread taken, and is held up no longer
        with pytest.raises(Unreachable):
            await post(reached, "https://slow.example")
    answering.set()


async def test_names_that_somebody_tries_hold_up_no_request(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "MAX_LOOKUPS", 1)
    monkeypatch.setattr(outbound, "MAX_PROBES", 1)
    answering = threading.Event()

    def resolve(name: str, _port: int) -> Sequence[str]:
        if name != NAME:
            answering.wait(10)
        return ["127.0.0.1"]

    reached = Outbound(allow_private=True, resolve=resolve, trust=receiver.trust)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reached.probe("https://slow.example")
    async with asyncio.timeout(2):
        assert await post(reached, receiver.url) == Answer(201)
    answering.set()


async def test_an_endless_answer_is_cut_off(receiver: Receiver) -> None:
    receiver.reply = Reply(200, body=b"x" * 10_000_000)
    assert await post(reach(receiver, Names(["127.0.0.1"])), receiver.url) == Answer(200)
    assert receiver.sent < len(receiver.reply.body)


async def test_how_long_to_wait_is_read_from_the_answer(receiver: Receiver) -> None:
    receiver.reply = Reply(429, {"Retry-After": "7"})
    assert await post(reach(receiver, Names(["127.0.0.1"])), receiver.url) == Answer(429, 7.0)
    assert read_retry_after("Fri, 31 Dec 1999 23:59:59 GMT") == 0.0
    assert (read_retry_after("Fri, 31 Dec 2100 23:59:59 GMT") or 0) > 1e9
    assert read_retry_after("soon") is None
    assert read_retry_after("\u00b2") is None


async def test_nobody_there_is_said_in_words(receiver: Receiver) -> None:
    with pytest.raises(Unreachable, match="refused"):
        await post(reach(receiver, Names(["127.0.0.2"])), receiver.url)
    with pytest.raises(Unreachable, match="resolved"):
        await post(Outbound(allow_private=True, resolve=raise_unknown, trust=BARE), receiver.url)

    async def speak_plainly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 no\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(speak_plainly, "127.0.0.1", 0)
    async with server:
        with pytest.raises(Unreachable, match="TLS"):
            await post(
                Outbound(allow_private=True, trust=BARE), f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            )


def raise_unknown(_name: str, _port: int) -> Sequence[str]:
    raise OSError("no such name")
