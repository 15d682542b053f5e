"""The tables of `hdit plan`: memory by part for each number of checkpointed levels, and the cost of the run."""

from collections.abc import Callable, Iterator

from hdit_cli.console import align
from hdit_core.plan.plan import SECONDS_PER_DAY, Choice, Plan
from hdit_core.plan.report import memory_parts, parallel

GIBI = 1 << 30
SHOWN = {"averages": "EMA", "copies": "casts, buckets", "work_space": "temporaries"}


def lines(plan: Plan) -> Iterator[str]:
    """Yield the lines that `hdit plan` prints without `--json`."""
    yield f"Peak memory per device in GiB, an upper bound ({parallel(plan)}):"
    yield ""
    yield from _by_choice(plan)
    yield ""
    yield from align(list(_bill(plan)))


def _by_choice(plan: Plan) -> list[str]:
    parts = [SHOWN.get(part, part) for part in memory_parts(plan.choices[0].memory)]
    rows = [["checkpointed levels", "micro-batch", *parts, "total", "max micro-batch", "images/s"]]
    for choice in plan.choices:
        mark = " <-" if choice is plan.chosen else ""
        cells = [_gibi(part) for part in memory_parts(choice.memory).values()]
        most = "?" if choice.largest is None else str(choice.largest) if choice.largest else "none"
        rate = _rate(choice.images_per_s) + mark
        rows.append([_levels(plan, choice), str(choice.images), *cells, _gibi(choice.memory.total), most, rate])
    return align(rows)


def _bill(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "step", _step(plan)
    if plan.chosen is None or plan.seconds is None:
        yield "fits", "no, not even one image with all levels checkpointed; use a larger GPU or smaller images"
        return
    settings = [
        f"train.micro_batch_size={plan.chosen.images}",
        f"train.activation_checkpointing={plan.chosen.checkpointed}",
    ]
    yield "settings", " ".join(f"--set {setting}" for setting in settings)
    if (found := plan.same_network_result) and found.peak_bytes:
        what = "whole process" if found.on_cpu else "device"
        yield "measured", f"peak {_gibi(found.peak_bytes)} GiB ({what}), {found.images} images per step"
    yield from _speed_and_cost(plan, plan.chosen, plan.seconds)


def _speed_and_cost(plan: Plan, chosen: Choice, seconds: float) -> Iterator[tuple[str, str]]:
    """Yield speed, time, energy and price, as ranges if the speed is a range."""
    slow, fast = chosen.range_per_s
    shares = dict.fromkeys((chosen.images_per_s / fast, chosen.images_per_s / slow))  # of the seconds

    def span(show: Callable[[float], str], value: float) -> str:
        return " to ".join(show(value * share) for share in shares)

    speed = " to ".join(map(_rate, dict.fromkeys((slow, fast))))
    bound = f", bound by {chosen.roofline.bound}" if chosen.roofline else ""
    yield "speed", f"{speed} images/s{bound}"
    yield "time", f"{span(_time, seconds)} for {plan.recipe.train.num_images:,} images"
    if plan.kilowatt_hours is not None:
        yield "energy", f"{span(_kilowatt_hours, plan.kilowatt_hours)} kWh at the GPUs' maximum power"
    if plan.price is not None:
        yield "price", span("{:,.2f}".format, plan.price)


def _step(plan: Plan) -> str:
    first, devices = plan.recipe.train.batch_size, plan.cluster.devices
    last = plan.share * devices
    images = f"{first} images" if last == first else f"{first} images, growing to {last}"
    most = "" if last == first else "at most "
    return f"{images}, {most}{plan.share} per device on {devices} devices" if devices > 1 else images


def _levels(plan: Plan, choice: Choice) -> str:
    name = "all" if choice.checkpointed == len(plan.recipe.model.levels) else str(choice.checkpointed or "none")
    setting = plan.recipe.train.activation_checkpointing
    here = len(plan.recipe.model.levels) if setting is True else int(setting)
    return f"{name} (the recipe's)" if choice.checkpointed == here else name


def _time(seconds: float) -> str:
    for unit, unit_s in (("days", SECONDS_PER_DAY), ("hours", 3600), ("minutes", 60)):
        if seconds >= unit_s:
            return f"{seconds / unit_s:,.1f} {unit}"
    return f"{seconds:.2g} s"


def _kilowatt_hours(energy: float) -> str:
    return f"{energy:,.1f}" if energy >= 1 else f"{energy:.2g}"


def _gibi(number: int) -> str:
    return f"{number / GIBI:,.2f}"


def _rate(images_per_s: float) -> str:
    return f"{images_per_s:,.1f}" if images_per_s >= 10 else f"{images_per_s:.3g}"
