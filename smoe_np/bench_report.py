"""What ``smoe bench`` has measured, as text."""

HEAD = ("picture", "kernels", "backend", "ms/step", "pairs/px", "ns/pair", "builds", "ms/build",
        "build ms/step", "memory", "× exp", "dense ms", "faster")
DETAILS_HEAD = ("picture", "kernels", "backend", "threads", "speed-up", "ns/pair", "step alone",
                "in kernels", "in gaps", "GFLOP/s", "of most", "GB/s", "of most")
ONE_THREAD = "ns/pair and step alone are of one thread; the rest is of all"


def as_text(report):
    """The report of ``bench.run`` as tables."""
    lines = [f"smoe_np {report['smoe_np']}, NumPy {report['numpy']}, Python {report['python']}, "
             f"{report['machine']}, {report['processors']} processors"]
    lines += [f"{name}: {reason}" for name, reason in report["unavailable"].items()]
    lines += _table([HEAD, *map(_row, report["cases"])])
    detailed = [case for case in report["cases"] if "details" in case]
    if detailed:
        lines += ["", ONE_THREAD, *_table([DETAILS_HEAD, *map(_details_row, detailed)])]
    lines += [""] * bool(report["render_ms"])
    lines += [f"{name}: {ms:.0f} ms to draw 3840×2160 pixels from 10,050 kernels"
              for name, ms in report["render_ms"].items()]
    lines += _ratios(report["cases"])
    if "first_use" in report:
        compiled, loaded = report["first_use"]
        lines.append(f"native: {compiled:.1f} s to compile kernels at first use, "
                     f"{loaded:.3f} s to load them afterwards")
    return "\n".join(lines)


def _what(case):
    shape = "×".join(map(str, case["shape"])) + (" RGB" if case["channels"] == 3 else "")
    return shape, f"{case['kernels']}", case["backend"]


def _row(case):
    memory = "?" if case["peak_mib"] is None else f"{case['peak_mib']:.0f} MiB"
    dense = case.get("dense_ms")
    return (*_what(case), f"{case['ms_per_iteration']:.2f}", f"{case['pairs_per_pixel']:.1f}",
            f"{case['ns_per_pair']:.2f}", f"{case['builds']}", f"{case['ms_per_build']:.1f}",
            f"{case['build_ms_per_iteration']:.2f}", memory, f"{case['times_exp']:.3f}",
            "-" if dense is None else f"{dense:.0f}",
            "-" if dense is None else f"{dense / case['ms_per_iteration']:.0f}")


def _details_row(case):
    found = case["details"]
    steps = found["ms_all_threads"] - case["build_ms_per_iteration"]
    return (*_what(case), f"{found['threads']}",
            f"{found['ms_one_thread'] / found['ms_all_threads']:.2f}",
            f"{found['ns_per_pair']:.2f}", f"{found['ns_per_pair_step']:.2f}",
            f"{found['ms_in_kernels']:.2f} ms", f"{max(steps - found['ms_in_kernels'], 0):.2f} ms",
            f"{found['gflops']:.0f}", f"{found['gflops'] / found['gflops_most']:.0%}",
            f"{found['gbytes']:.1f}", f"{found['gbytes'] / found['gbytes_most']:.0%}")


def _ratios(cases):
    """How much more many kernels cost than few, on the same picture, by backend."""
    lines = []
    for many in cases:
        for few in cases:
            if (many["backend"] == few["backend"] and many["shape"] == few["shape"]
                    and many["channels"] == few["channels"] and many["kernels"] > few["kernels"]):
                ratio = many["ms_per_iteration"] / few["ms_per_iteration"]
                lines.append(f"{many['backend']}: {many['kernels']} kernels cost {ratio:.2f} times "
                             f"what {few['kernels']} cost")
    return lines


def _table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].ljust(widths[2]),
                       *(cell.rjust(width) for cell, width in zip(row[3:], widths[3:]))])
            for row in rows]
