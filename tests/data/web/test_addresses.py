"""Which addresses are asked: none inside a network, whatever form it is written in."""

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext.data.web.addresses import is_public, parsed, resolved
from kontext.data.web.problems import FetchError, PassingError


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("HTTP://Example.org:80/a b?q=ä#top", "http://example.org/a%20b?q=%C3%A4"),
        ("https://münchen.de.:8443", "https://xn--mnchen-3ya.de:8443/"),
        ("http://[::1]/x", "http://[::1]/x"),
        ("http://a.b/%41?x=1&y=[2]", "http://a.b/%41?x=1&y=%5B2%5D"),
    ],
)
def test_what_is_sent(text: str, sent: str) -> None:
    assert str(parsed(text)) == sent
    assert str(parsed(sent)) == sent


@pytest.mark.parametrize(
    "text",
    [
        "file:///etc/passwd", "ftp://a/b", "//a/b", "a.png", "", "http://", "http://user@a/",
        "http://a:0x/", "http://a:99999/", "http://a b/", "http://a\r\nHost: b/", "http://a\0/", "http://[::1/",
        "http://" + "a" * 64 + ".de/", "http://a/" + "b" * 9000, "http://a/\udc80",
        "http://a/?\ud800", "gopher://127.0.0.1/", "data:,x",
    ],
)  # fmt: skip
def test_what_is_no_address_of_the_web_is_refused(text: str) -> None:
    with pytest.raises(FetchError) as caught:
        parsed(text)
    assert caught.value.reason == "url_refused"


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for one in (text, f"http://{text}", f"https://a/{text}"):
        try:
            url = parsed(one)
        except FetchError:
            continue
        assert str(url).isascii() and " " not in str(url) and url.target.startswith("/")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0", "10.1.2.3", "192.168.0.1",
        "172.16.0.1", "169.254.169.254", "100.64.0.1", "::1", "fd00:ec2::254", "fe80::1", "::",
        "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "224.0.0.1", "ff02::1",
        "168.63.129.16", "::ffff:168.63.129.16", "192.88.99.1", "2600::5efe:7f00:1",
        "2600::200:5efe:a00:1",
    ],
)  # fmt: skip
def test_addresses_inside_a_network_are_refused(host: str) -> None:
    with pytest.raises(FetchError) as caught:
        resolved(host, 80, ())
    assert caught.value.reason == "address_private"


def test_public_addresses() -> None:
    for text in ("8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"):
        assert is_public(ipaddress.ip_address(text))


def test_a_setting_allows_a_host_with_or_without_its_port() -> None:
    assert resolved("127.0.0.1", 81, ("127.0.0.1",)) == ["127.0.0.1"]
    assert resolved("127.0.0.1", 81, ("127.0.0.1:81",)) == ["127.0.0.1"]
    with pytest.raises(FetchError):
        resolved("127.0.0.1", 81, ("127.0.0.1:82", "localhost"))


def test_a_name_with_one_address_inside_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", (number, 80)) for number in ("8.8.8.8", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(FetchError) as caught:
        resolved("rebinding.example", 80, ())
    assert caught.value.reason == "address_private"


@pytest.mark.parametrize(
    ("number", "passing"), [(socket.EAI_AGAIN, True), (socket.EAI_NONAME, False)]
)
def test_names_without_an_address(
    monkeypatch: pytest.MonkeyPatch, number: int, passing: bool
) -> None:
    def answer(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(number, "no")

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(FetchError) as caught:
        resolved("nobody.example", 80, ())
    assert isinstance(caught.value, PassingError) is passing
