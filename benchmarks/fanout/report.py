"""What was found, as a page: Markdown tables and one plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, log10
from pathlib import Path

from benchmarks.fanout.measure import Row
from benchmarks.fanout.scenarios import Scenario

BEGIN, END = "<!-- fanout:begin -->", "<!-- fanout:end -->"
PLOT = "fanout.svg"
# Scenarios of the plot, with their colours.
_BARS = {"one-1000": "#1f6feb", "one-5000": "#8250df", "burst-16": "#2da44e"}

Found = Sequence[tuple[Scenario, list[Row]]]


def section(found: Found, about: Mapping[str, str]) -> str:
    """The part of the page between the markers, without them."""
    lines = ["## Fan-out beside others", ""]
    lines += ["```sh", about["command"], "```", ""]
    lines += [
        f"On {about['machine']}, {about['load']}; {about['when']}.",
        "",
        "Server and client are pinned to different cores. CPU is the kernel's account of all of a",
        "server's processes. Each figure is the median of its rounds, each ratio one to the",
        "baseline just before and just after it. Lost and repeated deliveries are counted by",
        "sequence number over all rounds; lost is what had not come when nothing had for 10 s,",
        "or a minute after the last trigger. 2,000 ms stand for two seconds and more.",
        "",
    ]
    if plotted(found):
        lines += [f"![CPU per delivery as a ratio to the baseline]({PLOT})", ""]
    for scenario, rows in found:
        lines += [f"### {scenario.title}", "", *table(scenario, rows), ""]
        if scenario.note:
            lines += [scenario.note, ""]
    busy = [row.get("client_busy") for _, rows in found for row in rows]
    most = max((value for value in busy if value is not None), default=0.0)
    lines += [f"The load generator had something to read for at most {most:.0%} of the time.", ""]
    known = {row.peer: row.about for _, rows in found for row in rows if row.about}
    versions = sorted({f"- {peer}: {version}" for peer, version in known.items()})
    lines += ["### Versions", "", *versions, ""]
    missing = sorted(
        {f"- {row.peer}: {row.why_not}" for _, rows in found for row in rows if row.why_not}
    )
    if missing:
        lines += ["### Left out", "", *missing, ""]
    return "\n".join(lines).rstrip() + "\n"


def table(scenario: Scenario, rows: Sequence[Row]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [
        f"| server | {' | '.join(scenario.columns.values())} |",
        f"| --- |{' ---: |' * len(scenario.columns)}",
    ]
    for row in rows:
        if row.rounds:
            cells = [_cell(row, name) for name in scenario.columns]
            lines.append(f"| {row.peer} | {' | '.join(cells)} |")
    return lines


def _cell(row: Row, name: str) -> str:
    if name in ("lost", "repeated"):
        return f"{row.total(name):,.0f}"
    value = row.get(name)
    if value is None:
        return "1" if name.endswith("ratio") else "-"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}"


def insert(page: Path, text: str) -> None:
    """Put the section between its markers; at the end of a page that has none."""
    old = page.read_text()
    marked = f"{BEGIN}\n{text}{END}\n"
    if BEGIN in old and END in old:
        before, _, rest = old.partition(BEGIN)
        after = rest.partition(END)[2].lstrip("\n")
        new = before + marked + (f"\n{after}" if after else "")
    else:
        new = f"{old.rstrip()}\n\n{marked}"
    page.write_text(new)


def plotted(found: Found) -> dict[str, dict[str, float]]:
    """The ratios of the plot: by server, then by scenario."""
    bars: dict[str, dict[str, float]] = {}
    for scenario, rows in found:
        if scenario.name in _BARS:
            for row in rows:
                ratio = row.get("cpu_ratio")
                if ratio:
                    bars.setdefault(row.peer, {})[scenario.name] = ratio
    return bars


def plot(found: Found) -> str:
    """Horizontal bars on a logarithmic axis, 1 being the baseline."""
    bars = plotted(found)
    titles = {scenario.name: scenario.title for scenario, _ in found if scenario.name in _BARS}
    low = min([0.1, *(value for of in bars.values() for value in of.values())])
    high = max([10.0, *(value for of in bars.values() for value in of.values())])
    first, last = int(log10(low) // 1), ceil(log10(high))
    left, width, bar, top = 290, 480, 9, 34 + 16 * len(titles)
    height = top + len(bars) * (bar * len(titles) + 12) + 30

    def across(value: float) -> float:
        return left + (log10(value) - first) / (last - first) * width

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" '
        f'height="{height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="20" font-weight="bold">CPU per delivery, as a ratio to a C server that '
        "does one write() for each (logarithmic)</text>",
    ]
    for number, (name, title) in enumerate(titles.items()):
        y = 30 + 16 * number
        out.append(f'<rect x="10" y="{y}" width="10" height="10" fill="{_BARS[name]}"/>')
        out.append(f'<text x="26" y="{y + 9}">{escape(title)}</text>')
    for power in range(first, last + 1):
        x = across(10**power)
        colour = "#57606a" if power == 0 else "#d0d7de"
        out.append(
            f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{height - 22}" stroke="{colour}"/>'
        )
        out.append(
            f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{10.0**power:g}</text>'
        )
    y = float(top + 6)
    for peer, of in bars.items():
        middle = y + bar * len(titles) / 2 + 4
        out.append(f'<text x="{left - 8}" y="{middle}" text-anchor="end">{escape(peer)}</text>')
        for name in titles:
            if name in of:
                begin, end = sorted((across(1), across(of[name])))
                out.append(
                    f'<rect x="{begin:.1f}" y="{y}" width="{max(end - begin, 1):.1f}" '
                    f'height="{bar - 1}" fill="{_BARS[name]}"/>'
                )
                out.append(
                    f'<text x="{end + 3:.1f}" y="{y + bar - 1}" font-size="9">{of[name]:.2f}</text>'
                )
            y += bar
        y += 12
    return "\n".join([*out, "</svg>", ""])
