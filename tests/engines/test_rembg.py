"""rembg's own sessions as `--model rembg:NAME`."""

from __future__ import annotations

import builtins
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pooch
import pytest
import rembg.session_factory
import rembg.sessions
from PIL import Image
from rembg.sessions.base import BaseSession

from cutout.errors import ClosedError, CutoutError, DeviceError, ExitCode, ModelError, UsageError
from cutout.formats.decode import Picture, decode
from cutout.options import RemoveOptions
from cutout.pipeline.remover import Remover

if TYPE_CHECKING:
    from pathlib import Path

MASK = RemoveOptions(mask=True)


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tries to fetch something fails the test."""

    def fail(url: str, *_: object, **__: object) -> None:
        pytest.fail(f"{url} was fetched")

    monkeypatch.setattr(pooch, "retrieve", fail)


class Prompted(BaseSession):  # type: ignore[misc]
    """A session that wants a prompt, as SAM does, and remembers what it was given."""

    given: dict[str, Any]
    at_construction: dict[str, Any]
    masks: tuple[int, ...] = (200,)

    def __init__(self, _name: str, _options: object, *_args: object, **kwargs: Any) -> None:
        type(self).at_construction = kwargs

    @classmethod
    def name(cls, *_args: object, **_kwargs: object) -> str:
        return "prompted"

    def predict(self, img: Image.Image, *_args: object, **kwargs: Any) -> list[Image.Image]:
        type(self).given = kwargs
        if kwargs.get("sam_prompt") == "broken":
            raise KeyError("label")
        return [Image.new("L", img.size, value) for value in self.masks]


@pytest.fixture
def prompted(monkeypatch: pytest.MonkeyPatch) -> type[Prompted]:
    kind = type("AnyPrompted", (Prompted,), {})
    monkeypatch.setitem(rembg.sessions.sessions, "prompted", kind)
    monkeypatch.setattr(rembg.session_factory, "sessions_class", [kind])
    return kind


def grey(size: tuple[int, int] = (8, 6)) -> Picture:
    return Picture(rgb=Image.new("RGB", size, "grey"))


@pytest.mark.usefixtures("rembg_home")
def test_a_model_through_rembg_is_the_same_as_ours(remover: Remover, examples: Path) -> None:
    through = Remover("rembg:u2netp", device="cpu")
    assert (through.model, through.device) == ("rembg:u2netp", "cpu")
    picture = decode((examples / "chelsea.jpg").read_bytes())
    ours, theirs = (np.asarray(each.cut(picture, MASK).image, np.float32) for each in (remover, through))
    assert np.abs(ours - theirs).mean() < 0.5


def test_one_that_is_closed_says_so(prompted: type[Prompted]) -> None:
    with Remover("rembg:prompted", device="cpu") as through:
        through.cut(grey(), MASK)
    with pytest.raises(ClosedError, match="rembg:prompted was closed"):
        through.cut(grey(), MASK)


def test_options_of_ours_work_on_its_masks(prompted: type[Prompted]) -> None:
    through = Remover("rembg:prompted", device="cpu")
    assert through.cut(grey(), RemoveOptions(threshold=200)).image.getpixel((0, 0)) == (128, 128, 128, 255)
    assert through.cut(grey(), RemoveOptions(threshold=201)).image.getpixel((0, 0)) == (128, 128, 128, 0)


def test_prompts_are_passed_on(prompted: type[Prompted]) -> None:
    prompt = [{"type": "point", "data": [3, 4], "label": 1}]
    through = Remover("rembg:prompted", device="cpu", model_options={"sam_prompt": prompt, "sam_quant": True})
    through.cut(grey(), MASK)
    assert prompted.given == {"sam_prompt": prompt, "sam_quant": True}
    assert prompted.at_construction["sam_quant"] is True, "some options choose the file"


def test_several_masks_become_their_union(prompted: type[Prompted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompted, "masks", (10, 90, 50))
    assert Remover("rembg:prompted", device="cpu").cut(grey(), MASK).image.getextrema() == (90, 90)


def test_no_mask_at_all_is_told(prompted: type[Prompted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompted, "masks", ())
    with pytest.raises(CutoutError, match="rembg:prompted gave no mask") as caught:
        Remover("rembg:prompted", device="cpu").cut(grey(), MASK)
    assert "model_option" in (caught.value.hint or "")


def test_a_session_that_fails_fails_that_picture(prompted: type[Prompted]) -> None:
    through = Remover("rembg:prompted", device="cpu", model_options={"sam_prompt": "broken"})
    with pytest.raises(CutoutError, match="rembg:prompted failed: 'label'") as caught:
        through.cut(grey(), MASK)
    assert caught.value.exit_code is ExitCode.SOME_FAILED


def test_an_unknown_session_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="rembg has no session 'u2nett'") as caught:
        Remover("rembg:u2nett")
    assert "u2netp" in (caught.value.hint or "")
    assert "sam" in (caught.value.hint or "")


def test_a_configuration_for_a_file_is_refused(prompted: type[Prompted]) -> None:
    with pytest.raises(UsageError, match="model_config describes"):
        Remover("rembg:prompted", model_config={"size": 320})


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("name", ["u2net", "isnet-anime", "sam", "birefnet-general"])
def test_offline_nothing_is_downloaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOUT_OFFLINE", "1")
    before = pooch.retrieve
    with pytest.raises(ModelError, match="CUTOUT_OFFLINE is set, and rembg would download https://"):
        Remover(f"rembg:{name}", device="cpu")
    assert pooch.retrieve is before


@pytest.mark.usefixtures("no_download", "rembg_home")
def test_offline_a_model_that_is_there_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOUT_OFFLINE", "1")
    assert Remover("rembg:u2netp", device="cpu").cut(grey(), MASK).image.size == (8, 6)


def remote(_cls: type) -> bool:
    return False


def test_a_service_on_another_machine_is_named_as_that(
    prompted: type[Prompted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompted, "is_local", classmethod(remote))
    warnings = list[str]()
    Remover("rembg:prompted", device="cpu", warn=warnings.append)
    assert len(warnings) == 1
    assert "sends every picture to a service on another machine" in warnings[0]
    monkeypatch.setenv("CUTOUT_OFFLINE", "1")
    with pytest.raises(ModelError, match="service on another machine"):
        Remover("rembg:prompted", device="cpu")


def test_a_session_that_cannot_be_opened_is_a_model_error(
    prompted: type[Prompted], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("model_path is required")

    monkeypatch.setattr(prompted, "__init__", fail)
    with pytest.raises(ModelError, match="rembg:prompted cannot be opened: model_path is required"):
        Remover("rembg:prompted")


@pytest.mark.parametrize("failure", [None, SystemExit(1)])
def test_without_rembg_the_error_names_the_extra(
    failure: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is installed without what it needs: it ends the program then."""
    if failure is None:
        monkeypatch.setitem(sys.modules, "rembg", None)
    else:
        real = builtins.__import__

        def fail(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == "rembg":
                raise failure
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(UsageError, match="rembg:u2netp needs rembg, which is not installed") as caught:
        Remover("rembg:u2netp", device="cpu")
    assert caught.value.hint == 'pip install "cutout-cli[rembg]"'


def test_a_device_that_is_not_there_is_refused(prompted: type[Prompted]) -> None:
    with pytest.raises(DeviceError, match=r"^device cuda cannot be used"):
        Remover("rembg:prompted", device="cuda")


@pytest.mark.usefixtures("rembg_home")
def test_rembg_is_told_the_device_and_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    real = rembg.new_session

    def new_session(*args: Any, **kwargs: Any) -> Any:
        seen.update(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(rembg, "new_session", new_session)
    monkeypatch.setattr("cutout.system.usable_cpus", lambda: 6)
    Remover("rembg:u2netp", device="cpu", jobs=2)
    assert seen["providers"] == ["CPUExecutionProvider"]
    assert seen["sess_opts"].intra_op_num_threads == 3


@pytest.mark.usefixtures("rembg_home")
def test_what_rembg_prints_does_not_reach_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = rembg.new_session

    def new_session(*args: Any, **kwargs: Any) -> Any:
        sys.stdout.write("*************** EP Error ***************")
        return real(*args, **kwargs)

    monkeypatch.setattr(rembg, "new_session", new_session)
    Remover("rembg:u2netp", device="cpu")
    assert capsys.readouterr().out == ""
