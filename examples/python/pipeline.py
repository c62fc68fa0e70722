"""An example pipeline: takes stock of the Python standard library.

    Collect ─┬─ Compile ─┬─ Report ── Publish
             └─ Digest ──┘

Compile and Digest run side by side. Publish takes the argument `version`, the secret
`PUBLISH_TOKEN` from the vault, and fails when the argument `fail` is `true`.
All jobs run in one process, so they may share what they found.
"""

import hashlib
import hmac
import pathlib
import sysconfig
import time

from gaiasdk import job, sdk

SECONDS_PER_JOB = 1.5

found = {}


def say(text):
    print(text, flush=True)


def work_through(files, what, work):
    """Works on one file after the other until the time is over; answers how many there were."""
    end = time.monotonic() + SECONDS_PER_JOB
    done = 0
    for path in files:
        if time.monotonic() > end:
            break
        work(path)
        done += 1
        if done % 50 == 0:
            say(f"{what}: {done} of {len(files)} files")
    say(f"{what}: done with {done} files")
    return done


def collect(args):
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    found["files"] = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    say(f"found {len(found['files'])} modules in {library}")


def compile_all(args):
    def work(path):
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as problem:
            # The library holds bad files on purpose, to test the compiler.
            say(f"compile: {path.name} is no valid module: {problem}")

    found["compiled"] = work_through(found["files"], "compile", work)


def digest(args):
    total = hashlib.sha256()
    found["digested"] = work_through(found["files"], "digest", lambda path: total.update(path.read_bytes()))
    found["digest"] = total.hexdigest()


def report(args):
    say(f"{found['compiled']} modules compiled, {found['digested']} digested")
    say(f"digest {found['digest']}")


def publish(args):
    values = {arg.key: arg.value for arg in args}
    if values.get("fail", "").lower() in ("true", "yes", "1"):
        raise Exception("told to fail by the argument `fail`")
    token = values.get("PUBLISH_TOKEN", "")
    signature = hmac.new(token.encode(), found["digest"].encode(), "sha256").hexdigest()
    say(f"publishing version {values.get('version') or 'unknown'}")
    say(f"signed with a token of {len(token)} characters: {signature[:16]}")


def main():
    sdk.serve([
        job.Job("Collect", "Finds the modules", collect),
        job.Job("Compile", "Compiles them", compile_all, ["Collect"]),
        job.Job("Digest", "Makes one digest of them", digest, ["Collect"]),
        job.Job("Report", "Says what was found", report, ["Compile", "Digest"]),
        job.Job("Publish", "Signs the report", publish, ["Report"], [
            job.Argument("Version to publish", job.InputType.TextFieldInp, "version", "1.0"),
            job.Argument("Fail on purpose", job.InputType.BoolInp, "fail", "false"),
            job.Argument("", job.InputType.VaultInp, "PUBLISH_TOKEN"),
        ]),
    ])
