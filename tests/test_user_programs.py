"""Programs as users write them: they run, and `scripts/types` finds nothing in them."""

import sys
from pathlib import Path

import fresh
import pytest

PROGRAMS = Path(__file__).parent / "user_programs"
SAYS = {
    "own_network": ("best span", "parameters less, agreement"),
    "own_plug_ins": ("Squared cosine on 64 samples", "× 0.5: 143 parameters less"),
    "options": ("PlanOptions", "blocks=2 24 3 512", "1 problem"),
}


def test_every_program_is_run():
    assert {path.stem for path in PROGRAMS.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_a_program_of_a_user(name, tmp_path):
    code = f"import runpy; runpy.run_path({str(PROGRAMS / f'{name}.py')!r}, run_name='__main__')"
    done = fresh.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert all(text in done.stdout for text in SAYS[name]), done.stdout
    assert not list(tmp_path.iterdir())
