"""YAML files: variables are filled in once and as text, and an error names the line."""

from pathlib import Path

import pytest

from nyc_tlc.errors import ConfigurationError
from nyc_tlc.yaml_files import StrictModel, YamlFile


class Leaf(StrictModel):
    size: int


class Tree(StrictModel):
    leaves: list[Leaf]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.yaml"


def test_a_value_can_neither_break_the_yaml_nor_name_another_variable(file: Path) -> None:
    file.write_text("a: &shared {b: '${ONE}'}\nc: *shared\n")
    content = YamlFile(file, {"ONE": "x: [${TWO}", "TWO": "never"}).content
    assert content == {"a": {"b": "x: [${TWO}"}, "c": {"b": "x: [${TWO}"}}


def test_without_variables_nothing_is_filled_in_and_types_are_yaml_s(file: Path) -> None:
    file.write_text("a: ${ONE}\nb: 8\nc: [yes, '']\n")
    assert YamlFile(file).content == {"a": "${ONE}", "b": 8, "c": [True, ""]}
    assert YamlFile(file, {"ONE": "1"}, as_text=True).content == {"a": "1", "b": "8", "c": ["yes"]}


def test_what_comes_out_empty_is_left_out_and_what_is_written_empty_stays(file: Path) -> None:
    file.write_text("a: {b: '${NO:-}', c: ['${NO:-}']}\nd: {e: '${NO:-}', f: 1, g: {}}\nh: {}\ni:\n")
    assert YamlFile(file, {}, as_text=True).content == {"d": {"f": "1", "g": {}}, "h": {}, "i": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leaves:\n- size: 1\n- size: large\n", "file.yaml:3: leaves.1.size: Input should be a valid integer"),
        ("leaves:\n- size: 1\n- {size: 1, sise: 2}\n", "file.yaml:3: unknown key leaves.1.sise; expected size"),
        ("leaves:\n- {}\n", "file.yaml:2: leaves.0.size is missing or empty; expected size"),
        ("leaves: 7\n", "file.yaml:1: leaves: Input should be a valid list"),
        ("", "file.yaml:1: the file has to have keys; expected leaves"),
        ("a: *b\n", "file.yaml:1: not valid YAML; got ComposerError"),
        ("a: 1\nb: 2\na: 3\n", "file.yaml:1: the key 'a' is repeated in line 3"),
    ],
)
def test_a_mistake_has_its_line_and_the_keys_that_are_allowed(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        read = YamlFile(file)
        read.validate(Tree, read.content)
    assert message in str(refused.value)


def test_all_variables_that_are_missing_are_named_and_no_value_is_shown(file: Path) -> None:
    file.write_text("a: ${ONE}\nb:\n  c: ${TWO}\nd: ${THREE}\n")
    with pytest.raises(ConfigurationError, match=r"yaml:3: the variable TWO is not set; .*:4: .* THREE ") as refused:
        YamlFile(file, {"ONE": "s3cr3t", "THREE": ""})
    assert "s3cr3t" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"file\.yaml can't be read; got No such file"):
        YamlFile(file)
