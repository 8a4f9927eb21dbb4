"""The samples as parsers of their languages see them: that finds errors of syntax and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
import tree_sitter_kotlin
import tree_sitter_swift
from tree_sitter import Language, Node, Parser

KITS = Path(__file__).parents[2] / "mobile_export" / "kits"
LANGUAGES = {".kt": tree_sitter_kotlin.language(), ".swift": tree_sitter_swift.language()}
FILES = sorted(path for path in KITS.rglob("*") if path.suffix in LANGUAGES)


def errors(source: bytes, suffix: str) -> list[str]:
    """Each place that does not parse, as line and text."""
    found = []

    def walk(node: Node) -> None:
        if node.type == "ERROR" or node.is_missing:
            found.append(f"line {node.start_point[0] + 1}: {node.text!r:.60}")
        for child in node.children:
            walk(child)

    walk(Parser(Language(LANGUAGES[suffix])).parse(source).root_node)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_sample_parses(path):
    assert errors(path.read_bytes(), path.suffix) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_sample_is_short(path):
    assert path.read_text(encoding="utf-8").count("\n") < 150


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("fault", [b"}", b"(", b'"'])
def test_a_missing_character_is_found(path, fault):
    source = path.read_bytes()
    last = source.rindex(fault)
    assert errors(source[:last] + source[last + 1 :], path.suffix)


def test_all_samples_were_read():
    assert {path.suffix for path in FILES} == set(LANGUAGES)
    assert len(FILES) == 8
