"""Which hooks keep blocks from being fused, with any version of torch."""

import torch
from torch.nn.modules import module

from hdit_core.model.fused_blocks import _has_global_hooks


def test_hooks_on_all_modules_are_found_without_a_function_that_torch_2_6_lacks(monkeypatch):
    monkeypatch.delattr(module, "_has_any_global_hook", raising=False)
    assert not _has_global_hooks()
    handle = module.register_module_forward_hook(lambda *_: None)
    assert _has_global_hooks()
    handle.remove()
    assert not _has_global_hooks() and torch.nn.Linear(2, 2)(torch.zeros(1, 2)).shape == (1, 2)
