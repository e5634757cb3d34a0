"""The public names of a module, from their signatures and docstrings."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any

# Where each module is described. A name that several modules export is described with the first of
# them, and the others link there.
PAGES: dict[str, str] = {
    "headwater.errors": "errors.md",
    "headwater.protocol": "protocol.md",
    "headwater.feeds": "feeds.md",
    "headwater.eventlog": "eventlog.md",
    "headwater.eventlog.sql": "eventlog.md",
    "headwater.eventlog.redis": "eventlog.md",
    "headwater.eventlog.nats": "eventlog.md",
    "headwater.sql": "sql.md",
    "headwater.sql.alembic": "sql.md",
    "headwater.relay": "relay.md",
    "headwater.runs": "runs.md",
    "headwater.web.fastapi": "fastapi.md",
    "headwater.web.starlette": "starlette.md",
    "headwater.web.problems": "fastapi.md",
    "headwater.web.asgi": "asgi.md",
    "headwater.web.uvicorn": "asgi.md",
    "headwater.adapters.ai_sdk": "ai-sdk.md",
    "headwater.adapters.ag_ui": "ag-ui.md",
    "headwater.adapters.mcp": "mcp.md",
    "headwater": "headwater.md",
    "headwater.client": "client.md",
    "headwater.client.sync": "client.md",
    "headwater.testing": "testing.md",
    "headwater.web.convention": "testing.md",
}

# Modules whose docstring is for readers of the source.
INTRODUCED = {
    "headwater.web.fastapi": "`LiveRouter` with `sse=` on routes and `feed()`.",
    "headwater.web.starlette": "Feeds and streams for Starlette, without FastAPI.",
    "headwater.web.asgi": "Streams on plain ASGI: no framework needed.",
}

# Made by the library, never by its users: how they are made is nobody's business.
GIVEN = frozenset(
    {
        *("EventStream", "Hub", "Topic", "TableSource", "TableOrigin", "Counters", "Connection"),
        *("AsyncStream", "AsyncFeed", "Stream", "Feed", "PollSource", "Offset"),
        *("GuardedRoute", "Protocol"),
        *("Run", "SyncRun", "RunState", "RunEvent", "RunReader", "Created", "AttemptContext"),
    }
)

# A class's inner workings are reachable without an underscore where the parts of the package need
# them; what is shown of these classes is what users are meant to call.
MEMBERS: dict[str, tuple[str, ...]] = {
    "EventStream": (
        *("send", "push", "replay", "keep_alive", "send_headers", "close", "on_close"),
    ),
    "Hub": ("subscribe", "wait"),
    "Origin": ("attach", "detach", "epoch"),
    "LiveRouter": (
        "install",
        "feed",
        "run",
        "get",
        *("post", "put", "patch", "delete"),
        "api_route",
        "recheck",
        "follow_rechecks",
        "drain",
        "hub",
        "stats",
    ),
    "LiveRoutes": (
        "lifespan",
        "feed",
        "stream",
        "recheck",
        "follow_rechecks",
        "drain",
        "hub",
        "stats",
    ),
    "Runs": (
        *(
            "start",
            "create",
            "state",
            "latest",
            "cancel",
            "forget",
            "sweep",
            "runs_of",
            "follow",
            "reader",
        ),
        *("attempt", "stop", "leave", "close"),
    ),
    "RunState": ("ended", "attempt", "public"),
    "RunReader": ("events", "has_ended", "is_claimed"),
    "Created": (),
    "GuardedRoute": (),
    "Protocol": (),
    "ConnectionCounters": (),
    "TableOrigin": (),
    "EventLogContract": ("open",),
    "NatsLog": (),
    "RedisLog": (),
}

# Classes whose members are described with them, and not again with each class that has them.
INTERFACES = frozenset({"EventLog", "Source", "Origin"})

_HEADINGS = {"Arguments:", "Args:", "Attributes:"}
_LISTED = re.compile(r"^(?P<names>[\w*][\w*, ]*): (?P<text>.*)$")


def module(name: str) -> str:
    """The module's names, in the order of its ``__all__``."""
    found = importlib.import_module(name)
    intro = INTRODUCED.get(name) or text(found.__doc__ or "")
    return re.sub(r"\n{3,}", "\n\n", "\n\n".join([intro, *names(found)]))


def names(of: ModuleType) -> Iterator[str]:
    """One section for each public name, and a list of those that have theirs elsewhere."""
    elsewhere = []
    for name in of.__all__:
        value = getattr(of, name)
        if name == "__version__":
            elsewhere.append(f"- `{name}`: the package's version")
            continue
        first = home_of(name, value)
        if first != of.__name__:
            link = f"{PAGES[first]}#{name.lower()}"
            elsewhere.append(f"- `{name}`: see [`{first}`]({link})")
            continue
        yield f"### `{name}`"
        yield from described(name, value)
    if elsewhere:
        yield "Also here:"
        yield "\n".join(elsewhere)


def home_of(name: str, value: Any) -> str:
    """The first module that exports a name."""
    for module_name in PAGES:
        found = importlib.import_module(module_name)
        if name in found.__all__ and getattr(found, name) is value:
            return module_name
    raise LookupError(f"{name} is in no module of PAGES")


def described(name: str, value: Any) -> Iterator[str]:
    """What a name is."""
    if inspect.isclass(value):
        yield from class_(name, value)
    elif inspect.isfunction(value):
        yield code(
            ("async " if inspect.iscoroutinefunction(value) else "") + signature(name, value)
        )
        yield text(value.__doc__ or "")
    elif value is not None and typing.get_origin(value) is None and not callable(value):
        yield f"`{value!r}`"
    else:
        yield f"`{value}`".replace("typing.", "")


def class_(name: str, value: type) -> Iterator[str]:
    """A class: how it is made, what it says of itself, its public members."""
    if issubclass(value, BaseException):
        bases = ", ".join(base.__name__ for base in value.__bases__)
        yield f"An exception: `{name}({bases})`."
    elif not (
        inspect.isabstract(value)
        or getattr(value, "_is_protocol", False)
        or typing.is_typeddict(value)
        or name in GIVEN
    ):
        shown = signature(name, value)
        if "*args" not in shown:
            yield code(shown)
    bases = [base.__name__ for base in value.__mro__[1:] if base.__name__ in INTERFACES]
    told = f"It is one kind of `{bases[0]}`, and has its members.\n\n" if bases else ""
    yield told + text(value.__doc__ or "")
    if issubclass(value, BaseException):
        return
    members = [line for member in chosen(value) for line in described_member(value, member)]
    if members:
        yield "\n".join(members)


def chosen(value: type) -> Iterator[str]:
    """The names of a class's members that are shown."""
    if value.__name__ in MEMBERS:
        yield from MEMBERS[value.__name__]
        return
    for name, member in vars(value).items():
        kind = inspect.isroutine(member) or isinstance(
            member, (property, classmethod, staticmethod)
        )
        # One without a docstring does what the interface says, which is described there.
        if kind and not name.startswith("_") and member.__doc__:
            yield name


def described_member(value: type, name: str) -> Iterator[str]:
    """One line or more for a method or property."""
    member = inspect.getattr_static(value, name)
    doc = inspect.getdoc(getattr(value, name)) or ""
    if isinstance(member, property):
        assert member.fget is not None
        kind = typing.get_type_hints(member.fget, localns=_Anything()).get("return")
        head = f"- `{name}`: {kind_of(kind)}." if kind is not None else f"- `{name}`"
    else:
        call = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        prefix = "await " if inspect.iscoroutinefunction(call) else ""
        head = f"- `{prefix}{signature(name, call)}`"
    body = text(doc)
    if not body:
        yield head
        return
    if "\n" not in body:
        joint = " " if head.endswith(".") else ": "
        yield head + joint + body
        return
    yield head
    yield ""
    yield from ("  " + line if line else "" for line in body.splitlines())
    yield ""


class _Anything(dict[str, Any]):
    """Names that are imported for type checkers alone."""

    def __missing__(self, name: str) -> Any:
        raise KeyError(name)


def kind_of(kind: Any) -> str:
    return kind.__name__ if inspect.isclass(kind) else str(kind)


def signature(name: str, call: Any) -> str:
    """``name(a, b: int = 1)``, without ``self``."""
    found = inspect.signature(call)
    parameters = list(found.parameters.values())
    if parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    shown = []
    star = False
    for parameter in parameters:
        if parameter.name.startswith("_"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            shown.append("*")
        elif parameter.kind is parameter.VAR_POSITIONAL:
            star = True
        shown.append(written(parameter))
    result = found.return_annotation
    arrow = ""
    if not inspect.isclass(call) and result not in (inspect.Signature.empty, "None", None):
        arrow = f" -> {result if isinstance(result, str) else kind_of(result)}"
    return f"{name}({', '.join(shown)}){arrow}"


def written(parameter: inspect.Parameter) -> str:
    """One parameter; a default that has no short text is an ellipsis."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = stars + parameter.name
    typed = parameter.annotation is not inspect.Parameter.empty
    if typed:
        kind = parameter.annotation
        text += f": {kind if isinstance(kind, str) else kind_of(kind)}"
    if parameter.default is not inspect.Parameter.empty:
        default = parameter.default
        if isinstance(default, dataclasses._HAS_DEFAULT_FACTORY_CLASS):  # type: ignore[attr-defined]
            shown = "…"
        else:
            shown = getattr(default, "__qualname__", None) or repr(default)
        if "<" in shown or " at 0x" in shown:
            shown = "…"
        text += f" = {shown}" if typed else f"={shown}"
    return text


def code(line: str) -> str:
    """A signature as a block; a long one with a parameter on each line."""
    if len(line) > 96 and "(" in line:
        head, _, rest = line.partition("(")
        inside, _, tail = rest.rpartition(")")
        parts = split(inside)
        line = head + "(\n" + "".join(f"    {part},\n" for part in parts) + ")" + tail
    return f"```text\n{line}\n```"


def split(parameters: str) -> list[str]:
    """Split at the commas that are in no bracket."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(parameters):
        depth += (letter in "[({") - (letter in "])}")
        if letter == "," and not depth:
            parts.append(parameters[start:at].strip())
            start = at + 1
    return [*parts, parameters[start:].strip()]


def text(doc: str) -> str:
    """A docstring as Markdown."""
    source = inspect.cleandoc(doc).splitlines()
    lines: list[str] = []
    in_list = False
    at = 0
    while at < len(source):
        line = source[at]
        at += 1
        if line.startswith(">>>") or line.endswith("::"):
            doctest = line.startswith(">>>")
            end = at
            while end < len(source) and (
                source[end].strip() if doctest else not source[end].strip() or source[end][0] == " "
            ):
                end += 1
            block = [line, *source[at:end]] if doctest else source[at:end]
            lines += [line[:-2].rstrip() + ":"] if not doctest and line != "::" else []
            lines += ["```text", *textwrap.dedent("\n".join(block)).strip().splitlines(), "```", ""]
            at = end
        elif line in _HEADINGS:
            lines += [f"**{line[:-1] if line != 'Args:' else 'Arguments'}**", ""]
            in_list = True
        elif in_list and line.startswith("    "):
            item = line[4:]
            listed = _LISTED.match(item)
            if listed:
                shown = ", ".join(f"`{name.strip()}`" for name in listed["names"].split(","))
                lines.append(f"- {shown}: {listed['text']}")
            else:
                lines.append("  " + item.strip())
        else:
            in_list = in_list and not line.strip()
            lines.append(line)
    whole = re.sub(r"(?<!`)``(?!`)([^`]+)``(?!`)", r"`\1`", "\n".join(lines)).strip()
    return re.sub(r"\n{3,}", "\n\n", whole)
