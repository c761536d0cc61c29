"""Git remotes: only what is exactly one of the known forms is one, and what may be secret in it is kept apart."""

import pytest

from agent.sources.git_credential import HOST, PASSWORD, USER, answer
from agent.sources.git_remote import is_reference, parse_remote, relative_remote


@pytest.mark.parametrize(
    ("text", "transport", "host", "url", "user", "password"),
    [
        ("https://git.test/team/code.git", "https", "git.test", "https://git.test/team/code.git", "", ""),
        ("https://Git.Test:8443/x", "https", "git.test", "https://Git.Test:8443/x", "", ""),
        ("https://me:s3cret@git.test/x", "https", "git.test", "https://git.test/x", "me", "s3cret"),
        ("https://me:p%40ss:w@git.test/x", "https", "git.test", "https://git.test/x", "me", "p@ss:w"),
        ("https://a-token@git.test/x", "https", "git.test", "https://git.test/x", "a-token", ""),
        ("http://127.0.0.1:8080/x", "http", "127.0.0.1", "http://127.0.0.1:8080/x", "", ""),
        ("ssh://git@git.test:2222/x", "ssh", "git.test", "ssh://git@git.test:2222/x", "", ""),
        ("git@git.test:team/code.git", "ssh", "git.test", "git@git.test:team/code.git", "", ""),
    ],
)
def test_what_is_a_remote(text: str, transport: str, host: str, url: str, user: str, password: str) -> None:
    remote = parse_remote(text)
    assert remote
    found = (remote.transport, remote.host, remote.url, remote.user, remote.password)
    assert found == (transport, host, url, user, password)
    assert "s3cret" not in repr(remote)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "ext::sh -c id",
            "ext://sh",
            "fd::3",
            "file:///etc",
            "file://git.test/x",
            "git://git.test/x",
            "/srv/x",
            "./x",
        ),
        *("--upload-pack=id", "-oProxyCommand=id@git.test:x", "ssh://-oProxyCommand=id/x", "git@git.test:-x"),
        *("ssh://-oProxyCommand=id@git.test/x", "git@-oProxyCommand=id:x", "https://-x/y", "ssh://git.test/x\n"),
        *("https://git.test/x\0", "git@git.test:x\ny", "git.test::x", "", "https://", "ssh://me:word@git.test/x"),
    ],
)
def test_what_is_none(text: str) -> None:
    assert parse_remote(text) is None


@pytest.mark.parametrize("name", ["main", "feature/x", "v1.0", "a" * 40, "refs/heads/main", "über", "a-b_c"])
def test_what_may_be_a_reference(name: str) -> None:
    assert is_reference(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "-x",
            "--upload-pack=id",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "*",
            "x?",
            "[x]",
            "a\\b",
            "a\n",
            "\0",
            "@{1}",
            "",
        ),
        *("+main", "/a", "a/", "a//b", ".a", "a/.b", "a.", "a.lock", "a.lock/b", "refs/heads/*:refs/heads/*"),
    ],
)
def test_what_may_not(name: str) -> None:
    assert not is_reference(name)


@pytest.mark.parametrize(
    ("base", "relative", "remote"),
    [
        ("https://git.test/team/code.git", "../lib.git", "https://git.test/team/lib.git"),
        ("https://me:s3cret@git.test/team/code/", "../../other/lib", "https://me:s3cret@git.test/other/lib"),
        ("git@git.test:team/code", "../lib", "git@git.test:team/lib"),
        ("git@git.test:code", "../lib", "git@git.test:lib"),
        ("https://git.test/code", "./lib", "https://git.test/code/lib"),
        ("https://git.test/code", "https://other.test/lib", "https://other.test/lib"),
        ("https://git.test/code", "/etc", "/etc"),
    ],
)
def test_a_submodules_remote_may_be_relative(base: str, relative: str, remote: str) -> None:
    assert relative_remote(base, relative) == remote


def test_the_credential_helper_answers_for_its_host_alone() -> None:
    environment = {HOST: "git.test", USER: "me", PASSWORD: "s3cret"}
    for host in ("git.test", "Git.Test", "git.test:8443"):
        assert answer("get", ["protocol=https\n", f"host={host}\n"], environment) == "username=me\npassword=s3cret\n"
    for host in ("evil.test", "git.test.evil.test", ""):
        assert answer("get", ["protocol=https\n", f"host={host}\n"], environment) == ""
    assert answer("store", ["host=git.test\n"], environment) == ""
