"""Verdicts and the sentences on them as a report says them."""

from normsmith._text import count, number
from normsmith.studies import notation
from normsmith.studies.results import Effect, Looked, Verdict


def finding(effect: Effect) -> str:
    """The sentence on an effect without the verdict it begins with, for where the verdict stands beside it."""
    lead, colon, rest = effect.sentence.partition(": ")
    if not (colon and rest and lead.lower() == effect.verdict.value):
        return effect.sentence
    return rest[0].upper() + rest[1:]


def asked(effect: Effect) -> str:
    """What a hypothesis asks for, before any result: its margin, and how many seeds decide."""
    wanted = f"Margin: {notation.margin(effect)}"
    if effect.verdict is Verdict.NOT_JUDGED:
        return f"{wanted}. Shown beside those that are judged."
    if effect.needed is None:
        return f"{wanted}. {count(len(effect.seeds), 'seed').capitalize()} cannot decide it, however clear they are."
    return f"{wanted}. {effect.needed} of {count(len(effect.seeds), 'seed')} on one side decide."


def looked(look: Looked) -> str:
    """At which of the declared looks a question was judged.

    >>> looked(Looked(number=1, of=2, seeds=10, alpha=0.008))
    'look 1 of 2, at 10 seeds, with 0.8 % of the 5 %'
    """
    part = number(100 * look.alpha)
    return f"look {look.number} of {look.of}, at {count(look.seeds, 'seed')}, with {part} % of the 5 %"


def tally(verdict: Verdict, n: int) -> str:
    """How many hypotheses got this verdict.

    >>> tally(Verdict.HOLDS, 1), tally(Verdict.NOT_HERE, 3)
    ('1 holds', '3 do not hold here')
    """
    words = verdict.value if n == 1 else verdict.value.replace("does", "do").replace("holds", "hold")
    return f"{n} {words}"
