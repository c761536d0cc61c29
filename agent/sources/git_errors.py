"""What is said of git when it fails: one sentence that tells what happened and who can do what about it. Pure."""

from agent.config.model import AgentConfig
from agent.errors import LaunchFailed
from agent.launch import Cause
from agent.sources.git_fetch import Kind
from agent.sources.git_remote import GitRemote

AGENTS_FAULT = frozenset({Kind.CERTIFICATE, Kind.HOST_KEY, Kind.NO_GIT, Kind.UNREACHABLE})
"""What is not the job's fault, and may be better the next time."""


def git_failed(
    config: AgentConfig, remote: GitRemote, reference: str, kind: Kind, detail: str, said: bytes
) -> LaunchFailed:
    """Return the error for a repository; `detail` is git's own line, and `said` all that it said."""
    return LaunchFailed(
        _sentence(config, remote, reference, kind, f" ({detail})" if detail else ""),
        log=said,
        stage="build",
        reason=f"git:{kind}",
        cause=Cause.INFRASTRUCTURE if kind in AGENTS_FAULT else Cause.WORKLOAD,
    )


def _sentence(config: AgentConfig, remote: GitRemote, reference: str, kind: Kind, detail: str) -> str:
    at = remote.url
    what = repr(reference) if reference else "default branch"
    match kind:
        case Kind.AUTHENTICATION:
            return f"{_authentication(config, remote, detail)} Or there is no such repository."
        case Kind.CERTIFICATE:
            return (
                f"The certificate of the git remote {at} is not trusted{detail}. Whoever runs the agent can name a "
                "file with the authorities to trust, by SSL_CERT_FILE in its environment."
            )
        case Kind.HOST_KEY:
            return (
                f"The ssh key of the git host {remote.host} is unknown, or not the one that is known{detail}. Whoever "
                "runs the agent can put it into the file `git.known_hosts`, or set `git.accept_new_hosts`."
            )
        case Kind.MOVED:
            return (
                f"The git remote {at} is elsewhere now{detail}, and with `policy.git_hosts` set the agent does not "
                "follow. Make the job again with the new address; some hosts want .git at its end."
            )
        case Kind.NO_GIT:
            return f"The agent's machine has no git that can be used{detail}. Whoever runs the agent has to install it."
        case Kind.NO_SUCH_COMMIT:
            return (
                f"The git remote {at} has no {what}: no branch, tag or commit is called so. Push it there, or make the "
                "job again from one that is there."
            )
        case Kind.NOT_A_REPOSITORY:
            return f"There is no git repository at {at}{detail}. Make the job again with the right remote."
        case Kind.PATCH:
            return (
                f"The job's diff.patch does not apply to {what} of {at}{detail}. Commit and push what it holds, and "
                "make the job again."
            )
        case Kind.SYMLINK:
            return (
                f"The code at {at} has a symbolic link that leads out of it{detail}. Remove it, and make the job again."
            )
        case Kind.FILE_TOO_BIG:
            return f"A file in {what} of {at} is bigger than `limits.file` of the agent, {config.limits.file}{detail}."
        case Kind.TOO_BIG:
            return f"{what} of {at} is bigger than `limits.total` of the agent, {config.limits.total}{detail}."
        case Kind.UNREACHABLE:
            return f"The git remote {at} cannot be reached{detail}."
        case Kind.DISK_FULL | Kind.OTHER:
            return f"The code cannot be fetched from {at}{detail}."


def _authentication(config: AgentConfig, remote: GitRemote, detail: str) -> str:
    own = config.git.host(remote.host)
    is_ssh = remote.transport == "ssh"
    key = f"`git.hosts.{remote.host}.{'key_file' if is_ssh else 'token_file'}`"
    if remote.password:
        return f"The git remote {remote.url} does not accept the password in the job's remote{detail}."
    if own.key_file if is_ssh else own.token_file or own.token_env:
        return f"The git remote {remote.url} does not accept what the agent has for it by {key}{detail}."
    return f"The git remote {remote.url} needs authentication{detail}: whoever runs the agent can set {key}."
