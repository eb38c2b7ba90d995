"""Asking a model as a recipe says: one way for the captioner and the judge."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Generic, NamedTuple

import pyarrow as pa

from kontext.data.caption.base import Desk
from kontext.data.chat.backend import ChatBackend
from kontext.data.chat.budget import Budget
from kontext.data.chat.endpoint import Endpoint
from kontext.data.chat.prompts import A, Answer, Prompt, Wire
from kontext.data.chat.replies import Replies
from kontext.data.patience import Patience
from kontext.errors import RecipeError
from schemas.sections.data import CaptionConfig
from schemas.tables import REPLIES

API_KEY = "OPENAI_API_KEY"  # environment variable
FILE = "cache/chat-replies.sqlite"  # in the home: kept between runs, recipes and versions


class Asked(NamedTuple, Generic[A]):
    """Answers in the order of the prompts, and what was sent for them: REPLIES."""

    answers: list[Answer[A]]
    replies: pa.Table


def ask(
    config: CaptionConfig, desk: Desk, model: str, prompts: Sequence[Prompt[A]], what: str
) -> Asked[A]:
    """Ask `model` at the recipe's endpoint; `what` is being made, for the progress bar.

    Raises:
        RecipeError: the recipe names no endpoint or no model.
        KontextError: the endpoint cannot be used, or is away.
        GateError: no answer can be used.
        Stopped: the time is up.
    """
    if not config.endpoint or not model:
        raise RecipeError("a model that captions or judges needs caption.endpoint, caption.model")
    wire = Wire(model, config.seed, config.answer_tokens, tuple(config.request.items()))
    patience = Patience(config.tries, config.first_wait, config.longest_wait, config.seed)
    budget = Budget(config.budget_tokens, config.budget_requests)
    key = os.environ.get(API_KEY, "")
    with (
        closing(Replies(desk.home / FILE)) as replies,
        closing(Endpoint(config.endpoint, key, config.timeout, config.parallel)) as endpoint,
    ):
        for sent in replies.sent(desk.asked):
            budget.count(sent.cost.tokens, sent.reached)
        backend = ChatBackend(
            endpoint,
            wire,
            replies,
            budget,
            desk.picture,
            patience=patience,
            picture_tokens=config.picture_tokens,
            stop=desk.stop,
        )
        unique = backend.requests(prompts)
        known = sum(replies.final(request, 0) is not None for request in unique)
        if known:
            desk.continued(f"reply {known} of {len(unique)}")
        answers = backend.ask_all(prompts, lambda done, total: desk.progress(done, total, what))
        rows = _rows(replies, unique, answers, config)
        desk.asked += [answer.request for answer in answers]
        return Asked(answers, pa.Table.from_pylist(list(rows), REPLIES))


def _rows(
    replies: Replies,
    prompts: dict[str, Prompt[Any]],
    answers: Sequence[Answer[Any]],
    config: CaptionConfig,
) -> Iterator[dict[str, Any]]:
    """Rows of REPLIES: all that was ever sent for these answers, in their order."""
    for answer in {answer.request: answer for answer in answers}.values():
        prompt = prompts[answer.request]
        same = {
            "pair_id": prompt.key,
            "kind": prompt.kind,
            "request": answer.request,
            "prompt_hash": prompt.wording(),
            "status": answer.status,
            "problem": answer.problem,
        }
        for sent in replies.sent([answer.request]):
            dollars = (
                sent.cost.tokens_in * config.usd_per_million_in
                + sent.cost.tokens_out * config.usd_per_million_out
            ) / 1e6
            yield {
                **same,
                "turn": sent.turn,
                "outcome": sent.exchange.outcome,
                "http": sent.exchange.http,
                "model": sent.exchange.model,
                "tokens_in": sent.cost.tokens_in,
                "tokens_out": sent.cost.tokens_out,
                "counted": sent.exchange.usage is not None,
                "cost_usd": dollars,
                "reply": sent.exchange.body,
            }
