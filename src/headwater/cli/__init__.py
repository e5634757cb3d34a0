"""The ``headwater`` command. Each command's module imports what it needs only when it runs."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING

from headwater.errors import HeadwaterError, MissingExtraError

if TYPE_CHECKING:
    import typer

_INTERRUPTED = 130


def application() -> typer.Typer:
    """All commands. Raises MissingExtraError without the extra that brings typer."""
    try:
        import typer
    except ImportError as error:
        raise MissingExtraError("cli", "typer") from error
    from headwater.cli.bench import bench
    from headwater.cli.check import check
    from headwater.cli.demo import demo
    from headwater.cli.migrate import migrate
    from headwater.cli.publish import publish
    from headwater.cli.relay import relay
    from headwater.cli.serve import serve
    from headwater.cli.tail import tail
    from headwater.cli.users import add
    from headwater.cli.version import version

    app = typer.Typer(
        name="headwater",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(version)
    for command in (demo, serve, migrate, tail, publish, relay, check, bench):
        # typer ends its lines where those of the docstring end, which are longer than a terminal's.
        paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
        app.command(help="\n\n".join(" ".join(one.split()) for one in paragraphs))(command)
    users = typer.Typer(help="Manage the backend's users.", no_args_is_help=True)
    users.command()(add)
    app.add_typer(users, name="users")
    return app


def main() -> None:
    """Run the command line. An expected error is one sentence and exit code 1."""
    from headwater.cli.output import UNWRITABLE, abandon_output, open_standard_streams

    open_standard_streams()
    try:
        try:
            application()()
        finally:
            sys.stdout.flush()
    except HeadwaterError as error:
        print(sentence_of(error), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        # Before the command has begun: importing what it needs takes a moment.
        sys.exit(_INTERRUPTED)
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename is not None:
            raise
        abandon_output()
        if not isinstance(error, BrokenPipeError):
            print(f"Standard output cannot be written: {error.strerror}.", file=sys.stderr)
        sys.exit(1)


def sentence_of(error: HeadwaterError) -> str:
    """What a command says of an error: its sentence, with a full stop."""
    sentence = str(error)
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."
