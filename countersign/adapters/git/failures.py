"""What git's words mean to whoever asked: its exit code says only that something failed."""

from countersign.core.errors import CountersignError, FailedPrecondition, NotFound, PolicyDenied, ProviderError
from countersign.core.redaction import Redactor


class Broken(Exception):
    """The mirror on this machine cannot be read; a new one can be made."""


class NoAnswer(Exception):
    """The other side could not be reached, or stopped in mid-sentence; asking again may help."""


_GONE = ("not found", "does not exist", "does not appear to be a git repository", "no such file or directory", "error: 404")
_ASKED = ("could not read username", "could not read password", "terminal prompts disabled")
_REFUSED = ("authentication failed", "permission denied", "access denied", "error: 401", "error: 403", "invalid credentials", "forbidden")
_STRANGER = ("host key verification failed", "no matching host key", "remote host identification has changed")
_UNTRUSTED = ("ssl certificate problem", "server certificate verification failed", "ssl: no alternative certificate", "certificate verify")
_REDIRECTED = ("error: 301", "error: 302", "error: 307", "error: 308", "redirect")
_AWAY = (
    "could not resolve",
    "failed to connect",
    "couldn't connect",
    "connection refused",
    "connection reset",
    "connection timed out",
    "connection closed",
    "network is unreachable",
    "no route to host",
    "timed out",
    "operation too slow",
    "empty reply",
    "early eof",
    "unexpected disconnect",
    "hung up unexpectedly",
    "error: 429",
    "error: 50",
    "rpc failed",
)
_UNSOUND = ("fsck error", "error in object", "error in packed object", "index-pack failed", "malformed", "hasdot", "invalid index-pack")
_BROKEN = (
    "bad object",
    "packfile",
    "too short to be a",
    "not a git repository",
    "is corrupt",
    "corrupt",
    "unable to read",
    "could not read",
    "cannot be accessed",
    "does not match index",
    "unable to parse",
    "missing blob",
    "missing tree",
    "did not send all necessary objects",
)


def failure(address: str, errors: str, *, secret: str | None, redactor: Redactor) -> Exception:
    """Of a command that talked to the repository; `secret` names what opened it, where something does."""
    text = errors.lower()

    def says(words: tuple[str, ...]) -> bool:
        return any(word in text for word in words)

    told = redactor.line(" ".join(line for line in errors.splitlines() if line.strip())[-400:], 400)
    ask = f"the secret {secret} does not open it" if secret else "it asks for a key: the operator names a secret for it (git.credentials)"
    if says(_STRANGER):
        return FailedPrecondition(
            f"{address} shows a host key that the operator does not know; put the right one into the file of git.known_hosts",
            field="source.repo",
        )
    if says(_UNTRUSTED):
        return FailedPrecondition(
            f"{address} shows a certificate that is not trusted here; name its authority in git.ca_bundle", field="source.repo"
        )
    if says(_ASKED) or says(_REFUSED):
        return FailedPrecondition(f"{address} cannot be read: {ask}", field="source.repo")
    if "transport" in text and "not allowed" in text:
        return PolicyDenied(f"{address} leads to a protocol that is not allowed", field="source.repo")
    if says(_REDIRECTED):
        return FailedPrecondition(f"{address} redirects elsewhere; register the address it leads to", field="source.repo")
    if "couldn't find remote ref" in text:
        return NotFound(f"{address} has no such ref any more", field="source.git_ref")
    if says(_AWAY):
        return NoAnswer(told)
    if says(_UNSOUND):
        return FailedPrecondition(
            f"{address} holds an object that git does not take; mend its history, or ask the operator (git.check_objects): {told}",
            field="source.repo",
        )
    if says(_BROKEN):
        return Broken(told)
    if says(_GONE):
        return NotFound(
            f"{address} does not exist, or {ask if secret else 'may not be seen without a key (git.credentials)'}", field="source.repo"
        )
    return ProviderError(f"{address} cannot be fetched: {told or 'git gave no reason'}")


def no_answer(address: str, why: NoAnswer) -> CountersignError:
    return ProviderError(f"{address} does not answer: {why}; plan again when it does")
