import re
from pathlib import Path

import pytest
import yaml

from space.build import PACKAGES, ROOT, build_space

CHECKPOINT = ROOT / "checkpoints/macaron-promoter-library"


def pinned(name):
    return re.search(rf"^{name}==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def test_metadata_is_valid_on_the_hub():
    text = (ROOT / "space/README.md").read_text()
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["sdk"] == "gradio" and metadata["sdk_version"] == pinned("gradio")
    assert f"gradio=={metadata['sdk_version']}" in text
    assert metadata["app_file"] == "app.py" and len(metadata["short_description"]) <= 60
    assert not re.search("yeast|cerevisiae|dream", text, re.IGNORECASE), "it goes with every checkpoint"
    assert metadata["colorFrom"] in ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


def test_requirements_are_those_of_the_package():
    project = (ROOT / "pyproject.toml").read_text()
    for requirement in (ROOT / "space/requirements.txt").read_text().split():
        assert f'"{requirement}"' in project


def test_folder_is_complete_and_clean(tmp_path):
    build_space(tmp_path / "new", CHECKPOINT)
    files = {str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert {"README.md", "requirements.txt", "app.py", "space/page.css"} <= files
    assert {"checkpoint/model.safetensors", "checkpoint/reference.json"} <= files
    assert not [name for name in files if "__pycache__" in name or name.startswith("space/README")]
    for package in PACKAGES:
        sources = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        assert sources <= files
    assert sum((tmp_path / "new" / name).stat().st_size for name in files) < 10_000_000
    assert str(ROOT) not in "".join(
        (tmp_path / "new" / name).read_text() for name in files if Path(name).suffix in (".py", ".md", ".txt", ".json")
    )


def test_folders_are_replaced_only_with_overwrite(tmp_path):
    build_space(tmp_path / "new", CHECKPOINT)
    with pytest.raises(FileExistsError, match="exists already"):
        build_space(tmp_path / "new", CHECKPOINT)
    build_space(tmp_path / "new", CHECKPOINT, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not replaced"):
        build_space(tmp_path / "mine", CHECKPOINT, overwrite=True)
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        build_space(tmp_path / "other", tmp_path / "absent")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "new"]
