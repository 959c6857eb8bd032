"""A run's folder: claimed once, never overwritten, readable at any moment."""

import json
import shutil

import pytest
from conftest import make_settings, run_python

from shared.errors import UserError
from trainer.runs.directory import (
    IDENTITY,
    RunDirectory,
    find_run,
    read_json,
    read_settings,
    warn_of_versions,
    write_json,
)


@pytest.fixture
def settings(tmp_path):
    def make(**values):
        return make_settings(folder=str(tmp_path / "runs"), **values)

    return make


def everything(path):
    return {str(file): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_a_run_is_named_after_recipe_and_seed_with_a_number_when_that_is_taken(settings):
    names = [RunDirectory.create(settings(seed=3)).name for _ in range(3)]
    assert names == ["demo-s3", "demo-s3-2", "demo-s3-3"]
    assert RunDirectory.create(settings(seed=4)).name == "demo-s4"


def test_a_recipe_that_is_a_file_still_gives_a_plain_name(settings, tmp_path):
    folder = RunDirectory.create(settings(recipe="../some where/my recipe"))
    assert folder.path.parent == tmp_path / "runs"


def test_a_name_in_use_is_refused_and_its_run_untouched(settings, tmp_path):
    folder = RunDirectory.create(settings(name="mine"))
    folder.close()
    RunDirectory.create(settings(name="other")).close()
    before = everything(tmp_path)
    with pytest.raises(UserError, match=r"name = 'mine' is in use.*choose another"):
        RunDirectory.create(settings(name="mine"))
    assert everything(tmp_path) == before
    assert (tmp_path / "runs" / "latest").resolve().name == "other"


def test_latest_points_at_the_newest(settings, tmp_path):
    for name in ("one", "two"):
        RunDirectory.create(settings(name=name))
        assert (tmp_path / "runs" / "latest").resolve().name == name
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name.startswith(".")]
    assert find_run("latest", str(tmp_path / "runs")).name == "two"


def test_no_run_can_be_called_latest(settings, tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match="latest"):
            RunDirectory.create(settings(name="latest"))
        assert not (tmp_path / "runs" / "latest").is_dir() or (tmp_path / "runs" / "latest").is_symlink()
        RunDirectory.create(settings())


def test_the_resolved_settings_are_kept(settings, tmp_path):
    given = settings(name="mine", steps=77)
    RunDirectory.create(given).close()
    folder = RunDirectory.open("mine", str(tmp_path / "runs"))
    assert given == read_settings(folder.path)
    assert json.loads((folder.path / "config.json").read_text())["steps"] == 77


def test_a_run_is_found_by_path_or_name(settings, tmp_path):
    path = RunDirectory.create(settings(name="mine")).path
    assert find_run("mine", str(tmp_path / "runs")) == find_run(str(path)) == path.resolve()
    with pytest.raises(UserError, match="no run 'nosuch'"):
        find_run("nosuch", str(tmp_path / "runs"))


def test_a_run_is_used_by_one_process_at_a_time(settings, tmp_path):
    first = RunDirectory.create(settings(name="mine"))
    code = f"from trainer.runs.directory import RunDirectory; RunDirectory.open('mine', {str(tmp_path / 'runs')!r})"
    second = run_python(code)
    assert second.returncode and "in use by another process" in second.stderr
    first.close()
    assert run_python(code).returncode == 0


def test_the_id_is_unique_also_among_runs_of_one_name(settings):
    first = RunDirectory.create(settings(name="mine"))
    one = first.id
    assert one.startswith("mine-") and one == first.id
    first.discard()
    assert RunDirectory.create(settings(name="mine")).id != one


def test_data_that_changed_since_the_run_began_is_named(settings):
    directory = RunDirectory.create(settings(name="mine"))
    directory.check_data({"train": "a", "dev": "b", "test": "c"})
    directory.check_data({"train": "a", "dev": "b", "test": "c"})
    with pytest.raises(UserError, match="the dev and test data is not what the run began with"):
        directory.check_data({"train": "a", "dev": "x", "test": "y"})


def test_a_model_that_changed_since_the_run_began_is_named(settings):
    directory = RunDirectory.create(settings(name="mine"))
    directory.check_model("a")
    directory.check_model("a")
    with pytest.raises(UserError, match="the model is not the one that the run began with"):
        directory.check_model("b")


def test_other_versions_than_those_a_run_began_with_are_said(settings, caplog):
    directory = RunDirectory.create(settings(name="mine"))
    warn_of_versions(directory.path)
    assert not caplog.messages
    identity = json.loads((directory.path / IDENTITY).read_text())
    identity["versions"]["torch"] = "1.0.0"
    directory.write_json(IDENTITY, identity)
    warn_of_versions(directory.path)
    assert "torch 1.0.0" in caplog.text and "may differ" in caplog.text


def test_a_discarded_run_leaves_nothing_and_latest_points_where_it_did(settings, tmp_path):
    RunDirectory.create(settings(name="first")).discard()
    assert list((tmp_path / "runs").iterdir()) == []
    RunDirectory.create(settings(name="kept")).close()
    before = everything(tmp_path)
    RunDirectory.create(settings(name="bad")).discard()
    assert everything(tmp_path) == before
    assert (tmp_path / "runs" / "latest").resolve().name == "kept"


def test_a_run_that_somebody_removed_is_discarded_all_the_same(settings, tmp_path):
    directory = RunDirectory.create(settings(name="mine"))
    shutil.rmtree(directory.path)
    directory.discard()
    assert not list((tmp_path / "runs").iterdir())


def test_a_discarded_run_leaves_latest_to_a_run_that_began_since(settings, tmp_path):
    bad = RunDirectory.create(settings(name="bad"))
    RunDirectory.create(settings(name="newer")).close()
    bad.discard()
    assert (tmp_path / "runs" / "latest").resolve().name == "newer"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"folder = .*file") as caught:
        RunDirectory.create(make_settings(folder=str(tmp_path / "file")))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"folder = "):
        RunDirectory.create(make_settings(folder=str(tmp_path / "file" / "below")))


def test_json_files_are_replaced_whole(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_json_file_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json") as caught:
        read_json(tmp_path / "config.json")
    assert "\n" not in str(caught.value)


def test_settings_that_were_edited_badly_name_the_file(settings):
    folder = RunDirectory.create(settings(name="mine"))
    write_json(folder.path / "config.json", {**read_json(folder.path / "config.json"), "steps": 0})
    with pytest.raises(UserError, match=r"steps \(from .*config\.json\)"):
        read_settings(folder.path)
