"""A plan as data, for `--json`."""

from dataclasses import asdict
from typing import Any

from hdit_core.plan.memory import Memory
from hdit_core.plan.plan import SECONDS_PER_DAY, Choice, Plan, training_flops
from hdit_core.plan.roofline import EFFICIENCY


def as_dict(plan: Plan) -> dict[str, Any]:
    """Return all estimates: bytes per device, times in seconds; None for unknown values."""
    return {
        "devices": plan.cluster.devices,
        "usable_bytes": plan.cluster.usable_bytes,
        "flops_per_s": plan.cluster.flops_per_s,
        "measured": _measured(plan),
        "flops_per_image": training_flops(plan.recipe),
        "batch_size": plan.recipe.train.batch_size,
        "images_per_device_and_step": plan.share,
        "parallel": parallel(plan),
        "choices": [_choice(choice) for choice in plan.choices],
        "chosen": _choice(plan.chosen) if plan.chosen else None,
        "num_images": plan.recipe.train.num_images,
        "seconds": plan.seconds,
        "range_seconds": plan.range_seconds,
        "days": None if plan.seconds is None else plan.seconds / SECONDS_PER_DAY,
        "watts": plan.cluster.watts,
        "kilowatt_hours": plan.kilowatt_hours,
        "price_per_hour": plan.cluster.price_per_hour,
        "price": plan.price,
    }


def _measured(plan: Plan) -> dict[str, Any] | None:
    result = plan.cluster.measured
    return {**asdict(result), "same_network": plan.same_network_result is not None} if result else None


def parallel(plan: Plan) -> str:
    """Return the kind of parallelism: `"one device"`, `"ddp"` or `"fsdp"`."""
    if plan.cluster.devices == 1:
        return "one device"
    return "fsdp" if plan.choices[0].sharded else "ddp"


def memory_parts(memory: Memory) -> dict[str, int]:
    """Return the bytes of each part by name."""
    return asdict(memory)


def _roofline(choice: Choice) -> dict[str, Any] | None:
    bounds = choice.roofline
    return {**asdict(bounds), "bound": bounds.bound, "efficiency": EFFICIENCY} if bounds else None


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "activation_checkpointing": choice.checkpointed,
        "micro_batch_size": choice.images,
        "memory": {**memory_parts(choice.memory), "total": choice.memory.total},
        "fits": choice.fits,
        "largest_micro_batch_size": choice.largest,
        "images_per_s": choice.images_per_s,
        "range_images_per_s": choice.range_per_s,
        "roofline": _roofline(choice),
    }
