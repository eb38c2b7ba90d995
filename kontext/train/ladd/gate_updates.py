"""Gates on what LADD's updates do: gradients, turns, the batch, and the recipe's rates."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kontext.errors import WiringError
from kontext.models.flux.sequence import pack
from kontext.train.ladd.gate_samples import first_samples
from kontext.train.ladd.judged import PINNED, JudgedMethod
from kontext.train.ladd.student import Estimated
from kontext.train.loop.state import copied, set_weights, weights_of

_TRIALS = 6  # updates of each side at the recipe's rates
_RUNAWAY = 1.0  # growth of the squared distance to the edits, in their variances


@contextmanager
def unchanged(method: JudgedMethod) -> Iterator[None]:
    """Inside, the method may train; afterwards its state is what it was, bit for bit.

    Keeps a second copy of weights, averages and optimiser state meanwhile.
    """
    kept = copied(weights_of(method.state))
    try:
        yield
    finally:
        set_weights(method.state, kept)
        for module in (*method.state.modules.values(), method.teacher):
            module.zero_grad(set_to_none=True)


def gradient(method: JudgedMethod) -> str:
    """The method's own loss alone moves the student, and the teacher stays frozen."""
    batch, noisy, t = first_samples(method)
    loss = method.lesson(0, Estimated(None, batch, method.denoised(batch, noisy, t)))
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    grads = [p.grad for p in method.student.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float(grad.float().square().sum()) for grad in grads))
    leaked = any(p.requires_grad or p.grad is not None for p in method.teacher.parameters())
    for module in (*method.state.modules.values(), method.teacher):
        module.zero_grad(set_to_none=True)
    if not norm > 0:
        raise WiringError("gradient", "no gradient reaches the student through the teacher")
    if leaked:
        raise WiringError("gradient", "the frozen teacher would receive gradients")
    return f"the {method.taught_by} gradient of the student is {norm:.2g}; the teacher has none"


def turns(method: JudgedMethod, patience: float) -> str:
    """One whole step: each side moves in its own turn only, and reports its gradient's norm."""
    moved: dict[str, set[str]] = {}
    squares: dict[int, Tensor] = {}  # the last: parts of a batch add up to it

    def keep_square(parameter: Tensor) -> None:
        assert parameter.grad is not None
        squares[id(parameter)] = parameter.grad.float().square().sum()

    with unchanged(method), ExitStack() as hooks:
        for name, optimizer in method.state.optimizers.items():
            before, after = _watch(method, name, moved)
            hooks.callback(optimizer.register_step_pre_hook(before).remove)
            hooks.callback(optimizer.register_step_post_hook(after).remove)
        for parameter in method.student.parameters():
            register: Any = parameter.register_post_accumulate_grad_hook
            handle = register(keep_square)
            hooks.callback(handle.remove)
        report = _within(patience, lambda: method.step(0))
    for name in method.state.optimizers:
        if name not in moved:
            raise WiringError("turns", f"a step ends without an update of the {name}")
        if moved[name] != {name}:
            what = " and ".join(sorted(moved[name])) or "nothing"
            raise WiringError("turns", f"the update of the {name} moves {what}")
    norm = math.sqrt(sum(float(s) for s in squares.values()))
    reported = report["student_grad_norm"]
    if not math.isclose(reported, norm, rel_tol=0.05):
        raise WiringError(
            "turns",
            f"the student's gradient norm is reported as {reported:.2g} and is {norm:.2g}: read "
            "after it was cleared, or of another gradient",
        )
    return f"each side moves in its own turn; gradient norm {norm:.2g} is reported as such"


def batch_size(method: JudgedMethod) -> str:
    """The hinge has several samples, and is not zero from the start."""
    if not method.judged:
        return f"{method.config.batch} samples; there are no heads, whose hinge could saturate"
    if method.config.batch < 2:
        raise WiringError("batch", "the hinge of a single sample saturates: 2 or more per rank")
    batch, noisy, t = first_samples(method)
    with torch.no_grad():
        part = Estimated(None, batch, method.denoised(batch, noisy, t))
        loss = method.update_heads(0, [part], learn=False)
    if loss["heads_loss"] < PINNED:
        raise WiringError("batch", "the heads' hinge is pinned at zero before the first step")
    return f"{method.config.batch} samples; the hinge starts at {loss['heads_loss']:.2f}"


def rates(method: JudgedMethod) -> str:
    """A trial of a few updates at the recipe's rates, on one small batch.

    Raises:
        WiringError: the heads do not learn that batch, or the student runs away from its edits.
    """
    batch, noisy, t = first_samples(method)
    with unchanged(method):
        with torch.no_grad():
            part = Estimated(None, batch, method.denoised(batch, noisy, t))
        first = _distance(part.fake, pack(batch.target))
        hinge = _trial_of_heads(method, part) if method.judged else []
        for _ in range(_TRIALS):
            fake = method.denoised(batch, noisy, t)
            method.update_student(0, [Estimated(None, batch, fake)])
        with torch.no_grad():
            last = _distance(method.denoised(batch, noisy, t), pack(batch.target))
    c = method.config
    if hinge and not (min(hinge[1:]) < hinge[0] and math.isfinite(hinge[-1])):
        raise WiringError(
            "rates",
            f"the heads learn nothing from {_TRIALS} updates at lr_heads {c.lr_heads:g}: hinge "
            f"{hinge[0]:.3g} to {hinge[-1]:.3g}",
        )
    if not last - first < _RUNAWAY:
        raise WiringError(
            "rates",
            f"the student runs away in {_TRIALS} updates at lr_student {c.lr_student:g}: its "
            f"squared distance to the edits grows from {first:.2g} to {last:.2g} of their variance",
        )
    learned = f"hinge {hinge[0]:.2f} to {hinge[-1]:.2f}, " if hinge else ""
    return (
        f"{_TRIALS} trial updates: {learned}the student's squared "
        f"distance to the edits {first:.2g} to {last:.2g} of their variance"
    )


def _trial_of_heads(method: JudgedMethod, part: Estimated) -> list[float]:
    """The heads' hinge before each of a few updates on one batch, and after the last."""
    hinge = [method.update_heads(0, [part])["heads_loss"] for _ in range(_TRIALS)]
    return [*hinge, method.update_heads(0, [part], learn=False)["heads_loss"]]


def _watch(
    method: JudgedMethod, name: str, moved: dict[str, set[str]]
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Hooks around an optimiser's update that note which modules it moves."""
    modules, seen = method.state.modules, dict[str, Tensor]()

    def before(*_: Any) -> None:
        seen.update({key: _print(module) for key, module in modules.items()})

    def after(*_: Any) -> None:
        found = {key for key in modules if not torch.equal(seen[key], _print(modules[key]))}
        moved[name] = moved.get(name, set()) | found

    return before, after


def _print(module: nn.Module) -> Tensor:
    """Sums that change when weights do."""
    with torch.no_grad():
        sums = [(p.double().sum(), p.double().square().sum()) for p in module.parameters()]
        return torch.stack([torch.stack(pair) for pair in sums])


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().mean() / other.var())


def _within(seconds: float, run: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
    """What `run` returns or raises, or WiringError where it does neither in time."""
    future: Future[Mapping[str, float]] = Future()

    def target() -> None:
        try:
            future.set_result(run())
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            future.set_exception(error)

    threading.Thread(target=target, daemon=True, name="trial step").start()
    if not wait([future], seconds).done:
        raise WiringError("turns", f"a step did not end within {seconds:g} s: a side waits forever")
    return future.result()
