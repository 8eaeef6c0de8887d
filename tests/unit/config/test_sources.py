"""Files, directories and texts, read into plain trees."""

from pathlib import Path

from isthmus.config.sources import FILE_SIZE_MAX, ConfigPath, ConfigText, Source, Tree, read_sources


def mistakes_of(*sources: Source) -> list[tuple[str, str]]:
    """File name and text of what could not be read."""
    return [(Path(one.source).name, one.text) for one in read_sources(sources)[1]]


def test_directory_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "2.json").write_text('{"a": 2}')
    (tmp_path / "1.hcl").write_text("a = 1")
    (tmp_path / "readme.txt").write_text("= = =")
    trees, mistakes = read_sources([ConfigPath(tmp_path), ConfigText("a = 3")])
    assert mistakes == []
    assert trees == [
        Tree(str(tmp_path / "1.hcl"), {"a": 1}),
        Tree(str(tmp_path / "2.json"), {"a": 2}),
        Tree("-hcl", {"a": 3}),
    ]


def test_explicit_file_with_a_strange_name_needs_a_format(tmp_path: Path) -> None:
    path = tmp_path / "isthmus.conf"
    path.write_text("a = 1")
    assert mistakes_of(ConfigPath(path)) == [
        ("isthmus.conf", "the name must end in .hcl or .json"),
    ]
    assert read_sources([ConfigPath(path, "hcl")])[0] == [Tree(str(path), {"a": 1})]


def test_format_makes_a_directory_read_every_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("{}")
    assert len(read_sources([ConfigPath(tmp_path, "json")])[0]) == 1


def test_text_in_hcl_may_be_json() -> None:
    assert read_sources([ConfigText(' {"a": [1]}')])[0] == [Tree("-hcl", {"a": [1]})]


def test_empty_files_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    (tmp_path / "b.hcl").touch()
    trees, mistakes = read_sources([ConfigPath(tmp_path)])
    assert [tree.values for tree in trees] == [{}, {}]
    assert mistakes == []


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_sources([ConfigPath(tmp_path)])[0][0].values == {"a": 1}


def test_every_file_is_read_and_every_mistake_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.hcl").write_bytes(b'a = "x"\nb = "\xff"')
    (tmp_path / "b.hcl").write_text("a = 1\nb = ]")
    (tmp_path / "c.json").write_text('{"a": 1,\n}')
    (tmp_path / "d.json").write_text("[]")
    (tmp_path / "e.json").write_text("[" * 200_000)
    found = dict(mistakes_of(ConfigPath(tmp_path), ConfigPath(tmp_path / "none")))
    assert found["a.hcl:2"] == "is not UTF-8"
    assert found["b.hcl:2"] == "expected a value, found ']'"
    assert found["c.json:2"].startswith("JSON: ")
    assert found["d.json"] == "must hold one object { … }"
    assert "e.json" in found
    assert found["none"] == "cannot be read: No such file or directory"


def test_endless_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.hcl"
    with path.open("wb") as file:
        file.truncate(FILE_SIZE_MAX + 1)
    assert mistakes_of(ConfigPath(path)) == [("a.hcl", f"is longer than {FILE_SIZE_MAX} bytes")]
