"""The demo's pipeline: what a document is about, in one page. CPU work by libraries that download nothing."""

from __future__ import annotations

from typing import Any

import readability
import yake
from pydantic import BaseModel
from segtok.segmenter import split_single
from segtok.tokenizer import word_tokenizer
from sumy.models.dom import ObjectDocumentModel, Paragraph, Sentence
from sumy.summarizers.lex_rank import LexRankSummarizer

from flujo_client.cli.demo.documents import MOST_WORDS
from flujo_client.cli.demo.ledger import append_entry
from flujo_client.dsl.decorators import step
from flujo_client.dsl.step import Step
from flujo_client.protocol.step_run import StepRun

__all__ = ["RUN_TOKENS", "Document", "demo"]

#: Budget of a run: six steps of at most so many words each, and as much again for attempts that are lost and charged.
RUN_TOKENS = 12 * MOST_WORDS


class Document(BaseModel):
    """A text file."""

    name: str
    text: str


class Words(BaseModel):
    """A document as sentences of words, as the tokenizer counts them."""

    name: str
    sentences: list[list[str]]

    @property
    def count(self) -> int:
        """How many words there are."""
        return sum(map(len, self.sentences))


def _bill(run: StepRun, tokens: int) -> None:
    append_entry("bill", run, tokens)
    run.usage.add(tokens=tokens)


@step(expected_tokens=MOST_WORDS)
def load(document: Document, run: StepRun) -> Words:
    """Split a document into sentences and words; at most `MOST_WORDS` of them."""
    append_entry("started", run, 0)
    sentences: list[list[str]] = []
    left = MOST_WORDS
    for sentence in split_single(document.text):
        words = word_tokenizer(sentence)[:left]
        if words:
            sentences.append(words)
            left -= len(words)
        if left == 0:
            break
    _bill(run, MOST_WORDS - left)
    return Words(name=document.name, sentences=sentences)


@step(expected_tokens=MOST_WORDS)
def key_terms(words: Words, run: StepRun) -> list[str]:
    """The terms that tell the document from others."""
    append_entry("started", run, 0)
    text = "\n".join(" ".join(sentence) for sentence in words.sentences)
    found = yake.KeywordExtractor(lan="en", n=2, top=8).extract_keywords(text)
    _bill(run, words.count)
    return [str(term) for term, _ in found]


class _Tokenizer:
    """sumy's interface over words that are split already."""

    def to_words(self, sentence: str) -> list[str]:
        return sentence.split()

    def to_sentences(self, text: str) -> list[str]:
        return [text]


@step(expected_tokens=MOST_WORDS)
def summary(words: Words, run: StepRun) -> list[str]:
    """The three sentences most like the rest (LexRank)."""
    append_entry("started", run, 0)
    tokenizer = _Tokenizer()
    sentences = [Sentence(" ".join(sentence), tokenizer) for sentence in words.sentences if len(sentence) > 5]
    chosen = LexRankSummarizer()(ObjectDocumentModel([Paragraph(sentences)]), 3) if sentences else ()
    _bill(run, words.count)
    return [str(sentence) for sentence in chosen]


@step(expected_tokens=MOST_WORDS)
def statistics(words: Words, run: StepRun) -> dict[str, float]:
    """How long and how hard to read it is."""
    append_entry("started", run, 0)
    lines = "\n".join(" ".join(sentence) for sentence in words.sentences)
    measured = readability.getmeasures(lines, lang="en")
    info, grades = measured["sentence info"], measured["readability grades"]
    _bill(run, words.count)
    return {
        "words": float(words.count),
        "sentences": float(len(words.sentences)),
        "words_per_sentence": round(float(info["words_per_sentence"]), 1),
        "reading_ease": round(float(grades["FleschReadingEase"]), 1),
        "grade": round(float(grades["Kincaid"]), 1),
    }


@step(expected_tokens=MOST_WORDS)
def merge(parts: dict[str, Any], run: StepRun) -> dict[str, Any]:
    """One record of what the branches found."""
    append_entry("started", run, 0)
    _bill(run, sum(len(sentence.split()) for sentence in parts["summary"]))
    return {"terms": parts["terms"], "summary": parts["summary"], **parts["statistics"]}


@step(expected_tokens=MOST_WORDS)
def report(record: dict[str, Any], run: StepRun) -> dict[str, Any]:
    """The page about the document."""
    append_entry("started", run, 0)
    headline = f"{record['words']:.0f} words, grade {record['grade']}: {', '.join(record['terms'][:3])}"
    _bill(run, len(headline.split()))
    return {**record, "headline": headline}


demo = (
    load
    >> Step.parallel("analyse", {"terms": key_terms, "summary": summary, "statistics": statistics})
    >> merge
    >> report
).named("demo")
