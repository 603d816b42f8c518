"""Debug, replay, read logs, profile and redrive on a running local cloud (``make up``).

docs/development.md has an example of each command.
"""

import argparse
import base64
import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from infra.local.dev import letters, logs, running
from infra.local.dev.profile import profile
from infra.local.dev.run_handler import DevError, read_event


def invoke(cloud: running.Cloud, options: argparse.Namespace) -> None:
    """Replace this process by one that runs the handler in this terminal."""
    env = cloud.environment(options.function)
    command = [sys.executable, "-m", "infra.local.dev.run_handler", options.function, options.event]
    command += ["--debug"] if options.debug else []
    sys.stdout.flush()
    os.execve(sys.executable, command, env)  # noqa: S606 - on purpose, without a shell


def replay(cloud: running.Cloud, options: argparse.Namespace) -> None:
    """Invoke the deployed function with an event; print its result, and its log to stderr.

    Raises DevError if the function raises an error.
    """
    event = read_event(options.event, {"WORKER_KEY": cloud.worker_key})
    done = cloud.aws("lambda").invoke(
        FunctionName=cloud.function(options.function)["FunctionName"],
        Payload=json.dumps(event).encode(),
        LogType="Tail",
    )
    print(base64.b64decode(done.get("LogResult", "")).decode().rstrip(), file=sys.stderr)
    result = json.loads(done["Payload"].read() or b"null")
    print(json.dumps(result, indent=2, ensure_ascii=False))
    if "FunctionError" in done:
        message = f"{options.function} raised {result.get('errorType', 'an error')}"
        raise DevError(message)


def run(options: argparse.Namespace) -> None:
    """Run one command; raises DevError."""
    if options.command == "profile" and options.event is None:
        # Importing a handler needs no cloud.
        lines = profile(options.function, runs=options.runs, top=options.top, event=None, env={})
        print("\n".join(lines))
        return
    cloud = running.find(options.cloud)
    match options.command:
        case "invoke":
            invoke(cloud, options)
        case "replay":
            replay(cloud, options)
        case "record":
            event = letters.record(cloud, options.function, options.count)
            print(json.dumps(event, indent=2, ensure_ascii=False))
        case "env":
            for name, value in cloud.environment(options.function).items():
                print(f"{name}={shlex.quote(value)}")
        case "logs":
            logs.show(cloud, options.function, options.since, follow=options.follow)
        case "profile":
            lines = profile(
                options.function,
                runs=options.runs,
                top=options.top,
                event=options.event,
                env=cloud.environment(options.function),
            )
            print("\n".join(lines))
        case "dead":
            print("\n".join(letters.dead(cloud)))
        case _:
            print(letters.redrive(cloud, options.queue))


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(
        prog="bin/dev",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "--cloud", metavar="NAME", help="a folder of .local/ (default: up, or the only one running)"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *, function: bool = True) -> Any:
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        if function:
            command.add_argument("function", help="a file of functions/, without .py")
        return command

    event = "a file, such as those in infra/local/events/, or - for stdin"
    one = add("invoke", "run a handler on an event in this terminal, where breakpoint() stops")
    one.add_argument("event", help=event)
    one.add_argument("--debug", action="store_true", help="stop at the handler's first line")
    one = add("replay", "invoke the deployed function with an event; print its result and log")
    one.add_argument("event", help=event)
    one = add("record", "print an event of the stream's last records, or of a queue's dead letters")
    one.add_argument("--count", type=_count, default=1, help="records (default: %(default)s)")
    add("env", "print a function's environment, for an IDE or a shell")
    one = add("logs", "print a function's log")
    one.add_argument("--since", default="10m", help="90s, 10m, 2h, 1d (default: %(default)s)")
    one.add_argument("--follow", action="store_true", help="follow the log until Ctrl-C")
    one = add("profile", "measure a cold start in fresh processes")
    one.add_argument("event", nargs="?", help="also measure the first and second call with it")
    one.add_argument("--runs", type=_count, default=5, help="processes (default: %(default)s)")
    one.add_argument("--top", type=_count, default=10, help="packages (default: %(default)s)")
    add("dead", "list the dead-letter queues, each with its first message", function=False)
    one = add("redrive", "send a queue's dead letters back to it", function=False)
    one.add_argument("queue", help="the name of a queue, such as Uploads")
    return top


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        message = f"{text!r} is not a whole number of at least 1"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parser().parse_args(arguments)
    try:
        run(options)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (DevError, BotoCoreError, ClientError) as error:
        sys.exit(f"{parser().prog}: {error}")


if __name__ == "__main__":
    main()
