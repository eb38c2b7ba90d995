"""Training methods, one file each: the class, `build(config, inputs, world)`, and its cost.

To add a method, write one such file and give it a recipe section; a stage hands what `build`
returns to `kontext.train.loop.training.train`. A method that trains the flow further after its own
steps says `AFTER_FLOW = "<its part of the section finetune>"` and is run there where it has steps.
One that makes a student of few steps says `DISTILS = (<networks that it trains>,)`, has a
`JudgedMethod` and `step_flops(config, shape, tokens)`, and is run where `distill.method` names it.
"""

from importlib import import_module
from types import ModuleType

from kontext.errors import RecipeError
from schemas.discovery import literals, plugin_name
from schemas.sections.training import DistillConfig, FinetuneConfig


def after_flow(config: FinetuneConfig) -> dict[str, ModuleType]:
    """Name -> module, of the methods that have steps after the flow, in the order they run.

    Those that train the flow's own weights (`IN_PLACE`) come first, else they go by name.
    """
    modules = [import_module(name) for name in modules_named(config)]
    modules.sort(key=lambda module: not module.IN_PLACE)
    return {module.__name__.rpartition(".")[2]: module for module in modules}


def modules_named(config: FinetuneConfig) -> list[str]:
    """Modules of the methods that the section gives steps after the flow. Imports none of them."""
    found = literals(__name__, "AFTER_FLOW").items()
    return [module for module, part in found if getattr(config, part).steps]


def distillation(config: DistillConfig) -> ModuleType:
    """The module of the method that makes the student. Raises RecipeError: there is none such."""
    return import_module(*distilling_modules(config))


def distilling_modules(config: DistillConfig) -> list[str]:
    """Module of the method that the section names. Imports nothing.

    Raises:
        RecipeError: no method of that name makes a student.
    """
    known = {plugin_name(module): module for module in literals(__name__, "DISTILS")}
    if config.method not in known:
        raise RecipeError(f"distill.method={config.method}: there is {' and '.join(known)}")
    return [known[config.method]]
