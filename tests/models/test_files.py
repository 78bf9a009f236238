"""Where models lie, and how a file is known to be the right one."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from cutout.errors import ExitCode, ModelError
from cutout.models import files as store
from cutout.models.custom import custom_spec
from cutout.models.files import FileState, locate, require, verify
from cutout.models.registry import MODELS, ModelSpec, find_spec

BODY = b"not really a network " * 50
WRONG = bytes(len(BODY))


@pytest.fixture
def spec() -> ModelSpec:
    """A small model with every kind of second name."""
    return replace(
        MODELS["silueta"],
        name="tiny",
        file="tiny-v1.onnx",
        aliases=("wee",),
        other_files=("tiny.onnx",),
        bytes=len(BODY),
        sha256=hashlib.sha256(BODY).hexdigest(),
    )


@pytest.fixture
def ours(home: Path, spec: ModelSpec) -> Path:
    """Where a download would put it."""
    return home / "cutout" / "models" / spec.file


@pytest.fixture
def theirs(home: Path, spec: ModelSpec) -> Path:
    """Where rembg puts it."""
    return home / ".u2net" / spec.file


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file was read for its hash."""
    count: Counter[Path] = Counter()
    real = store.sha256

    def sha256(path: Path) -> str:
        count[path] += 1
        return real(path)

    monkeypatch.setattr(store, "sha256", sha256)
    return count


def put(path: Path, content: bytes = BODY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class TestRegistry:
    @pytest.mark.parametrize("row", MODELS.values(), ids=lambda row: row.name)
    def test_a_row_says_what_to_download_and_how_to_know_it(self, row: ModelSpec) -> None:
        assert re.fullmatch(r"[0-9a-f]{64}", row.sha256)
        assert row.bytes > 0
        assert row.url.startswith("https://")
        assert row.file.endswith(".onnx")
        assert row.licence
        assert row.about

    def test_every_name_and_alias_means_one_model(self) -> None:
        # an alias may differ from its own model's name by case only
        names = Counter(name for row in MODELS.values() for name in {word.lower() for word in (row.name, *row.aliases)})
        assert set(names.values()) == {1}
        for row in MODELS.values():
            assert all(find_spec(name) is row for name in (row.name, row.name.upper(), *row.aliases))

    def test_no_two_models_share_a_file_name_or_content(self) -> None:
        files = Counter(file.lower() for row in MODELS.values() for file in (row.file, *row.other_files))
        assert set(files.values()) == {1}
        assert len({row.sha256 for row in MODELS.values()}) == len(MODELS)

    def test_a_licence_that_forbids_commercial_use_is_marked(self) -> None:
        forbidding = {row.name for row in MODELS.values() if "NC" in row.licence}
        assert forbidding == {row.name for row in MODELS.values() if row.non_commercial} == {"rmbg-2.0"}

    def test_the_embedded_model_is_what_its_row_says(self) -> None:
        row = MODELS["u2netp"]
        path = Path(store.__file__).parent / "weights" / row.file
        content = path.read_bytes()
        assert row.embedded
        assert len(content) == row.bytes
        assert hashlib.sha256(content).hexdigest() == row.sha256
        assert require(row) == path

    def test_only_the_default_model_is_embedded(self) -> None:
        assert [row.name for row in MODELS.values() if row.embedded] == ["u2netp"]


class TestPlaces:
    def test_our_folder(self, spec: ModelSpec, ours: Path) -> None:
        put(ours)
        assert require(spec) == locate(spec).path == ours

    @pytest.mark.parametrize(
        ("variable", "place"),
        [
            ("U2NET_HOME", "tiny-v1.onnx"),
            ("U2NET_HOME", "tiny.onnx"),
            ("U2NET_HOME", "models/tiny/tiny-v1.onnx"),
            ("U2NET_HOME", "models/tiny/tiny.onnx"),
            ("U2NET_HOME", "models/wee/tiny.onnx"),
            ("REMBG_HOME", "models/tiny/tiny-v1.onnx"),
            ("REMBG_HOME", "models/wee/tiny.onnx"),
            ("XDG_DATA_HOME", ".u2net/tiny-v1.onnx"),
            ("XDG_DATA_HOME", ".u2net/models/tiny/tiny.onnx"),
            ("XDG_DATA_HOME", "rembg/models/tiny/tiny.onnx"),
            ("", ".u2net/tiny-v1.onnx"),
            ("", ".u2net/models/tiny/tiny.onnx"),
            ("", ".rembg/models/tiny/tiny.onnx"),
        ],
    )
    def test_what_rembg_downloaded_is_used(
        self,
        variable: str,
        place: str,
        spec: ModelSpec,
        home: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Every layout of rembg's, below the folder that each variable names and below the home folder."""
        if variable:
            monkeypatch.setenv(variable, str(tmp_path))
        path = put((tmp_path if variable else home) / place)
        assert locate(spec).path == path
        assert require(spec) == path

    @pytest.mark.parametrize("place", ["tiny.onnx", "models/silueta/tiny.onnx"])
    def test_elsewhere_is_not_looked_at(
        self, place: str, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REMBG_HOME", str(tmp_path))
        put(tmp_path / place)
        assert locate(spec).state is FileState.MISSING

    def test_rembgs_names_of_real_models_are_known(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rembg stores RMBG 2.0 as bria-rmbg.onnx and BiRefNet under its short name."""
        monkeypatch.setenv("U2NET_HOME", str(home / "u"))
        places = set(store.candidates(MODELS["rmbg-2.0"]))
        assert {home / "u" / "bria-rmbg.onnx", home / "u" / "models" / "bria-rmbg" / "bria-rmbg.onnx"} <= places
        assert home / "u" / "birefnet-general.onnx" in set(store.candidates(MODELS["birefnet-general"]))

    def test_our_folder_comes_before_rembgs(self, spec: ModelSpec, ours: Path, theirs: Path) -> None:
        put(theirs)
        put(ours)
        assert require(spec) == ours

    def test_a_tilde_in_a_variable_is_the_home_folder(
        self, spec: ModelSpec, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("U2NET_HOME", "~/nets")
        path = put(home / "nets" / spec.file)
        assert require(spec) == path

    def test_without_cutout_home_the_systems_data_folder_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import platformdirs

        monkeypatch.delenv("CUTOUT_HOME")
        assert store.model_home() == platformdirs.user_data_path("cutout", appauthor=False) / "models"

    @pytest.mark.skipif(os.name == "nt", reason="asks for the POSIX user database")
    def test_a_user_without_a_home_folder_still_finds_models(
        self, spec: ModelSpec, ours: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Containers run programs as users that exist in no database."""
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
        assert locate(spec).state is FileState.MISSING
        put(ours)
        assert require(spec) == ours

    def test_a_folder_of_that_name_is_not_the_model(self, spec: ModelSpec, ours: Path, theirs: Path) -> None:
        ours.mkdir(parents=True)
        assert locate(spec).state is FileState.MISSING
        put(theirs)
        assert require(spec) == locate(spec).path == theirs

    def test_a_folder_that_may_not_be_entered_is_passed_over(
        self, spec: ModelSpec, ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(theirs)
        real = Path.stat

        def stat(path: Path, **settings: bool) -> os.stat_result:
            if path.is_relative_to(ours.parent):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, **settings)

        monkeypatch.setattr(Path, "stat", stat)
        assert require(spec) == locate(spec).path == theirs


class TestMissing:
    def test_the_error_names_the_command_that_fetches_it(self, spec: ModelSpec) -> None:
        assert locate(spec).path is None
        assert locate(spec).state is FileState.MISSING
        with pytest.raises(ModelError, match="tiny is not on this machine") as caught:
            require(spec)
        assert caught.value.hint == "fetch it first: cutout models pull tiny"
        assert caught.value.exit_code is ExitCode.MODEL

    @pytest.mark.parametrize("value", ["1", "true", "YES"])
    def test_offline_the_hint_says_where_a_copy_would_go(
        self, value: str, spec: ModelSpec, ours: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUTOUT_OFFLINE", value)
        with pytest.raises(ModelError) as caught:
            require(spec)
        hint = caught.value.hint or ""
        assert "CUTOUT_OFFLINE" in hint
        assert "cutout models pull tiny" in hint
        assert f"copy tiny-v1.onnx into {ours.parent}" in hint
        put(ours)
        assert require(spec) == ours

    @pytest.mark.parametrize("value", ["", "0", "no", "False", " off "])
    def test_offline_can_be_switched_off_by_value(self, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUTOUT_OFFLINE", value)
        assert not store.offline()

    def test_a_users_own_file_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"mine\.onnx does not exist") as caught:
            require(custom_spec(tmp_path / "mine.onnx"))
        assert "--model" in (caught.value.hint or "")


class TestCorrupt:
    @pytest.mark.parametrize("content", [BODY[:-1], BODY + b"x", b"", WRONG], ids=["short", "long", "empty", "changed"])
    def test_is_refused_by_name_with_the_command_that_mends_it(
        self, content: bytes, spec: ModelSpec, ours: Path
    ) -> None:
        put(ours, content)
        assert not verify(ours, spec)
        with pytest.raises(ModelError, match="corrupt") as caught:
            require(spec)
        assert str(ours) in caught.value.message
        assert caught.value.hint == "fetch a good one: cutout models pull tiny"
        assert int(caught.value.exit_code) == 3

    def test_offline_the_hint_says_to_go_online(
        self, spec: ModelSpec, ours: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUTOUT_OFFLINE", "1")
        put(ours, WRONG)
        with pytest.raises(ModelError) as caught:
            require(spec)
        assert "with CUTOUT_OFFLINE unset" in (caught.value.hint or "")

    @pytest.mark.parametrize("content", [b"cut short", WRONG], ids=["short", "changed"])
    def test_is_passed_over_when_a_good_one_exists(
        self, content: bytes, spec: ModelSpec, ours: Path, theirs: Path
    ) -> None:
        put(ours, content)
        put(theirs)
        assert require(spec) == theirs

    def test_wrong_size_is_seen_without_reading(self, spec: ModelSpec, ours: Path, hashed: Counter[Path]) -> None:
        put(ours, BODY[:-1])
        assert locate(spec).state is FileState.CORRUPT
        assert locate(spec).path == ours
        assert not verify(ours, spec)
        assert not hashed

    def test_wrong_content_is_remembered_but_never_trusted_blindly(
        self, spec: ModelSpec, ours: Path, theirs: Path, hashed: Counter[Path]
    ) -> None:
        """After one verification `locate` knows; `verify` reads again, for a bad read must not condemn a file."""
        put(ours, WRONG)
        assert locate(spec).state is FileState.UNVERIFIED
        assert not verify(ours, spec)
        assert locate(spec).state is FileState.CORRUPT
        assert not verify(ours, spec)
        assert hashed[ours] == 2
        put(theirs)
        assert locate(spec).path == theirs

    def test_an_unreadable_file_is_passed_over_or_named(
        self, spec: ModelSpec, ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = store.sha256

        def sha256(path: Path) -> str:
            if path == ours:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(store, "sha256", sha256)
        put(ours)
        with pytest.raises(ModelError, match="cannot be read: Permission denied") as caught:
            require(spec)
        assert str(ours) in caught.value.message
        assert "cutout models pull tiny" in (caught.value.hint or "")
        put(theirs)
        assert require(spec) == theirs

    def test_a_users_own_file_with_a_hash_of_its_own(self, tmp_path: Path) -> None:
        path = put(tmp_path / "mine.onnx")
        right, wrong = hashlib.sha256(BODY).hexdigest(), "0" * 64
        assert require(custom_spec(path)) == path
        assert require(custom_spec(path, {"sha256": right})) == path
        with pytest.raises(ModelError, match=r"mine\.onnx has another hash"):
            require(custom_spec(path, {"sha256": wrong}))


class TestRemembered:
    def test_the_hash_is_computed_once(self, spec: ModelSpec, ours: Path, hashed: Counter[Path]) -> None:
        put(ours)
        assert locate(spec).state is FileState.UNVERIFIED
        for _ in range(3):
            assert require(spec) == ours
        assert locate(spec).state is FileState.VERIFIED
        assert hashed == {ours: 1}

    def test_asked_to_read_again_it_reads_again(self, spec: ModelSpec, ours: Path, hashed: Counter[Path]) -> None:
        put(ours)
        assert verify(ours, spec)
        assert verify(ours, spec, again=True)
        assert hashed[ours] == 2

    def test_a_file_touched_since_is_read_again(self, spec: ModelSpec, ours: Path, hashed: Counter[Path]) -> None:
        put(ours)
        assert verify(ours, spec)
        os.utime(ours, ns=(1, 1))
        assert locate(spec).state is FileState.UNVERIFIED
        assert verify(ours, spec)
        assert hashed[ours] == 2

    def test_a_file_replaced_since_is_found_out(self, spec: ModelSpec, ours: Path) -> None:
        """Same size, and even the same modification time."""
        put(ours)
        assert verify(ours, spec)
        before = ours.stat()
        put(ours.with_name("new"), WRONG).replace(ours)
        os.utime(ours, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert not verify(ours, spec)

    def test_a_file_cut_since_is_found_out(self, spec: ModelSpec, ours: Path) -> None:
        put(ours)
        assert verify(ours, spec)
        put(ours, BODY[:10])
        assert locate(spec).state is FileState.CORRUPT
        assert not verify(ours, spec)

    def test_a_file_written_to_while_it_was_read_does_not_pass_for_verified(
        self, spec: ModelSpec, ours: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = store.sha256

        def sha256(path: Path) -> str:
            digest = real(path)
            put(path, WRONG)
            os.utime(path, ns=(1, 1))
            return digest

        put(ours)
        monkeypatch.setattr(store, "sha256", sha256)
        verify(ours, spec)
        monkeypatch.setattr(store, "sha256", real)
        assert locate(spec).state is FileState.UNVERIFIED
        assert not verify(ours, spec)

    def test_an_unwritable_home_costs_only_the_memory(
        self, spec: ModelSpec, home: Path, theirs: Path, hashed: Counter[Path]
    ) -> None:
        put(theirs)
        put(home / "cutout", b"a file where the folder would be")
        assert require(spec) == theirs
        assert require(spec) == theirs
        assert hashed[theirs] == 2

    def test_a_disk_that_fills_up_leaves_no_litter(
        self, spec: ModelSpec, ours: Path, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, _target: Path) -> Path:
            raise OSError(28, "No space left on device", str(path))

        put(ours)
        monkeypatch.setattr(Path, "replace", full)
        assert verify(ours, spec)
        assert list((home / "cutout" / "verified").iterdir()) == []

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'"x"', b"\xff\xfe"])
    def test_a_spoilt_memory_is_no_memory(
        self, content: bytes, spec: ModelSpec, ours: Path, home: Path, hashed: Counter[Path]
    ) -> None:
        put(ours)
        verify(ours, spec)
        (stamp,) = (home / "cutout" / "verified").iterdir()
        stamp.write_bytes(content)
        assert locate(spec).state is FileState.UNVERIFIED
        assert require(spec) == ours
        assert hashed[ours] == 2
