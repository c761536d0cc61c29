"""Where requirements come from: what a job's files name in any of the ways that uv reads obeys the policy."""

from pathlib import Path

import pytest

from agent.config.model import Policy
from agent.errors import LaunchFailed
from agent.policy import Refused, check_requirements
from agent.requirements import Requirements

GOOD = Policy(git_hosts=("good.test",))


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A job's code, with a file beside it that is not the job's."""
    (tmp_path / "secret.txt").write_text("password\n")
    code = tmp_path / "code"
    (code / "a b").mkdir(parents=True)
    (code / "out").symlink_to(tmp_path)
    return code


def check(code: Path, text: str, policy: Policy = GOOD, *, name: str = "requirements.txt", here: bool = True) -> None:
    """Ask about the requirements of some code."""
    (code / name).write_text(text)
    check_requirements(policy, Requirements(code / name, None, code), on_this_machine=here)


@pytest.mark.parametrize(
    "line",
    [
        "numpy",
        "numpy>=2; python_version > '3'  # see https://evil.test",
        "# https://evil.test/x",
        "torch==2.1.0 --hash=sha256:0123456789abcdef",
        "--only-binary :all:",
        "x @ git+https://good.test/team/x.git@v1#subdirectory=sub",
        "x @ git+https://${TOKEN}@good.test/x",
        "git+ssh://git@good.test/team/x",
        "-e git+https://good.test/x#egg=x",
        "x @ https://good.test/x-1.0-py3-none-any.whl ; sys_platform == 'linux'",
        "--extra-index-url https://good.test/simple",
        "./package[extra]",
        "-e .",
        "x @ file:package",
        "x @ file://${PROJECT_ROOT}/package",
        "--find-links wheels",
        "--find-links=./wheels",
        "-r more.txt",
        '-c "more.txt"',
    ],
)
def test_what_comes_from_a_listed_host_or_from_the_code_is_allowed(code: Path, line: str) -> None:
    check(code, line)
    check(code, line, Policy())


@pytest.mark.parametrize(
    "line",
    [
        "x @ git+https://evil.test/x",
        "x@git+https://evil.test/x@v1",
        "git+ssh://git@evil.test/x",
        "-e git+https://evil.test/x#egg=x",
        "x @ https://evil.test/x-1.0-py3-none-any.whl",
        "https://evil.test/x-1.0-py3-none-any.whl",
        "x @ https:evil.test/x-1.0-py3-none-any.whl",
        "x @ https:/evil.test/x-1.0-py3-none-any.whl",
        "x @ https://good.test@evil.test/x",
        "x @ https://good.test\\@evil.test/x",
        "x @ https://${HOST}/x",
        "x @ ht${NOTHING}tps://evil.test/x",
        "x @ \x0bhttps://evil.test/x",
        "--index-url=https://evil.test/simple",
        "--extra-index-url https://evil.test/simple",
        '-i "https://evil.test/simple"',
        "--find-links\thttps://evil.test/wheels",
        "-r https://evil.test/more.txt",
        "-c HTTPS://evil.test/more.txt",
        "numpy\r--index-url https://evil.test/simple",
        "-r more.txt",
        "numpy --hash=sha256:00 -r 'more.txt'",
        "-e ./package",
    ],
)
def test_what_comes_from_elsewhere_is_refused_by_the_rule(code: Path, line: str) -> None:
    (code / "more.txt").write_text("x @ git+https://evil.test/x\n")
    (code / "package").mkdir()
    (code / "package" / "pyproject.toml").write_text("[project]\ndependencies = ['x @ git+https://evil.test/x']\n")
    with pytest.raises(Refused, match=r"Refused by `policy\.git_hosts`: .*Allowed: good\.test\.") as refused:
        check(code, line)
    assert refused.value.rule == "policy.git_hosts"
    with pytest.raises(Refused, match=r"Allowed: nothing\."):
        check(code, line, Policy(git_hosts=()), here=False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "[project]\ndependencies = ['x @ git+https://evil.test/x']"),
        ("pyproject.toml", "[project]\ndependencies = ['x']\n[tool.uv.sources]\nx = {git = 'https://evil.test/x'}"),
        ("pyproject.toml", "[[tool.uv.index]]\nurl = 'https://evil.test/simple'"),
        ("pyproject.toml", "[build-system]\nrequires = ['x @ https://evil.test/x.whl']"),
        ("uv.toml", "[pip]\nextra-index-url = ['https://evil.test/simple']"),
    ],
)
def test_tables_count_too(code: Path, name: str, text: str) -> None:
    (code / name).write_text(text)
    with pytest.raises(Refused, match=r"name a URL at 'evil\.test'"):
        check(code, "numpy")


def test_what_a_project_says_of_itself_does_not_count(code: Path) -> None:
    project = "[project]\ndependencies = ['numpy']\n[project.urls]\nHomepage = 'https://evil.test'\n"
    check(code, project, name="pyproject.toml")


def test_frozen_requirements_obey_and_their_files_elsewhere_are_none_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "requirements.frozen.txt"
    file.write_text("x @ file:///home/me/x\n-e /home/me/y\nnumpy==2\n")
    check_requirements(GOOD, Requirements(file, is_frozen=True), on_this_machine=True)
    file.write_text("numpy==2\n-e git+https://evil.test/x@0123#egg=x\n")
    with pytest.raises(Refused, match=r"Refused by `policy\.git_hosts`"):
        check_requirements(GOOD, Requirements(file, is_frozen=True), on_this_machine=True)


def test_without_a_list_every_host_is_allowed_but_not_over_plain_http(code: Path) -> None:
    check(code, "x @ git+https://anywhere.test/x\n--extra-index-url https://index.test/simple\n", Policy())
    with pytest.raises(Refused, match=r"Refused by `policy\.git_http_hosts`: the URL 'http://index\.test/simple'"):
        check(code, "--index-url http://me:secret@index.test/simple", Policy())
    check(code, "--index-url http://index.test/simple", Policy(git_http_hosts=("index.test",)))
    with pytest.raises(Refused, match="no URL that it understands"):
        check(code, "x @ git+git://anywhere.test/x", Policy())


OUTSIDE = [
    "/srv/x-1.0-py3-none-any.whl",
    "x @ /srv/x",
    "x@../x",
    "-e ..",
    "-e out",
    "./out[extra]",
    "./out ; python_version > '3'",
    "x @ file:///srv/x",
    "x @ file://localhost/srv/x",
    "x @ file:%2e%2e/x",
    "x @ FILE:///srv/x",
    "x @ git+file:///srv/x",
    "-e ${HOME}/x",
    "--find-links ../wheels",
    "-f file:///srv/wheels",
    "a b/../../x",
]


@pytest.mark.parametrize("line", OUTSIDE)
def test_files_outside_of_the_code_are_not_installed_on_this_machine(code: Path, line: str) -> None:
    with pytest.raises(LaunchFailed, match=r"which is no file of the job's code\. Put it beside the code"):
        check(code, line, Policy())
    check(code, line, Policy(), here=False)  # there they are the image's own


@pytest.mark.parametrize(
    "line",
    [
        "-r ../secret.txt",
        '-r "../secret.txt"',
        "-r a b/../../secret.txt",
        "-r a\\ b/../secret.txt",
        "-r ${HOME}/secret.txt",
        "-r file:///etc/passwd",
        "-r out/secret.txt",
        "numpy --hash=sha256:00 --constraint=../secret.txt",
    ],
)
@pytest.mark.parametrize("here", [True, False])
def test_files_outside_of_the_code_are_never_included(code: Path, line: str, here: bool) -> None:
    with pytest.raises(LaunchFailed, match=r"requirements.txt includes .*which is no file of the job's code"):
        check(code, line, Policy(), here=here)
