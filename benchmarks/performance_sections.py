"""The sections of docs/performance.md and docs/operations.md, each written from one kind of result file.

Enters: a result as its benchmark stored it, and the machine that its file is named after. Leaves: Markdown.
"""

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import selection_plot

# What a section is written by: from the machine's name and the result.
Render = Callable[[str, dict[str, Any]], str]
# Columns that read from the left.
_WORDS = ("form", "picks", "part", "model", "job", "source", "reason", "where", "harm", "stage")


def picture(machine: str) -> str:
    """The name of the plot of selection's time and memory."""
    return f"performance-selection-{machine}.svg"


def _selection(machine: str, result: dict[str, Any]) -> str:
    memory = selection_plot.peaks(result)

    def compared(row: dict[str, Any]) -> list[str]:
        seconds, size = row["seconds"], (row["candidates"], row["width"])
        published, ours = (memory.get((form, *size)) for form in ("published", "ours"))
        peaks = [""] * 3
        if selection_plot.has_peak(row) and published and ours:
            peaks = [_bytes(published), _bytes(ours), f"1/{published / ours:,.0f}"]
        return [
            f"{row['candidates']:,}",
            str(row["width"]),
            f"{row['filter_ratio']:g}",
            *(_seconds(seconds[form]) for form in selection_plot.FORMS),
            f"**{row['speedup']:.1f}×**",
            f"{row['over_products']:.2f}×",
            *peaks,
            _difference(row["swapped"]),
        ]

    def alone(row: dict[str, Any]) -> list[str]:
        size = row["candidates"], row["width"]
        peak = _bytes(memory["ours", *size]) if ("ours", *size) in memory else ""
        matrices = _bytes(2 * 4 * row["candidates"] ** 2)
        time = [_seconds(row["seconds"]), str(row["runs"])]
        return [f"{size[0]:,}", str(size[1]), f"{row['subbatch']:,}", *time, peak, matrices]

    growth = result["growth"]
    grown = [[f"{row['candidates']:,}", _seconds(row["seconds"])] for row in growth["rows"]]
    return "\n".join(
        [
            _heading(result["machine"]),
            f"![Time and peak memory over the super-batch, both axes logarithmic]({picture(machine)})\n",
            _table("B | d | f | published | ours | bare products | faster by | over products | peak, published "
                   "| peak, ours | share | picks", map(compared, result["compared"])),
            "Ours alone, f = 0.8, where the published form's two matrices would take what the last column says:\n",
            _table("B | d | b | time | runs | peak | B × B matrices", map(alone, result["alone"])),
            f"Growth at a fixed sub-batch of b = {growth['rows'][0]['subbatch']:,}, d = {growth['rows'][0]['width']}: "
            f"time ∝ B^**{growth['exponent']:.2f}** (least squares over the logarithms).\n",
            _table("B | time", grown),
        ]
    )  # fmt: skip


def _chunk(_: str, result: dict[str, Any]) -> str:
    rows = [
        [row["form"], _seconds(row["seconds"]), f"{row['ratio']:.2f}×", _bytes(row["temporaries"])]
        for row in result["rows"]
    ]
    near = [[f"{row['within']:g}", f"{row['candidates_per_pick']:.2f}"] for row in result["near_the_cut"]]
    return "\n".join(
        [
            _heading(result["machine"]),
            f"B = {result['candidates']:,}, d = {result['width']}, f = 0.8, 16 chunks.\n",
            _table("form | time of a product | over the bare product | XLA's temporaries", rows),
            _table("ε | candidates within ε of the cut or above it, per pick", near),
        ]
    )


def _object_storage(_: str, result: dict[str, Any]) -> str:
    forms = list(dict.fromkeys(row["form"] for row in result["rows"]))
    cases: dict[tuple[float, int, int], dict[str, Any]] = {}
    for row in result["rows"]:
        cases.setdefault((row["delay"], row["block"], row["threads"]), {})[row["form"]] = row
    table = [
        [
            f"{1000 * delay:.0f} ms", str(block), str(threads),
            *(f"{case[form]['rows_per_second']:,.0f}" for form in forms),
            *(f"{case[form]['requests_per_block']:.3g}" for form in forms),
            *(f"{case[form]['bytes_over_size']:.2g}×" for form in forms),
        ]
        for (delay, block, threads), case in cases.items()
    ]  # fmt: skip
    measured = (f"{form}, {what}" for what in ("rows/s", "requests a block", "bytes sent") for form in forms)
    machine = result["machine"]
    return "\n".join(
        [
            f"### {machine['cores']} CPU cores, loopback, ArrayRecord {machine['array_record']}\n",
            f"{result['shards']} shards of {result['rows_per_shard']} rows of {result['row_bytes'] / 1000:.0f} kB.\n",
            _table(" | ".join(["wait", "block", "threads", *measured]), table),
        ]
    )


def _step(_: str, result: dict[str, Any]) -> str:
    def paper(row: dict[str, Any]) -> str:
        return "" if row["paper"] is None else "–".join(f"{bound:.3g}×" for bound in dict.fromkeys(row["paper"]))

    rows = [
        [row["form"], _seconds(row["seconds"]), f"**{row['ratio']:.2f}×**", f"{row['examples_per_second']:,.0f}"]
        for row in result["rows"]
    ]
    phases = [
        [row["form"], row["part"], _seconds(row["seconds"]), f"{100 * row['share']:.1f} %"] for row in result["phases"]
    ]
    accounts = [
        [
            row["form"], f"{account['preset']} at {account['resolution']} px", f"{row['counted']:.3g}",
            f"**{row['counted_ratio']:.2f}×**", f"**{row['measured_ratio']:.2f}×**", paper(row),
            f"{row['measured_over_counted']:.3f}",
        ]
        for account in result["accounts"]
        for row in account["rows"]
    ]  # fmt: skip
    first = result["accounts"][0]
    return "\n".join(
        [
            _heading(result["machine"]),
            f"`{first['preset']}` at {first['resolution']} px, {result['dtype']}, b = {first['batch_size']}, "
            f"B = {result['superbatch_size']}, scored {result['scoring_batch']} at a time.\n",
            _table("form | time of a step | over uniform | examples learned from a second", rows),
            f"An online reference makes a step **{result['online_over_cached']:.2f}×** as long as a cached one; a "
            f"Flexi-JEST step takes **{result['flexi_over_jest']:.2f}×** a JEST step.\n",
            _table("form | part | time | share of the step", phases),
            _table("form | model | FLOPs counted | over uniform, counted | over uniform, XLA | over uniform, the "
                   "paper | XLA over counted", accounts),
        ]
    )  # fmt: skip


def _input(_: str, result: dict[str, Any]) -> str:
    labels = {
        "bare": "bare loop", "threads": f"`--workers={result['threads']}`",
        "processes": f"`--worker_processes={result['threads']} --workers=1`",
    }  # fmt: skip
    reading = [
        [labels[row["form"]], f"{row['rows_per_second']:,.0f}", f"**{row['of_bare']:.2f}×**"]
        for row in result["reading"]
    ]
    decoding = [
        [f"{row['resolution']} px", f"{row['images_per_second']:,.0f}", _optional(row, "half_faster", "{:.2f}×")]
        for row in result["decoding"]
    ]
    step, seconds = result["step"], result["step"]["seconds"]
    return "\n".join(
        [
            _heading(result["machine"]),
            f"{result['rows']:,} rows of {result['row_bytes'] / 1000:.0f} kB, JPEGs of {result['pixels']} px decoded "
            f"at {result['resolution']} px by {result['threads']} threads, B = {result['superbatch_size']}.\n",
            _table("form | rows/s | over the bare loop", reading),
            f"A whole step of `tiny` takes {_seconds(seconds['loop'])}; its computation alone "
            f"{_seconds(seconds['compute'])}, reading alone {_seconds(seconds['threads'])}. So it takes "
            f"**{step['over_apart']:.2f}×** the two apart and **{step['over_compute']:.2f}×** the computation; "
            f"{100 * step['input_stall']:.0f} % of it waits for data.\n",
            _table("decoded to | images/s, one thread | faster at half", decoding),
        ]
    )


def _kill(_: str, result: dict[str, Any]) -> str:
    kills = result["kills"]
    where = [kill["step"] for kill in kills if kill["step"] is not None]
    lost = [sum(kill["lost"] == steps for kill in kills) for steps in range(result["checkpoint_every"] + 1)]
    rows = [[str(steps), str(count)] for steps, count in enumerate(lost)]
    return "\n".join(
        [
            f"### {result['machine']['cores']} CPU cores\n",
            f"{result['steps']} steps, a checkpoint every {result['checkpoint_every']}, a selections file every "
            f"{result['steps_per_part']}. {len(kills)} kills of {result['asked']} asked for: {len(where)} between "
            f"steps {min(where)} and {max(where)}, {len(kills) - len(where)} while a run was starting. Files that "
            f"differ from the uninterrupted run's: **{len(result['differences'])}**.\n",
            _table("steps lost | kills", rows),
        ]
    )


def _kill_jobs(_: str, result: dict[str, Any]) -> str:
    def row(job: dict[str, Any]) -> list[str]:
        kills = job["kills"]
        worked = [kill for kill in kills if not kill["starting"]]
        left = [kill["shards"] for kill in worked]
        return [
            f"`{job['job']}`", str(len(kills)), str(len(kills) - len(worked)),
            f"{min(left)}–{max(left)}" if left else "", str(sum(kill["temporary"] for kill in kills)),
            str(job["compared"]), f"**{len(job['differences'])}**",
        ]  # fmt: skip

    columns = "job | kills | of these while it started | shards that a kill found | temporary files that kills left"
    return "\n".join(
        [
            f"### {result['machine']['cores']} CPU cores\n",
            f"{result['rows']:,} rows, {result['shards']} shards, `curate` with two controls of as many. "
            f"{sum(len(job['kills']) for job in result['jobs'])} kills of {result['asked']} asked for.\n",
            _table(f"{columns} | outputs completed and compared | files that differ", map(row, result["jobs"])),
        ]
    )


def _beam_jobs(_: str, result: dict[str, Any]) -> str:
    def rates(part: dict[str, Any]) -> dict[str, str]:
        return {
            name: f"{rate:,.3g}" if rate < 100 else f"{rate:,.0f}" for name, rate in part["rows_per_second"].items()
        }

    embed, workers, ingest = rates(result["embed"]), rates(result["workers"]), rates(result["ingest"])
    jobs = [
        ["`embed`, all cores", embed["bare"], embed["embed"], f"**{result['embed']['of_bare']:.2f}×**"],
        ["`embed`, two workers of one thread", workers["bare"], workers["embed"],
         f"**{result['workers']['of_bare']:.2f}×**"],
        ["`ingest`", ingest["bare"], ingest["ingest"], f"**{result['ingest']['of_bare']:.2f}×**"],
        *(  # results from before it was compared have none
            [["`ingest`, over TFDS's builder", ingest["tfds"], ingest["ingest"],
              f"**{result['ingest']['of_tfds']:.2f}×**"]]
            if "tfds" in ingest else []
        ),
        ["`ingest`, two processes over one", ingest["one process"], ingest["two processes"],
         f"**{result['ingest']['two_over_one']:.2f}×**"],
    ]  # fmt: skip
    decoding = [
        [f"{row['resolution']} px", *(f"{row['images_per_second'][name]:,.0f}" for name in ("pillow", "product")),
         f"**{row['faster']:.2f}×**"]
        for row in result["decoding"]
    ]  # fmt: skip
    peaks: dict[str, dict[int, int]] = {}
    for row in result["memory"]:
        peaks.setdefault(row["job"], {})[row["rows"]] = row["bytes"]
    memory = []
    for name, of_rows in peaks.items():
        (few, less), (many, more) = sorted(of_rows.items())
        memory.append([f"`{name}`", _bytes(less), _bytes(more), _bytes(max(more - less, 0) / (many - few))])
    rows = sorted({row["rows"] for row in result["memory"]})
    return "\n".join(
        [
            _heading(result["machine"]),
            f"JPEGs of {result['pixels']} px; `{result['preset']}` at {result['resolution']} px, batches of "
            f"{result['batch_size']}.\n",
            _table("job | baseline, rows/s | job, rows/s | over the baseline", jobs),
            _table("decoded to | Pillow, images/s | here, images/s | faster by", decoding),
            _table(f"job | peak at {rows[0]:,} rows | at {rows[1]:,} rows | for each row more", memory),
        ]
    )


def _hostile(_: str, result: dict[str, Any]) -> str:
    rows = [
        [row["source"], *(f"{row[name]:,}" for name in ("read", "kept", "duplicates")),
         f"{sum(row['rejected'].values()):,}", _seconds(row["seconds"]), _bytes(row["peak_bytes"])]
        for row in result["rows"]
        if "read" in row  # else the command failed, and that is one of the problems
    ]  # fmt: skip
    reasons = sorted(result["rejected"].items(), key=lambda item: -item[1])
    return "\n".join(
        [
            f"### {result['machine']['cores']} CPU cores\n",
            f"{result['cases']:,} pairs in sound files, then {result['containers']} damaged files of each format, seed "
            f"{result['seed']}. Checks that failed: **{len(result['problems'])}**.\n",
            _table("source | read | kept | duplicates | rejected | time | peak memory", rows),
            _table("reason | rejected", [[reason, f"{count:,}"] for reason, count in reasons]),
        ]
    )


def _publishing(_: str, result: dict[str, Any]) -> str:
    def races(where: str) -> list[str]:
        ours = [race for race in result["races"] if race["where"] == where]
        sums = (sum(race[what] for race in ours) for what in ("succeeded", "told_who_holds_it"))
        return [f"a {where}", str(len(ours)), *map(str, sums), f"**{sum(len(race['problems']) for race in ours)}**"]

    kills = result["kills"]
    left = [kill["files"] for kill in kills["left"]]
    rows = [[f"a bit of {flip['file'].replace('shards', 'a shard')}", flip] for flip in result["flips"]]
    rows += [[f"shard {harm['harm']}", harm] for harm in result["harms"]]
    return "\n".join(
        [
            f"### {result['machine']['cores']} CPU cores\n",
            f"{result['rows']} rows, {result['shards']} shards, {kills['files'] - 1} files and a claim; seed "
            f"{result['seed']}. Checks that failed: **{len(result['problems'])}**.\n",
            f"{result['publishers']} publishers at a time, threads of {result['processes']} processes:\n",
            _table("where | races | publishers that succeeded | told who holds it | problems",
                   map(races, dict.fromkeys(race["where"] for race in result["races"]))),
            f"{len(left)} kills of {kills['asked']} asked for left {min(left)} to {max(left)} of {kills['files']} "
            f"files, the manifest among them {sum(kill['complete'] for kill in kills['left'])}×. Broken promises, and "
            f"versions that the next attempt did not complete to the same bytes: **{len(kills['problems'])}**.\n",
            _table("harm | times | named by `verify`",
                   [[words, f"{row['times']:,}", f"**{row['named']:,}**"] for words, row in rows]),
        ]
    )  # fmt: skip


def _plan(_: str, result: dict[str, Any]) -> str:
    rounds = result["rounds"]
    ratios = [ratio for made in rounds for ratio in (made["ratio"], made["ratio_after"])]
    table = [
        [
            str(number), f"{made['rehearsal_seconds'][0]:.0f} s", f"{made['total']['planned']:.0f} s",
            f"{made['total']['actual']:.0f} s", f"**{made['ratio']:.2f}**", f"{made['ratio_after']:.2f}",
            " / ".join(f"{load:.1f}" for load in made["load"]),
        ]
        for number, made in enumerate(rounds, start=1)
    ]  # fmt: skip
    stages = [
        [name, f"{seconds['planned']:.1f} s", f"{seconds['actual']:.1f} s"]
        for name, seconds in rounds[-1]["stages"].items()
    ]
    columns = "round | the rehearsal took | planned | actual | planned over actual | planned after it, over actual"
    return "\n".join(
        [
            _heading(result["machine"]),
            f"The demo's round, {len(rounds[-1]['stages'])} stages. Median of {len(ratios)} ratios: "
            f"**{result['ratio']:.2f}**.\n",
            _table(f"{columns} | load before, between, after", table),
            _table("stage | planned | actual", stages),
        ]
    )


def _capacity(_: str, result: dict[str, Any]) -> str:
    options, measured = result["options"], result["measured"]
    wide = [s for s in result["scenarios"] if not s["size"]["own"]]

    def row(label: str, show: Callable[[dict[str, Any]], str]) -> list[str]:
        return [label, *(show(scenario) for scenario in wide)]

    def of(name: str, form: Callable[[float], str] = _bytes) -> Callable[[dict[str, Any]], str]:
        return lambda scenario: form(scenario["capacity"][name])

    def stage(kind: str) -> Callable[[dict[str, Any]], str]:
        def show(scenario: dict[str, Any]) -> str:
            found = [s for s in scenario["stages"] if s["kind"] == kind]
            longest = max(found, key=lambda s: s["seconds"])
            return f"{sum(s['seconds'] for s in found) / 3600:,.3g} h ({longest['bound']})"

        return show

    def count(number: float) -> str:
        return f"{number:,.3g}" if number < 1000 else f"{number:,.0f}"

    table = [
        row("kept rows", lambda s: f"{s['size']['kept']:,.0f}"),
        row("corpus", of("corpus_bytes")),
        row("shards of 1 GiB", of("shards_of_1_GiB", count)),
        row("a shard, of those configured", of("bytes_per_shard")),
        row("embeddings", of("embeddings_bytes")),
        row("of them vectors", of("embeddings_vector_bytes")),
        row("keys that ingest shuffles", of("ingest_shuffle_bytes")),
        row("tasks in ingest's graph", of("ingest_graph_bytes")),
        row("requests of ingest's shards to spools", of("ingest_spool_requests", count)),
        row("steps of distill", lambda s: f"{s['size']['distill_steps']:,}"),
        row("read for a super-batch", of("superbatch_read_bytes")),
        row("a step", of("step_seconds", _seconds)),
        row("read by each host, a second", of("read_bytes_per_second_per_host")),
        row("sent to each host's devices, a second", of("device_input_bytes_per_second_per_host")),
        row("cores that decode, of all hosts", lambda s: f"{count(s['capacity']['decode_cores'])} of "
                                                         f"{count(s['capacity']['host_cores'])}"),
        row("selections log", of("selections_bytes")),
        row("choosing, on one worker", lambda s: f"{s['capacity']['choose_seconds'] / 3600:,.3g} h"),
        *(row(f"time of `{kind}`", stage(kind)) for kind in ("ingest", "embed", "distill", "curate")),
        row("longest", lambda s: f"**{s['bottleneck']['stage']}**: {s['bottleneck']['by']}"),
    ]  # fmt: skip
    return "\n".join(
        [
            f"{options['devices']:,} × {options['device']} at {100 * options['mfu']:.0f} % of their peak, "
            f"{options['workers']:,} vCPUs for the Beam jobs, {options['request_ms']:g} ms a request, "
            f"{options['task_rows']:,} rows a raw file, {options['epochs']:g} pass over the pool, "
            f"{wide[0]['capacity']['shards']:,} shards. Measured on {measured['machine']}: a row of the corpus "
            f"{_bytes(measured['row_bytes']['pool'])}, its key {measured['key_bytes']:.0f} B, decoding "
            f"{_seconds(measured['decode_seconds'])} on one core.\n",
            _table(" | ".join(["part", *(f"{s['size']['raw']:,} raw rows" for s in wide)]), table),
        ]
    )


def _difference(swapped: dict[str, float]) -> str:
    if swapped["places"] == 0:
        return "equal"
    return f"{swapped['places']} in another place, within {swapped['within']:.0e}"


def _heading(machine: dict[str, Any]) -> str:
    device = f"{machine['cores']} CPU cores" if machine["device"] == "cpu" else machine["device"]
    return f"### {device}, JAX {machine['jax']}\n"


def _table(header: str, rows: Iterable[list[str]]) -> str:
    columns = [column.strip() for column in header.split("|")]
    rules = [":--" if column in _WORDS else "--:" for column in columns]
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join(rules) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _optional(row: dict[str, Any], name: str, form: str) -> str:
    return form.format(row[name]) if name in row else ""


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


PERFORMANCE: dict[str, Render] = {
    "selection": _selection,
    "chunk": _chunk,
    "step": _step,
    "input": _input,
    "kill": _kill,
    "kill_jobs": _kill_jobs,
    "beam-jobs": _beam_jobs,
    "publishing": _publishing,
    "hostile": _hostile,
    "object-storage": _object_storage,
    "plan": _plan,
}
OPERATIONS: dict[str, Render] = {"capacity": _capacity}
