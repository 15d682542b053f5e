"""A plan as plain numbers, for `--json`."""

from dataclasses import asdict
from typing import Any

from hdit_core.plan.memory import Memory
from hdit_core.plan.plan import SECONDS_A_DAY, Choice, Plan, training_flops
from hdit_core.plan.roofline import EFFICIENCY

PARTS = ("weights", "optimizer", "averages", "copies", "gradients", "activations", "work_space")


def as_dict(plan: Plan) -> dict[str, Any]:
    """Return everything that is planned; bytes on one device, times in seconds, null where it is not known."""
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
        "days": None if plan.seconds is None else plan.seconds / SECONDS_A_DAY,
        "watts": plan.cluster.watts,
        "kilowatt_hours": plan.kilowatt_hours,
        "price_per_hour": plan.cluster.price_per_hour,
        "price": plan.price,
    }


def _measured(plan: Plan) -> dict[str, Any] | None:
    found = plan.cluster.measured
    return {**asdict(found), "same_network": plan.measured_itself is not None} if found else None


def parallel(plan: Plan) -> str:
    """Return how the devices share the network: `"one device"`, `"ddp"` or `"fsdp"`."""
    if plan.cluster.devices == 1:
        return "one device"
    return "fsdp" if plan.choices[0].sharded else "ddp"


def memory_parts(memory: Memory) -> dict[str, int]:
    """Return the bytes of each part, by its name."""
    return {part: getattr(memory, part) for part in PARTS}


def _roofline(choice: Choice) -> dict[str, Any] | None:
    found = choice.roofline
    return {**asdict(found), "bound": found.bound, "efficiency": EFFICIENCY} if found else None


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
