"""YAML files: variables are filled in once and as text, and an error names the file and the key."""

from pathlib import Path

import pytest

from nyc_tlc.errors import ConfigurationError
from nyc_tlc.yaml_files import StrictModel, fill_in, read_yaml, validate


class Leaf(StrictModel):
    size: int


class Tree(StrictModel):
    leaves: list[Leaf]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.yaml"


def test_a_value_can_neither_break_the_yaml_nor_name_another_variable(file: Path) -> None:
    file.write_text("a: &shared {b: '${ONE}'}\nc: *shared\n")
    content = fill_in(read_yaml(file), {"ONE": "x: [${TWO}", "TWO": "never"}, file)
    assert content == {"a": {"b": "x: [${TWO}"}, "c": {"b": "x: [${TWO}"}}


def test_what_comes_out_empty_is_left_out_and_what_is_written_empty_stays(file: Path) -> None:
    file.write_text(
        "a: {b: '${NO:-}', c: ['${NO:-}']}\nd: {e: '${NO:-}', f: '${NO:-1}', g: {}, h: 1, i: ['', x]}\nj: {}\n"
    )
    assert fill_in(read_yaml(file), {}, file) == {"d": {"f": "1", "g": {}, "h": 1, "i": ["x"]}, "j": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leaves:\n- size: 1\n- size: large\n", "file.yaml: leaves.1.size: Input should be a valid integer"),
        ("leaves:\n- size: 1\n- {sise: 2}\n", "file.yaml: leaves.1: unknown key sise; expected size"),
        ("leaves:\n- {}\n", "file.yaml: leaves.0.size: missing or empty"),
        ("leaves:\n- 7\n", "file.yaml: leaves.0: it has to have keys; expected size"),
        ("leaves: 7\n", "file.yaml: leaves: Input should be a valid list"),
        ("", "file.yaml: it has to have keys; expected leaves"),
        ("a: *b\n", "file.yaml: not valid YAML; got ComposerError"),
        (
            "a: 1\nb: [\n",
            "file.yaml: not valid YAML in line 3; got expected the node content, but found",
        ),
        ("a: !s3cr3t\n", "file.yaml: not valid YAML; got ConstructorError"),
        ("a: 1\nb: 2\na: 3\n", "file.yaml: the key 'a' is repeated"),
    ],
)
def test_a_mistake_has_its_key_and_the_keys_that_are_allowed(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        validate(Tree, read_yaml(file), file)
    assert message in str(refused.value)
    assert "s3cr3t" not in str(refused.value)


def test_all_variables_that_are_missing_are_named_and_no_value_is_shown(file: Path) -> None:
    content = {"a": "${ONE}", "b": {"c": "${TWO}"}, "d": ["${THREE}"]}
    with pytest.raises(
        ConfigurationError, match=r"yaml: b\.c: the variable TWO is not set; .*: d\.0: .* THREE "
    ) as refused:
        fill_in(content, {"ONE": "s3cr3t", "THREE": ""}, file)
    assert "s3cr3t" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"file\.yaml can't be read; got No such file"):
        read_yaml(file)
