"""The commands of `zoo`: each one's parameters are its flags, its docstring their help."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import zoo
from zoo.atomic_write import atomic_write, check_file, check_folder
from zoo.measuring import image_shape_for
from zoo.policy import PolicyNotOfferedError, compared_flags
from zoo.report import format_comparison, format_report

DONE, SOMETHING_BROKEN = 0, 1


def list_command(family: str | None = None) -> int:
    """Print the names of the models.

    Args:
        family: only the models of one family
    """
    print("\n".join(zoo.list_models(family)))
    return DONE


def measure_command(
    model: str | None = None,
    *,
    efficient: bool = False,
    keep_bottleneck: bool = False,
    opt_memory: int | None = None,
    compressed: str | None = None,
    compare: bool = False,
    rows: bool = False,
    batch_size: int = 64,
    image_size: int | None = None,
    framework: str = "torch",
    device: str = "cpu",
) -> int:
    """Print memory and time of one training step of a model, really run.

    Args:
        model: its name, also without --model; `zoo list` prints the names
        efficient: exact saving of memory: same numbers, least memory
        keep_bottleneck: with --efficient: more memory, less time
        opt_memory: one of the classic levels 0..4 instead of --efficient
        compressed: store what is kept in few bits: 1, 2, 4, 8, fixed:3, half, L3, gact:4, autoquantz
        compare: measure plain, efficient with keep_bottleneck, efficient, and (image models) compressed; print ratios
        rows: print what every layer saves, and how
        batch_size: images
        image_size: height and width in pixels
        framework: where to build the model
        device: where to run it: cpu, cuda, cuda:1
    """
    if model is None:
        raise ValueError("name the model to measure, such as densenet_bc_100_12; `zoo list` prints them all")
    asked: dict[str, object] = {
        "efficient": efficient,
        "keep_bottleneck": keep_bottleneck,
        "opt_memory": opt_memory,
        "compressed": compressed,
    }
    policies = [asked]
    if compare:
        policies = compared_flags(zoo.find_config(model))
        if any(asked.values()) or opt_memory is not None:
            raise ValueError("--compare measures plain and efficient one after the other: give it without memory flags")
    reports = []
    for policy in policies:
        try:
            reports.append(zoo.measure(model, framework, batch_size, image_size, device, **policy))
        except PolicyNotOfferedError as error:
            if not compare:
                raise
            print(f"not in the comparison: {error}")
    if compare:
        print(format_comparison(reports))
    for report in reports if rows or not compare else ():
        print(("\n" if compare else "") + format_report(report, rows=rows))
    return DONE


def plan_command(
    model: str | None = None,
    budget: str | None = None,
    *,
    batch_size: int = 64,
    image_size: int | None = None,
    allow: str = "recompute",
    max_noise: float | None = None,
    times: str = "measured",
    save: str | None = None,
    pictures: str | None = None,
    html: str | None = None,
    others: bool = False,
    framework: str = "torch",
    device: str = "cpu",
    amp: bool = False,
) -> int:
    """Print what each part of a model should keep, recompute or compress so that a training step fits a byte budget.

    Args:
        model: its name, also without --model; `zoo list` prints the names
        budget: 2GiB, 512MB, bytes, or a share of what the plain model needs, as 0.3
        batch_size: images
        image_size: height and width in pixels
        allow: recompute (exact), compress (lossy, unbiased), swap (exact, off a GPU), or several: recompute,compress
        max_noise: the most that compression may round, as a share of the kept values' variance
        times: measured, each kind of part is run for a moment; or counted, by operations and bytes
        save: file for the plan, to be read by zoo.planner.Plan.load
        pictures: folder for memory.png, frontier.png and parts.png
        html: file for one page with the pictures and a table to search and sort
        others: show save_on_cpu and torch.compile's memory budget beside the plans; real steps are run
        framework: where to build the model
        device: where the step will run: cpu, cuda or auto; swap needs cuda
        amp: the step will run in mixed precision
    """
    if model is None or budget is None:
        raise ValueError("name a model and a budget, such as `zoo plan resnet50 2GiB`; `zoo list` prints the models")
    from zoo.planner.asked import check_asked
    from zoo.planning import study

    words = tuple(word.strip() for word in allow.split(",") if word.strip())
    check_asked(budget, words, "time", times, "chain")
    check_folder("--pictures", pictures)
    for flag, file in (("--save", save), ("--html", html)):
        check_file(flag, file)
    built = zoo.create_model(model, framework)
    shape = image_shape_for(built, image_size, batch_size)
    asked: dict[str, Any] = {"allow": words, "max_noise": max_noise, "times": times, "framework": framework}
    asked |= {"device": None if device == "cpu" else device, "amp": amp}
    found = study(built, shape, budget=budget, others=others, **asked)
    print(found.plan)
    if save is not None:
        found.plan.save(save)
        print(f"\nsaved {save}")
    if pictures is not None:
        from zoo.plan_pictures import draw_study

        print("\n" + "\n".join(f"drawn {path}" for path in draw_study(found, Path(pictures).expanduser())))
    if html is not None:
        from zoo.plan_page import write_page

        write_page(found, Path(html).expanduser())
        print(f"\nwritten {html}")
    return DONE


def bench_command(
    table: str | None = None,
    *,
    quick: bool = False,
    out: str = "bench",
    device: str = "cpu",
    picture: bool = True,
    times: bool = True,
) -> int:
    """Measure a predecessor's table again, its published figures beside; without a table, list them.

    Args:
        table: its name, also without --table
        quick: smaller sizes, for two cores and a minute or two
        out: folder for the table as CSV, JSON and PNG
        device: where to run it: cpu, cuda, cuda:1
        picture: draw the PNG, which needs matplotlib
        times: False for bytes alone, quicker and exact on a busy machine too
    """
    from zoo import bench
    from zoo.bench.output import as_text

    if table is None:
        print(bench.list_text())
        return DONE

    def say(words: str) -> None:
        sys.stderr.write(f"measured {words}\n")

    result, files = bench.run(
        bench.find(table), out, quick=quick, device=device, picture=picture, times=times, on_row=say
    )
    print("\n".join([as_text(result), "", *(f"written {path}" for path in files)]))
    return DONE


def support_command(only: str | None = None, *, save: str | None = None) -> int:
    """Print which family takes which flag in which framework, and why not, as docs/support.md holds it.

    Args:
        only: one framework
        save: file to write it to, whole or not at all
    """
    from zoo.support import page

    check_file("--save", save)
    text = page(only)
    print(text, end="")
    if save is not None:
        with atomic_write(Path(save).expanduser()) as file:
            file.write(text.encode())
    return DONE


def doctor_command() -> int:
    """Print what is installed, and run a training step of every framework that is."""
    from zoo.doctor import diagnose

    text, healthy = diagnose()
    print(text)
    return DONE if healthy else SOMETHING_BROKEN


COMMANDS: Mapping[str, Callable[..., int]] = MappingProxyType(
    {
        "list": list_command,
        "measure": measure_command,
        "plan": plan_command,
        "bench": bench_command,
        "support": support_command,
        "doctor": doctor_command,
    }
)
DEFAULT_HELP: Mapping[str, str] = MappingProxyType(
    {
        "family": "all",
        "only": "all frameworks",
        "model": "none: it is needed",
        "opt_memory": "not set",
        "compressed": "not set",
        "image_size": "32 or 224",
        "budget": "none: it is needed",
        "max_noise": "any",
        "save": "not saved",
        "pictures": "none are drawn",
        "html": "no page is written",
        "table": "none: all are listed",
    }
)
