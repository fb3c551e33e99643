"""Layout and events of the demo. `answers` computes the results and `figures` displays them.

python -m space.app --checkpoint checkpoints/macaron-promoter-library
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from html import escape
from itertools import count
from pathlib import Path
from threading import Event

import gradio as gr
from gradio.events import Dependency
from starlette.middleware import Middleware

from . import figures
from .answers import Answers, example_changes
from .guard import Guard
from .reading import BadInput, Limits, doubt_lines, read_one, to_sentence, what_is_read
from .searching import DesignRequest, search_designs
from .uploads import FileProgress, predict_upload

HERE = Path(__file__).parent
MAX_WAITING = 100  # requests in the queue
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

INTRODUCTION = """
<h1>Macaron promoter</h1>
<p>Predicts how strongly promoters are expressed, in assay units, from up to {length} nt of their DNA. {rows}Predictions
hold for the assay, the cells and the kind of promoters that the model was trained on. Not for clinical use.</p>
<details><summary>About the model</summary><p>A Macaron Transformer. {reads}</p></details>
"""
# Fields of a design, grouped by where their problems are shown: start, target, constraints.
DESIGN_FIELDS = (("start",), ("value", "max_edits", "num_designs"), ("gc", "sites", "positions"))
PRIVACY = "Your input is used for the answer only and not stored."


class Searches:
    """Stop events of the latest search of each browser session.

    The browser passes the number of a search, since several searches of one session may wait in the queue.
    """

    def __init__(self):
        self._numbers = count(1)
        self._latest: dict[str, tuple[int, Event]] = {}

    def begin(self, request: gr.Request) -> tuple[int, dict, str]:
        """Register a search and stop the earlier one. Returns its number and updates of the page."""
        self.stop(request)
        number = next(self._numbers)
        self._latest[str(request.session_hash)] = number, Event()
        return number, gr.update(interactive=True), figures.waiting()

    def stop(self, request: gr.Request) -> None:
        """Stop the search of a session, if any."""
        _, stop = self._latest.get(str(request.session_hash), (0, Event()))
        stop.set()

    def offer_stop(self, request: gr.Request) -> dict:
        """Keep the stop button active while the session has a search."""
        return gr.update(interactive=str(request.session_hash) in self._latest)

    def leave(self, request: gr.Request) -> None:
        """Stop and forget the search of a closed session."""
        self.stop(request)
        self._latest.pop(str(request.session_hash), None)

    def of(self, request: gr.Request, number: float) -> Event:
        """Return the stop event of a search. It is set if the search is outdated or the session closed."""
        latest, stop = self._latest.get(str(request.session_hash), (0, Event()))
        if latest != number:
            stop = Event()
            stop.set()
        return stop

    def end(self, request: gr.Request, number: float) -> None:
        """Forget a search, unless a later one began."""
        latest, _ = self._latest.get(str(request.session_hash), (0, None))
        if latest == number:
            self._latest.pop(str(request.session_hash), None)


def build_page(answers: Answers) -> gr.Blocks:
    """Lay out the demo."""
    searches = Searches()
    with gr.Blocks(title="Macaron promoter", analytics_enabled=False) as page:
        gr.HTML(_introduction(answers), elem_id="introduction", elem_classes="prose", padding=False)
        with gr.Tabs():
            with gr.Tab("Predict"):
                _predict_tab(answers)
            with gr.Tab("Mutagenesis"):
                _mutagenesis_tab(answers)
            with gr.Tab("Variant"):
                _variant_tab(answers)
            with gr.Tab("Design"):
                _design_tab(answers, searches)
            with gr.Tab("File"):
                _file_tab(answers)
        page.unload(searches.leave)
    return page


def _introduction(answers: Answers) -> str:
    """Describe the model's predictions, input and measured values."""
    reference, rows = answers.reference, ""
    if reference is not None:
        low, high = (figures.number(value, answers.digits) for value in reference.percentiles[[0, -1]])
        seen = "Trained" if reference.split == "training" else "Validated"
        rows = f"{seen} on {reference.num_promoters:,} promoters of {reference.data}, measured at {low} to {high}. "
    reads = to_sentence(what_is_read(answers.tokenizer))
    return INTRODUCTION.format(length=answers.tokenizer.strand_length, rows=escape(rows), reads=escape(reads))


def _sequence_field(label: str, info: str, value: str, name: str, lines: int = 3) -> tuple[gr.Textbox, gr.HTML]:
    """Make a field for DNA and a place for its problem."""
    field = gr.Textbox(
        label=label, info=info, value=value, lines=lines, max_lines=12, elem_id=name, elem_classes="sequence-field"
    )
    return field, _problem_place(name)


def _problem_place(name: str) -> gr.HTML:
    """Make the place for a problem of an input."""
    return gr.HTML(elem_id=f"{name}-problem", elem_classes="problem-place", padding=False)


def _middle_box(answers: Answers, name: str) -> gr.Checkbox:
    """Make the option to cut sequences that are too long."""
    label = f"Cut longer sequences to their middle {answers.tokenizer.strand_length} nt"
    return gr.Checkbox(label=label, elem_id=name)


def _on(event: Callable, function: Callable, inputs: list, outputs: list, long: bool = False, **options) -> Dependency:
    """Call a function on an event and show its answer. Long requests do not delay short ones."""
    done = event(
        function, inputs, outputs, api_visibility="private", concurrency_limit=2,
        concurrency_id="long" if long else "short", **options,
    )  # fmt: skip
    done.then(None, js=f"() => window.showAnswer('{outputs[-1].elem_id}')", show_progress="hidden")
    return done


def _predict_tab(answers: Answers) -> None:
    def answer(text: str, keep_middle: bool) -> tuple[str, str]:
        try:
            found = answers.predict(text, keep_middle)
        except BadInput as error:
            return figures.problem(str(error)), ""
        if len(found) == 1:
            return "", figures.predicted_one(found[0], answers.reference, answers.digits)
        doubt = doubt_lines(text, answers.limits, answers.tokenizer)
        return "", figures.predicted_many(found, answers.reference, doubt, answers.digits)

    with gr.Row():
        with gr.Column():
            field, problem = _sequence_field(
                "Promoter", "One sequence, one sequence per line, or FASTA.",
                answers.examples[0].sequence, "predict-sequence", lines=5,
            )  # fmt: skip
            keep = _middle_box(answers, "predict-middle")
            button = gr.Button("Predict", variant="primary", elem_id="predict-run")
            is_measured = answers.examples[0].measured is not None
            gr.Markdown("Or a measured promoter of the validation split:" if is_measured else "Or an example:")
            with gr.Row():
                choices = [
                    gr.Button(example.description, size="sm", min_width=90, elem_id=f"example-{index}")
                    for index, example in enumerate(answers.examples)
                ]
            gr.HTML(f'<p class="hint">{PRIVACY}</p>', padding=False)
        with gr.Column():
            result = gr.HTML(elem_id="predict-result", padding=False)
    _on(button.click, answer, [field, keep], [problem, result])
    for choice, example in zip(choices, answers.examples, strict=True):
        fill = partial(lambda sequence: (sequence, *answer(sequence, False)), example.sequence)
        _on(choice.click, fill, [], [field, problem, result])


def _mutagenesis_tab(answers: Answers) -> None:
    def answer(text: str) -> tuple[str, str]:
        try:
            return "", figures.mutated(answers.mutate(text), answers.digits)
        except BadInput as error:
            return figures.problem(str(error)), ""

    field, problem = _sequence_field(
        "Promoter", "One sequence. Each base is replaced by each of the other three.",
        answers.examples[-1].sequence, "mutagenesis-sequence", lines=2,
    )  # fmt: skip
    button = gr.Button("Mutate", variant="primary", elem_id="mutagenesis-run")
    result = gr.HTML(elem_id="mutagenesis-result", padding=False)
    _on(button.click, answer, [field], [problem, result])


def _variant_tab(answers: Answers) -> None:
    def answer(reference: str, alternative: str, cut: bool) -> tuple[str, str, str]:
        try:
            return "", "", figures.compared(answers.compare(reference, alternative, cut), answers.digits + 1)
        except BadInput as error:
            message = figures.problem(str(error))
            return (message, "", "") if error.field == "reference" else ("", message, "")

    sequence = answers.examples[-1].sequence
    substitution, deletion, insertion = example_changes(read_one(answers.tokenizer, sequence, answers.limits).sequence)
    with gr.Row():
        with gr.Column():
            reference, reference_problem = _sequence_field(
                "Reference", "One sequence.", sequence, "variant-reference", lines=2
            )
        with gr.Column():
            alternative, alternative_problem = _sequence_field(
                "Alternative",
                f"A change, counted from 1 without flanks ({substitution} replaces, {deletion} deletes, {insertion} "
                "inserts), or the other sequence.",
                substitution, "variant-alternative", lines=2,
            )  # fmt: skip
            cut = gr.Checkbox(
                label=f"Cut the 5' end if an insertion makes more than {answers.tokenizer.strand_length} nt",
                elem_id="variant-cut",
            )
    button = gr.Button("Compare", variant="primary", elem_id="variant-run")
    result = gr.HTML(elem_id="variant-result", padding=False)
    _on(button.click, answer, [reference, alternative, cut], [reference_problem, alternative_problem, result])


def _design_tab(answers: Answers, searches: Searches) -> None:
    def answer(number, start, target, value, edits, num, quick, low, high, sites, positions, request: gr.Request):
        wanted = DesignRequest(start, target, value, edits, num, quick, (low, high), sites, positions)
        try:
            for found in search_designs(answers, wanted, searches.of(request, number)):
                if isinstance(found, int):
                    yield "", "", "", figures.progressing(f"{found:,} predictions")
                else:
                    yield "", "", "", figures.designed(found, answers.digits)
        except BadInput as error:
            place = next(index for index, fields in enumerate(DESIGN_FIELDS) if error.field in fields)
            yield *(figures.problem(str(error)) if index == place else "" for index in range(3)), ""
        finally:
            searches.end(request, number)

    with gr.Row():
        with gr.Column():
            start, start_problem = _sequence_field(
                "Start", "A promoter of A, C, G and T. If empty, a random one.",
                answers.examples[0].sequence, "design-start", lines=2,
            )  # fmt: skip
            goal, goal_problem = _goal_fields(answers)
        with gr.Column():
            rules, rules_problem = _rule_fields()
    with gr.Row():
        button = gr.Button("Design", variant="primary", elem_id="design-run")
        stop_button = gr.Button("Stop", interactive=False, elem_id="design-stop")
    result = gr.HTML(elem_id="design-result", padding=False)
    number = gr.Number(visible=False)  # of the search; gr.State is read too late, when the search starts
    quiet = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    begun = button.click(searches.begin, None, [number, stop_button, result], **quiet)
    begun.then(None, js="() => window.showAnswer('design-result')", show_progress="hidden")
    outputs = [start_problem, goal_problem, rules_problem, result]
    done = _on(
        begun.then, answer, [number, start, *goal, *rules], outputs, long=True, show_progress="hidden",
        trigger_mode="multiple",
    )  # fmt: skip
    done.then(searches.offer_stop, None, stop_button, **quiet)
    stop_button.click(searches.stop, **quiet)


def _goal_fields(answers: Answers) -> tuple[list, gr.HTML]:
    """Make the fields of the target and the search and a place for their problems."""
    limits, config = answers.limits, answers.config
    target = gr.Radio(
        [("higher", "higher"), ("lower", "lower"), ("as near as possible to", "value")], value="higher",
        label="Expression", elem_id="design-target",
    )  # fmt: skip
    value = gr.Number(
        label="Wanted expression (assay units)", value=round(config.expression_mean, answers.digits),
        step=10.0 ** (1 - answers.digits), visible=False, elem_id="design-value",
    )  # fmt: skip
    with gr.Row():
        edits = gr.Slider(
            1, limits.edits, value=5, step=1, label="Edits at most", elem_id="design-edits", min_width=250
        )
        num = gr.Slider(1, limits.designs, value=1, step=1, label="Designs", elem_id="design-num", min_width=250)
    problem = _problem_place("design-goal")
    quick = gr.Checkbox(label="Quick: try only the most promising edits, by the gradient", elem_id="design-quick")
    target.change(
        lambda kind: gr.update(visible=kind == "value"), target, value, queue=False, api_visibility="private",
        show_progress="hidden",
    )  # fmt: skip
    return [target, value, edits, num, quick], problem


def _rule_fields() -> tuple[list, gr.HTML]:
    """Make the fields of the constraints and a place for their problems."""
    with gr.Row():
        low = gr.Number(label="GC % at least", value=0, elem_id="design-gc-low")
        high = gr.Number(label="GC % at most", value=100, elem_id="design-gc-high")
    sites = gr.Textbox(
        label="Forbidden sites", info="On either strand, for example GAATTC, GGTCTC.",
        elem_id="design-sites", elem_classes="sequence-field",
    )  # fmt: skip
    positions = gr.Textbox(
        label="Fixed positions", info="Counted from 1 without flanks, for example 1-10, 35.",
        elem_id="design-positions",
    )  # fmt: skip
    return [low, high, sites, positions], _problem_place("design-rules")


def _file_tab(answers: Answers) -> None:
    def answer(upload: str | None, column: str, output_format: str, keep: bool) -> Iterator[tuple[str, str]]:
        try:
            name, content = _read_upload(upload)
            for found in predict_upload(answers, name, content, column, output_format, keep):
                if isinstance(found, FileProgress):
                    message = f"{found.num_done:,} of {found.num_rows:,} rows"
                    yield "", figures.progressing(message, found.num_done, found.num_rows)
                else:
                    yield "", figures.predicted_file(found, answers.reference, answers.digits)
        except BadInput as error:
            yield figures.problem(str(error)), ""

    upload, problem = _upload_field(answers.limits)
    with gr.Row():
        column = gr.Textbox(label="Column of the DNA", info="If empty, found automatically.", elem_id="file-column")
        output_format = gr.Radio([("CSV", "csv"), ("Parquet", "parquet")], value="csv", label="Output format",
                                 elem_id="file-format")  # fmt: skip
    keep = _middle_box(answers, "file-middle")
    button = gr.Button("Predict the file", variant="primary", elem_id="file-run")
    result = gr.HTML(elem_id="file-result", padding=False)
    begun = button.click(
        lambda: ("", figures.waiting()), None, [problem, result], queue=False, api_visibility="private",
        show_progress="hidden",
    )  # fmt: skip
    _on(begun.then, answer, [upload, column, output_format, keep], [problem, result], long=True, show_progress="hidden")


def _upload_field(limits: Limits) -> tuple[gr.HTML, gr.HTML]:
    """Make the field for a file and a place for its problem."""
    upload = gr.HTML(
        html_template=(
            '<label for="upload-file">Table or FASTA</label>'
            '<input id="upload-file" type="file" accept=".tsv,.txt,.csv,.fa,.fasta,.fna">'
            '<span class="told" aria-live="polite"></span>'
        ),
        js_on_load=(HERE / "upload.js").read_text(), elem_classes="upload", elem_id="file-upload",
        most_bytes=limits.file_bytes,
    )  # fmt: skip
    problem = _problem_place("file")
    gr.HTML(
        f'<p class="hint">TSV, CSV or FASTA, up to {limits.file_rows:,} rows and {limits.file_bytes // 1_000_000} MB. '
        f"The other columns are kept. {PRIVACY}</p>",
        padding=False,
    )
    return upload, problem


def _read_upload(upload: str | None) -> tuple[str, bytes]:
    """Read the name and content of a file sent by `upload.js`."""
    if not upload:
        raise BadInput("Choose a file first.")
    try:
        sent = json.loads(upload)
        if "base64" not in sent:
            return str(sent["name"]), bytes(min(int(sent["size"]), 10_000_000))  # too large to send
        return str(sent["name"]), base64.b64decode(sent["base64"], validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise BadInput("The upload is incomplete: choose the file again.") from error


def _theme() -> gr.themes.Base:
    """Make a theme with system fonts and readable secondary text."""
    faint = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}
    faint |= {f"{name}_dark": "*neutral_300" for name in faint}
    button = {"button_primary_background_fill": "*primary_700", "button_primary_background_fill_hover": "*primary_800"}
    button |= {f"{name}_dark": value for name, value in button.items()}
    faint |= {"checkbox_border_color": "*neutral_500", "checkbox_border_color_dark": "*neutral_400"}
    return gr.themes.Default(primary_hue="teal", font=FONTS, font_mono=MONO).set(**faint, **button)


def launch_page(answers: Answers, **options) -> tuple:
    """Start the server and return the result of `gradio.Blocks.launch`."""
    page = build_page(answers)
    max_bytes = answers.limits.file_bytes * 4 // 3 + 1_000_000  # base64, and the rest of the request
    return page.queue(max_size=MAX_WAITING, api_open=False).launch(
        css_paths=HERE / "page.css",
        head=f"<script>{(HERE / 'page.js').read_text()}</script>",
        theme=_theme(),
        footer_links=[],
        app_kwargs={"middleware": [Middleware(Guard, max_bytes=max_bytes, closed=("/upload",))]},
        ssr_mode=False,
        share=False,
        quiet=True,
        **options,
    )


def _check_port(port: int) -> None:
    """Raise an OSError if a port cannot be used, before the model is loaded."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), port))
    except OSError as error:
        raise OSError(f"port {port} cannot be used ({error.strerror}): choose another, or omit --port") from error


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "checkpoints/macaron-promoter-library"
    parser.add_argument("--checkpoint", default=default, help="folder, or name on the Hub (%(default)s)")
    parser.add_argument("--port", type=int, help="default: the first free port from 7860")
    options = parser.parse_args(argv)
    if options.port is not None and not 1 <= options.port <= 65_535:
        parser.error(f"--port must be between 1 and 65535, got {options.port}")
    try:
        if options.port is not None:
            _check_port(options.port)
        answers = Answers(options.checkpoint)
        app, address, _ = launch_page(answers, server_port=options.port, prevent_thread_lock=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    print(f"Demo running at {address} (Ctrl+C stops it)", flush=True)
    app.blocks.block_thread()


if __name__ == "__main__":
    main()
