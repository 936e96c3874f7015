"""The measurements of ``smoe bench`` as text."""

HEAD = ("picture", "kernels", "backend", "ms/step", "pairs/px", "ns/pair", "builds", "ms/build",
        "build ms/step", "memory", "× exp", "dense ms", "dense ×")
DETAILS_HEAD = ("picture", "kernels", "backend", "steps ms", "kernels", "gaps", "threads",
                "speed-up", "of most", "1: ns/pair", "1: in step", "GFLOP/s", "of most", "GB/s",
                "of most")
LEAST_SHARE = 0.005  # of the time of a step; kernels below it are not listed


def as_text(report):
    """The report of ``bench.run`` as tables, with notes on what does not fit into them."""
    cases = report["cases"]
    lines = [f"smoe_np {report['smoe_np']}, NumPy {report['numpy']}, Python {report['python']}, "
             f"{report['machine']}, {report['processors']} processors"]
    lines += _table([HEAD, *map(_row, cases)])
    detailed = [case for case in cases if "details" in case]
    if detailed:
        lines += ["", *_table([DETAILS_HEAD, *map(_details_row, detailed)]), ""]
        lines += map(_shares, detailed)
        lines += [line for case in detailed for line in _without_graphs(case)]
    notes = [*_ratios(cases), *_first_use(report["first_use"])]
    notes += [f"not measured: {name}: {why}" for name, why in report["unavailable"].items()]
    return "\n".join(lines + [""] * bool(notes) + notes)


def _name(case):
    shape = "×".join(map(str, case["shape"])) + (" RGB" if case["channels"] == 3 else "")
    return shape + (" drawn" if case["renders"] else ""), f"{case['kernels']}", case["backend"]


def _row(case):
    memory = "?" if case["peak_mib"] is None else f"{case['peak_mib']:.0f} MiB"
    builds = [f"{case[key]:.{digits}f}" if case[key] is not None else "-"
              for key, digits in (("ms_per_build", 1), ("build_ms_per_iteration", 2))]
    return (*_name(case), f"{case['ms_per_iteration']:.2f}", f"{case['pairs_per_pixel']:.1f}",
            f"{case['ns_per_pair']:.2f}", f"{case['builds']}", *builds, memory,
            f"{case['times_exp']:.3f}", f"{case['dense_ms']:.0f}", f"{case['times_dense']:.0f}")


def _details_row(case):
    found = case["details"]
    inside = found["ms_in_kernels"] / found["ms"]
    of_threads = ("-",) * 5
    if "threads" in found:
        most = found["gflops_most"] / found["gflops_most_one_thread"]
        of_threads = (f"{found['threads']}", f"{found['ms_one_thread'] / found['ms']:.2f}",
                      f"{most:.2f}", f"{found['ns_per_pair']:.2f}",
                      f"{found['ns_per_pair_step']:.2f}")
    return (*_name(case), f"{found['ms']:.2f}", f"{inside:.1%}", f"{1 - inside:.1%}", *of_threads,
            f"{found['gflops']:.0f}", f"{found['gflops'] / found['gflops_most']:.0%}",
            f"{found['gbytes']:.1f}", f"{found['gbytes'] / found['gbytes_most']:.0%}")


def _shares(case):
    found = case["details"]
    shares = sorted(((ms / found["ms"], kernel) for kernel, ms in found["kernels"].items()),
                    reverse=True)
    picture, kernels, backend = _name(case)
    return f"{picture}, {kernels}, {backend}: " + ", ".join(
        f"{kernel} {share:.0%}" for share, kernel in shares if share >= LEAST_SHARE)


def _without_graphs(case):
    found = case["details"]
    if "ms_without_graphs" in found:
        yield (f"{', '.join(_name(case))}: {found['ms_without_graphs']:.3f} ms without graphs, "
               f"{found['ms']:.3f} ms with them")


def _ratios(cases):
    """Lines that compare the times of many and few kernels, by picture and backend."""
    for many in cases:
        for few in cases:
            same = all(many.get(key) == few.get(key)
                       for key in ("shape", "channels", "backend", "renders", "image_path"))
            if same and many["kernels"] > few["kernels"]:
                ratio = many["ms_per_iteration"] / few["ms_per_iteration"]
                yield (f"{many['backend']}: {many['kernels']} kernels take {ratio:.2f} times as "
                       f"long as {few['kernels']}")


def _first_use(seconds):
    for backend, (compiling, loading) in seconds.items():
        yield (f"{backend}: {compiling:.1f} s to compile kernels at first use, {loading:.3f} s to "
               f"load them afterwards")


def _table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].ljust(widths[2]),
                       *(cell.rjust(width) for cell, width in zip(row[3:], widths[3:]))])
            for row in rows]
