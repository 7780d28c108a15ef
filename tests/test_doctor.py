from __future__ import annotations

from importlib import metadata

import pytest

from asr import doctor


def test_it_finds_that_rill_works_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.examine()
    out = capsys.readouterr().out
    for part in (
        "Software",
        "torch",
        "Devices",
        "C kernels",
        "Optional",
        "k2",
        "forward, backward",
        "decode",
        "Rill works here",
    ):
        assert part in out
    assert "FAIL" not in out


def test_what_is_missing_comes_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def missing(name: str) -> str:
        if name == "soxr":
            raise metadata.PackageNotFoundError(name)
        return "2.6.3" if name == "lightning" else version(name)

    monkeypatch.setattr(metadata, "version", missing)
    found = {finding.name: finding for finding in doctor.software()}
    assert found["soxr"].level == "bad" and "pip install soxr" in found["soxr"].text
    assert found["lightning"].level == "bad" and "malicious" in found["lightning"].text
    assert found["torch"].level == "good"


def test_kernels_that_are_not_there_are_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    from asr import native

    monkeypatch.setattr(native, "available", lambda: False)
    monkeypatch.setattr(native, "reason", lambda: "no compiler")
    (finding,) = (finding for finding in doctor.devices() if finding.name == "C kernels")
    assert finding.level == "hint" and finding.text.endswith("no compiler")


def test_a_machine_that_computes_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("illegal\ninstruction")

    monkeypatch.setattr(doctor, "_learn", broken)
    last = list(doctor._trial(None))[-1]
    assert last.level == "bad" and last.text.startswith("RuntimeError: illegal instruction (doctor.py, line")
