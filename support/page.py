"""Pages from scratch: a report is one HTML file that needs nothing else, also offline.

Whatever comes from a file or a model is escaped: a story can hold any sign.
"""
import html, math

from support.files import printable, write_whole

# ---------------------------------------------------------------- numbers as people write them

def number(x, digits=3):
    """A number for reading: 0.475, 1,234, three significant digits; a dash if undefined."""
    if isinstance(x, int):
        return f"{x:,d}"
    if math.isnan(x):
        return "–"
    if x == 0 or math.isinf(x):
        return f"{x:g}"
    # Rounded first: 9.999 is 10.0 and not 10.00.
    power = math.floor(math.log10(abs(float(f"{x:.{digits - 1}e}"))))
    if -4 <= power < 9:
        return f"{x:,.{max(digits - 1 - power, 0)}f}"
    raised = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{x / 10.0**power:.{digits - 1}f} × 10{raised}"

def p_text(p):
    """p = .54, p < .001: below that, a p rests on the far tails of a normal distribution."""
    if math.isnan(p):
        return "p undefined"
    if p < 0.001:
        return "p < .001"
    if p > 0.995:
        return "p > .99"
    return "p = " + f"{p:.{2 if p >= 0.0995 else 3}f}".lstrip("0")

# ---------------------------------------------------------------- parts of a page

def escape(text):
    """Text that is no HTML, and whose "95 %" is never torn apart at the end of a line."""
    return html.escape(printable(str(text))).replace(" %", "\N{NO-BREAK SPACE}%")

def paragraphs(*texts):
    return "".join(f"<p>{escape(text)}</p>\n" for text in texts)

def listing(items):
    """A numbered list of sentences."""
    return "<ol>" + "".join(f"<li>{escape(item)}</li>\n" for item in items) + "</ol>\n"

def table(header, rows, note=""):
    """A table: words to the left, numbers shortened and to the right; note: how to read it."""
    rows = [list(row) for row in rows]
    heads = []
    for i, name in enumerate(header):
        words = not rows or isinstance(rows[0][i], str)
        heads.append(f"<th>{escape(name)}</th>" if words else f"<th class=n>{escape(name)}</th>")
    lines = ["<tr>" + "".join(heads) + "</tr>"]
    for row in rows:
        cells = []
        for cell in row:
            if isinstance(cell, str):
                cells.append(f"<td>{escape(cell)}</td>")
            else:
                cells.append(f"<td class=n>{number(cell)}</td>")
        lines.append("<tr>" + "".join(cells) + "</tr>")
    caption = f"<caption>{escape(note)}</caption>" if note else ""
    body = "\n".join(lines)
    return f"<div class=table><table>{caption}\n{body}</table></div>\n"

def figure(drawing, caption):
    return f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>\n"

def details(summary, body):
    """What is folded until somebody wants to see it."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}</details>\n"

def subsection(heading, body):
    return f"<h3>{escape(heading)}</h3>\n{body}"

def quote(text):
    return f"<blockquote>{escape(text)}</blockquote>\n"

def columns(left, right, even=False):
    """Side by side on a wide screen, the left one wider unless even; else one below the other."""
    kind = "columns even" if even else "columns"
    return f'<div class="{kind}"><div>{left}</div><div>{right}</div></div>\n'

def answer_box(question, answer, small):
    """A question, its answer in large letters, and what stands small below it."""
    return (f"<div class=answer><p>{escape(question)}</p><p class=large>{escape(answer)}</p>"
            f"<p class=small>{escape(small)}</p></div>\n")

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:75em;margin:1em auto;padding:0 1em;
color:#222}p,li{max-width:50em}h1{font-size:1.5em;margin:.3em 0}table{border-collapse:collapse;
font-size:14px}.table{overflow-x:auto;margin:1em 0}td,th{border-bottom:1px solid #ccc;padding:2px
10px;vertical-align:bottom;text-align:left}td{vertical-align:top}.n{text-align:right;
font-variant-numeric:tabular-nums}td.n{white-space:nowrap}caption{text-align:left;color:#555}
figure{margin:1em 0;break-inside:avoid}svg{width:100%;max-width:900px;height:auto}
summary{cursor:pointer;margin:.5em 0}figcaption,.small{font-size:.88em;color:#555}
.answer{border-left:4px solid #0072B2;padding-left:12px;margin-bottom:1.1em}.answer p{margin:0}
.large{font-size:1.25em;font-weight:600;line-height:1.3}
h3{font-size:1em;margin:1.2em 0 .3em}h3~p{margin:.3em 0}
@media(max-width:600px){figure{overflow-x:auto}svg{min-width:34em}}
@media(min-width:900px),print{.columns{display:grid;grid-template-columns:3fr 2fr;gap:1.5em}
.even{grid-template-columns:1fr 1fr}.columns figure{margin-top:0}}blockquote,pre{background:#f5f5f0;
white-space:pre-wrap;overflow-wrap:anywhere;padding:1em;margin:1em 0}@media print{body{margin:0;
font-size:11px}table{font-size:9px}td,th{padding:1px 4px}h2,h3,caption{break-after:avoid}
tr{break-inside:avoid}details::details-content{content-visibility:visible;block-size:auto}}"""

def write_page(path, title, sections, lead=""):
    """An HTML file of heading -> HTML, where what is empty is left out; lead: HTML before them."""
    parts = ['<!doctype html><html lang="en"><meta charset="utf-8">',
             '<meta name="viewport" content="width=device-width, initial-scale=1">',
             f"<title>{escape(title)}</title><style>{STYLE}</style>",
             f"<h1>{escape(title)}</h1>", lead]
    for heading, body in sections.items():
        if body:
            parts.append(f"<h2>{escape(heading)}</h2>\n{body}")
    write_whole(path, "\n".join(parts) + "</html>\n")
