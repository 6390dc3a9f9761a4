"""Which proxy a setting means, for any endpoint: the same for both transports."""

from __future__ import annotations

import pytest

from hybrid_detect.backends.remote.proxies import Proxy, is_excepted, proxy_for
from hybrid_detect.endpoint import Endpoint
from hybrid_detect.errors import ConfigurationError

PROXY = "http://proxy.example.com:3128"


def found(endpoint: str = "https://faces.example.com", **settings: str) -> Proxy | None:
    parsed = Endpoint.parse(endpoint, allow_insecure_http=True)
    return proxy_for(parsed, settings, bypass=lambda _: False)


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_each_setting_is_read_and_remembered_by_name(variable: str) -> None:
    proxy = found(**{variable: PROXY})
    assert proxy is not None
    assert (proxy.variable, proxy.host, proxy.port) == (variable, "proxy.example.com", 3128)


def test_the_setting_of_the_scheme_comes_before_the_one_for_all() -> None:
    proxy = found(HTTPS_PROXY="http://one:1", ALL_PROXY="http://two:2", HTTP_PROXY="http://three:3")
    assert proxy is not None
    assert proxy.host == "one"
    proxy = found("http://10.1.1.1", HTTPS_PROXY="http://one:1", HTTP_PROXY="http://three:3")
    assert proxy is not None
    assert proxy.host == "three"


def test_lower_case_comes_first_and_an_empty_one_means_none() -> None:
    proxy = found(https_proxy="http://lower:1", HTTPS_PROXY="http://upper:1")
    assert proxy is not None
    assert proxy.host == "lower"
    assert found(https_proxy="", HTTPS_PROXY=PROXY, ALL_PROXY=PROXY) is None


def test_a_request_header_of_a_cgi_script_is_no_setting() -> None:
    assert found("http://10.1.1.1", HTTP_PROXY=PROXY, REQUEST_METHOD="GET") is None
    assert found("http://10.1.1.1", http_proxy=PROXY, REQUEST_METHOD="GET") is not None


@pytest.mark.parametrize(
    "endpoint",
    ["http://localhost:8000", "http://127.0.0.1", "https://[::1]:1", "http://a.localhost"],
)
def test_this_machine_is_never_reached_through_a_proxy(endpoint: str) -> None:
    assert found(endpoint, ALL_PROXY=PROXY, HTTP_PROXY="unreadable:port:x") is None


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port"),
    [
        ("proxy.example.com:3128", "http", "proxy.example.com", 3128),
        ("proxy.example.com", "http", "proxy.example.com", 80),
        ("http://proxy.example.com/", "http", "proxy.example.com", 80),
        ("socks5://127.0.0.1", "socks5", "127.0.0.1", 1080),
        ("socks5h://proxy:9050", "socks5", "proxy", 9050),
        ("socks://proxy:9050", "socks5", "proxy", 9050),
        ("http://[fd00::1]:8080", "http", "fd00::1", 8080),
        ("[fd00::1]:8080", "http", "fd00::1", 8080),
    ],
)
def test_a_proxy_is_read_with_or_without_a_scheme(
    text: str, scheme: str, host: str, port: int
) -> None:
    proxy = Proxy.parse("ALL_PROXY", text)
    assert (proxy.scheme, proxy.host, proxy.port) == (scheme, host, port)


def test_credentials_are_decoded_and_told_to_no_one() -> None:
    proxy = Proxy.parse("HTTPS_PROXY", "http://ada:p%40ss@proxy:3128")
    assert (proxy.username, proxy.password) == ("ada", "p@ss")
    assert "ada" not in repr(proxy)
    assert "p@ss" not in repr(proxy)


@pytest.mark.parametrize(
    "text",
    ["http://user:canary@proxy:port", "ftp://user:canary@proxy", "http://", "[canary", "https://x"],
)
def test_what_cannot_be_read_is_an_error_that_names_the_setting_alone(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^HTTPS_PROXY: expected") as caught:
        found(HTTPS_PROXY=text)
    assert "canary" not in str(caught.value)


def test_a_setting_that_does_not_apply_may_be_unreadable() -> None:
    assert found(HTTP_PROXY="foo:bar") is None
    assert found(HTTPS_PROXY="foo:bar", NO_PROXY="example.com") is None


# ---- NO_PROXY


@pytest.mark.parametrize(
    ("host", "exceptions"),
    [
        ("faces.example.com", "*"),
        ("faces.example.com", "faces.example.com"),
        ("faces.example.com", "example.com"),
        ("faces.example.com", ".example.com"),
        ("faces.example.com", "*.example.com"),
        ("FACES.example.com", "Example.COM"),
        ("faces.example.com.", "example.com"),
        ("faces.example.com", "localhost, example.com"),
        ("faces.example.com", "localhost example.com"),
        ("faces.example.com", "example.com:443"),
        ("10.1.2.3", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3:443"),
        ("10.1.2.3", "10.1.2.99/24"),
        ("fd00::5", "fd00::/8"),
        ("fd00::5", "fd00::5"),
        ("fd00::5", "FD00:0::5"),
        ("fd00::5", "[fd00::5]"),
        ("fd00::5", "[fd00::5]:443"),
        ("fd00::5", "[fd00::]/8,fd00::/8"),
        ("::ffff:10.1.2.3", "10.0.0.0/8"),
        ("10.1.2.3", "fd00::/8, nonsense/99, 10.0.0.0/8"),
        ("fe80::1%eth0", "fe80::/10"),
    ],
)
def test_an_exception_is_honoured(host: str, exceptions: str) -> None:
    assert is_excepted(host, 443, exceptions)


@pytest.mark.parametrize(
    ("host", "exceptions"),
    [
        ("faces.example.com", ""),
        ("faces.example.com", " , ,"),
        ("faces.example.com", "ample.com"),
        ("faces.example.com", "other.faces.example.com"),
        ("faces.example.com", "example.com:8443"),
        ("faces.example.com", "example.com:port"),
        ("faces.example.com", "10.0.0.0/8,fd00::/8,[,]:x,*.,."),
        ("10.1.2.3", "10.0.0.0/33"),
        ("10.1.2.3", "1.2.3"),
        ("10.1.2.3", "fd00::/8"),
        ("10.1.2.3", "10.1.2.3:8443"),
        ("fd00::5", "[fd00::5]:8443"),
        ("fd00::5", "10.0.0.0/8"),
        ("fd00::5", "fd00"),
    ],
)
def test_what_is_no_exception_or_cannot_be_read_is_passed_over(host: str, exceptions: str) -> None:
    assert not is_excepted(host, 443, exceptions)
