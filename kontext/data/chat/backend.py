"""Asking many prompts: what is known already is not asked again, and the budget holds."""

import base64
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from threading import Event, Lock, Semaphore
from typing import Any

from kontext.data.chat.answers import completion, read
from kontext.data.chat.budget import Budget
from kontext.data.chat.endpoint import Endpoint, Reply
from kontext.data.chat.prompts import A, Answer, Fault, Prompt, Wire
from kontext.data.chat.replies import Cost, Exchange, Replies
from kontext.data.patience import Patience
from kontext.errors import GateError, KontextError, Stopped

_MENDED = ("malformed", "empty", "too_long")  # faults that a model may mend when told of them
_GARBLED = 2  # replies that are no chat completion before a request is given up
_USELESS = 100  # answers of which none can be used, before no more are paid for
_AWAY = 3  # prompts in a row, at least, without any answer: the endpoint is away
_REFUSED = 50  # prompts in a row that the server refuses: it refuses all
_FORBIDDEN = 403  # some gateways say so about what one prompt holds


class ChatBackend:
    """Prompts in, answers out, in order. Use it as a context manager."""

    def __init__(
        self,
        endpoint: Endpoint,
        wire: Wire,
        replies: Replies,
        budget: Budget,
        picture: Callable[[str], bytes],
        patience: Patience,
        picture_tokens: int = 0,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`picture` gives the PNG of a pixel id, `picture_tokens` is the most that one costs."""
        self.replies = replies
        self._endpoint, self._wire, self._budget = endpoint, wire, budget
        self._picture, self._picture_tokens = picture, picture_tokens
        self._patience, self._stop = patience, stop
        self._halt = Event()  # nobody waits or sends any more
        self._not_before = 0.0  # the server asked everybody to wait until then
        self._answers = False  # whether the endpoint has ever answered one of the prompts
        self._short = 0  # tokens by which a request has cost more than was held for it

    def requests(self, prompts: Sequence[Prompt[A]]) -> dict[str, Prompt[A]]:
        """Digest -> the first prompt that asks this, in order."""
        found: dict[str, Prompt[A]] = {}
        for prompt in prompts:
            found.setdefault(self._wire.digest(prompt), prompt)
        return found

    def ask_all(
        self,
        prompts: Sequence[Prompt[A]],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Answer[A]]:
        """An answer for every prompt, in order. Replies of earlier runs count in the budget.

        Raises:
            KontextError: no request to this endpoint would go well, or it is away.
            GateError: of many answers none can be used.
            Stopped: the time is up. As with errors, all replies so far are kept.
        """
        unique = self.requests(prompts)
        for sent in self.replies.sent(unique):
            self._budget.count(sent.cost.tokens, sent.reached)
            self._answers |= sent.exchange.outcome == "answered"
        course = _Course(len(unique), self._endpoint.connections, self._halt)
        slots = Semaphore(self._endpoint.connections)
        asked: dict[str, Future[Answer[A]]] = {}
        with ThreadPoolExecutor(self._endpoint.connections) as pool:
            try:
                for request, prompt in unique.items():
                    slots.acquire()
                    if self._halt.is_set() or self._stop():
                        break
                    asked[request] = pool.submit(self._one(prompt, request))
                    asked[request].add_done_callback(partial(_finished, course, slots))
                    progress(course.finished, len(unique))
                wait(asked.values())
            finally:
                if len(asked) < len(unique):
                    self._halt.set()
        course.check()
        progress(course.finished, len(unique))
        if len(asked) < len(unique):
            raise Stopped("the time was up: all replies so far are kept")
        answers = {request: future.result() for request, future in asked.items()}
        return [answers[self._wire.digest(prompt)] for prompt in prompts]

    def _one(self, prompt: Prompt[A], request: str) -> Callable[[], Answer[A]]:
        """The work on one prompt. The budget is asked here: the first prompts get it."""
        known = self.replies.final(request, 0)
        held = self._held(prompt)
        if known is None and not self._budget.take(held.tokens):
            fault = Fault("budget", "the budget is used up")
            return lambda: Answer(request, *fault)
        return lambda: self._answer(prompt, request, known, held)

    def _answer(
        self, prompt: Prompt[A], request: str, known: Exchange | None, held: Cost
    ) -> Answer[A]:
        """Ask, and once more where the answer can be mended."""
        first = known or self._send(prompt, request, 0, held, (), taken=True)
        found = self._read(first, prompt, request)
        if not isinstance(first, Exchange) or found.status not in _MENDED:
            return found
        more = _complaint(first, found.problem)
        size = sum(len(str(message["content"]).encode()) for message in more)
        held = Cost(held.tokens_in + size, held.tokens_out)
        second = self.replies.final(request, 1) or self._send(prompt, request, 1, held, more)
        return self._read(second, prompt, request)

    def _read(self, reply: Exchange | Fault, prompt: Prompt[A], request: str) -> Answer[A]:
        if isinstance(reply, Fault):
            return Answer(request, *reply)
        if reply.outcome == "filtered":
            return Answer(request, "refused", "the server's content filter refuses it")
        value, fault = read(reply.body, prompt)
        return Answer(request, *fault) if fault else Answer(request, "ok", value=value)

    def _send(
        self,
        prompt: Prompt[A],
        request: str,
        turn: int,
        held: Cost,
        more: tuple[dict[str, Any], ...],
        taken: bool = False,
    ) -> Exchange | Fault:
        """Send a request until there is a reply that settles it. `taken`: the budget is asked."""
        garbled, reply = 0, Reply(Exchange("unreached"))
        for attempt in range(self._patience.tries):
            if attempt:
                pause = self._patience.wait(prompt.key, attempt, reply.wait)
                self._rest(pause, shared=reply.wait > 0)
            if not taken and not self._budget.take(held.tokens):
                return Fault("budget", "the budget is used up")
            taken = False
            body = partial(self._wire.body, prompt, self._address, more)
            reply = self._post(body, request, turn, held)
            outcome = reply.exchange.outcome
            one_only = reply.exchange.http == _FORBIDDEN and self._answers
            if reply.hopeless and not one_only:
                raise KontextError(self._hopeless(reply.problem))
            if not reply.again:
                return Fault("failed", reply.problem) if outcome == "error" else reply.exchange
            garbled += outcome == "garbled"
            if garbled == _GARBLED:
                return Fault("malformed", reply.problem)
        return Fault("unanswered", reply.problem)

    def _post(
        self, make_body: Callable[[], dict[str, Any]], request: str, turn: int, held: Cost
    ) -> Reply:
        """One request, entered before and after. Settles in the budget, whatever happens."""
        cost, sent = Cost(0, 0), 0
        try:
            body = make_body()
            self._rest(0)
            number = self.replies.begin(request, turn, held)
            cost, sent = held, 1  # the worst, until it is known
            reply = self._endpoint.post(body)
            self.replies.finish(number, reply.exchange)
            cost = reply.exchange.cost(held)
            self._answers |= reply.exchange.outcome == "answered"
            self._short = max(self._short, cost.tokens - held.tokens)
            sent = int(reply.exchange.outcome != "unreached")
            return reply
        finally:
            self._budget.settle(held.tokens, cost.tokens, sent)

    def _rest(self, seconds: float, shared: bool = False) -> None:
        """Wait, and as long as the server asked anybody to. Raises _Halted where all is over."""
        now = time.monotonic()
        if shared:
            self._not_before = max(self._not_before, now + seconds)
        if self._halt.wait(max(seconds, self._not_before - now, 0)):
            raise _Halted

    def _held(self, prompt: Prompt[A]) -> Cost:
        """The most that asking can cost.

        A token of our own English words and schema has three bytes or more. What is said of a pair
        may be in any language, where a token can be one byte.
        """
        fixed = len(prompt.system) + len(str(prompt.shape()))
        words = len(prompt.text.encode()) + sum(len(what) for what, _ in prompt.pictures)
        pictures = self._picture_tokens * len(prompt.pictures)
        return Cost(fixed // 3 + words + pictures + 32 + self._short, self._wire.longest_answer())

    def _address(self, pixel_id: str) -> str:
        return "data:image/png;base64," + base64.b64encode(self._picture(pixel_id)).decode()

    def _hopeless(self, problem: str) -> str:
        return (
            f"the chat endpoint {self._endpoint.url} answers {problem}: check caption.endpoint, "
            "caption.model and the key in OPENAI_API_KEY"
        )


class _Halted(Exception):
    """Another prompt has ended the work."""


class _Course:
    """How the work goes: counts, and whether there is a point in going on."""

    def __init__(self, total: int, parallel: int, halt: Event) -> None:
        self._total, self._halt = total, halt
        self._patience = max(_AWAY, parallel)
        self._counts: Counter[str] = Counter()
        self._silent = self._refused = 0  # prompts without any answer, or refused, in a row
        self._error: BaseException | None = None
        self._lock = Lock()

    def done(self, future: Future[Answer[Any]]) -> None:
        """Take note of a finished prompt."""
        error = future.exception()
        with self._lock:
            if error is None:
                self._count(future.result())
            elif not isinstance(error, _Halted) and self._error is None:
                self._error = error
            if self._error is not None:
                self._halt.set()

    @property
    def finished(self) -> int:
        """Prompts that are done."""
        return self._counts.total()

    def _count(self, answer: Answer[Any]) -> None:
        self._counts[answer.status] += 1
        if answer.status != "budget":
            self._silent = self._silent + 1 if answer.status == "unanswered" else 0
            self._refused = self._refused + 1 if answer.status == "failed" else 0
        if self._refused == _REFUSED:
            self._error = KontextError(
                f"the chat endpoint refuses {_REFUSED} requests in a row: {answer.problem}"
            )
        if self._silent == min(self._patience, self._total):
            self._error = KontextError(
                f"the chat endpoint does not answer: {answer.problem}. All replies so far are "
                "kept; the same command goes on"
            )
        useless = self._counts.total() - self._counts["unanswered"] - self._counts["budget"]
        if useless == _USELESS and not self._counts["ok"] and self._error is None:
            said = ", ".join(f"{count} {status}" for status, count in self._counts.most_common())
            self._error = GateError(
                f"none of the first {useless} answers of the chat model can be used ({said}; the "
                f"last: {answer.problem}), so no more are asked for"
            )

    def check(self) -> None:
        """Raise what ended the work."""
        if self._error is not None:
            raise self._error


def _finished(course: _Course, slots: Semaphore, future: Future[Answer[Any]]) -> None:
    try:
        course.done(future)
    finally:
        slots.release()


def _complaint(first: Exchange, problem: str) -> tuple[dict[str, Any], ...]:
    """What is said to a model whose answer cannot be used."""
    found = completion(first.body)
    assert found is not None, "an answer that can be mended is a chat completion"
    said = f"This answer cannot be used: {problem}. Answer again with one JSON object."
    quoted = found.text().strip() or "(nothing)"  # some servers refuse an empty message
    return {"role": "assistant", "content": quoted}, {"role": "user", "content": said}
