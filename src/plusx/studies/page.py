"""A finding as one page that needs no other file."""

from plusx import html
from plusx.html import Section
from plusx.studies.numbers import duration
from plusx.studies.question import Finding


def page(finding: Finding) -> str:
    """The verdict first; then figures, tables, what was left out, and the commands that give it again."""
    trained = [
        (duration(finding.trained_seconds), "of training in it"),
        (str(len(finding.commands) - 1), "trainings"),
    ]
    tiles = html.tiles([*(trained if len(finding.commands) > 1 else []), (finding.machine, "on this")])
    sections = [Section("Verdict", f"<p>{html.text(finding.verdict)}</p>")]
    drawn = "".join(
        f'<figure class="chart paper-picture">{html.inline(each.svg)}<figcaption>{html.text(each.caption)}</figcaption>'
        "</figure>"
        for each in finding.figures
    )
    sections.append(Section("Figures", drawn))
    sections += [Section(each.title, html.table(each.headings, each.rows, words=each.words)) for each in finding.tables]
    beside = [*finding.notes, *(f"Left out: {line}" for line in finding.left_out)]
    beside += [f"Did not train: {line}" for line in finding.failed]
    if beside:
        sections.append(Section("Beside it", "".join(map(html.note, beside))))
    told = html.note("The study, and each training in it by itself; its seed stands in its recipe.")
    sections.append(Section("Commands", told + html.verbatim("\n".join(finding.commands))))
    return html.page(f"Study: {finding.study}", f"{finding.claim}. {finding.source}", tiles, sections)
