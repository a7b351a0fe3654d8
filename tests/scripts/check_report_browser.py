#!/usr/bin/env python3
"""Opens reports in a headless Chromium, at desktop and phone width, light and dark, and uses them as a reader would.

usage: check_report_browser.py --browser PROGRAM --charts yes|no (--dirigo PROGRAM | --report FILE) [--screenshots DIR]

With --dirigo it makes reports of its own: of a run on a hostile text, of a hundred thousand bytes, of a study with
everything that a study.json can hold. Times are printed, never judged.
"""
import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile

from browser import Browser, BrowserError

EXPERTS = ("full", "linear", "local")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror=\"window.hacked = 1\"><!-- caf\u00e9 'quoted' & ]]>\n"
HOSTILE_NAME = "<img src=x onerror='window.hacked=1'>"
SMALL = ["model.d_model=16", "model.heads=2", "router.hidden=8", "attention.window=8", "train.batch=4", "train.seq_len=64",
         "model.max_len=64", "router.warmup=5", "train.lr_warmup=5"]

failures = []


def check(condition, what):
    if not condition:
        failures.append(what)
        print("FAILED: " + what)


def dirigo(program, directory, *arguments):
    done = subprocess.run([program, *arguments], cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"dirigo {' '.join(arguments)}: expected exit code 0, got {done.returncode}: {done.stderr}")
    return done.stdout


# What every report must do.


def check_layout(page, where):
    check(page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{where}: the page is wider than the window")
    check(page.evaluate("[...document.querySelectorAll('table')].every(t => t.closest('.scroll, .detail'))"),
          f"{where}: a table that cannot scroll by itself")
    check(page.evaluate("document.images.length === 0 && document.querySelectorAll('iframe, object, link').length === 0"),
          f"{where}: the page holds something foreign")


def unfold_runs(page):
    page.evaluate("document.querySelectorAll('details.run').forEach(details => details.open = true)")


def check_charts(page, where, charts):
    """Every chart is drawn when one comes to it, all of its series, in their colours."""
    unfold_runs(page)
    number = page.evaluate("document.querySelectorAll('figure.chart').length")
    check(number > 0, f"{where}: no chart")
    for i in range(number):
        page.evaluate(f"void (figure = document.querySelectorAll('figure.chart')[{i}], figure.scrollIntoView())")
        if not charts:
            check(page.evaluate("!figure.querySelector('canvas') && figure.querySelectorAll('tbody tr').length > 0"),
                  f"{where}: chart {i}: expected its table in its place")
            continue
        page.until("figure.dataset.drawn === 'true'")
        faults = page.evaluate("""(() => {
            const canvas = figure.querySelector('canvas'), context = canvas.getContext('2d'), chart = Chart.getChart(canvas);
            const area = chart.chartArea, found = [];
            const pixels = context.getImageData(area.left, area.top, area.width, area.height).data;
            const probe = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
            let coloured = 0;  // pixels between the axes that have the colour of a series
            for (const colour of new Set(chart.data.datasets.map(dataset => dataset.borderColor))) {
                probe.fillStyle = colour;
                probe.fillRect(0, 0, 1, 1);
                const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
                for (let i = 0; i < pixels.length; i += 4)
                    coloured += pixels[i] === r && pixels[i + 1] === g && pixels[i + 2] === b && pixels[i + 3] > 128;
            }
            if (coloured < 20) found.push(`${coloured} pixels of its series' colours`);
            figure.spec.series.forEach((series, i) => {
                const drawn = chart.getDatasetMeta(i).data.length;
                if (drawn !== series.points.length || !chart.isDatasetVisible(i)) found.push(`${series.name}: ${drawn} points`);
            });
            return found;
        })()""")
        check(not faults, f"{where}: chart {i}: {faults}")
    page.evaluate("scrollTo(0, 0)")
    if not charts:
        return
    # The first chart by keyboard, and its table.
    page.evaluate("void (figure = document.querySelector('figure.chart'), figure.querySelector('canvas').focus())")
    page.key("ArrowRight")
    first = page.evaluate("figure.querySelector('output').textContent")
    page.key("ArrowRight")
    second = page.evaluate("figure.querySelector('output').textContent")
    check(any(c.isdigit() for c in first) and first != second, f"{where}: arrow keys read '{first}' and '{second}' from a chart")
    points = page.evaluate("figure.spec.series.reduce((sum, series) => sum + series.points.length, 0)")
    page.evaluate("void figure.querySelector('summary').click()")
    page.frames()
    check(page.evaluate("figure.querySelectorAll('tbody tr').length") == points, f"{where}: a chart's table lacks points")


def start_reader(page):
    unfold_runs(page)
    page.evaluate("void (reader = document.querySelector('.reader'), text = reader.querySelector('.text'), "
                  "detail = reader.querySelector('.detail'), reader.scrollIntoView())")
    page.until("reader.dataset.ready === 'true' && text.querySelectorAll('b').length > 0")


def check_reader(page, where):
    start_reader(page)
    data = json.loads(page.evaluate("reader.querySelector('script').textContent"))
    chosen = [base64.b64decode(layer["chosen"]) for layer in data["layers"]]

    def check_colours(layer):
        """The layer's button is on, and every character has the colour of the expert that the data say."""
        check(page.evaluate("Number(reader.querySelector(':checked').value)") == layer, f"{where}: layer {layer} is not the one shown")
        shown = page.evaluate("[...text.querySelectorAll('b')].slice(0, 1000).map(b => [b.index, b.className])")
        wrong = [i for i, look in shown if look.split()[:1] != [EXPERTS[chosen[layer][i]]]]
        check(shown and not wrong, f"{where}: layer {layer}: {len(wrong)} characters of {len(shown)} have another expert's colour")

    last = len(chosen) - 1
    check_colours(last)
    page.evaluate("reader.querySelector(':checked').focus()")
    for key, layer in (("ArrowLeft", max(last - 1, 0)), ("ArrowRight", last)):
        if last > 0:
            page.key(key)
            check_colours(layer)

    page.evaluate("text.scrollIntoView({block: 'center'}); text.scrollTop = 0")
    page.frames()
    x, y = page.evaluate("(() => { const r = text.querySelectorAll('b')[5].getBoundingClientRect(); "
                         "return [r.left + r.width / 2, r.top + r.height / 2]; })()")
    page.mouse(x, y)
    check(page.evaluate("detail.dataset.at") == "5", f"{where}: hovering shows byte {page.evaluate('detail.dataset.at')}, not 5")
    weights = page.evaluate("[...detail.querySelectorAll('tr.now .weight')].map(cell => Number(cell.textContent))")
    check(len(weights) == 3 and abs(sum(weights) - 1) < 0.02, f"{where}: hovering shows weights {weights}")
    check(page.evaluate("/NLL \\d/.test(detail.textContent) && /layer \\d reads with/.test(detail.textContent)"),
          f"{where}: hovering says '{page.evaluate('detail.textContent')}'")
    page.mouse(x, y, click=True)
    check(page.evaluate("text.querySelector('b.now').index") == 5, f"{where}: a tap does not choose")
    page.evaluate("text.focus()")
    for key, at in (("ArrowRight", 6), ("ArrowLeft", 5), ("Home", 0)):
        page.key(key)
        check(page.evaluate("Number(detail.dataset.at)") == at, f"{where}: {key} does not lead to byte {at}")
    page.key("ArrowDown")
    check(page.evaluate("Number(detail.dataset.at)") > 5, f"{where}: ArrowDown stays in its line")
    page.key("ArrowUp")
    check(page.evaluate("Number(detail.dataset.at)") == 0, f"{where}: ArrowUp does not lead back")


def check_report(browser, path, charts, screenshots, readers=None):
    """`readers`: how many runs show their text; None for any number."""
    grounds = set()
    for size, (width, height) in SIZES.items():
        for dark in (False, True):
            where = f"{os.path.basename(path)}, {size}, {'dark' if dark else 'light'}"
            page = browser.open(path, width, height, dark)
            check_layout(page, where)
            if screenshots:
                page.frames()
                page.screenshot(os.path.join(screenshots, f"{where.replace(', ', '-')}.png"))
            if not dark or size == "desktop":
                check_charts(page, where, charts)
                check_layout(page, where + ", all unfolded")
            if screenshots:
                page.evaluate("document.querySelectorAll('details').forEach(d => d.open = false); document.querySelector('h3').scrollIntoView()")
                page.frames(10)
                page.screenshot(os.path.join(screenshots, f"{where.replace(', ', '-')}-charts.png"))
            found = page.evaluate("document.querySelectorAll('.reader').length")
            check(readers is None or found == readers, f"{where}: {found} runs show their text")
            if found:
                check_reader(page, where)
                if screenshots:
                    page.evaluate("reader.previousElementSibling.scrollIntoView(); (text.querySelector('b.full') || text.querySelector('b')).click()")
                    page.frames()
                    page.screenshot(os.path.join(screenshots, f"{where.replace(', ', '-')}-text.png"))
            grounds.add((dark, page.evaluate("getComputedStyle(document.body).backgroundColor")))
            faults = page.faults()
            check(not faults, f"{where}: {faults}")
            check(page.evaluate("typeof hacked") == "undefined", f"{where}: a text ran as a script")
            page.close()
    check(len(grounds) == 2, f"{path}: light and dark are {grounds}")


# Reports of our own.


def train(program, directory, name, corpus):
    settings = [word for setting in SMALL for word in ("--set", setting)]
    dirigo(program, directory, "train", "--preset", "tiny", "--corpus", corpus, "--steps", "40", "--eval-every", "20", "--out", name,
           "--threads", "1", *settings)


def check_hostile(browser, program, directory):
    """The text of the page is the text of the file, and its numbers are those of `dirigo score`."""
    with open(os.path.join(directory, HOSTILE_NAME, "config.json"), encoding="utf-8") as file:
        begin = json.load(file)["corpora"][0]["valid_begin"]
    with open(os.path.join(directory, "hostile.txt"), "rb") as file:
        held_out = file.read()[begin:begin + 64]
    with open(os.path.join(directory, "window.txt"), "wb") as file:
        file.write(held_out)
    dirigo(program, directory, "score", HOSTILE_NAME, "--text", "window.txt", "--out", "scores.jsonl")
    with open(os.path.join(directory, "scores.jsonl"), encoding="utf-8") as file:
        score = json.loads(file.read().splitlines()[20])
    page = browser.open(os.path.join(directory, "hostile.html"), 1280, 900)
    start_reader(page)
    shown = page.evaluate("text.textContent").replace("\u21b5", "").replace("\u2502", "")
    check(held_out.decode(errors="ignore") in shown, "hostile.html: the text is not the held-out one")
    check("<script>window.hacked = 1</script>" in shown, "hostile.html: markup in the text is not shown as it is")
    check(page.evaluate("document.querySelector('h2[id=run-0]').textContent") == HOSTILE_NAME, "hostile.html: the run's name changed")
    page.evaluate("text.focus()")
    page.key("Home")
    for _ in range(20):
        page.key("ArrowRight")
    last = len(score["layers"]) - 1
    row = [float(cell) for cell in page.evaluate("[...detail.querySelectorAll('tr.now td')].map(cell => cell.textContent)")]
    expected = [last, *score["layers"][last]["weights"], score["layers"][last]["uncertainty"], score["layers"][last]["mi"]]
    close = all(abs(a - b) <= 0.0051 for a, b in zip(row, expected))
    check(len(row) == 6 and close, f"hostile.html: byte 20 shows {row}, dirigo score says {expected}")
    check(f"NLL {score['nll']:.3f}" in page.evaluate("detail.textContent"), "hostile.html: byte 20 has another NLL than dirigo score's")
    check(page.evaluate("dispatchEvent(new Event('beforeprint')), text.querySelectorAll('b').length >= 2900"),
          "hostile.html: printing does not unfold the text")
    check(not page.faults(), f"hostile.html: {page.faults()}")
    page.close()


def processor_ms(page):
    metrics = page.call("Performance.getMetrics")["metrics"]
    return 1000 * next(m["value"] for m in metrics if m["name"] == "TaskDuration")


def check_long(browser, path):
    """A hundred thousand bytes: few elements wherever one is, and all of the text."""
    page = browser.open(path, 1280, 900)
    page.call("Performance.enable", timeDomain="threadTicks")
    start_reader(page)
    opened = processor_ms(page)
    most = 0
    wait = "await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    for i in range(20):
        page.evaluate(f"(async () => {{ text.scrollTop = text.scrollHeight * {i} / 20; {wait}; }})()")
        page.until("(t => { const box = text.getBoundingClientRect(), b = document.elementFromPoint(box.left + 40, box.top + 100);"
                   " return b && b.closest('.chunk') && b.closest('.chunk').querySelector('b'); })()")
        most = max(most, page.evaluate("text.querySelectorAll('b').length"))
    scrolled = processor_ms(page)
    for _ in range(10):
        page.evaluate(f"(async () => {{ reader.querySelector('input:not(:checked)').click(); {wait}; }})()")
    switched = processor_ms(page)
    check(most < 20000, f"long.html: {most} elements for characters")
    check(page.evaluate("text.querySelectorAll('.chunk').length") < 2000, "long.html: too many chunks")
    check(page.evaluate("document.querySelectorAll('*').length") < 25000, "long.html: too many elements")
    page.evaluate("text.focus()")
    page.key("End")
    at = page.evaluate("Number(detail.dataset.at)")
    check(at >= 99999, f"long.html: the last byte is number {at}")
    check(page.evaluate("text.querySelector('b.now').getBoundingClientRect().bottom <= text.getBoundingClientRect().bottom + 1"),
          "long.html: End does not show the last byte")
    check(os.path.getsize(path) < 15e6, f"long.html: {os.path.getsize(path)} bytes")
    faults = page.faults()
    check(not faults, f"long.html: {faults}")
    print(f"{at + 1} bytes of text, file of {os.path.getsize(path) / 1e6:.1f} MB, at most {most} characters with elements; processor time "
          f"of the page: {opened:.0f} ms to open, {(scrolled - opened) / 20:.0f} ms for a jump, {(switched - scrolled) / 10:.0f} ms for another layer")
    page.close()


def whole_study():
    """A study.json with everything that docs/file-formats.md knows, of two corpora."""
    rows, points, boundary, confusion, gates, coverage, reliability, recall, training = ([] for _ in range(9))
    for corpus in ("one", "two"):
        for k, method in enumerate(("ours", "static_full", "softmax")):
            base = {"arm": f"{method}_{corpus}", "method": method, "corpus": corpus, "seq_len": 64}
            nll = 1.4 + 0.1 * k
            mode = {"nll": nll, "nll_ci95": [nll - 0.02, nll + 0.02], "attention_flops": 1e9 * (k + 1), "model_flops": 2e9 * (k + 1), "wall_s": k + 1}
            rows.append({**base, "label": method, "seeds": 3, "failed": 0, "learning_rate": 0.001, "hard": mode, "soft": mode, "gated": None,
                         "grid": [{"learning_rate": 0.001, "development_nll": nll}], "runs": []})
            for routing in ("soft", "hard"):
                points.append({**base, "routing": routing, "nll": nll, "nll_ci95": [nll - 0.01, nll + 0.01],
                               "attention_flops_per_byte": 1e4 * (k + 1), "model_flops_per_byte": 1e6 * (k + 1), "seconds_per_byte": 1e-6 * (k + 1)})
            for w, w_kl in enumerate((0, 0.001, 1)):
                boundary.append({**base, "posterior": "free", "schedule": ("constant", "warmup", "cyclical")[k], "w_kl": w_kl, "kl": 2.0 - w,
                                 "mi_token_expert": 0.2 - 0.1 * w, "permutation_delta_nll": 0.1, "hard_nll": nll, "collapsed": w == 2})
            share = [i / 10 for i in range(11)]
            run = {**base, "seed": 1}
            gates.append({**run, "gate": "mi", "eta": [None, *share[1:10], None], "certain": share, "nll": [nll + s / 10 for s in share],
                          "attention_flops_vs_full": [1 - s / 2 for s in share]})
            coverage.append({**run, "gate": "mi", "layer": 0, "coverage": share, "risk": [s / 5 for s in share]})
            reliability.append({**run, "gate": "mi", "layer": 0, "predicted": share, "observed": [s * s for s in share]})
            confusion.append({**base, "layer": 0, "need": "text", "tokens": 100, "fraction_argmax": [0.1, 0.2, 0.7]})
            steps = list(range(0, 1000, 100))
            recall.append({**run, "step": steps, "nll": [1 / (1 + s) for s in steps], "accuracy": [s / 1000 for s in steps]})
            training.append({**run, "step": steps, "kl": [1 + s / 1000 for s in steps], "entropy_mean_pct": [50 + s / 100 for s in steps]})
    return {"format_version": 1, "study": "whole", "corpus": None, "seeds": 3, "rows": rows,
            "tables": {"points": points, "boundary": boundary, "confusion": confusion},
            "curves": {"gates": gates, "risk_coverage": coverage, "reliability": reliability, "recall": recall, "training": training}}


def check_own_reports(browser, program, charts, screenshots):
    with tempfile.TemporaryDirectory(prefix="dirigo-report-") as directory:
        with open(os.path.join(directory, "hostile.txt"), "w", encoding="utf-8") as file:
            file.write(HOSTILE * 500)
        train(program, directory, HOSTILE_NAME, "hostile.txt")
        train(program, directory, "fables", "synthetic:fables")
        os.mkdir(os.path.join(directory, "study"))
        with open(os.path.join(directory, "study", "study.json"), "w", encoding="utf-8") as file:
            json.dump(whole_study(), file)
        for name, arguments in (("hostile", [HOSTILE_NAME]), ("two-texts", ["fables", HOSTILE_NAME]), ("study", ["study"]),
                                ("long", ["fables", "--bytes", "100000"])):
            dirigo(program, directory, "report", *arguments, "-o", name + ".html", "--threads", "1")
        path = lambda name: os.path.join(directory, name + ".html")
        check_report(browser, path("two-texts"), charts, screenshots, readers=2)
        check_report(browser, path("study"), charts, screenshots, readers=0)
        check_hostile(browser, program, directory)
        check_long(browser, path("long"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--browser", required=True)
    parser.add_argument("--charts", choices=("yes", "no"), required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dirigo")
    what.add_argument("--report")
    parser.add_argument("--screenshots")
    arguments = parser.parse_args()
    if not os.access(arguments.browser, os.X_OK):
        sys.exit("expected Chromium, got none: install the package chromium, or leave this test out with -DDIRIGO_BROWSER_TEST=OFF")
    charts = arguments.charts == "yes"
    with Browser(arguments.browser) as browser:
        if arguments.report:
            check_report(browser, arguments.report, charts, arguments.screenshots)
        else:
            check_own_reports(browser, os.path.abspath(arguments.dirigo), charts, arguments.screenshots)
    print(f"{len(failures)} failures")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    try:
        main()
    except BrowserError as error:
        sys.exit(f"browser: {error}")
