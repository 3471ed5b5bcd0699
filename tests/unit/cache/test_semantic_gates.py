"""Gates refuse what similarity cannot see, and let paraphrases through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.cache.semantic.gates import refusal, signature
from edge_runtime.cache.semantic.quantities import is_code
from edge_runtime.cache.semantic.words import tokens

DIFFERENT = [
    # numbers, however written
    ("what is 2+2", "what is 2+3"),
    ("set a timer for 15 minutes", "set a timer for fifteen seconds"),
    ("transfer $100 to bob", "transfer $1000 to bob"),
    ("transfer $100 to bob", "transfer €100 to bob"),
    ("remind me in two days", "remind me in three days"),
    ("top up by 1,000", "top up by 10,000"),
    ("call 5551234567", "call 5551234568"),
    ("my code is 0123", "my code is 123"),
    ("is 3.5 enough", "is 35 enough"),
    ("what is my second payment", "what is my third payment"),
    ("the 1st of the month", "the 21st of the month"),
    ("table for twenty five", "table for twenty"),
    ("lend me one hundred dollars", "lend me two hundred dollars"),
    ("a 20% discount", "a 20 discount"),
    # units without a number, currencies
    ("how many miles is it to york", "how many kilometers is it to york"),
    ("exchange rate of usd", "exchange rate of eur"),
    # identifiers, times, dates, versions, addresses
    ("status of order A-1734", "status of order A-1743"),
    ("status of flight dl123", "status of flight dl124"),
    ("wake me at 7:30", "wake me at 7:45"),
    ("wake me at 7 am", "wake me at 7 pm"),
    ("wake me at 7 a.m.", "wake me at 7 p.m."),
    ("book it for march 3rd", "book it for may 3rd"),
    ("am I free on monday", "am I free on tuesday"),
    ("weather today", "weather tomorrow"),
    ("what changed in v1.2.3", "what changed in v1.2.4"),
    ("what changed in 1.2.3", "what changed in 1.2.4"),
    ("mail to ann@example.org", "mail to bob@example.org"),
    ("explain error E1001", "explain error E1002"),
    # negation
    ("should I pay", "should I not pay"),
    ("can I cancel", "can't I cancel"),
    ("it works", "it doesn\u2019t work"),
    ("I have a card", "I have no card"),
    ("coffee with sugar", "coffee without sugar"),
    ("I did not do it and can't pay", "I didn't do it, don't know it and can't pay"),
    ("I have no cash with me, no cost", "I have no cash without me, no cost"),
    ("I am able to pay", "I am unable to pay"),
    # polarity
    ("turn on the light", "turn off the light"),
    ("turn the light on", "turn the light off"),
    ("turn the volume up", "turn the volume down"),
    ("how do I enable dark mode", "how do I disable dark mode"),
    ("increase my limit", "decrease my limit"),
    ("raise the volume", "lower the volume"),
    ("open the door", "close the door"),
    ("before lunch", "after lunch"),
    ("block my card", "unblock my card"),
    ("how do I buy shares", "how do I sell shares"),
    ("the maximum amount", "the minimum amount"),
    ("add milk to the list", "remove milk from the list"),
    ("transfer from my savings account", "transfer from my checking account"),
    ("a domestic flight", "an international flight"),
    # direction
    ("a train from paris to lyon", "a train from lyon to paris"),
    ("translate from french to german", "translate from german to french"),
    ("move money from savings to checking", "move money from checking to savings"),
    # what is asked
    ("why was my card declined", "when was my card declined"),
    ("how long does a transfer take", "how much does a transfer cost"),
    ("how do I freeze my account", "why do I freeze my account"),
    ("where is the bank", "who is the bank"),
    ("please freeze my account", "why did you freeze my account"),
    ("help me pay my bill", "how much is my bill"),
    ("please make a vacation request", "tell me about my vacation request"),
    ("cancel my transfer, please", "why would you cancel my transfer"),
    ("how is it possible that my account is frozen", "I would like my account frozen"),
    ("why is verification needed", "what is needed for verification"),
    ("how many vacation days do I have", "how many vacation days have I used"),
    ("how much of my data is there", "how much of my data have I spent"),
    ("why would you cancel my transfer", "is there any way to cancel my transfer"),
    # how much of it
    ("give me all my cash", "give me my cash"),
]

ALIKE = [
    ("what is my balance", "What's my balance?"),
    ("set a timer for 5 minutes", "set a five minute timer"),
    ("I need 20 dollars", "I need $20"),
    ("it's two hundred and fifty miles away", "it is 250 miles away"),
    ("I can't log in", "I cannot log in"),
    ("I\u2019m unable to log in", "I am not able to log in"),
    ("can I get a new one", "can I get a new card"),
    ("wake me at 7am", "wake me at 7 a.m."),
    ("the meeting on the 3rd", "the third, the meeting"),
    ("raise my limit", "increase my limit"),
    ("tell me my balance", "how much money do I have"),
    ("how do I change my pin", "help me change my pin"),
    ("why is my transfer pending", "my transfer is still pending"),
    ("why was I charged", "what is the reason that I was charged"),
    ("cancel my transfer", "I want to cancel my transfer"),
    ("where is my card", "I am looking for where my card is"),
    ("lift the freeze from my to-do list", "lift the freeze from my to do list"),
    ("is it on sale", "is it in the sale"),
]


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_texts_with_different_answers_are_refused_in_both_orders(first: str, second: str) -> None:
    assert refusal(first, second) is not None
    assert refusal(second, first) is not None


@pytest.mark.parametrize(("first", "second"), ALIKE)
def test_paraphrases_pass_in_both_orders(first: str, second: str) -> None:
    assert refusal(first, second) is None
    assert refusal(second, first) is None


@given(st.text(max_size=80))
def test_no_text_is_refused_for_itself_unless_it_opposes_itself(text: str) -> None:
    # "from a to a" names one word on both sides; nothing else may refuse a text itself
    assert refusal(text, text) in (None, "opposite directions")


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_refusal_does_not_depend_on_the_order(first: str, second: str) -> None:
    assert refusal(first, second) == refusal(second, first)


@given(st.integers(0, 10**30), st.integers(0, 10**30))
def test_equal_exact_parts_mean_equal_numbers(first: int, second: int) -> None:
    one, other = (signature(f"pay {value} now").exact for value in (first, second))
    assert (one == other) == (first == second)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("pay twenty five now", "25"),
        ("pay twenty-five now", "25"),
        ("pay one hundred and twenty now", "120"),
        ("pay two thousand five hundred now", "2500"),
        ("pay 3 million now", "3000000"),
        ("pay 2.5k now", "2.5k"),
        ("pay 2.5 thousand now", "2500"),
        ("pay 1.230 now", "1.23"),
        ("pay 1,250.50 now", "1250.5"),
        ("pay five five now", "5"),
    ],
)
def test_numbers_in_words_are_read(text: str, number: str) -> None:
    assert number in signature(text).exact


def test_codes_are_told_from_words_and_numbers() -> None:
    assert is_code("dl123")
    assert is_code("10:15")
    assert is_code("a@b.c")
    assert is_code("v1.2.3")
    assert not is_code("word")
    assert not is_code("123")
    assert not is_code("3rd")


def test_contractions_and_typographic_marks_are_written_out() -> None:
    assert tokens("I can\u2019t, won't, DON'T!") == ("i", "can", "not", "will", "not", "do", "not")
    assert tokens("what's at 7 p.m.?") == ("what", "is", "at", "7", "pm")
    assert tokens("\uff11\uff10 euros") == ("10", "euros")
